"""Lost disks, told one by one: who lost its journal contradicts nobody, is missed by nobody, and comes back by itself.

The checkers judge every word: a second vote for one slot, a vote in a view that was left, evidence against an honest
replica, or two histories end a story with a Violation.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from koinon.wire import Phase
from pbft.events import Tick
from pbft.messages import Ballot, PrePrepare, RecoveryRequest, SignedViewChange
from pbft.rejoin import RECOVERY_VIEWS_MAX
from tests.simulation.byzantine import LIARS, sign_change
from tests.simulation.world import SMALL, Said, Word, World

QUIET = replace(SMALL, view_timeout_ms=60_000, view_timeout_ms_max=60_000)
"""Nobody gives a primary up: what happens, the recovery brings about."""


def _finish(world: World, within_ms: int = 60_000) -> None:
    assert world.run_until(lambda: not world.current and all(map(world.answered, world.pending)), within_ms)
    top = max(replica.executed for replica in world.honest())
    assert world.run_until(lambda: all(one.executed == top for one in world.honest()), 20_000)
    assert world.checkers is not None
    world.checkers.finish()


def _wipe(world: World, *indices: int) -> None:
    for index in indices:
        world.crash(index)
    for index in indices:
        world.start(index, wiped=True)


def _back(world: World, within_ms: int = 20_000) -> None:
    assert world.run_until(lambda: not world.recovering(), within_ms), [one.waits_for for one in world.live()]


def _is(said: Word, phase: Phase) -> bool:
    return isinstance(said, Ballot) and said.vote.phase == phase


def _executed(world: World, index: int) -> int:
    replica = world.replicas[index]
    assert replica is not None
    return replica.executed


def _leave_for(world: World, index: int, view: int) -> None:
    replica = world.replicas[index]
    assert replica is not None
    replica._start_view_change(view)
    world.perform(index, replica.step(Tick(world.now_ms)))


@pytest.mark.parametrize("index", range(4))
def test_in_an_idle_committee_a_wiped_replica_is_back_within_a_second_and_one_view_later(index: int) -> None:
    world = World(4, seed=31, settings=QUIET)
    world.script(0, 6)
    _finish(world)
    _wipe(world, index)
    _back(world, 1_000)
    world.run(1_000)
    assert {replica.view for replica in world.live()} == {1}
    world.script(1, 6)
    _finish(world)
    assert not world.evidence


def test_while_it_is_silent_it_follows_and_the_others_go_on() -> None:
    world = World(4, seed=32, settings=QUIET)
    world.script(0, 6)
    _finish(world)
    world.blocks = lambda source, target, said: isinstance(getattr(said, "message", None), RecoveryRequest)
    _wipe(world, 3)
    world.script(1, 20)
    _finish(world)
    assert world.recovering() == {3}
    world.blocks = None
    _back(world)


def test_every_replica_in_turn_loses_its_disk_under_load() -> None:
    world = World(4, seed=33)
    for client in range(3):
        world.script(client, 60)
    for index in (0, 1, 2, 3, 0, 1):
        world.run(300)
        _wipe(world, index)
        _back(world)
    _finish(world)
    assert not world.evidence


def test_two_of_seven_lose_their_disks_at_once() -> None:
    world = World(7, seed=34)
    world.script(0, 30)
    world.run(300)
    _wipe(world, 0, 4)
    _back(world)
    _finish(world)


def test_a_liar_and_a_lost_disk_among_seven() -> None:
    for liar in sorted(LIARS):
        world = World(7, seed=35)
        world.byzantine[1] = LIARS[liar]
        world.script(0, 10)
        world.run(200)
        _wipe(world, 2)
        _back(world, 60_000)
        _finish(world)


@pytest.mark.parametrize(("n", "liars"), [(4, (3,)), (7, (5, 6))])
def test_who_asks_for_views_again_and_again_gets_a_few_and_stops_nobody(n: int, liars: tuple[int, ...]) -> None:
    """Each member moves RECOVERY_VIEWS_MAX times for one liar; who was left behind by a move asks for one, too."""
    world = World(n, seed=40)
    world.byzantine = dict.fromkeys(liars, LIARS["recovery-spammer"])
    world.script(0, 1_000)
    world.run(120_000)
    moved = max(replica.view for replica in world.honest())
    assert RECOVERY_VIEWS_MAX <= moved <= (RECOVERY_VIEWS_MAX + 1) * len(liars)
    before = world.done
    world.run(60_000)
    assert world.done > before + 100
    assert max(replica.view for replica in world.honest()) == moved
    _wipe(world, 0)
    if n == 7:  # a liar and a lost disk are one too many for four, and two and one for seven
        world.byzantine.pop(liars[0])
    else:
        world.byzantine.clear()
    _back(world)
    assert not world.evidence


def test_a_disk_that_is_lost_again_during_the_recovery_or_a_crash_then_changes_nothing() -> None:
    world = World(4, seed=36)
    world.script(0, 30)
    world.run(200)
    for pause in range(0, 300, 20):
        _wipe(world, 3)
        world.run(pause)
        world.crash(3)
        world.start(3, wiped=pause % 40 == 0)
        world.run(pause)
    _back(world)
    _finish(world)


def test_with_another_one_down_a_wiped_replica_waits_for_it_rather_than_guess() -> None:
    world = World(4, seed=37)
    world.script(0, 6)
    _finish(world)
    world.crash(0)
    _wipe(world, 3)
    key = world.request(1, 1, b"x")
    world.run(30_000)
    assert world.recovering() == {3}
    assert not world.answered(key)
    world.start(0)
    _back(world)
    _finish(world)


def test_a_committee_that_lost_all_its_disks_signs_nothing_more() -> None:
    world = World(4, seed=38)
    world.script(0, 6)
    _finish(world)
    world.todo, world.pending = {}, {}
    _wipe(world, 0, 1, 2, 3)
    world.request(9, 1, b"x")
    world.run(30_000)
    assert world.recovering() == {0, 1, 2, 3}
    assert {replica.executed for replica in world.live()} == {0}


def test_it_does_not_vote_a_second_time_for_a_number_that_a_lying_primary_assigns_twice() -> None:
    first: list[PrePrepare] = []

    def liar(world: World, source: int, target: int, message: Word) -> Said:
        """Proposes to replica 3 alone; then, to all, something else."""
        if isinstance(message, PrePrepare) and message.sequence == 1 and not first:
            first.append(message)
        alone = isinstance(message, PrePrepare) and message in first
        return [] if alone and target != 3 else [(target, message)]

    world = World(4, seed=39)
    world.byzantine[0] = liar
    world.request(0, 1, b"one")
    assert world.run_until(lambda: any(slot.digest for slot in world.live()[3].log), 1_000)
    assert world.live()[3].log.slot(1).prepares.keys() == {3}
    world.crash(0)
    _wipe(world, 3)
    world.start(0, wiped=True)
    world.replicas[0]._lost = None  # type: ignore[union-attr]
    world.pending.clear()
    world.request(1, 1, b"two")
    _finish(world)
    assert not [one for one in world.evidence if one.culprit == 3]


def test_it_does_not_vote_in_a_view_that_it_may_have_left_alone() -> None:
    world = World(4, seed=40, settings=QUIET)
    world.network.cut = {(3, 0), (3, 2)}  # its view change reaches replica 1 alone
    _leave_for(world, 3, 1)
    world.run(100)
    world.network.cut = set()
    _wipe(world, 3)
    world.script(0, 6)
    _finish(world)
    _back(world)


def _forgetful_liar(world: World, source: int, target: int, message: Word) -> Said:
    """Tells view 2 and later of nothing that it prepared."""
    if isinstance(message, SignedViewChange) and message.message.view > 1:
        message = sign_change(source, changed(message.message, prepared=()))
    return [(target, message)]


def _prepared_by_all_but_two() -> World:
    """Replica 0 alone has executed entry 1, with the COMMITs of 1 (a liar) and 3; replica 2 knows of nothing."""
    world = World(4, seed=41, settings=QUIET)
    world.byzantine[1] = _forgetful_liar
    world.blocks = lambda source, target, said: (
        (_is(said, Phase.PREPARE) and target == 2) or (_is(said, Phase.COMMIT) and target != 0)
    )
    world.request(0, 1, b"x")
    assert world.run_until(lambda: _executed(world, 0) == 1, 5_000)
    return world


def _cut_off(world: World, index: int) -> None:
    world.network.cut = {(a, b) for a in range(4) for b in range(4) if index in (a, b)}


def _nothing_is_ordered_until_all_are_connected(world: World) -> None:
    world.request(1, 1, b"y")
    world.run(5_000)
    assert _executed(world, 2) == 0
    world.network.cut = set()
    _back(world)
    _finish(world)


def test_its_empty_memory_proves_nothing_in_a_view_change() -> None:
    world = _prepared_by_all_but_two()
    world.blocks = None
    _cut_off(world, 0)
    _wipe(world, 3)
    for index in (1, 2):
        _leave_for(world, index, 2)
    _nothing_is_ordered_until_all_are_connected(world)


def test_it_asks_for_no_view_change_before_what_its_view_proposes_again_is_prepared() -> None:
    world = _prepared_by_all_but_two()
    world.blocks = lambda source, target, said: _is(said, Phase.PREPARE) or _is(said, Phase.COMMIT)
    _wipe(world, 3)
    assert world.run_until(lambda: {one.view for one in world.live()} == {1}, 5_000)
    assert world.run_until(lambda: all(one.active for one in world.live()), 5_000)
    assert world.recovering() == {3}
    _cut_off(world, 0)
    for index in (1, 2):
        _leave_for(world, index, 2)
    world.blocks = None
    _nothing_is_ordered_until_all_are_connected(world)


def test_who_left_a_view_alone_is_followed_and_works_again() -> None:
    world = World(4, seed=45)
    world.script(0, 6)
    _finish(world)
    _leave_for(world, 2, 1)
    world.run(1_000)
    assert [replica.view for replica in world.live()] == [0, 0, 1, 0], "nobody has a reason to follow at once"
    assert world.run_until(world.together, 10_000), "a member is stranded"
    assert {replica.view for replica in world.live()} == {1}
    world.script(1, 6)
    _finish(world)
