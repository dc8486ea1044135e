"""The law about the committee: which changes it takes, when they take effect, and what they end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from koinon.encoding import ZERO_ADDRESS, ZERO_DIGEST, encode, keccak
from koinon.epochs import SEATS_MAX, Seat, epoch_change, quorum
from koinon.errors import Rejected, UnknownSigner
from koinon.rounds.law import Federation
from koinon.rounds.operations import ChangeCommittee, OpenRound
from koinon.signing import Signer
from tests.unit.rounds.world import AGGREGATOR, NODES, REGISTRAR, REPLICAS, STRANGER, World, key

OTHERS = [key(f"another replica {index}") for index in range(SEATS_MAX)]


def seat(member: Signer, generation: int = 0) -> Seat:
    name = f"{member.address.hex()} {generation}"
    return Seat(address=member.address, sealing_key=keccak(name.encode()), url=f"http://{member.address.hex()}")


def seats(*members: Signer) -> tuple[Seat, ...]:
    return tuple(map(seat, members))


FIVE = seats(*REPLICAS, OTHERS[0])


def change(world: World, following: Sequence[Seat], *, by: Signer = REGISTRAR, epoch: int | None = None) -> None:
    number = world.law.epoch + 1 if epoch is None else epoch
    world.do(by, ChangeCommittee(epoch=number, seats=tuple(following)))


def refused(world: World, following: Sequence[Seat], *, rule: str = "committee-change", **how: object) -> None:
    """The law refuses, and nothing but a counter changed."""
    before = _apart_from_refusals(world)
    with pytest.raises(Rejected) as caught:
        change(world, following, **how)  # type: ignore[arg-type]
    assert caught.value.rule == rule
    assert _apart_from_refusals(world) == before


def _apart_from_refusals(world: World) -> bytes:
    return encode(replace(world.law.state, refusals={}))


def test_a_change_takes_effect_at_the_next_checkpoint_and_not_before() -> None:
    world = World()
    assert world.law.hand_over() == ZERO_DIGEST
    change(world, FIVE)
    assert world.law.pending_change()
    assert (world.law.epoch, world.law.committee) == (0, tuple(one.address for one in REPLICAS))
    assert world.law.hand_over() == epoch_change(1, FIVE).struct_hash()
    assert (world.law.epoch, world.law.seats, world.law.quorum) == (1, FIVE, 4)
    assert world.law.committee == tuple(one.address for one in FIVE)
    assert not world.law.pending_change()
    assert world.law.hand_over() == ZERO_DIGEST


def test_only_the_registrar_changes_the_committee() -> None:
    world = World()
    for member in (NODES[0], AGGREGATOR):
        refused(world, FIVE, rule="role", by=member)
    operation = encode(ChangeCommittee(epoch=1, seats=FIVE))
    world.law.admits(REGISTRAR.address, operation)
    with pytest.raises(UnknownSigner):
        world.law.admits(STRANGER.address, operation)
    with pytest.raises(UnknownSigner):
        world.law.admits(REPLICAS[0].address, operation)


def test_one_change_at_a_time_and_for_the_next_epoch() -> None:
    world = World()
    for epoch in (0, 2, 2**32 - 1):
        refused(world, FIVE, epoch=epoch)
    change(world, FIVE)
    refused(world, seats(*REPLICAS[:3]))
    world.law.hand_over()
    refused(world, seats(*REPLICAS), epoch=1)
    change(world, seats(*REPLICAS))


@pytest.mark.parametrize(
    "following",
    [
        (),
        seats(*REPLICAS, REPLICAS[0]),
        (*seats(*REPLICAS), replace(seat(OTHERS[0]), address=ZERO_ADDRESS)),
        (*seats(*REPLICAS), replace(seat(OTHERS[0]), url=seat(REPLICAS[0]).url)),
        (*seats(*REPLICAS), replace(seat(OTHERS[0]), sealing_key=seat(REPLICAS[0]).sealing_key)),
        (*seats(*REPLICAS), replace(seat(OTHERS[0]), sealing_key=bytes(32))),
    ],
)
def test_seats_are_distinct_and_taken(following: tuple[Seat, ...]) -> None:
    refused(World(), following)


def test_a_committee_follows_itself_only_with_another_seat() -> None:
    world = World()
    change(world, FIVE)
    world.law.hand_over()
    refused(world, FIVE)
    change(world, (*FIVE[:4], seat(OTHERS[0], generation=1)))
    world.law.hand_over()
    change(world, (FIVE[1], FIVE[0], *world.law.seats[2:]))


@pytest.mark.parametrize(
    ("old", "stay", "join", "fits"),
    [
        (4, 4, 1, True), (4, 3, 1, True), (4, 3, 0, True), (4, 2, 0, True), (4, 1, 0, True),
        (4, 4, 2, False), (4, 2, 2, False), (4, 0, 4, False), (4, 4, 3, False),
        (5, 5, 2, True), (7, 5, 2, True), (7, 4, 3, False),
        (1, 1, 1, True), (1, 1, 2, True), (1, 0, 1, False), (3, 3, 1, True), (3, 2, 1, False), (2, 2, 1, True),
    ],
)  # fmt: skip
def test_a_quorum_of_the_new_committee_was_in_the_old_one(old: int, stay: int, join: int, fits: bool) -> None:
    members, joining = [*REPLICAS, *OTHERS][:old], OTHERS[10 : 10 + join]
    world = World()
    world.law.state.epoch, world.law.state.seats = 1, seats(*members)
    following = seats(*members[:stay], *joining)
    if fits:
        change(world, following)
    else:
        refused(world, following)


@given(st.integers(1, SEATS_MAX), st.integers(0, SEATS_MAX), st.integers(0, SEATS_MAX))
def test_every_accepted_change_keeps_enough_who_know_the_state(old: int, stay: int, join: int) -> None:
    members = OTHERS[:old]
    world = World()
    world.law.state.epoch, world.law.state.seats = 1, seats(*members)
    newcomers = [key(f"newcomer {index}") for index in range(join)]
    try:
        change(world, seats(*members[:stay], *newcomers)[:SEATS_MAX])
    except Rejected:
        return
    staying, size = min(stay, old), len(world.law.state.next_seats)
    assert 1 <= size <= SEATS_MAX
    assert staying >= min(quorum(size), old if old < 4 else size)


def test_open_rounds_end_with_the_epoch_and_nobody_is_to_blame() -> None:
    for submitted, phase in ((1, "training"), (4, "closed")):
        world = World()
        world.open()
        for node in NODES[:submitted]:
            world.do(node, world.update(node))
        assert world.record.rounds[0].phase == phase
        version = world.record.version
        change(world, FIVE)
        assert world.record.rounds[0].phase == phase
        world.law.hand_over()
        assert (world.record.rounds[0].phase, world.record.status) == ("aborted", "active")
        assert (world.record.aborted_in_a_row, world.record.version) == (0, version + 1)
        world.open(2)
        assert [round_.epoch for round_ in world.record.rounds] == [0, 1]


def test_certified_rounds_and_finished_tasks_stay_as_they_are() -> None:
    world = World(rounds=2)
    world.play_round()
    kept = encode(world.record)
    change(world, FIVE)
    world.law.hand_over()
    assert encode(world.record) == kept


def test_after_a_handover_the_new_committee_and_nobody_else_signs() -> None:
    world = World()
    change(world, seats(OTHERS[0], *REPLICAS[1:]))
    world.law.hand_over()
    world.open()
    node = NODES[0]
    old = world.update(node)  # signed by replicas 0, 1 and 2 of the first committee
    with pytest.raises(Rejected) as caught:
        world.do(node, old)
    assert caught.value.rule == "receipts"
    REPLICAS[0], kept = OTHERS[0], REPLICAS[0]
    try:
        world.do(node, world.update(node))
        for other in NODES[1:]:
            world.do(other, world.update(other))
        assert world.certificate().epoch == 1
        world.complete()
    finally:
        REPLICAS[0] = kept
    assert world.record.certified == 1


def test_the_epoch_is_part_of_the_snapshot() -> None:
    world = World()
    change(world, FIVE)
    pending = Federation(world.law.genesis)
    pending.restore(world.law.snapshot())
    assert pending.pending_change()
    assert pending.hand_over() == world.law.hand_over()
    assert pending.root() == world.law.root()
    again = Federation(world.law.genesis)
    again.restore(world.law.snapshot())
    assert (again.epoch, again.seats) == (1, FIVE)


def test_a_round_cannot_be_opened_twice_over_a_handover() -> None:
    world = World()
    world.open()
    change(world, FIVE)
    world.law.hand_over()
    cohort = tuple(sorted(node.address for node in NODES))
    with pytest.raises(Rejected):
        world.do(AGGREGATOR, OpenRound(task=world.task, round=1, parent_model=world.record.model, cohort=cohort))
