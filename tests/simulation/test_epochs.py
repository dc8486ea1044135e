"""The committee changes while it works: members join, leave, are replaced and turn their keys, in all weathers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.simulation.byzantine import LIARS
from tests.simulation.world import World


def _standing(world: World) -> list[tuple[int, int] | None]:
    """(epoch, executed) of each honest member of the newest committee; None of one that is not up in it."""
    newest = len(world.epochs.committees) - 1
    standing: list[tuple[int, int] | None] = []
    for identity in world.epochs.members():
        if identity not in world.byzantine:
            replica = world.replicas[identity]
            up = replica is not None and replica.epoch == newest
            standing.append((replica.epoch, replica.executed) if up and replica is not None else None)
    return standing


def _reach(world: World, epoch: int, within_ms: int = 30_000) -> None:
    """Until all honest members of the committee of `epoch` serve in it."""

    def reached() -> bool:
        return len(world.epochs.committees) == epoch + 1 and None not in _standing(world)

    assert world.run_until(reached, within_ms), f"not in epoch {epoch}: {_standing(world)}"


def _finish(world: World, within_ms: int = 60_000) -> None:
    """Everything is answered, and the present committee stands equal."""

    def settled() -> bool:
        return not world.current and None not in (now := _standing(world)) and len(set(now)) == 1

    assert world.run_until(settled, within_ms), f"{sorted(world.current)} wait; {_standing(world)}"
    assert len({world.ledger(one).root() for one in world.epochs.members() if one not in world.byzantine}) == 1
    assert world.checkers is not None
    world.checkers.finish()


def _change(world: World, identities: Sequence[int], within_ms: int = 30_000) -> None:
    """A change, and the wait until the new committee serves."""
    epoch = len(world.epochs.committees)
    world.epochs.change(identities)
    _reach(world, epoch, within_ms)
    assert world.epochs.members() == list(identities)


def _loaded(seed: int, *, n: int = 4, spares: int = 1, clients: int = 3, operations: int = 30) -> World:
    world = World(n, seed, spares=spares)
    world.thinking_ms_max = 50
    for client in range(clients):
        world.script(client, operations)
    return world


def test_a_committee_grows_from_four_to_seven_under_load() -> None:
    world = _loaded(1, spares=3, operations=60)
    for size in (5, 6, 7):
        _change(world, range(size))
    _finish(world)
    assert not world.misbehaved
    assert world.replicas[6] is not None
    assert world.replicas[6].committee.f == 2


def test_an_idle_committee_hands_over_by_itself_within_a_second() -> None:
    world = World(4, seed=2, spares=1)
    started = world.now_ms
    key = world.epochs.change(range(5))
    _reach(world, 1)
    assert world.now_ms - started < 1_000
    assert world.answered(key)
    assert [len(entry.batch.requests) for entry in world.disks[0].archive.values()] == [1, 0, 0, 0]
    assert not world.misbehaved


def test_a_committee_of_one_grows() -> None:
    world = World(1, seed=3, spares=1)
    world.script(0, 10)
    _change(world, [0, 1])
    _finish(world)


def test_a_crashed_member_is_replaced_by_an_empty_one() -> None:
    world = _loaded(4)
    world.run(500)
    world.crash(2)
    _change(world, [0, 1, 4, 3])
    _finish(world)
    world.start(2)
    assert world.run_until(lambda: 2 in world.epochs.standby, 5_000), "the replaced one learns that it has no seat"
    newcomer = world.replicas[4]
    assert newcomer is not None
    assert newcomer.index == 2


def test_a_member_is_removed_and_stands_by() -> None:
    world = _loaded(5, n=5, spares=0)
    _change(world, [0, 1, 3, 4])
    _finish(world)
    assert world.epochs.standby == {2}


def test_a_member_turns_its_key_and_keeps_its_seat() -> None:
    world = _loaded(6, spares=0)
    world.epochs.change(range(4), keys={1: 1})
    _reach(world, 1)
    _finish(world)
    assert world.ledger(0).seats[1].sealing_key != world.ledger(0).seats[0].sealing_key


def test_seats_move_and_everybody_keeps_its_own_words() -> None:
    world = _loaded(7, spares=0)
    _change(world, [3, 2, 1, 0])
    _change(world, [1, 0, 3, 2])
    _finish(world)
    assert not world.evidence


@pytest.mark.parametrize("liar", sorted(LIARS))
def test_a_lying_primary_does_not_stop_a_change(liar: str) -> None:
    world = _loaded(8, clients=2, operations=12)
    world.byzantine[0] = LIARS[liar]
    _change(world, range(5), 60_000)
    _finish(world, 120_000)


def test_a_primary_that_orders_nothing_while_a_change_is_pending_is_replaced() -> None:
    world = World(4, seed=9, spares=1)
    world.epochs.change(range(5))
    assert world.run_until(lambda: any(world.ledger(one).next_seats for one in range(4)), 5_000)
    world.byzantine[0] = LIARS["silent-primary"]
    _reach(world, 1)
    assert max(world.views) >= 1


def test_a_change_goes_on_without_a_primary_that_is_cut_off() -> None:
    world = _loaded(10)
    world.network.cut = {(a, b) for a in range(5) for b in range(5) if (a == 0) != (b == 0)}
    world.epochs.change(range(5))
    assert world.run_until(lambda: len(world.epochs.committees) == 2, 30_000)
    assert len(world.disks[0].handovers) == 0
    world.network.cut = set()
    _reach(world, 1)
    _finish(world)


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_change_comes_through_where_four_of_ten_messages_are_lost(seed: int) -> None:
    world = _loaded(seed, clients=2, operations=6)
    world.network.drop = 0.4
    world.network.duplicate = 0.1
    _change(world, range(5), 300_000)
    _change(world, [0, 1, 2, 4], 300_000)
    _finish(world, 300_000)


def test_a_replica_that_slept_over_two_changes_comes_back() -> None:
    world = _loaded(14, spares=2)
    world.run(200)
    world.crash(3)
    for committee in ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]):
        epoch = len(world.epochs.committees)
        world.epochs.change(committee)
        assert world.run_until(lambda epoch=epoch: len(world.epochs.committees) > epoch, 30_000)
    world.start(3)
    behind = world.replicas[3]
    assert behind is not None
    assert behind.epoch == 0
    _reach(world, 2)
    _finish(world)


def test_a_replica_that_slept_and_whose_peers_keep_no_archive_takes_the_handovers_snapshot() -> None:
    world = _loaded(15, spares=2)
    world.archive_kept = 0
    world.run(200)
    world.crash(3)
    world.epochs.change([0, 1, 2, 3, 4])
    assert world.run_until(lambda: len(world.epochs.committees) == 2, 30_000)
    world.start(3)
    _reach(world, 1)
    _finish(world)


def test_a_replica_that_crashes_before_it_kept_the_handover_hands_over_when_it_is_back() -> None:
    world = _loaded(16)
    world.epochs.crash_at_handover = 1.0
    world.epochs.change(range(5))
    assert world.run_until(lambda: sum(one is None for one in world.replicas[:4]) == 4, 30_000)
    world.epochs.crash_at_handover = 0.0
    assert not any(disk.handovers for disk in world.disks)
    for index in range(4):
        world.start(index)
        assert world.disks[index].handovers, "its own disk tells it again"
    _reach(world, 1)
    _finish(world)


def test_power_outages_during_a_change_lose_nothing() -> None:
    world = _loaded(17, operations=20)
    world.epochs.change(range(5))
    for _ in range(12):
        world.run(60)
        for index in range(5):
            world.crash(index)
        for index in range(5):
            world.start(index)
    _reach(world, 1, 60_000)
    _finish(world)


def test_a_wiped_member_comes_back_in_the_first_epoch_and_follows() -> None:
    world = _loaded(18)
    _change(world, range(5))
    world.crash(1)
    world.start(1, wiped=True)
    one = world.replicas[1]
    assert one is not None
    assert one.epoch == 0
    _reach(world, 1)
    _finish(world)


def test_requests_in_flight_over_a_handover_take_effect_once() -> None:
    world = World(4, seed=19, spares=3)
    for client in range(6):
        world.script(client, 15)
    for size in (5, 6, 7):
        _change(world, range(size))
    _finish(world)
    operations = [operation for _, operation, _ in world.ledger(0).entries if operation.startswith(b"client")]
    assert len(operations) == len(set(operations)) == 6 * 15
