"""Bodies and answers are bounded while they arrive, whatever their headers say."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from koinon.errors import Oversized
from koinon.service import answer, application, read_answer, read_body

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
