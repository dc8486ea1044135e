"""What a node keeps of its masks: secrets that mask one vector, and one reveal a round, whatever it is told later."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest

from koinon.errors import PrivacyError, Rejected
from koinon.privacy import SealingKey
from koinon.rounds.operations import AnnounceMasks, Enrol, Operation, Outcome, RevealShares
from koinon.rounds.state import MaskBoard, Member, Round
from koinon.signing import Signer
from koinon.wire import Role
from node.masking import Masking
from tests.unit.rounds.world import NODES, REGISTRAR, World


class Committee:
    """What `Masking` asks of a committee, answered by the law itself; `lie` changes nothing but what a node is told."""

    def __init__(self, world: World, node: Signer) -> None:
        self._world, self._node = world, node
        self.federation = type("Federation", (), {"epoch": 0})()
        self.sent: list[Operation] = []

    async def members(self) -> dict[bytes, Member]:
        return self._world.law.state.members

    async def masks(self, task: bytes) -> MaskBoard:
        return self._world.law.state.boards[task]

    async def submit(self, operation: Operation) -> Outcome:
        self.sent.append(operation)
        return self._world.do(self._node, operation)


class Masked(World):
    """All four nodes announced; `committees` and `maskings` are theirs."""

    def __init__(self, root: Path) -> None:
        super().__init__(mode="masked")
        self.committees = [Committee(self, node) for node in NODES]
        self.maskings = [
            Masking(cast("Any", committee), root / str(place), node)
            for place, (committee, node) in enumerate(zip(self.committees, NODES, strict=True))
        ]
        self.open()
        for masking in self.maskings:
            asyncio.run(masking.announce(self.task, self.round))

    def admission(self, member: Signer, role: Role, **rest: Any) -> Enrol:
        made = super().admission(member, role, **rest)
        told = type(made.admission)(
            member=member.address,
            roles=int(role),
            examples_max=100,
            sealing_key=SealingKey.derive(member.secret, 0).public,
            serial=made.admission.serial,
        )
        return Enrol(admission=told, signature=REGISTRAR.sign(self.law.domain, told))

    @property
    def round(self) -> Round:
        return self.record.rounds[-1]

    def submit(self, *nodes: Signer) -> None:
        for node in nodes:
            self.do(node, self.update(node, self.round.number))


@pytest.fixture
def world(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


def test_a_reveal_that_got_no_answer_is_sent_again_as_it_was(world: Masked, tmp_path: Path) -> None:
    world.submit(*NODES)
    before = deepcopy(world.law.state)
    asyncio.run(world.maskings[0].reveal(world.task, world.round))
    world.law.state = before  # nobody executed it: the node asks again, maybe after a restart
    again = Masking(cast("Any", world.committees[0]), tmp_path / "0", NODES[0])
    asyncio.run(again.reveal(world.task, world.round))
    first, second = (each for each in world.committees[0].sent if isinstance(each, RevealShares))
    assert first == second


def test_a_node_never_reveals_for_two_accepted_sets_of_one_round(world: Masked, tmp_path: Path) -> None:
    world.submit(*NODES)
    asyncio.run(world.maskings[0].reveal(world.task, world.round))
    lie = deepcopy(world.round)
    lie.revealed = ()
    del lie.submissions[NODES[1].address]  # whose key's share is asked for now, after its seed's
    restarted = Masking(cast("Any", world.committees[0]), tmp_path / "0", NODES[0])
    with pytest.raises(PrivacyError, match="for another set"):
        asyncio.run(restarted.reveal(world.task, lie))
    assert sum(isinstance(each, RevealShares) for each in world.committees[0].sent) == 1


def test_secrets_mask_one_vector_only(world: Masked) -> None:
    masking = world.maskings[0]
    assert masking.secrets(world.task, 1)
    masking.spend(world.task, 1)  # as soon as the update is on disk
    masking.spend(world.task, 1)
    with pytest.raises(PrivacyError, match="gone"):
        masking.secrets(world.task, 1)
    world.submit(*NODES)
    asyncio.run(masking.reveal(world.task, world.round))
    assert NODES[0].address in world.round.revealed


def test_a_node_that_lost_its_secrets_cannot_announce_others_for_the_round(world: Masked) -> None:
    world.maskings[0].spend(world.task, 1)
    with pytest.raises(Rejected, match="announced before"):
        asyncio.run(world.maskings[0].announce(world.task, world.round))
    said = [each.announcement for each in world.committees[0].sent if isinstance(each, AnnounceMasks)]
    assert world.law.state.boards[world.task].announced[NODES[0].address] == said[0] != said[1]


def test_nothing_of_a_round_stays_when_it_is_over(world: Masked, tmp_path: Path) -> None:
    world.submit(*NODES)
    asyncio.run(world.maskings[0].reveal(world.task, world.round))
    assert len(list((tmp_path / "0").iterdir())) == 2
    world.maskings[0].discard_before(world.task, 2)
    assert not list((tmp_path / "0").iterdir())
