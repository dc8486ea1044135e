"""Rare interleavings, arranged message by message: each is the story of a bug that seeds meet too seldom."""

from __future__ import annotations

from dataclasses import replace

from msgspec.structs import replace as changed

from koinon.wire import Phase
from pbft.events import Tick
from pbft.messages import Ballot, CheckpointVote, PrePrepare, SignedViewChange
from tests.simulation.byzantine import LIARS, sign_change
from tests.simulation.world import SMALL, Said, Word, World

SLOW = replace(SMALL, view_timeout_ms=500, view_timeout_ms_max=8_000)


def _answered(world: World, within_ms: int) -> None:
    assert world.run_until(lambda: all(map(world.answered, world.pending)), within_ms), "requests still wait"
    assert world.checkers is not None
    world.checkers.finish()


def _leave_for(world: World, index: int, view: int) -> None:
    """Its timer fires."""
    replica = world.replicas[index]
    assert replica is not None
    replica._start_view_change(view)
    world.perform(index, replica.step(Tick(world.now_ms)))


def _executed(world: World, index: int) -> int:
    replica = world.replicas[index]
    assert replica is not None
    return replica.executed


def _stable(world: World, index: int) -> int:
    replica = world.replicas[index]
    assert replica is not None
    return replica.stable


def _is(said: Word, phase: Phase) -> bool:
    return isinstance(said, Ballot) and said.vote.phase == phase


def test_a_network_slower_than_the_timeout_is_waited_for() -> None:
    world = World(4, seed=1, settings=SLOW)
    world.network.delay_ms_max = 3_000
    world.request(0, 1, b"x")
    _answered(world, 60_000)


def test_a_committee_that_failed_for_an_hour_recovers_within_the_cap() -> None:
    world = World(4, seed=2, settings=replace(SLOW, tick_ms=500, status_ms=1_000))

    def blocks(source: int, target: int, said: Word) -> bool:
        return isinstance(said, PrePrepare) or (isinstance(said, SignedViewChange) and said.message.view % 4 == target)

    world.blocks = blocks
    world.request(0, 1, b"x")
    world.run(3_600_000)
    assert world.run_until(lambda: {replica.view % 4 for replica in world.live()} == {0}, 3_600_000)
    world.crash(0)  # the primary that all wait for
    world.blocks = None
    _answered(world, 4 * SLOW.view_timeout_ms_max)


def test_members_in_different_views_find_one_another() -> None:
    world = World(4, seed=3)
    world.network.cut = {(a, b) for a in range(4) for b in range(4)}
    world.crash(3)
    for index, view in ((0, 5), (1, 6), (2, 7)):
        _leave_for(world, index, view)
    world.network.cut = set()
    world.request(0, 1, b"x")
    _answered(world, 60_000)


def test_what_prepared_in_the_highest_view_is_proposed_again() -> None:
    world = World(4, seed=4)
    world.blocks = lambda source, target, said: _is(said, Phase.PREPARE) and target != 3
    world.request(0, 1, b"x")
    world.run(60)  # replica 3 alone has a proof, of view 0
    world.blocks = lambda source, target, said: 3 in (source, target) or (_is(said, Phase.COMMIT) and target != 0)
    for index in range(3):
        _leave_for(world, index, 1)
    assert world.run_until(lambda: _executed(world, 0) == 1, 5_000)  # replica 0 alone has committed, in view 1
    world.blocks = lambda source, target, said: 0 in (source, target)
    world.network.cut = {(a, b) for a in range(4) for b in range(4) if 0 in (a, b)}
    for index in (1, 2, 3):
        _leave_for(world, index, 2)
    assert world.run_until(lambda: _executed(world, 3) > 0, 20_000)
    world.blocks, world.network.cut = None, set()
    _answered(world, 20_000)


def test_false_state_from_a_peer_is_not_taken() -> None:
    for seed in range(20):
        world = World(4, seed=seed)
        world.byzantine[0] = LIARS["false-state"]
        world.network.cut = {(a, b) for a in range(4) for b in range(4) if (a == 3) != (b == 3)}
        world.script(0, 9)
        assert world.run_until(lambda: not world.current, 60_000)  # noqa: B023 - called at once
        world.network.cut = set()
        assert world.run_until(lambda: _executed(world, 3) == _executed(world, 1), 20_000)  # noqa: B023
        _answered(world, 20_000)


def test_one_peer_that_claims_to_be_far_ahead_and_proposes_nothing_stops_nobody() -> None:
    def liar(world: World, source: int, target: int, message: Word) -> Said:
        return [] if isinstance(message, PrePrepare) else LIARS["boaster"](world, source, target, message)

    world = World(4, seed=7)
    world.byzantine[0] = liar
    world.script(0, 5)
    assert world.run_until(lambda: not world.current, 60_000), "requests still wait"


