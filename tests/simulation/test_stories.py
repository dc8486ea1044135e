"""Single misfortunes, told one by one; `run.py` mixes them."""

from __future__ import annotations

import pytest

from tests.simulation.byzantine import LIARS
from tests.simulation.world import World


def _finish(world: World, within_ms: int = 30_000) -> None:
    assert world.run_until(lambda: not world.current, within_ms), "requests still wait"
    assert world.checkers is not None
    world.checkers.finish()


def _equal(world: World) -> None:
    top = max(replica.executed for replica in world.honest())
    assert world.run_until(lambda: all(one.executed == top for one in world.honest()), 20_000)
    assert len({world.ledger(one.index).root() for one in world.honest()}) == 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 10])
def test_in_fair_weather_everything_is_answered_in_view_0(n: int) -> None:
    world = World(n, seed=1)
    for client in range(3):
        world.script(client, 6)
    _finish(world)
    _equal(world)
    assert {replica.view for replica in world.live()} == {0}
    assert not world.misbehaved


def test_a_silent_primary_is_replaced_within_two_timeouts() -> None:
    world = World(4, seed=2)
    world.byzantine[0] = LIARS["silent"]
    started = world.now_ms
    key = world.request(0, 1, b"do")
    assert world.run_until(lambda: world.answered(key), 10_000)
    assert world.now_ms - started < 2 * world.settings.view_timeout_ms
    assert {replica.view for replica in world.honest()} == {1}


def test_an_equivocating_primary_is_convicted_and_cannot_split_the_committee() -> None:
    world = World(4, seed=3)
    world.byzantine[0] = LIARS["equivocator"]
    world.script(0, 5)
    world.script(1, 5)
    _finish(world)
    _equal(world)
    assert {one.culprit for one in world.evidence} == {0}
    for one in world.evidence:
        replica = world.honest()[0]
        assert replica.verifier.member(one.first.vote, one.first.signature) == one.culprit
        assert replica.verifier.member(one.second.vote, one.second.signature) == one.culprit


@pytest.mark.parametrize("liar", sorted(LIARS))
@pytest.mark.parametrize("place", [0, 1])
def test_one_liar_of_any_kind_stops_nobody(liar: str, place: int) -> None:
    world = World(4, seed=4)
    world.byzantine[place] = LIARS[liar]
    world.network.drop = 0.05
    world.script(0, 12)
    _finish(world, 60_000)


def test_two_liars_of_seven_stop_nobody() -> None:
    world = World(7, seed=5)
    world.byzantine = {0: LIARS["equivocator"], 1: LIARS["forger"]}
    world.script(0, 8)
    _finish(world, 60_000)
    _equal(world)


def test_a_replica_that_was_cut_off_catches_up_from_entries_and_snapshots() -> None:
    world = World(4, seed=6)
    world.network.cut = {(a, b) for a in range(4) for b in range(4) if (a == 3) != (b == 3)}
    world.script(0, 30)
    _finish(world)
    behind = world.replicas[3]
    assert behind is not None
    assert behind.executed == 0
    world.network.cut = set()
    _equal(world)


def test_a_replica_whose_disk_was_wiped_comes_back_with_the_same_state() -> None:
    world = World(4, seed=7)
    world.script(0, 20)
    world.run_until(lambda: world.done > 10, 20_000)
    world.crash(2)
    world.start(2, wiped=True)
    _finish(world)
    _equal(world)


def test_a_primary_whose_disk_was_wiped_convicts_itself_of_nothing() -> None:
    world = World(4, seed=8)
    world.script(0, 20)
    world.run_until(lambda: world.done > 10, 20_000)
    world.crash(0)
    world.start(0, wiped=True)
    _finish(world)
    _equal(world)
    assert not world.evidence


def test_all_replicas_killed_at_once_lose_nothing_that_was_answered() -> None:
    world = World(4, seed=9)
    world.script(0, 40)
    for _ in range(6):
        world.run(400)
        answered = world.done
        for index in range(4):
            world.crash(index)
        for index in range(4):
            world.start(index)
        assert world.done == answered
    _finish(world, 60_000)
    _equal(world)


def test_without_a_quorum_nothing_is_answered_and_with_it_again_everything() -> None:
    world = World(4, seed=10)
    world.crash(2)
    world.crash(3)
    world.script(0, 3)
    world.run(20_000)
    assert world.done == 0
    world.start(2)
    _finish(world)


def test_a_lost_link_in_one_direction_does_not_stop_the_committee() -> None:
    world = World(4, seed=11)
    world.network.cut = {(0, 1)}
    world.script(0, 10)
    _finish(world)


def test_sixty_per_cent_loss_slows_and_does_not_stop() -> None:
    world = World(4, seed=12)
    world.network.drop = 0.6
    world.script(0, 2)
    _finish(world, 600_000)


def test_a_client_alone_cannot_provoke_a_view_change() -> None:
    world = World(4, seed=13)
    for number in range(1, 30):
        world.request(0, number, b"x", to=1 + number % 3)
    world.run(30_000)
    assert {replica.view for replica in world.live()} == {0}


def test_the_log_and_the_journal_stay_short() -> None:
    world = World(4, seed=14)
    for client in range(4):
        world.script(client, 40)
    _finish(world, 60_000)
    world.run(1_000)
    for replica in world.live():
        assert len(list(replica.log)) <= world.settings.window
        assert len(world.disks[replica.index].journal) <= 4 * world.settings.window
