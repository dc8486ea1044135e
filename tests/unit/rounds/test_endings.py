"""How memberships and rounds end that would otherwise hang: revoked before they began, closed and never opened."""

from __future__ import annotations

import pytest

from koinon.encoding import encode
from koinon.errors import Rejected, UnknownSigner
from koinon.rounds.law import ABORTED_ROUNDS_MAX
from koinon.rounds.operations import CompleteRound, Revoke
from koinon.rounds.state import OPENING_MS_MIN, OPENING_ROUNDS, ROUNDS_KEPT
from koinon.wire import Revocation, Role
from tests.unit.rounds.world import AGGREGATOR, NODES, REGISTRAR, STRANGER, World


def _revoke(world: World, serial: int) -> Revoke:
    revocation = Revocation(member=STRANGER.address, serial=serial)
    return Revoke(revocation=revocation, signature=REGISTRAR.sign(world.law.domain, revocation))


def test_who_is_revoked_before_it_enrolled_never_enrols_with_the_old_admission() -> None:
    world = World()
    world.do(NODES[0], _revoke(world, 2))
    for serial in (1, 2):
        admission = world.admission(STRANGER, Role.NODE, serial=serial)
        with pytest.raises(UnknownSigner):
            world.law.admits(STRANGER.address, encode(admission))
        with pytest.raises(Rejected) as caught:
            world.do(STRANGER, admission)
        assert caught.value.rule == "admission"
    world.enrol(STRANGER, Role.NODE, serial=3)
    assert world.law.state.members[STRANGER.address].active


def test_a_revocation_that_is_refused_leaves_no_trace() -> None:
    world = World()
    with pytest.raises(Rejected):
        world.do(NODES[0], _revoke(world, 0))
    assert STRANGER.address not in world.law.state.members


def _closed(world: World, number: int = 1) -> int:
    """A round whose set is fixed; until when it may be opened."""
    world.open(number)
    for node in NODES:
        world.do(node, world.update(node, number))
    round_ = world.record.rounds[-1]
    assert round_.phase == "closed"
    return world.record.opening_deadline_ms(round_)


def test_a_closed_round_that_nobody_opens_ends_and_the_next_one_starts_from_the_same_model() -> None:
    world = World()
    model = world.record.model
    deadline_ms = _closed(world)
    assert deadline_ms == world.now + max(OPENING_ROUNDS * world.spec.round_ms, OPENING_MS_MIN)
    world.now = deadline_ms
    with pytest.raises(Rejected) as caught:
        world.close()
    assert caught.value.rule == "too-early"
    world.now += 1
    world.close()
    assert world.record.rounds[-1].phase == "aborted"
    assert world.record.model == model
    assert not world.record.rewards
    world.play_round(2)
    assert world.record.certified == 1


def test_until_somebody_ends_it_a_closed_round_can_still_be_certified() -> None:
    world = World()
    world.now = _closed(world) + 1
    world.complete()
    assert world.record.rounds[-1].phase == "certified"
    with pytest.raises(Rejected) as caught:
        world.close()
    assert caught.value.rule == "round-closed"


def test_a_round_that_was_given_up_cannot_be_certified_any_more() -> None:
    world = World()
    world.now = _closed(world) + 1
    certificate = world.certificate()
    world.close()
    with pytest.raises(Rejected):
        world.do(AGGREGATOR, CompleteRound(certificate=certificate, signatures=world.signatures(certificate)))


def test_several_rounds_in_a_row_that_cannot_be_opened_end_the_task() -> None:
    world = World()
    for number in range(1, ABORTED_ROUNDS_MAX + 1):
        world.now = _closed(world, number) + 1
        world.close(number)
    assert world.record.status == "failed"


def test_the_state_remembers_the_last_rounds_only_and_goes_on_as_if_it_had_all() -> None:
    long, whole = World(rounds=ROUNDS_KEPT + 10), World(rounds=ROUNDS_KEPT + 10)
    whole.law.keeps_all_rounds = True
    sizes = []
    for number in range(1, ROUNDS_KEPT + 7):
        for world in (long, whole):
            world.now += 20_000
            world.play_round(number)
        sizes.append(len(long.law.snapshot()))
    assert [round_.number for round_ in long.record.rounds] == list(range(7, ROUNDS_KEPT + 7))
    assert len(whole.record.rounds) == ROUNDS_KEPT + 6
    assert sizes[-1] - sizes[-2] < 100, "the state still grows"
    for number, rule in ((6, "evaluation"), (7, ""), (ROUNDS_KEPT + 6, "")):
        for world in (long, whole):
            try:
                world.do(NODES[0], world.evaluation(number))
                said = ""
            except Rejected as error:
                said = error.rule
            assert said == rule
    assert (long.record.model, long.record.rewards) == (whole.record.model, whole.record.rewards)
    assert long.record.certified == whole.record.certified
