"""A gateway whose first replica lies about a whole frame of requests: every request still gets its true result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from aiohttp import web
from msgspec.structs import replace

from koinon.bundle import bundle
from koinon.encoding import encode
from koinon.errors import Replayed, Unavailable
from koinon.signing import Signer, authenticate, seal
from koinon.streams import OK, Answer, Gateway, read_asked
from koinon.wire import REPLIES_MAX, Refusal, Replies, Reply, Request
from tests.unit.test_asking import Handler, committee
from tests.unit.test_epochs import DOMAIN, key

CLIENTS = [key(100 + number) for number in range(3)]
Asked = Sequence[tuple[int, Reply]]
Says = Callable[[Signer, Asked], Sequence[bytes]]


def signed(signer: Signer, asked: Asked, *, tags: Sequence[int] | None = None) -> bytes:
    """One answer to all of it."""
    body = seal(signer, DOMAIN, Replies(replies=tuple(reply for _, reply in asked)))
    return encode(Answer(tags=tuple(tags or [tag for tag, _ in asked]), status=OK, body=body))


def raw(asked: Asked, body: bytes, status: int = OK) -> bytes:
    return encode(Answer(tags=tuple(tag for tag, _ in asked), status=status, body=body))


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
    "no status": lambda signer, asked: [encode(["Answer", [tag for tag, _ in asked], 0, b""])],
    "no tags": lambda signer, asked: [encode(["Answer", [], OK, b""])],
    "too many tags": lambda signer, asked: [encode(["Answer", [asked[0][0]] * (REPLIES_MAX + 1), OK, b""])],
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
