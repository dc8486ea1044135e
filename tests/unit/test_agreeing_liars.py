"""Replicas that all tell the same lie: what proves itself is compared, and what cannot be read is a typed error."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from koinon.client import CommitteeClient
from koinon.encoding import encode
from koinon.errors import BlobMismatch, Malformed, RemoteError, Unavailable
from koinon.rounds.operations import CreateTask
from koinon.rounds.rules import task_identity
from koinon.rounds.state import Task
from koinon.service import BODY_BYTES_MAX
from tests.unit.rounds.world import NODES, World
from tests.unit.test_asking import committee, saying


def asked(body: bytes, question: Callable[[CommitteeClient], Awaitable[object]]) -> object:
    async def scenario() -> object:
        async with committee(*[saying(body)] * 4) as file, CommitteeClient(file) as client:
            return await question(client)

    return asyncio.run(scenario())


def task_of_another_mode() -> tuple[bytes, Task]:
    """A task's identity, and the task as liars show it: in a mode that lets them read."""
    world = World(mode="masked")
    lie = msgspec.structs.replace(world.record, spec=msgspec.structs.replace(world.spec, mode="plain"))
    assert task_identity(lie.submitter, CreateTask(spec=world.spec)) == world.task
    return world.task, lie


def test_a_task_that_is_not_what_its_name_says_is_refused() -> None:
    identity, lie = task_of_another_mode()
    with pytest.raises(BlobMismatch, match=f"another task under the name 0x{identity.hex()}"):
        asked(encode(lie), lambda client: client.task(identity))
    with pytest.raises(BlobMismatch):
        asked(encode({identity: lie}), lambda client: client.tasks())


def test_a_task_that_is_what_its_name_says_is_read() -> None:
    world = World(mode="masked")
    assert asked(encode(world.record), lambda client: client.task(world.task)) == world.record


@pytest.mark.parametrize("body", [b"", b"\xc1", encode([1, 2, 3]), encode("text"), encode({b"short": []})])
def test_records_that_cannot_be_read_are_malformed(body: bytes) -> None:
    for question in (
        lambda client: client.task(bytes(32)),
        lambda client: client.tasks(),
        lambda client: client.members(),
        lambda client: client.masks(bytes(32)),
        lambda client: client.refusals(),
    ):
        with pytest.raises(Malformed, match="cannot be read"):
            asked(body, question)


@pytest.mark.parametrize(
    ("field", "value"),
    [("examples_cap", 0), ("examples_cap", -1), ("number", -1), ("epoch", 2**32)],
)
def test_a_round_with_numbers_that_no_round_has_is_malformed(field: str, value: int) -> None:
    """A node divides by the cap and signs the number: neither may end in a traceback, again and again."""
    world = World()
    world.open()
    setattr(world.record.rounds[-1], field, value)
    with pytest.raises(Malformed, match="cannot be read"):
        asked(encode(world.record), lambda client: client.task(world.task))


@pytest.mark.parametrize("field", ["roles", "examples_max", "serial"])
def test_a_member_with_numbers_that_no_admission_has_is_malformed(field: str) -> None:
    world = World()
    setattr(next(iter(world.law.state.members.values())), field, -1)
    with pytest.raises(Malformed, match="cannot be read"):
        asked(encode(world.law.state.members), lambda client: client.members())


def test_an_accepted_update_with_a_negative_count_is_malformed() -> None:
    world = World()
    world.open()
    world.do(NODES[0], world.update(NODES[0]))
    world.record.rounds[-1].submissions[NODES[0].address].examples = -1
    with pytest.raises(Malformed, match="cannot be read"):
        asked(encode(world.record), lambda client: client.task(world.task))


def test_records_that_are_too_long_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koinon.asking.BODY_BYTES_MAX", 1000)
    monkeypatch.setattr("koinon.asking.DISAGREEMENT_RETRIES_MAX", 1)
    assert BODY_BYTES_MAX > 1000
    with pytest.raises(Unavailable, match="1000") as error:
        asked(bytes(2000), lambda client: client.masks(bytes(32)))
    assert isinstance(error.value, RemoteError)
