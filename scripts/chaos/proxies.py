"""A network for replicas out of TCP proxies in the runner: one listener for each ordered pair of replicas.

Each replica's own federation.json names the proxies as its peers' addresses. A direction of a pair can be stalled
(bytes are kept until it heals, as TCP would send them again) or delayed. Packets cannot be lost here: that takes
`namespaces`. It needs no privilege.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

CHUNK_BYTES = 64 << 10
HELD_CHUNKS_MAX = 256
"""So much is kept a direction of a connection; then its sender has to wait, as with a full TCP window."""
HOST = "127.0.0.1"

Direction = tuple[int, int]


class Proxies:
    """The network of `replicas` replicas on loopback."""

    name = "proxies"
    chain_host = HOST

    def __init__(self, replicas: int) -> None:
        self._replicas = range(replicas)
        self._ports: list[int] = []
        self._servers: dict[Direction, asyncio.Server] = {}
        self._flowing: dict[Direction, asyncio.Event] = {}
        self._delay: Callable[[], float] = float
        self._connections: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Nothing to make before the replicas' ports are known."""

    async def connect(self, ports: list[int]) -> None:
        self._ports = ports
        for source in self._replicas:
            for target in self._replicas:
                if source == target:
                    continue
                self._flowing[source, target] = asyncio.Event()
                self._flowing[source, target].set()
                accept = self._accepting((source, target))
                self._servers[source, target] = await asyncio.start_server(accept, HOST, 0, limit=CHUNK_BYTES)

    def host(self, index: int) -> str:
        return HOST

    def url(self, source: int | None, target: int) -> str:
        port = self._ports[target]
        if source is not None and source != target:
            port = self._servers[source, target].sockets[0].getsockname()[1]
        return f"http://{HOST}:{port}"

    def command(self, index: int) -> list[str]:
        return []

    # --- weather

    def cut(self, source: int, target: int) -> None:
        self._flowing[source, target].clear()

    def slow(self, seconds: float, jitter_seconds: float) -> None:
        """Delay every chunk between two replicas by `seconds` give or take `jitter_seconds`; order is kept."""
        self._delay = lambda: max(0.0, random.uniform(seconds - jitter_seconds, seconds + jitter_seconds))

    def heal(self) -> None:
        self._delay = float
        for flowing in self._flowing.values():
            flowing.set()

    async def disconnect(self) -> None:
        for server in self._servers.values():
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._servers.clear()

    def stop(self) -> None:
        """The sockets end with the runner."""

    # --- bytes

    def _accepting(self, pair: Direction) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._carry(pair, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return accept

    async def _carry(self, pair: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection that `pair[0]` made, until either end closes it."""
        source, target = pair
        with contextlib.suppress(OSError), contextlib.closing(writer):
            there, back = await asyncio.open_connection(HOST, self._ports[target], limit=CHUNK_BYTES)
            with contextlib.closing(back):
                ways = [
                    asyncio.ensure_future(self._pump(reader, back, (source, target))),
                    asyncio.ensure_future(self._pump(there, writer, (target, source))),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction) -> None:
        clock = asyncio.get_running_loop().time
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS_MAX)

        async def read() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(CHUNK_BYTES)
                except OSError:
                    data = b""
                await held.put((clock() + self._delay(), data))

        reading = asyncio.ensure_future(read())
        try:
            while True:
                due, data = await held.get()
                if not data:
                    return
                await asyncio.sleep(max(0.0, due - clock()))
                await self._flowing[way].wait()
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
