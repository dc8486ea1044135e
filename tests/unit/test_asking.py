"""A client among replicas of which one lies: it neither believes it nor falls over it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from koinon.asking import LATE_MAX
from koinon.client import CommitteeClient
from koinon.config import FederationFile
from koinon.encoding import encode, keccak
from koinon.epochs import Seat
from koinon.errors import Malformed, RemoteError, Unavailable
from koinon.service import raise_refusal
from koinon.signing import seal
from koinon.wire import Refusal
from scripts._committee import standings, with_fresh_keys
from tests.unit.test_epochs import DOMAIN, FIRST, federation, key, seats

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
OURS = ["config", "invariant", "storage-damaged", "ledger", "training", "wrong-chain", "audit"]
"""Errors that stop a process: nobody else may raise them here."""


def saying(body: bytes, status: int = 200) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body)

    return handler


@asynccontextmanager
async def committee(*replicas: Handler) -> AsyncIterator[FederationFile]:
    """A federation whose replicas answer every question as their handlers do."""
    async with AsyncExitStack() as stack:
        entries = []
        for entry, handler in zip(federation().replicas, replicas, strict=True):
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            server = await stack.enter_async_context(TestServer(app))
            entries.append(replace(entry, url=str(server.make_url("")).rstrip("/")))
        yield replace(federation(), replicas=tuple(entries))


def refusing(code: str) -> Handler:
    return saying(encode(Refusal(code=code, message="because")), 409)


@pytest.mark.parametrize("code", OURS)
def test_a_refusal_cannot_raise_an_error_that_only_we_may_make(code: str) -> None:
    with pytest.raises(RemoteError):
        raise_refusal(409, encode(Refusal(code=code, message="because")), "replica 0")


@pytest.mark.parametrize("code", ["rejected:role", "bad-piece", *OURS])
def test_whatever_one_replica_refuses_with_another_ones_handover_is_followed(code: str) -> None:
    async def scenario() -> None:
        proof = saying(encode((FIRST,)))
        slow = asyncio.Event()

        async def late(request: web.Request) -> web.Response:
            await slow.wait()
            return await proof(request)

        async def liar(request: web.Request) -> web.Response:
            asyncio.get_running_loop().call_later(0.1, slow.set)
            return await refusing(code)(request)

        async with committee(liar, late, late, late) as file, CommitteeClient(file) as client:
            await client.refresh()
            assert client.federation.epoch == 1

    asyncio.run(scenario())


def test_a_replica_that_asks_itself_and_a_liar_does_not_give_up_before_the_others_answer() -> None:
    async def scenario() -> None:
        hasty = saying(encode(()))

        async def slow(request: web.Request) -> web.Response:
            await asyncio.sleep(0.2)
            return await saying(encode((FIRST,)))(request)

        async with committee(hasty, hasty, slow, slow) as file, CommitteeClient(file) as client:
            assert await client.refresh()

    asyncio.run(scenario())


@pytest.mark.parametrize("code", ["rejected:role", "bad-piece", "config", "invariant"])
def test_a_blob_is_fetched_from_another_replica_whatever_the_first_one_refuses_with(code: str) -> None:
    content = b"a blob"

    async def scenario() -> None:
        digest = keccak(content)
        replicas = [saying(content)] * 4
        replicas[digest[0] % 4] = refusing(code)
        async with committee(*replicas) as file, CommitteeClient(file) as client:
            assert await client.get_blob(digest) == content

    asyncio.run(scenario())


@asynccontextmanager
async def redirecting(reached: list[str]) -> AsyncIterator[FederationFile]:
    """Replicas that send their askers to another server, which notes down whoever comes."""

    async def inside(request: web.Request) -> web.Response:
        reached.append(request.path)
        return web.Response(body=b"a secret")

    app = web.Application()
    app.router.add_get("/{path:.*}", inside)
    async with TestServer(app) as victim:

        async def liar(_: web.Request) -> web.Response:
            raise web.HTTPFound(str(victim.make_url("/metadata")))

        async with committee(liar, liar, liar, liar) as file:
            yield file


def test_an_answer_that_points_elsewhere_is_not_followed() -> None:
    async def scenario() -> None:
        reached: list[str] = []
        async with redirecting(reached) as file, CommitteeClient(file) as client:
            with pytest.raises(Unavailable):
                await client.get_blob(keccak(b"a secret"))
        assert reached == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "said",
    [b"rubbish", b"[]", b'{"epoch": "seven"}', b'{"sequence": []}', b'{"index": 1.5}', b'{"lag": null}', b"\xff"],
)
def test_a_standing_that_is_none_is_malformed(said: bytes) -> None:
    async def scenario() -> None:
        honest = saying(b'{"epoch": 3, "index": 1, "sequence": 9, "state": "active"}')
        async with committee(saying(said), honest, honest, honest) as file, CommitteeClient(file) as client:
            with pytest.raises(Malformed):
                await client.status(0)
            assert [each["reachable"] for each in await standings(client)] == [False, True, True, True]

    asyncio.run(scenario())


def test_a_replica_that_copies_anothers_new_key_stops_no_change() -> None:
    async def scenario() -> None:
        fresh = [Seat(address=key(i).address, sealing_key=keccak(b"new %d" % i), url="http://x") for i in range(4)]
        fresh[2] = replace(fresh[2], sealing_key=fresh[1].sealing_key)
        answers = [saying(seal(key(index), DOMAIN, each)) for index, each in enumerate(fresh)]
        async with committee(*answers) as file, CommitteeClient(file) as client:
            found = await with_fresh_keys(client, seats(0, 1, 2, 3), lambda _: None)
        assert [each.sealing_key for each in (found[0], found[3])] == [fresh[0].sealing_key, fresh[3].sealing_key]
        assert [found[1], found[2]] == list(seats(1, 2))

    asyncio.run(scenario())


def test_an_answer_that_nobody_waits_for_costs_no_connection() -> None:
    """Two replicas are slow each time; their answers are read late, and the next questions go the same ways."""

    async def scenario() -> None:
        connections = set()

        def replying(index: int) -> Handler:
            async def handler(request: web.Request) -> web.Response:
                connections.add((index, request.transport))
                await asyncio.sleep(0.05 * (index > 1))
                return web.Response(body=encode({}))

            return handler

        async with committee(*map(replying, range(4))) as file, CommitteeClient(file) as client:
            for _ in range(5):
                assert await client.refusals() == {}
                assert len(client._late) <= LATE_MAX
                await asyncio.sleep(0.1)
            assert not client._late
        assert len(connections) == 4

    asyncio.run(scenario())


def test_replicas_that_never_answer_pile_up_no_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koinon.asking.LATE_SECONDS", 0.3)

    async def scenario() -> None:
        async def silent(_: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        honest = saying(encode({}))
        async with committee(silent, silent, honest, honest) as file, CommitteeClient(file) as client:
            for _ in range(2 * LATE_MAX):
                await client.refusals()
            assert len(client._late) == LATE_MAX
            async with asyncio.timeout(5):
                while client._late:
                    await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_errors_that_come_with_the_answers_are_nobodys_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        honest = saying(encode({}))
        refuses = refusing("missing")
        async with committee(refuses, honest, honest, refuses) as file, CommitteeClient(file) as client:
            for _ in range(20):
                assert await client.refusals() == {}

    asyncio.run(scenario())
    gc.collect()
    assert "never retrieved" not in caplog.text
