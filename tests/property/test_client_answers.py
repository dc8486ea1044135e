"""Whatever replicas answer to a party's questions, it gets an answer or a typed error, never another exception."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.audit.chain import from_json
from koinon.client import CommitteeClient
from koinon.encoding import encode
from koinon.errors import KoinonError, Malformed
from koinon.rounds.state import Member
from tests.property.damage import damaged
from tests.unit.pbft.test_transfer import entry
from tests.unit.rounds.world import World
from tests.unit.test_asking import committee
from tests.unit.test_epochs import FIRST

DEEP = [b'{"a":' * 100_000, b"[" * 100_000, b"\x91" * 100_000, b"\x81\xa1a" * 100_000]
STATE = World().law.state
MEMBERS: dict[bytes, Member] = STATE.members
WHOLE = [
    b'{"view": 0, "sequence": 1}',
    encode([entry(1), entry(2)]),
    encode(STATE.tasks),
    encode(MEMBERS),
    encode(STATE.refusals),
    encode((FIRST,)),
]
Question = Callable[[CommitteeClient], Awaitable[object]]
QUESTIONS: dict[str, Question] = {
    "status": lambda client: client.status(0),
    "log": lambda client: client.log(0, first=1),
    "evidence": lambda client: client.evidence(0),
    "tasks": lambda client: client.tasks(),
    "members": lambda client: client.members(),
    "masks": lambda client: client.masks(bytes(32)),
    "refusals": lambda client: client.refusals(),
    "handovers": lambda client: client.refresh(),
}


def _ask(question: Question, bodies: Sequence[bytes]) -> None:
    """The same question, answered by all replicas alike with each of `bodies` in turn."""
    said = [b""]

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=said[-1])

    async def scenario() -> None:
        async with committee(*[handler] * 4) as file, CommitteeClient(file) as client:
            for body in bodies:
                said.append(body)
                with contextlib.suppress(KoinonError):
                    await question(client)

    asyncio.run(scenario())


@pytest.mark.parametrize("question", sorted(QUESTIONS))
@settings(deadline=None, max_examples=10)
@given(bodies=st.lists(st.one_of(st.binary(max_size=200), *map(damaged, WHOLE)), min_size=8, max_size=8))
def test_any_bytes_are_an_answer_or_a_typed_error(question: str, bodies: list[bytes]) -> None:
    _ask(QUESTIONS[question], bodies)


@pytest.mark.parametrize("question", sorted(QUESTIONS))
@pytest.mark.parametrize("limit", [1_000, 100_000], ids=["usual", "raised"])
def test_deep_nesting_is_a_typed_error(question: str, limit: int) -> None:
    """Also where a library has raised the interpreter's limit beyond what a stack holds, as py_ecc does."""
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        _ask(QUESTIONS[question], DEEP)
    finally:
        sys.setrecursionlimit(usual)


@pytest.mark.parametrize("deep", DEEP, ids=range(4))
def test_facts_of_a_chain_that_nest_deeply_are_malformed(deep: bytes) -> None:
    with pytest.raises(Malformed):
        from_json(deep)
