"""Small tools of the shell for waiting: changes of state, heavy work in threads, one computation for many askers.

Every one has a bound; beyond it the asker gets `Unavailable` at once instead of a place in an endless queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any, ParamSpec, TypeVar

from koinon.encoding import encode
from koinon.errors import Unavailable

SHOWN_MAX = 64

P = ParamSpec("P")
T = TypeVar("T")


class Shares:
    """Places that clients hold: at most `each_max` of them by one client, `all_max` together."""

    def __init__(self, what: str, *, all_max: int, each_max: int) -> None:
        self._what = what
        self._all_max = all_max
        self._each_max = each_max
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._held.total()

    @contextmanager
    def hold(self, who: str) -> Iterator[None]:
        """Take a place for `who`; Unavailable when it has its share, or nobody has room."""
        if self._held[who] >= self._each_max or len(self) >= self._all_max:
            raise Unavailable(f"too many {self._what} at once", hint="ask again later, and with fewer connections")
        self._held[who] += 1
        try:
            yield
        finally:
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]


def client_of(remote: str | None) -> str:
    """Whom an address counts as: an IPv6 client has a whole /64, an IPv4 client one address."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return remote or ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, 64), strict=False))


class Changes:
    """Wakes everybody who waits for a condition on the replicated state."""

    def __init__(self, *, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """The state changed: let all who wait look again."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until `condition()` holds, or `seconds` passed; what it is in the end."""
        if condition() or seconds <= 0:
            return condition()
        if self._waiting >= self._waiting_max:
            raise Unavailable("too many wait for this replica's state", hint="ask again later, or without wait_ms")
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._event.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return condition()


class Shown:
    """What is shown of a state, encoded once: anybody may ask, and who waits for a change asks with all others."""

    def __init__(self) -> None:
        self._at = -1
        self._encoded: dict[Hashable, bytes] = {}

    def get(self, at: int, what: Hashable, make: Callable[[], object]) -> bytes:
        """`make()`, encoded, of the state after `at` entries; at most SHOWN_MAX are kept, of the newest state."""
        if self._at != at or len(self._encoded) >= SHOWN_MAX:
            self._at, self._encoded = at, {}
        if what not in self._encoded:
            self._encoded[what] = encode(make())
        return self._encoded[what]


class Workers:
    """A few threads for heavy work, and a bound on what waits for them."""

    def __init__(self, name: str, *, threads: int, waiting_max: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._waiting_max = waiting_max
        self._waiting = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`work(*args)` in a thread; Unavailable when too much waits already."""
        if self._waiting >= self._waiting_max:
            raise Unavailable("this replica is busy", hint="try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))
        finally:
            self._waiting -= 1

    def stop(self, *, wait: bool = False) -> None:
        """Begin nothing more; with `wait`, return when what was begun is over."""
        self._pool.shutdown(wait=wait, cancel_futures=True)


class SingleFlight:
    """One computation a key at a time: later askers share it, and an asker that leaves doesn't end it."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def share(self, key: Hashable, begin: Callable[[], Awaitable[T]]) -> T:
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(self._hold(begin))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        result: T = await asyncio.shield(task)
        return result

    @staticmethod
    async def _hold(begin: Callable[[], Awaitable[T]]) -> T:
        return await begin()

    def _finished(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # an asker sees it; were all gone, nobody need be told

    async def stop(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Budget:
    """Bytes that bodies may occupy in memory together; one sender gets at most `sender_bytes_max` of them."""

    def __init__(self, bytes_max: int, *, sender_bytes_max: int) -> None:
        self._free = bytes_max
        self._sender_bytes_max = sender_bytes_max
        self._held: Counter[bytes] = Counter()

    @asynccontextmanager
    async def reserve(self, sender: bytes, size: int) -> AsyncIterator[None]:
        if size > self._free or self._held[sender] + size > self._sender_bytes_max:
            raise Unavailable("too many large bodies at once", hint="try again in a moment")
        self._free -= size
        self._held[sender] += size
        try:
            yield
        finally:
            self._free += size
            self._held[sender] -= size
            if not self._held[sender]:
                del self._held[sender]
