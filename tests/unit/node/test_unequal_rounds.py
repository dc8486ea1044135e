"""Committees that show each node of mode `masked` the same round with another model or other weights, so that all
updates but one vanish in a sum that is opened properly (Pasquini et al. 2022, model inconsistency)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import pytest

from koinon.encoding import encode, keccak, to_hex
from koinon.errors import Rejected, Unproven
from koinon.learning.parameters import from_arrays
from koinon.privacy import SealingKey
from koinon.rounds.operations import AnnounceMasks
from koinon.rounds.state import MaskBoard
from node.apps import Fitted
from node.participation import Participation
from node.submissions import Submissions
from tests.unit.node.masks import Masked
from tests.unit.rounds.world import NODES

VICTIM, OTHER = 0, 1
NAMED = f"node 0x{NODES[OTHER].address.hex()}"


@pytest.fixture
def world(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"parent_model": keccak(b"without gradients")}, id="parent model"),
        pytest.param({"examples_cap": 2**31}, id="weight"),
    ],
)
def test_a_round_that_each_node_is_shown_in_another_way_is_masked_by_nobody(
    world: Masked, other: dict[str, int | bytes]
) -> None:
    """Model inconsistency: all but one node would train to nothing, or weigh nothing, and the sum be that one's."""
    shown = world.without()
    shown.phase = "training"
    for name, value in other.items():
        setattr(shown, name, value)
    world.announce(VICTIM, 2, 3)
    lied_to = world.maskings[OTHER]
    world.committees[OTHER].lies["submit"] = lambda operation: operation
    asyncio.run(lied_to.announce(world.task, world.spec, shown))
    said = world.said(OTHER, AnnounceMasks)[0]

    def passed_on(board: MaskBoard) -> MaskBoard:
        name = NODES[OTHER].address
        board.announced = dict(sorted({**board.announced, name: said.announcement}.items()))
        board.signatures[name] = said.signature
        return board

    for committee in world.committees:
        committee.lies["masks"] = passed_on
    with pytest.raises(Unproven, match=NAMED):
        world.board(VICTIM)
    with pytest.raises(Unproven, match="was signed by"):
        world.board(OTHER, shown)
    with pytest.raises(Unproven, match="another model, weight or epoch"):
        world.board(OTHER)  # told afterwards what the others were told
    with pytest.raises(Unproven, match="another model, weight or epoch"):
        asyncio.run(lied_to.announce(world.task, world.spec, world.round))


def test_a_node_weighs_what_the_registrar_admitted_it_with(world: Masked, tmp_path: Path) -> None:
    """Whatever its committee says of it: who made the others weigh 1 of 100 would read the rest of the sum."""
    parent = from_arrays([np.zeros(10, np.float32)])
    replicas = [SimpleNamespace(sealing_key=to_hex(SealingKey(b"\x77" * 32).public))] * 4
    federation, kept = SimpleNamespace(epoch=0, replicas=replicas, quorum=3), Submissions(tmp_path / "submissions")

    async def alone() -> None:
        async def answer(told: object) -> object:
            return told

        async def no_replica_takes_it(*_: object, **__: object) -> NoReturn:
            raise Rejected("round-closed", "what was made is on disk by now")

        committee = SimpleNamespace(
            federation=federation,
            federation_of=lambda _: answer(federation),
            get_blob=lambda _: answer(encode(parent)),
            upload=lambda _: None,
            collect=no_replica_takes_it,
        )
        chain = SimpleNamespace(latest_model=lambda _: world.round.parent_model)
        fitted = Fitted(parameters=parent, examples=100, loss=0.5)
        app = SimpleNamespace(name="none", fit=lambda *_: fitted)
        part = Participation(
            cast("Any", committee), lambda: cast("Any", chain), kept, world.maskings[VICTIM], NODES[VICTIM].address
        )
        with pytest.raises(Rejected):
            await part.take_part(world.task, world.record, world.round, lambda: cast("Any", answer(app)), 1)

    world.announce()
    asyncio.run(alone())
    made = kept.load(world.task, 1)
    assert made is not None
    assert made.examples == 100
