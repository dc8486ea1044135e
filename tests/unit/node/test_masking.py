"""What a node keeps of its masks: one announcement, one vector, one accepted set and one reveal a round, whatever it is
told later."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path

import msgspec
import pytest

from koinon.errors import PrivacyError, Rejected, Unproven
from koinon.rounds.operations import AnnounceMasks, ConfirmSet, RevealShares
from tests.unit.node.masks import Masked
from tests.unit.rounds.world import NODES


@pytest.fixture
def world(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


def test_a_reveal_that_got_no_answer_is_sent_again_as_it_was(world: Masked) -> None:
    world.accepted()
    world.confirm()
    before = deepcopy(world.law.state)
    world.reveal(0)
    world.law.state = before  # nobody executed it: the node asks again, maybe after a restart
    world.maskings[0] = world.restarted(0)
    world.reveal(0)
    first, second = world.said(0, RevealShares)
    assert first == second


def test_a_node_never_confirms_or_reveals_for_a_second_set_of_one_round(world: Masked) -> None:
    world.accepted()
    world.confirm()
    world.reveal(0)
    lie = world.without(1)  # whose key's share is asked for now, after its seed's
    world.maskings[0] = world.restarted(0)
    with pytest.raises(Unproven, match="confirmed another set"):
        world.confirm(0, shown=lie)
    with pytest.raises(Unproven, match="confirmed another set"):
        world.reveal(0, shown=lie)
    assert len(world.said(0, RevealShares)) == len(world.said(0, ConfirmSet)) == 1


def test_of_two_sets_that_are_shown_at_the_same_time_one_is_confirmed(world: Masked) -> None:
    """A committee that lies can end a follower and have another one begin while a thread of the first still works."""
    world.accepted()
    world.committees[0].lies["submit"] = lambda operation: operation

    async def both() -> list[BaseException | None]:
        shown = (world.without(), world.without(1))
        asked = (world.maskings[0].confirm(world.task, world.spec, each) for each in shown)
        return await asyncio.gather(*asked, return_exceptions=True)

    assert sorted(type(each).__name__ for each in asyncio.run(both())) == ["NoneType", "Unproven"]
    assert len(world.said(0, ConfirmSet)) == 1


def test_secrets_mask_one_vector_only(world: Masked) -> None:
    world.announce()
    world.board(0)
    masking = world.maskings[0]
    assert masking.secrets(world.task, 1)
    masking.spend(world.task, 1)  # as soon as the update is on disk
    masking.spend(world.task, 1)
    with pytest.raises(PrivacyError, match="gone"):
        masking.secrets(world.task, 1)
    world.mask(1, 2, 3)
    world.submit()
    world.confirm()
    world.reveal(0)
    assert NODES[0].address in world.round.revealed


def test_an_announcement_is_repeated_as_it_was_also_when_its_secrets_are_spent(world: Masked) -> None:
    world.masked()
    with pytest.raises(Rejected, match="announced before"):
        world.announce(0)
    first, second = world.said(0, AnnounceMasks)
    assert first == second


def test_a_node_that_masked_nothing_confirms_nothing(world: Masked) -> None:
    world.announce()
    world.mask(1, 2, 3)
    world.submit()
    with pytest.raises(PrivacyError, match="masked no update"):
        world.confirm(0)


def test_a_node_whose_records_are_lost_reveals_nothing(world: Masked, tmp_path: Path) -> None:
    world.accepted()
    world.confirm()
    (path,) = (tmp_path / "0").iterdir()
    path.unlink()
    with pytest.raises(PrivacyError, match="no record of masks for round 1"):
        world.reveal(0)
    path.write_bytes(b"torn")
    with pytest.raises(PrivacyError, match="damaged"):
        world.reveal(0)


def test_nothing_of_a_round_stays_when_it_is_over_but_that_it_is(world: Masked, tmp_path: Path) -> None:
    world.accepted()
    world.confirm()
    world.reveal(0)
    assert [path.suffix for path in (tmp_path / "0").iterdir()] == [".bin"]
    world.maskings[0].discard_before(world.task, 2)
    assert [path.suffix for path in (tmp_path / "0").iterdir()] == [".floor"]


def test_a_node_that_cannot_read_which_rounds_are_over_does_nothing_and_says_so(world: Masked, tmp_path: Path) -> None:
    world.maskings[0].discard_before(world.task, 2)
    (path,) = (tmp_path / "0").iterdir()
    path.write_bytes(b"torn")
    world.maskings[0] = world.restarted(0)
    with pytest.raises(PrivacyError, match="damaged"):
        world.announce(0)


def test_a_committee_that_goes_back_to_an_earlier_round_is_told_nothing(world: Masked) -> None:
    """The round's record is gone, and with it what was revealed: the floor stands for it."""
    world.accepted()
    world.confirm()
    world.reveal(0)
    world.maskings[0].discard_before(world.task, 2)
    world.maskings[0].discard_before(world.task, 1)  # which takes nothing back
    world.maskings[0] = world.restarted(0)
    lie = world.without(1)
    with pytest.raises(PrivacyError, match="round 1 is over"):
        world.announce(0)
    with pytest.raises(PrivacyError, match="round 1 is over"):
        world.board(0)
    with pytest.raises(PrivacyError, match="round 1 is over"):
        world.confirm(0, shown=lie)
    with pytest.raises(PrivacyError, match="round 1 is over"):
        world.reveal(0, shown=lie)
    assert len(world.said(0, RevealShares)) == 1


def test_a_reveal_waits_for_confirmations_of_a_threshold(world: Masked) -> None:
    world.accepted()
    world.confirm(0, 1)
    with pytest.raises(Unproven, match="2 nodes confirmed the accepted set of round 1, 3 are needed"):
        world.reveal(0)
    world.confirm(2)
    world.reveal(0)
    assert world.round.revealed == (NODES[0].address,)


def test_a_cohort_that_shrinks_lowers_no_threshold(world: Masked) -> None:
    world.accepted()
    lie = world.without(3)
    lie.cohort = lie.cohort[:3]
    with pytest.raises(Unproven, match="to another cohort"):
        world.board(0, shown=lie)
    with pytest.raises(Unproven, match="to another cohort"):
        world.confirm(0, shown=lie)
    world.confirm()
    with pytest.raises(Unproven, match="to another cohort"):
        world.reveal(0, shown=lie)


def test_a_set_that_is_too_small_for_the_task_is_not_confirmed(world: Masked) -> None:
    world.accepted()
    with pytest.raises(Unproven, match="closed with 2 updates, 3 are needed"):
        world.confirm(0, shown=world.without(2, 3))
    world.spec = msgspec.structs.replace(world.spec, cohort_min=4)
    with pytest.raises(Unproven, match="closed with 3 updates, 4 are needed"):
        world.confirm(0, shown=world.without(3))
