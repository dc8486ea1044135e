"""Clients' streams: ordered operations over one lasting WebSocket.

`GET /v1/stream`. A frame brings requests, each with a tag that its sender chose; answers carry that tag and come when
they are ready (`koinon.streams`). The replies that one turn has for one stream are signed together, at most REPLIES_MAX
and about REPLIES_BYTES of them. A request counts as it does over HTTP: who signed it says whose it is, and the
connection proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import WSMsgType, web

from koinon.bundle import Outbox
from koinon.encoding import encode
from koinon.errors import KoinonError, Malformed
from koinon.service import refusal
from koinon.streams import ASKED_BYTES_MAX, HEARTBEAT_SECONDS, OK, Answer, read_asked
from koinon.wire import REPLIES_MAX, Replies, Reply

from .waiting import Shares, client_of

STREAMS_MAX = 4096
STREAMS_PER_CLIENT_MAX = 512
STREAM_REQUESTS_MAX = 2048
ANSWERS_BYTES_MAX = 4 << 20
"""A client that doesn't read its answers loses the oldest; it can ask again."""

REPLIES_BYTES = 256 * 1024

Ask = Callable[[bytes], asyncio.Future[Reply]]
Seal = Callable[[Replies], bytes]


class Streams:
    """All streams of one replica in `epoch`; `ask(request)` is `Engine.ask`, `seal(replies)` is `Replica.seal`."""

    def __init__(self, epoch: int, ask: Ask, seal: Seal) -> None:
        self._epoch = epoch
        self._ask = ask
        self._seal = seal
        self._open: set[web.WebSocketResponse] = set()
        self._places = Shares("streams", all_max=STREAMS_MAX, each_max=STREAMS_PER_CLIENT_MAX)

    async def stop(self) -> None:
        for socket in list(self._open):
            await socket.close()

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/stream`: serve until the client leaves."""
        with self._places.hold(client_of(request.remote)):
            socket = web.WebSocketResponse(max_msg_size=ASKED_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS, compress=False)
            await socket.prepare(request)
            self._open.add(socket)
            try:
                await _Stream(socket, self._epoch, self._ask, self._seal).serve()
            finally:
                self._open.discard(socket)
        return socket


class _Stream:
    """One connection."""

    def __init__(self, socket: web.WebSocketResponse, epoch: int, ask: Ask, seal: Seal) -> None:
        self._socket = socket
        self._epoch = epoch
        self._ask = ask
        self._seal = seal
        self._outbox = Outbox(messages_max=2 * STREAM_REQUESTS_MAX, bytes_max=ANSWERS_BYTES_MAX)
        self._running: set[asyncio.Future[Reply]] = set()
        self._ready: list[tuple[int, Reply]] = []
        self._room = asyncio.Event()

    async def serve(self) -> None:
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            writer.cancel()
            for future in self._running:
                future.cancel()

    async def _read(self) -> None:
        while (message := await self._socket.receive()).type == WSMsgType.BINARY:
            try:
                asked = read_asked(message.data)
            except Malformed as error:
                refusal("pbft", error, "/v1/stream")
                await self._socket.close(code=1002)
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
        self._running.add(future)
        future.add_done_callback(lambda done: self._answer(tag, done))

    def _answer(self, tag: int, future: asyncio.Future[Reply]) -> None:
        self._running.discard(future)
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
        self._outbox.put(encode(Answer(tags=(tag,), status=status, body=body, epoch=self._epoch)))

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
            self._outbox.put(encode(Answer(tags=tags, status=OK, body=body, epoch=self._epoch)))

    async def _write(self) -> None:
        try:
            while True:
                await self._socket.send_bytes(await self._outbox.take())
        except (ConnectionError, RuntimeError):  # closed meanwhile: the reader ends too
            await self._socket.close()
