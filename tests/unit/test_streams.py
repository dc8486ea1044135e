"""A gateway whose first replica lies about a whole frame of requests: every request still gets its true result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from aiohttp import web
from msgspec.structs import replace

from koinon.bundle import bundle
from koinon.client import CommitteeClient
from koinon.encoding import encode
from koinon.errors import Replayed, Unavailable
from koinon.rounds.operations import Outcome, StopTask
from koinon.signing import Signer, authenticate, seal
from koinon.streams import HEDGE_SECONDS_MAX, OK, Answer, Gateway, read_asked
from koinon.wire import REPLIES_MAX, Refusal, Replies, Reply, Request
from tests.unit.test_asking import Handler, committee, redirecting
from tests.unit.test_epochs import DOMAIN, key

CLIENTS = [key(100 + number) for number in range(3)]
Asked = Sequence[tuple[int, Reply]]
Says = Callable[[Signer, Asked], Sequence[bytes]]


def signed(signer: Signer, asked: Asked, *, tags: Sequence[int] | None = None) -> bytes:
    """One answer to all of it."""
    body = seal(signer, DOMAIN, Replies(replies=tuple(reply for _, reply in asked)))
    return encode(Answer(tags=tuple(tags or [tag for tag, _ in asked]), status=OK, body=body, epoch=0))


def raw(asked: Asked, body: bytes, status: int = OK) -> bytes:
    return encode(Answer(tags=tuple(tag for tag, _ in asked), status=status, body=body, epoch=0))


def honest(signer: Signer, asked: Asked) -> Sequence[bytes]:
    return [signed(signer, asked)]


LIES: dict[str, Says] = {
    "false results": lambda signer, asked: [
        signed(signer, [(tag, replace(reply, result=b"false")) for tag, reply in asked])
    ],
    "another key": lambda signer, asked: [signed(key(50), asked)],
    "a word of another replica": lambda signer, asked: [signed(key(1), asked)],
    "in another order": lambda signer, asked: [signed(signer, asked[::-1], tags=[tag for tag, _ in asked])],
    "one too few": lambda signer, asked: [signed(signer, asked[:-1], tags=[tag for tag, _ in asked])],
    "one too many": lambda signer, asked: [signed(signer, [*asked, asked[0]], tags=[tag for tag, _ in asked])],
    "other numbers": lambda signer, asked: [signed(signer, [(tag, replace(reply, number=1)) for tag, reply in asked])],
    "a reply, not replies": lambda signer, asked: [raw(asked, seal(signer, DOMAIN, asked[0][1]))],
    "no signature": lambda signer, asked: [raw(asked, encode(Replies(replies=(asked[0][1],))))],
    "no body": lambda signer, asked: [raw(asked, b"")],
    "a refusal of all": lambda signer, asked: [raw(asked, encode(Refusal(code="replayed", message="")), 409)],
    "no status": lambda signer, asked: [encode(["Answer", [tag for tag, _ in asked], 0, b"", 0])],
    "no tags": lambda signer, asked: [encode(["Answer", [], OK, b"", 0])],
    "too many tags": lambda signer, asked: [encode(["Answer", [asked[0][0]] * (REPLIES_MAX + 1), OK, b"", 0])],
    "no answer": lambda signer, asked: [b"rubbish"],
    "one tag twice": lambda signer, asked: [signed(signer, [asked[0]] * 2), signed(signer, asked)],
    "tags of nobody": lambda signer, asked: [signed(signer, [(2**32 - 1, asked[0][1])]), signed(signer, asked)],
}


def replica(index: int, says: Says) -> Handler:
    """A replica that executes everything and tells it as `says` does, to all that a frame brings at once."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            asked = []
            for tag, data in read_asked(message.data):
                said = authenticate(Request, data, DOMAIN)
                number, result = said.message.number, b"done: " + said.message.operation
                asked.append((tag, Reply(view=0, client=said.sender, number=number, result=result)))
            await socket.send_bytes(bundle(list(says(key(index), asked))))
        return socket

    return handler


async def results(*replicas: Says) -> list[bytes | BaseException]:
    """What three clients that ask at once get from a committee of four."""
    async with (
        committee(*(replica(index, says) for index, says in enumerate(replicas))) as file,
        Gateway(file) as gateway,
    ):
        asked = [gateway.order(client, b"work %d" % number) for number, client in enumerate(CLIENTS)]
        return await asyncio.gather(*asked, return_exceptions=True)


TRUE = [b"done: work 0", b"done: work 1", b"done: work 2"]


@pytest.mark.parametrize("lie", LIES)
def test_one_replica_that_lies_about_many_requests_at_once_deceives_nobody(lie: str) -> None:
    assert asyncio.run(results(LIES[lie], honest, honest, honest)) == TRUE


def test_replies_under_one_signature_count_for_each_of_their_requests() -> None:
    assert asyncio.run(results(honest, honest, LIES["no answer"], LIES["no answer"])) == TRUE


