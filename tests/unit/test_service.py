"""Bodies and answers are bounded while they arrive, whatever their headers say."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from koinon.config import PartyConfig
from koinon.errors import Oversized
from koinon.service import answer, application, listen, read_answer, read_body

BOUND, CHUNK, CHUNKS = 1_000, 64 * 1024, 1_024


def service(seen: list[int]) -> web.Application:
    app = application("test")

    async def take(request: web.Request) -> web.Response:
        body = await read_body(request, bytes_max=BOUND)
        seen.append(len(body))
        return answer(body)

    async def give(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(CHUNKS):
            await response.write(bytes(CHUNK))
        return response

    app.router.add_post("/take", take)
    app.router.add_get("/give", give)
    return app


def test_a_body_without_an_announced_length_is_refused_before_it_is_all_read() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(CHUNKS):
            sent += CHUNK
            yield bytes(CHUNK)

    async def scenario() -> None:
        seen: list[int] = []
        async with TestServer(service(seen)) as server, aiohttp.ClientSession() as session:
            try:
                async with session.post(server.make_url("/take"), data=endless()) as response:
                    assert response.status == 413
            except aiohttp.ClientError:
                pass  # the service hung up while we still spoke
            assert not seen
            async with session.post(server.make_url("/take"), data=bytes(BOUND)) as response:
                assert (response.status, seen) == (200, [BOUND])

    asyncio.run(scenario())
    assert sent < CHUNK * CHUNKS / 2


def test_a_packed_body_is_bounded_by_what_it_unpacks_to() -> None:
    async def scenario() -> None:
        seen: list[int] = []
        async with TestServer(service(seen)) as server, aiohttp.ClientSession() as session:
            packed, headers = gzip.compress(bytes(100 * BOUND)), {"Content-Encoding": "gzip"}
            assert len(packed) < BOUND
            async with session.post(server.make_url("/take"), data=packed, headers=headers) as response:
                assert response.status == 413
            assert not seen

    asyncio.run(scenario())


def test_an_endless_answer_is_oversized_and_not_kept() -> None:
    async def scenario() -> None:
        async with TestServer(service([])) as server, aiohttp.ClientSession() as session:
            response = await session.get(server.make_url("/give"))
            with pytest.raises(Oversized):
                await read_answer(response, bytes_max=BOUND)
            response.close()

    asyncio.run(scenario())


def test_a_connection_whose_headers_never_end_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("koinon.service.IDLE_SECONDS", 0.3)
        config = PartyConfig(role="node")
        runner, (host, port) = await listen(application("test"), tmp_path, config)
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            dribble = asyncio.ensure_future(_dribble(writer))
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            dribble.cancel()
        finally:
            await runner.cleanup()

    asyncio.run(scenario())


async def _dribble(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.05)


def test_a_body_that_comes_too_slowly_is_refused(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.Response:
        return answer(await read_body(request, bytes_max=100, seconds=0.2))

    async def scenario() -> None:
        app = application("test")
        app.router.add_post("/slow", handler)
        runner, (host, port) = await listen(app, tmp_path, PartyConfig(role="node"))
        try:
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nbegun")
            async with asyncio.timeout(10):
                assert b" 503 " in await reader.readline()
            writer.close()
        finally:
            await runner.cleanup()

    asyncio.run(scenario())
