"""Clients' streams: ordered operations over one lasting WebSocket.

`GET /v1/stream`. A frame brings requests, each with a tag that its sender chose; answers carry that tag and come when
they are ready (`koinon.streams`). The replies that one turn has for one stream are signed together, at most REPLIES_MAX
and about REPLIES_BYTES of them. A request counts as it does over HTTP: who signed it says whose it is, and the
connection proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import WSCloseCode, WSMsgType, web

from koinon.bundle import Outbox
from koinon.encoding import encode
from koinon.errors import KoinonError, Malformed, Unavailable
from koinon.service import refusal
from koinon.streams import ASKED_BYTES_MAX, HEARTBEAT_SECONDS, OK, Answer, read_asked
from koinon.wire import REPLIES_MAX, Replies, Reply

from .waiting import client_of

STREAMS_MAX = 4096
STREAMS_PER_CLIENT_MAX = 512
STREAM_REQUESTS_MAX = 2048
IDLE_SECONDS = 10.0
"""A stream that asked nothing for so long gives its place up when somebody wants it; its client makes a new one."""
SEND_SECONDS = 10.0
CLOSE_SECONDS = 0.5
ANSWERS_BYTES_MAX = 1 << 20
"""A client that doesn't read its answers loses its stream; it can ask again."""

REPLIES_BYTES = 256 * 1024

Ask = Callable[[bytes], asyncio.Future[Reply]]
Seal = Callable[[Replies], bytes]


class Streams:
    """All streams of one replica in `epoch`; `ask(request)` is `Engine.ask`, `seal(replies)` is `Replica.seal`."""

    def __init__(self, epoch: int, ask: Ask, seal: Seal) -> None:
        self._epoch = epoch
        self._ask = ask
        self._seal = seal
        self._open: set[_Stream] = set()

    async def stop(self) -> None:
        await asyncio.gather(*(stream.close() for stream in list(self._open)), return_exceptions=True)

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/stream`: serve until the client leaves; Unavailable when there is no place."""
        who = client_of(request.remote)
        self._make_room(who)
        socket = web.WebSocketResponse(max_msg_size=ASKED_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS, compress=False)
        stream = _Stream(who, socket, request.transport, self._epoch, self._ask, self._seal)
        self._open.add(stream)
        try:
            await socket.prepare(request)
            await stream.serve()
        finally:
            self._open.discard(stream)
            stream.cut()
        return socket

    def _make_room(self, who: str) -> None:
        """Nothing is signed by who only holds a place: the one that was idle longest makes room."""
        own = [stream for stream in self._open if stream.who == who]
        crowd = own if len(own) >= STREAMS_PER_CLIENT_MAX else self._open if len(self._open) >= STREAMS_MAX else ()
        if crowd:
            idlest = max(crowd, key=lambda stream: stream.idle_s)
            if idlest.idle_s < IDLE_SECONDS:
                raise Unavailable("too many streams at once", hint="ask again later, and with fewer connections")
            self._open.discard(idlest)
            idlest.cut()


class _Stream:
    """One connection, of a client that counts as `who`."""

    def __init__(
        self,
        who: str,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
        epoch: int,
        ask: Ask,
        seal: Seal,
    ) -> None:
        self.who = who
        self._socket = socket
        self._transport = transport
        self._epoch = epoch
        self._ask = ask
        self._seal = seal
        self._outbox = Outbox(messages_max=2 * STREAM_REQUESTS_MAX, bytes_max=ANSWERS_BYTES_MAX)
        self._running: set[asyncio.Future[Reply]] = set()
        self._ready: list[tuple[int, Reply]] = []
        self._room = asyncio.Event()
        self._clock = asyncio.get_running_loop().time
        self._heard = self._clock()

    @property
    def idle_s(self) -> float:
        """Since the last request that was taken, or the beginning; 0 while one runs."""
        return 0.0 if self._running else self._clock() - self._heard

    async def serve(self) -> None:
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            writer.cancel()
            for future in list(self._running):
                future.cancel()

    async def close(self, code: int = WSCloseCode.GOING_AWAY) -> None:
        """Say goodbye, and cut the connection whether or not it is heard."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(code=code, drain=False)
        except TimeoutError:
            pass
        finally:
            self.cut()

    def cut(self) -> None:
        """End the connection at once, whatever waits in it: who doesn't read would keep it for ever."""
        if self._transport is not None:
            self._transport.abort()

    async def _read(self) -> None:
        while (message := await self._socket.receive()).type == WSMsgType.BINARY:
            try:
                asked = read_asked(message.data)
            except Malformed as error:
                refusal("pbft", error, "/v1/stream")
                await self.close(WSCloseCode.PROTOCOL_ERROR)
                return
            for tag, data in asked:
                await self._take(tag, data)
            await asyncio.sleep(0)  # whoever fills its stream with rubbish must not keep the loop to itself

    async def _take(self, tag: int, data: bytes) -> None:
        """Begin one request; a stream with too many waits here, and its client with it."""
        while len(self._running) >= STREAM_REQUESTS_MAX:
            self._room.clear()
            await self._room.wait()
        try:
            future = self._ask(data)
        except KoinonError as error:
            self._refuse(tag, error)
            return
        self._heard = self._clock()
        self._running.add(future)
        future.add_done_callback(lambda done: self._answer(tag, done))

    def _answer(self, tag: int, future: asyncio.Future[Reply]) -> None:
        self._running.discard(future)
        self._heard = self._clock()
        self._room.set()
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            if not self._ready:  # what else this turn answers comes before this call
                asyncio.get_running_loop().call_soon(self._sign)
            self._ready.append((tag, future.result()))
        elif isinstance(error, KoinonError):
            self._refuse(tag, error)

    def _refuse(self, tag: int, error: KoinonError) -> None:
        status, body = refusal("pbft", error, "/v1/stream")
        self._put(Answer(tags=(tag,), status=status, body=body, epoch=self._epoch))

    def _sign(self) -> None:
        """Sign and queue the replies that are ready."""
        ready, self._ready = self._ready, []
        while ready:
            count = size = 0
            while count < min(len(ready), REPLIES_MAX) and size < REPLIES_BYTES:
                size += len(ready[count][1].result)
                count += 1
            some, ready = ready[:count], ready[count:]
            body = self._seal(Replies(replies=tuple(reply for _, reply in some)))
            tags = tuple(tag for tag, _ in some)
            self._put(Answer(tags=tags, status=OK, body=body, epoch=self._epoch))

    def _put(self, answer: Answer) -> None:
        self._outbox.put(encode(answer))
        if self._outbox.dropped:
            self.cut()

    async def _write(self) -> None:
        try:
            while True:
                frame = await self._outbox.take()
                async with asyncio.timeout(SEND_SECONDS):
                    await self._socket.send_bytes(frame)
        except (ConnectionError, RuntimeError, TimeoutError):  # closed meanwhile, or not read: the reader ends too
            self.cut()