def test_a_refusal_of_many_requests_is_believed_from_f_plus_1() -> None:
    refuses = LIES["a refusal of all"]
    found = asyncio.run(results(refuses, refuses, honest, honest))
    assert all(isinstance(error, Replayed) for error in found)


def test_answers_that_no_two_replicas_give_are_no_result() -> None:
    def own(signer: Signer, asked: Asked) -> Sequence[bytes]:
        return [signed(signer, [(tag, replace(reply, result=signer.address)) for tag, reply in asked])]

    found = asyncio.run(results(own, own, own, own))
    assert all(isinstance(error, Unavailable) for error in found)


DONE = Outcome(detail="done")


def done(signer: Signer, asked: Asked) -> Sequence[bytes]:
    return [signed(signer, [(tag, replace(reply, result=encode(DONE))) for tag, reply in asked])]


def silent(signer: Signer, asked: Asked) -> Sequence[bytes]:
    return [signed(signer, asked, tags=[2**32 - 1] * len(asked))]


def test_a_client_of_one_key_asks_all_and_waits_for_the_quickest() -> None:
    async def scenario() -> None:
        handlers = [replica(index, says) for index, says in enumerate([silent, done, silent, done])]
        async with committee(*handlers) as file, CommitteeClient(file, CLIENTS[0]) as client:
            for _ in range(50):
                client.answered(0, 10 * HEDGE_SECONDS_MAX)
            assert client.patience_s == HEDGE_SECONDS_MAX
            async with asyncio.timeout(HEDGE_SECONDS_MAX / 2):
                assert await client.submit(StopTask(task=bytes(32))) == DONE

    asyncio.run(scenario())


def test_a_committee_that_is_left_while_it_is_asked_answers_for_itself() -> None:
    """Replica 0 leaves and the others move up: what they signed at their old places still counts."""

    async def scenario() -> None:
        client: CommitteeClient

        def leaving(signer: Signer, asked: Asked) -> Sequence[bytes]:
            file = client.federation
            if file.epoch == 0:  # somebody else who uses this client follows the committee just now
                client.committees._epochs.append(replace(file, epoch=1, replicas=file.replicas[1:]))
            return done(signer, asked)

        async with (
            committee(*(replica(index, leaving) for index in range(4))) as file,
            CommitteeClient(file, CLIENTS[0]) as client,
        ):
            assert await client.submit(StopTask(task=bytes(32))) == DONE
            assert client.federation.epoch == 1

    asyncio.run(scenario())


def test_who_gets_no_answer_is_told_what_each_replica_did(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(_: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable

    async def hangs_up(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket

    async def scenario() -> None:
        handlers = [refuses, hangs_up, replica(2, silent), replica(3, LIES["no body"])]
        async with committee(*handlers) as file:
            gone = replace(file.replicas[2], url="http://127.0.0.1:1")
            file = replace(file, replicas=(*file.replicas[:2], gone, file.replicas[3]))
            async with CommitteeClient(file, CLIENTS[0]) as client:
                await client.submit(StopTask(task=bytes(32)))

    monkeypatch.setattr("koinon.streams.ORDER_ATTEMPTS_MAX", 1)
    with pytest.raises(Unavailable) as caught:
        asyncio.run(scenario())
    said = caught.value.message
    assert "replica 0 refuses the stream (HTTP 503)" in said
    assert "replica 1 closed the stream" in said
    assert "replica 2 does not answer (Connection refused)" in said
    assert caught.value.hint == "look at: koinon replicas"


def test_a_replica_sends_no_stream_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []

    async def scenario() -> None:
        async with redirecting(reached) as file, Gateway(file) as gateway:
            await gateway.order(CLIENTS[0], b"work")

    monkeypatch.setattr("koinon.streams.ORDER_ATTEMPTS_MAX", 1)
    with pytest.raises(Unavailable):
        asyncio.run(scenario())
    assert reached == []


def test_nothing_is_kept_of_questions_that_were_answered_by_others() -> None:
    async def scenario() -> None:
        handlers = [replica(index, says) for index, says in enumerate([silent, done, silent, done])]
        async with committee(*handlers) as file, CommitteeClient(file, CLIENTS[0]) as client:
            for _ in range(20):
                await client.submit(StopTask(task=bytes(32)))
            await asyncio.sleep(0)
            assert not any(stream._asked for stream in client._streams)

    asyncio.run(scenario())


def test_whoever_asked_in_the_turn_in_which_a_stream_is_closed_is_told_and_can_ask_again() -> None:
    async def scenario() -> None:
        async with committee(*(replica(index, done) for index in range(4))) as file, Gateway(file) as gateway:
            stream, told = gateway._streams[0], list[object]()
            stream.ask(b"request", told.append)
            await stream.close()
            assert [type(one) for one in told] == [Unavailable]
            assert await gateway.order(CLIENTS[0], b"work") == encode(DONE)

    asyncio.run(scenario())
