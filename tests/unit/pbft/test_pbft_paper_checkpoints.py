"""Castro & Liskov 1999, section 4.3: checkpoints and watermarks. One test a rule."""

from __future__ import annotations

from koinon.encoding import keccak
from koinon.wire import Phase
from pbft.events import (
    Committed,
    Ignored,
    StableCheckpoint,
    SyncArchive,
)
from pbft.messages import (
    CheckpointVote,
    PrePrepare,
)

from .bench import Bench, of, said, voted, with_settings

# --- section 4.3: garbage collection


def _fill(bench: Bench, count: int) -> list[object]:
    effects: list[object] = []
    for sequence in range(1, count + 1):
        effects += bench.order(sequence, bench.batch(bench.request(sequence)))
    return effects


def test_section_4_3_every_kth_execution_makes_a_signed_checkpoint_of_the_state() -> None:
    bench = Bench()
    effects = _fill(bench, 4)
    (vote,) = said(CheckpointVote, effects)  # type: ignore[arg-type]
    assert vote.checkpoint.sequence == 4
    assert vote.checkpoint.state == keccak(bench.replica.execution.snapshot())


def test_a_checkpoint_is_vouched_for_only_once_the_entries_below_it_are_durable() -> None:
    """Not in the paper, whose replicas keep their memory: a certificate makes others discard what they could replay."""
    bench = Bench()
    kinds = [type(getattr(effect, "message", effect)) for effect in _fill(bench, 4)]
    assert kinds.index(SyncArchive) < kinds.index(CheckpointVote)
    assert Committed not in kinds[kinds.index(SyncArchive) : kinds.index(CheckpointVote)]


def test_section_4_3_2f_plus_1_equal_checkpoints_are_stable_and_truncate_the_log() -> None:
    bench = Bench()
    _fill(bench, 5)
    state = bench.replica._checkpoint_votes[1][4].checkpoint.state
    assert not of(StableCheckpoint, bench.receive(0, bench.checkpoint(0, 4, state)))
    assert not of(StableCheckpoint, bench.receive(3, bench.checkpoint(3, 4, b"\7" * 32)))
    (stable,) = of(StableCheckpoint, bench.receive(2, bench.checkpoint(2, 4, state)))
    bench.replica.verifier.checkpoint(stable.certificate)
    assert (bench.replica.log.low, bench.replica.log.high) == (4, 12)
    assert [slot.sequence for slot in bench.replica.log] == [5]
    assert keccak(stable.snapshot) == state


def test_section_4_3_the_primary_stops_at_the_high_watermark() -> None:
    bench = Bench(0, settings=with_settings(pipeline_slots_max=100, batch_delay_ms=0))
    proposed = []
    for client in range(12):
        proposed += said(PrePrepare, bench.ask(bench.request(1, client=client)))
    assert [one.sequence for one in proposed] == list(range(1, 9))
    assert bench.replica.pool.ready() == 4


def test_section_4_3_a_message_above_the_high_watermark_counts_once_the_window_moves() -> None:
    bench = Bench()
    late = bench.batch(bench.request(99))
    assert of(Ignored, bench.receive(0, bench.pre_prepare(9, late)))[0].reason == "above-window-deferred"
    _fill(bench, 4)
    state = bench.replica._checkpoint_votes[1][4].checkpoint.state
    bench.receive(0, bench.checkpoint(0, 4, state))
    effects = bench.receive(2, bench.checkpoint(2, 4, state))
    assert [vote.sequence for vote in voted(Phase.PREPARE, effects)] == [9]