def test_a_claim_without_a_proof_does_not_displace_what_was_committed() -> None:
    for seed in range(24):
        world = World(4, seed=seed)
        world.byzantine[3] = LIARS["forger"]
        world.blocks = lambda source, target, said: _is(said, Phase.COMMIT) and target != 0
        world.request(0, 1, b"x")
        assert world.run_until(lambda: _executed(world, 0) == 1, 5_000)  # noqa: B023 - replica 0 alone
        world.network.cut = {(a, b) for a in range(4) for b in range(4) if 0 in (a, b)}
        world.blocks = None
        for index in (1, 2, 3):
            _leave_for(world, index, 2)
        world.run(2_000)
        world.network.cut = set()
        _answered(world, 20_000)


def test_f_plus_1_view_changes_begin_no_view() -> None:
    def liar(world: World, source: int, target: int, message: Word) -> Said:
        """Tells of nothing that it prepared."""
        if isinstance(message, SignedViewChange):
            message = sign_change(source, changed(message.message, prepared=()))
        return [(target, message)]

    world = World(4, seed=8)
    world.byzantine[2] = liar
    world.blocks = lambda source, target, said: (
        (_is(said, Phase.PREPARE) and target == 3) or (_is(said, Phase.COMMIT) and target != 0)
    )
    world.request(0, 1, b"x")
    assert world.run_until(lambda: _executed(world, 0) == 1, 5_000)  # prepared by all but 3, committed by 0
    world.blocks = lambda source, target, said: isinstance(said, SignedViewChange) and source < 2
    for index in range(4):
        _leave_for(world, index, 3)
    world.run(3_000)
    world.blocks = None
    _answered(world, 20_000)


def test_a_number_that_nobody_prepared_is_filled_with_a_null_request() -> None:
    world = World(4, seed=9, settings=replace(SMALL, batch_requests_max=1))
    world.blocks = lambda source, target, said: isinstance(said, PrePrepare) and (said.view, said.sequence) == (0, 1)
    world.request(0, 1, b"x")
    world.request(1, 1, b"y")
    assert world.run_until(lambda: all(one.log.slot(2).proof is not None for one in world.live()), 5_000)
    _answered(world, 20_000)
    assert {replica.view for replica in world.live()} == {1}


def test_a_certified_state_outlives_a_power_outage_of_all_who_signed_it() -> None:
    for seed in range(4):
        world = World(4, seed=seed)
        world.network.cut = {(3, peer) for peer in range(3)}  # it hears, and cannot ask
        world.blocks = lambda source, target, said: (
            (isinstance(said, CheckpointVote) and target != 3) or (_is(said, Phase.COMMIT) and target == 3)
        )
        for client in range(4):  # one batch each, up to the first checkpoint
            world.request(client, 1, b"x")
            assert world.run_until(lambda: all(_executed(world, one) == client + 1 for one in range(3)), 5_000)  # noqa: B023
        world.run(30)
        assert (_stable(world, 3), _executed(world, 3)) == (4, 0)  # it has the proof, and not the state
        for index in range(3):
            world.crash(index)
        for index in range(3):
            world.start(index)
        world.network.cut, world.blocks = set(), None
        assert world.run_until(lambda: min(_executed(world, one) for one in range(4)) == 4, 20_000), "nobody has it"  # noqa: B023
        world.request(4, 1, b"x")
        _answered(world, 20_000)


def test_false_checkpoints_move_no_watermark() -> None:
    world = World(4, seed=10)
    world.byzantine[3] = LIARS["checkpoint-forger"]
    world.script(0, 12)
    assert world.run_until(lambda: not world.current, 60_000), "requests still wait"
    _answered(world, 20_000)


def test_what_prepared_above_a_stable_checkpoint_outlives_a_restart_of_all_who_prepared_it() -> None:
    world = World(4, seed=5)
    for client in range(4):  # one batch each, up to the first checkpoint
        world.request(client, 1, b"x")
        world.blocks = lambda source, target, said: isinstance(said, CheckpointVote)
        assert world.run_until(lambda: all(_executed(world, one) == client + 1 for one in range(4)), 5_000)  # noqa: B023
    world.blocks = lambda source, target, said: (
        isinstance(said, CheckpointVote) or (_is(said, Phase.COMMIT) and target != 0)
    )
    world.request(4, 1, b"x")
    assert world.run_until(lambda: _executed(world, 0) == 5, 5_000)  # replica 0 alone has committed it
    assert world.run_until(lambda: all(one.log.slot(5).proof is not None for one in world.live()), 5_000)
    world.blocks = lambda source, target, said: _is(said, Phase.COMMIT)
    assert world.run_until(lambda: all(replica.stable == 4 for replica in world.live()), 5_000)
    world.network.cut = {(a, b) for a in range(4) for b in range(4) if 0 in (a, b)}
    world.blocks = None
    for index in (1, 2, 3):
        world.crash(index)
        world.start(index)
    for index in (1, 2, 3):
        _leave_for(world, index, 1)
    assert world.run_until(lambda: _executed(world, 3) >= 5, 20_000)
    world.network.cut = set()
    _answered(world, 20_000)
