"""Hostile bytes at every other door of a replica and of a party: greetings, bundles, answers, state of peers.

Each decoder answers with a typed error or with what the bytes say, never with another exception.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import WSMsgType
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.bundle import bundle, unbundle
from koinon.committees import Committees
from koinon.encoding import decode, encode
from koinon.epochs import Handover
from koinon.errors import Malformed, RemoteError
from koinon.rounds.law import Federation
from koinon.signing import authenticate, seal
from koinon.streams import OK, Answer, read_answers, read_asked
from koinon.wire import Request
from pbft.peers import FRAME_BYTES_MAX, Greeting, Hello, Peers
from pbft.transfer import Shown
from tests.property.damage import damaged
from tests.unit.pbft.test_transfer import Bench, Peer
from tests.unit.rounds.world import World
from tests.unit.test_epochs import DOMAIN, FIRST, SECOND, federation, key

LAW = World().law
ANSWER = encode(Answer(tags=(1, 2), status=OK, body=b"said", epoch=0))
ASKED = (3).to_bytes(4, "big") + seal(key(9), DOMAIN, Request(number=1, operation=b"do"))
DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "a bundle": (lambda data: unbundle(data, bytes_max=FRAME_BYTES_MAX), bundle([b"one", b"two"])),
    "answers": (read_answers, bundle([ANSWER, ANSWER])),
    "an answer": (lambda data: read_answers(bundle([data])), ANSWER),
    "asked requests": (read_asked, bundle([ASKED, ASKED])),
    "a sealed request": (lambda data: authenticate(Request, data, DOMAIN), ASKED[4:]),
    "handovers": (
        lambda data: Committees(federation()).add(decode(tuple[Handover, ...], data)),
        encode((FIRST, SECOND)),
    ),
    "a shown checkpoint": (lambda data: decode(Shown, data), Peer().checkpoint()),
}


@pytest.mark.parametrize("name", sorted(DECODERS))
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_bytes_are_what_they_say_or_refused(name: str, data: st.DataObject) -> None:
    decoder, whole = DECODERS[name]
    decoder(whole)
    for hostile in (data.draw(st.binary(max_size=300)), data.draw(damaged(whole))):
        with contextlib.suppress(RemoteError):
            decoder(hostile)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_what_is_cut_anywhere_is_malformed(name: str) -> None:
    decoder, whole = DECODERS[name]
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            decoder(whole[:length])


# --- greetings


class Caller:
    """The other end of a link, which says what it wants: `greet` and `hello` change what replica 0 would say."""

    def __init__(self, greet: Callable[[bytes], bytes], hello: Callable[[bytes], bytes]) -> None:
        self._change = [greet, hello]
        self._said: list[bytes] = []

    async def send_bytes(self, data: bytes) -> None:
        nonce = b"\5" * 32
        if not self._said:
            theirs = decode(Greeting, data)
            said = Hello(epoch=0, sender=0, receiver=1, sender_nonce=nonce, receiver_nonce=theirs.nonce)
            hello = seal(key(0), federation().domain, said)
            self._said = [encode(Greeting(epoch=0, replica=0, nonce=nonce)), hello]

    async def receive(self) -> object:
        change, said = self._change.pop(0), self._said.pop(0)
        return SimpleNamespace(type=WSMsgType.BINARY, data=change(said))


def _greet(greet: Callable[[bytes], bytes], hello: Callable[[bytes], bytes]) -> int:
    async def nobody(peer: int, data: bytes) -> None: ...

    async def scenario() -> int:
        socket: Any = Caller(greet, hello)
        return await Peers(federation(), 1, key(1), nobody)._greet(socket, None)

    return asyncio.run(scenario())


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_greeting_that_is_not_whole_and_true_opens_no_link(data: st.DataObject) -> None:
    def same(said: bytes) -> bytes:
        return said

    changed: list[bool] = []

    def hostile(said: bytes) -> bytes:
        lie = data.draw(damaged(said))
        changed.append(lie != said)
        return lie

    assert _greet(same, same) == 0
    for greet, hello in ((hostile, same), (same, hostile)):
        try:
            assert _greet(greet, hello) == 0
        except RemoteError:
            assert changed.pop()
        else:
            assert not changed.pop(), "a link was opened on a changed word"


# --- state of peers


class Damaged(Peer):
    """Answers one question with other bytes."""

    def __init__(self, about: str, lie: Callable[[bytes], bytes]) -> None:
        super().__init__(b"state" * 50, log=range(1, 5))
        self._about = about
        self._lie = lie

    def answer(self, path: str) -> bytes:
        honest = super().answer(path)
        return self._lie(honest) if self._about in path else honest


@pytest.mark.parametrize("about", ["/v1/log", "/v1/checkpoint", "/v1/snapshots"])
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_damaged_state_of_a_peer_is_refused_and_an_honest_one_still_brings_it(about: str, data: st.DataObject) -> None:
    liar = Damaged(about, lambda answer: data.draw(damaged(answer)))
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder), liar, Peer(liar.snapshot, log=liar.log))
        bench.believed = 4 if about == "/v1/log" else 0
        bench.transfer._verify = _only(liar.certificate)
        bench.bring()
        assert bench.executed in (range(1, 5) if about == "/v1/log" else (64,))


def _only(genuine: object) -> Callable[[object], None]:
    def verify(shown: object) -> None:
        if shown != genuine:
            raise Malformed("nobody signed this")

    return verify


# --- snapshots of the federation


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_bytes_are_a_snapshot_of_the_federation_or_refused_and_then_nothing_changed(data: st.DataObject) -> None:
    law = Federation(LAW.genesis)
    law.restore(before := LAW.snapshot())
    try:
        law.restore(data.draw(st.one_of(st.binary(max_size=200), damaged(before))))
    except Malformed:
        assert law.snapshot() == before
    else:
        again = Federation(LAW.genesis)
        again.restore(law.snapshot())
        assert again.snapshot() == law.snapshot()
