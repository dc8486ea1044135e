"""A replica's streams under clients that hold places, send rubbish, or do not read."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from koinon.bundle import bundle
from koinon.errors import Malformed
from koinon.service import application
from koinon.wire import Replies, Reply
from pbft import streams
from pbft.streams import Streams

RUBBISH = bundle([bytes(4) + b"no request"] * 256)


def refuse(_: bytes) -> asyncio.Future[Reply]:
    raise Malformed("rubbish")


def wait(_: bytes) -> asyncio.Future[Reply]:
    return asyncio.get_running_loop().create_future()


def sign(_: Replies) -> bytes:
    raise AssertionError("nothing is answered here")


@asynccontextmanager
async def replica(made: Streams) -> AsyncIterator[TestServer]:
    app = application("pbft", body_bytes_max=1 << 16)
    app.router.add_get("/v1/stream", made.accept)
    async with TestServer(app) as server:
        yield server


async def deaf(server: TestServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that sends rubbish by raw frames as long as it can, and reads no answer after the handshake."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    held.setblocking(False)
    await asyncio.get_running_loop().sock_connect(held, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=held, limit=1024)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    frame = b"\x82\xfe" + len(RUBBISH).to_bytes(2, "big") + bytes(4) + RUBBISH  # masked with zeros
    try:
        while True:
            writer.write(frame)
            async with asyncio.timeout(0.5):
                await writer.drain()
    except (TimeoutError, ConnectionError):
        return reader, writer


def test_a_client_that_does_not_read_cannot_hold_the_replica_when_it_stops() -> None:
    async def scenario() -> None:
        made = Streams(0, refuse, sign)
        async with replica(made) as server:
            _, writer = await deaf(server)
            async with asyncio.timeout(5):
                await made.stop()
                while made._open:
                    await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(scenario())


def test_a_client_that_does_not_read_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SEND_SECONDS", 0.2)

    async def scenario() -> None:
        made = Streams(0, refuse, sign)
        async with replica(made) as server:
            _, writer = await deaf(server)
            async with asyncio.timeout(5):
                while made._open:
                    await asyncio.sleep(0.01)
            writer.close()

    asyncio.run(scenario())


def test_a_place_goes_from_who_asks_nothing_to_who_comes_and_from_nobody_who_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "STREAMS_PER_CLIENT_MAX", 3)

    async def scenario() -> None:
        made = Streams(0, wait, sign)
        async with replica(made) as server, aiohttp.ClientSession() as session:
            url = server.make_url("/v1/stream")
            first, second, third = [await session.ws_connect(url) for _ in range(3)]
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await session.ws_connect(url)
            assert refused.value.status == 503
            await first.send_bytes(RUBBISH)
            while not any(stream._running for stream in made._open):
                await asyncio.sleep(0.01)
            monkeypatch.setattr(streams, "IDLE_SECONDS", 0.0)
            fourth = await session.ws_connect(url)
            assert (await second.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert len(made._open) == 3
            assert not any(one.closed for one in (first, third, fourth))
            await made.stop()

    asyncio.run(scenario())
