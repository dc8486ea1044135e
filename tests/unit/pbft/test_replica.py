"""Sad paths and additions to the paper: quotas, clocks, restarts, lost disks, lagging replicas, hostile state."""

from __future__ import annotations

from pathlib import Path

import pytest

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.errors import BlobMismatch, InvariantBroken, Unavailable, UnknownSigner
from koinon.wire import CommittedBatch, Phase
from pbft.certificates import batch_digest
from pbft.engine import Disk, Written
from pbft.events import (
    CatchUp,
    Committed,
    Evidence,
    Misbehaved,
    NeedState,
    Received,
    Recovered,
    Refuse,
    Respond,
    Send,
    StableCheckpoint,
)
from pbft.log import LastSigned
from pbft.messages import (
    Ballot,
    Body,
    Checkpoint,
    CheckpointCertificate,
    Fetch,
    PrePrepare,
    Recovering,
    Relay,
    SignedNewView,
    SignedViewChange,
    Status,
)
from pbft.replica import Replica
from tests.simulation.world import DOMAIN, Ledger, signer

from .bench import SETTINGS, Bench, of, persisted, said, voted, with_settings

LOST = Recovering(epoch=0, view=0, over=False)


def test_a_stranger_is_refused_before_ordering() -> None:
    bench = Bench(0)
    effects = bench.ask(bench.request(1, b"stranger"))
    assert isinstance(of(Refuse, effects)[0].error, UnknownSigner)
    assert not said(PrePrepare, effects)


def test_a_stranger_whom_a_primary_ordered_anyway_leaves_no_trace() -> None:
    bench = Bench()
    (committed,) = of(Committed, bench.order(1, bench.batch(bench.request(1, b"stranger"))))
    assert committed.results == ()
    assert bench.replica.execution.last(signer("client", 0).address) is None


def test_a_client_that_floods_is_refused_and_another_one_is_served() -> None:
    bench = Bench(1)
    refused = [of(Refuse, bench.ask(bench.request(number))) for number in range(1, 6)]
    assert [bool(one) for one in refused] == [False, False, False, True, True]
    assert isinstance(refused[3][0].error, Unavailable)
    assert not of(Refuse, bench.ask(bench.request(1, client=1)))


def test_unreadable_requests_are_answered_and_relayed_ones_are_held_against_the_peer() -> None:
    bench = Bench(0)
    (refuse,) = of(Refuse, bench.ask(b"\x93nonsense"))
    assert refuse.number == -1
    assert of(Misbehaved, bench.receive(2, Relay(request=b"\x93nonsense")))


def test_time_never_runs_backwards_for_the_application() -> None:
    bench = Bench()
    bench.order(1, bench.batch(bench.request(1), later_ms=500))
    bench.order(2, bench.batch(bench.request(2), later_ms=-500))
    times = [time_ms for _, _, time_ms in bench.ledger.entries]
    assert times[1] == times[0]


def test_an_empty_batch_is_no_proposal() -> None:
    bench = Bench()
    batch = bench.batch()
    empty = type(batch)(time_ms=batch.time_ms, requests=())
    assert of(Misbehaved, bench.receive(0, bench.pre_prepare(1, empty)))


def test_garbage_from_a_peer_is_counted_and_changes_nothing() -> None:
    bench = Bench()
    for data in (b"", b"\xc1", b"\x91\xa6Status", b"\xff" * 100):
        (effect,) = bench.replica.step(Received(bench.now_ms, 2, data))
        assert isinstance(effect, Misbehaved)


def test_the_guard_refuses_a_second_signature() -> None:
    bench, guard = Bench(), LastSigned(0)
    vote = bench.vote(1, Phase.COMMIT, 0, 5, b"\1" * 32).vote
    other = bench.vote(1, Phase.COMMIT, 0, 5, b"\2" * 32).vote
    guard.claim(vote)
    guard.claim(vote)
    with pytest.raises(InvariantBroken):
        guard.claim(other)
    guard.forget(5)
    with pytest.raises(InvariantBroken):
        guard.claim(vote)


def _restart(bench: Bench, records: list[object]) -> Replica:
    index, key = bench.index, signer("replica", bench.index)
    bench.replica = Replica(index, {0: bench.committee}, 0, DOMAIN, key, Ledger(), SETTINGS)
    bench.replica.step(Recovered(bench.now_ms, tuple(records)))  # type: ignore[arg-type]
    return bench.replica


def test_a_restarted_backup_keeps_its_word() -> None:
    bench = Bench()
    first, second = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    records = persisted(bench.receive(0, bench.pre_prepare(1, first)))
    records += persisted(bench.receive(2, bench.prepare(2, 1, first)))
    _restart(bench, records)
    effects = bench.receive(0, bench.pre_prepare(1, second))
    assert not voted(Phase.PREPARE, effects)
    assert of(Evidence, effects)
    bench.receive(2, bench.commit(2, 1, first))
    assert of(Committed, bench.receive(3, bench.commit(3, 1, first)))


def test_a_restarted_primary_goes_on_after_its_last_proposal() -> None:
    bench = Bench(0)
    records = persisted(bench.ask(bench.request(1)))
    _restart(bench, records)
    for peer in bench.others():
        bench.receive(peer, Status(epoch=0, view=0, active=True, stable=0, executed=0))
    bench.now_ms += 100
    (pre_prepare,) = said(PrePrepare, bench.ask(bench.request(2)))
    assert pre_prepare.sequence == 2


def test_a_restarted_replica_does_not_return_to_a_view_that_it_left() -> None:
    bench = Bench(2)
    bench.ask(bench.request(1))
    records = persisted(bench.wait(2_200))
    replica = _restart(bench, records)
    assert (replica.view, replica.active) == (1, False)
    assert said(SignedViewChange, bench.wait(300))


def test_a_primary_that_lost_its_disk_does_not_assign_numbers_a_second_time() -> None:
    bench = Bench(0)
    bench.restart(LOST)
    assert not said(PrePrepare, bench.ask(bench.request(1)))
    for peer in bench.others():
        effects = bench.receive(peer, Status(epoch=0, view=0, active=True, stable=0, executed=9))
    assert not said(PrePrepare, effects + bench.ask(bench.request(2)) + bench.wait(400))


def test_a_primary_that_learns_its_own_new_view_from_others_proposes_nothing_in_it() -> None:
    bench = Bench(1)
    bench.restart(LOST)
    changes = [bench.view_change(who, 1) for who in (0, 2, 3)]
    bench.receive(2, bench.new_view(1, *changes))
    assert (bench.replica.view, bench.replica.primary) == (1, 1)
    assert not said(PrePrepare, bench.ask(bench.request(1)) + bench.wait(400))


def test_the_journal_that_a_checkpoint_leaves_holds_the_view_that_began_in_the_same_step() -> None:
    bench, stable = Bench(2), _stable(Bench())
    for sequence in range(1, 5):
        bench.order(sequence, bench.batch(bench.request(sequence)))
    changes = (
        bench.view_change(0, 1, stable=stable.certificate),
        bench.view_change(1, 1),
        bench.view_change(3, 1),
    )
    effects = bench.receive(1, bench.new_view(1, *changes))
    (kept,) = of(StableCheckpoint, effects)
    assert effects[-1] is kept
    assert any(isinstance(record, SignedNewView) for record in kept.retained)


def _entries(bench: Bench, count: int) -> tuple[CommittedBatch, ...]:
    other = Bench(2)
    other.now_ms = bench.now_ms
    batches = [bench.batch(bench.request(number)) for number in range(1, count + 1)]
    return tuple(of(Committed, other.order(k, batch))[0].entry for k, batch in enumerate(batches, 1))


def test_a_lagging_replica_asks_for_state_when_f_plus_1_peers_are_ahead_and_executes_proven_entries() -> None:
    bench = Bench()
    bench.receive(2, Status(epoch=0, view=0, active=True, stable=0, executed=3))
    assert not of(NeedState, bench.wait(2_000))
    bench.receive(3, Status(epoch=0, view=0, active=True, stable=0, executed=3))
    assert of(NeedState, bench.wait(2_000))[0].from_sequence == 1
    effects = bench.replica.step(CatchUp(bench.now_ms, 3, _entries(bench, 3)))
    assert [one.entry.sequence for one in of(Committed, effects)] == [1, 2, 3]
    assert len(of(Respond, effects)) == 3


def test_an_entry_without_a_quorum_of_signatures_is_not_executed() -> None:
    bench = Bench()
    (entry,) = _entries(bench, 1)
    for signatures in (entry.signatures[:2], entry.signatures[:2] * 2, (*entry.signatures[:2], b"\1" * 64)):
        lie = CommittedBatch(epoch=0, view=0, sequence=1, batch=entry.batch, signatures=signatures)
        assert of(Misbehaved, bench.replica.step(CatchUp(bench.now_ms, 3, (lie,))))
    assert bench.replica.executed == 0


def _stable(bench: Bench) -> StableCheckpoint:
    """Another replica's stable checkpoint at 4."""
    other = Bench(2)
    for sequence in range(1, 5):
        other.order(sequence, bench.batch(bench.request(sequence)))
    state = keccak(other.replica._snapshots[4])
    other.receive(0, other.checkpoint(0, 4, state))
    return of(StableCheckpoint, other.receive(3, other.checkpoint(3, 4, state)))[0]


def test_a_snapshot_is_taken_over_with_its_certificate_watermarks_and_client_table() -> None:
    bench, stable = Bench(), _stable(Bench())
    event = CatchUp(bench.now_ms, 2, (), stable.certificate, stable.snapshot)
    (kept,) = of(StableCheckpoint, bench.replica.step(event))
    assert kept.certificate == stable.certificate
    assert (bench.replica.executed, bench.replica.stable, len(bench.ledger.entries)) == (4, 4, 4)
    assert of(Respond, bench.ask(bench.request(4)))


def test_a_snapshot_that_is_not_what_the_certificate_says_is_refused() -> None:
    bench, stable = Bench(), _stable(Bench())
    event = CatchUp(bench.now_ms, 2, (), stable.certificate, stable.snapshot + b"\0")
    (misbehaved,) = of(Misbehaved, bench.replica.step(event))
    assert isinstance(misbehaved.error, BlobMismatch)
    assert bench.replica.executed == 0


def test_a_checkpoint_certificate_below_a_quorum_moves_no_watermark() -> None:
    bench, stable = Bench(), _stable(Bench())
    honest = stable.certificate
    lie = CheckpointCertificate(checkpoint=honest.checkpoint, signatures=honest.signatures[:2] * 2)
    assert of(Misbehaved, bench.receive(2, lie))
    assert bench.replica.stable == 0


def test_a_state_that_a_quorum_contradicts_stops_the_replica() -> None:
    bench = Bench()
    for sequence in range(1, 5):
        bench.order(sequence, bench.batch(bench.request(sequence)))
    votes = [bench.checkpoint(who, 4, b"\6" * 32) for who in (0, 2, 3)]
    bench.receive(0, votes[0])
    bench.receive(2, votes[1])
    with pytest.raises(InvariantBroken):
        bench.receive(3, votes[2])


def test_a_peer_in_an_older_view_is_sent_the_proof_of_the_newer_one() -> None:
    bench = Bench(2)
    changes = [bench.view_change(who, 1) for who in (0, 1, 3)]
    bench.receive(1, bench.new_view(1, *changes))
    effects = bench.receive(3, Status(epoch=0, view=0, active=True, stable=0, executed=0))
    assert said(SignedNewView, effects)


def test_a_stuck_peer_is_sent_our_votes_again_and_one_that_moves_is_not() -> None:
    bench = Bench()
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    status = Status(epoch=0, view=0, active=True, stable=0, executed=0)
    moving = Status(epoch=0, view=0, active=True, stable=0, executed=1)
    assert said(Ballot, bench.receive(2, status))
    assert not said(Ballot, bench.receive(2, moving))


def test_a_batch_that_a_new_view_names_and_we_lack_is_fetched_and_only_that_one_is_taken() -> None:
    bench = Bench(2)
    batch = bench.batch()
    changes = [bench.view_change(0, 1, bench.proof(1, batch)), bench.view_change(1, 1), bench.view_change(3, 1)]
    effects = bench.receive(1, bench.new_view(1, *changes))
    assert said(Fetch, effects)[0].digest == batch_digest(batch)
    assert not voted(Phase.PREPARE, effects)
    assert of(Misbehaved, bench.receive(3, Body(sequence=1, batch=bench.batch(bench.request(8)))))
    assert voted(Phase.PREPARE, bench.receive(3, Body(sequence=1, batch=batch)))
    asked = bench.receive(0, Fetch(sequence=1, digest=batch_digest(batch)))
    assert said(Body, asked)[0].batch == batch


def test_a_committee_of_one_orders_alone() -> None:
    bench = Bench(0, 1)
    effects = bench.ask(bench.request(1))
    assert of(Committed, effects)
    assert not of(Send, effects)


def test_a_busy_pipeline_fills_batches_and_an_idle_one_does_not_wait() -> None:
    bench = Bench(0, settings=with_settings(pipeline_slots_max=1))
    sizes = [len(one.batch.requests) for one in said(PrePrepare, bench.ask(bench.request(1, client=0)))]
    for client in range(1, 6):
        assert not said(PrePrepare, bench.ask(bench.request(1, client=client)))
    batch = bench.replica.log.slot(1).body(bench.replica.log.slot(1).digest)
    assert batch is not None
    effects = []
    for who in (1, 2, 3):
        effects += bench.receive(who, bench.prepare(who, 1, batch))
    for who in (1, 2, 3):
        effects += bench.receive(who, bench.commit(who, 1, batch))
    sizes += [len(one.batch.requests) for one in said(PrePrepare, effects)]
    assert sizes == [1, 5]


@pytest.mark.parametrize("view", [0, 1])
def test_a_batch_above_the_bounds_is_held_against_its_sender_and_not_kept_for_later(view: int) -> None:
    bench = Bench(2, settings=with_settings(batch_bytes_max=1_000, request_bytes_max=800))
    for requests in ((bytes(600), bytes(600)), (b"",) * 9):
        batch = bench.batch(*requests)
        assert of(Misbehaved, bench.receive(view, bench.pre_prepare(1, batch, view=view)))
        assert of(Misbehaved, bench.receive(view, Body(sequence=1, batch=batch)))
    assert not bench.replica._future


def test_a_snapshot_is_kept_before_what_follows_it_so_that_a_crash_leaves_no_gap(tmp_path: Path) -> None:
    bench, stable = Bench(), _stable(Bench())
    batch = bench.batch(bench.request(5))
    bench.order(5, batch)
    effects = bench.replica.step(CatchUp(bench.now_ms, 2, (), stable.certificate, stable.snapshot))
    written = [effect for effect in effects if isinstance(effect, Written)]
    assert [one.entry.sequence for one in of(Committed, effects)] == [5]
    for survived in range(len(written) + 1):
        disk = Disk(tmp_path / str(survived))
        disk.write(written[:survived])
        disk.close()
        again, reopened = Bench(), Disk(tmp_path / str(survived))
        again.replica.step(reopened.recovered(again.now_ms))
        assert again.replica.executed == reopened.archive.last or reopened.archive.last == 0
        reopened.close()


def test_an_entry_with_more_signatures_than_members_is_refused_before_they_are_verified() -> None:
    bench = Bench()
    (entry,) = _entries(bench, 1)
    padded = CommittedBatch(
        epoch=0, view=0, sequence=1, batch=entry.batch, signatures=(*entry.signatures, *[b"\1" * 64] * 99)
    )
    (misbehaved,) = of(Misbehaved, bench.replica.step(CatchUp(bench.now_ms, 3, (padded,))))
    assert "signatures in a committee of 4" in misbehaved.error.message


def test_a_replica_that_catches_up_keeps_no_snapshots_below_the_stable_checkpoint() -> None:
    bench = Bench()
    checkpoint = Checkpoint(epoch=0, next=ZERO_DIGEST, sequence=8, state=keccak(b"a later state"))
    signatures = tuple(signer("replica", who).sign(DOMAIN, checkpoint) for who in (0, 2, 3))
    bench.receive(0, CheckpointCertificate(checkpoint=checkpoint, signatures=signatures))
    bench.replica.step(CatchUp(bench.now_ms, 2, _entries(bench, 5)))
    assert (bench.replica.executed, bench.replica.stable) == (5, 8)
    assert not bench.replica._snapshots


def test_a_peer_that_floods_with_statuses_is_answered_once_in_half_a_period() -> None:
    bench = Bench()
    bench.receive(0, bench.pre_prepare(1, bench.batch()))
    status = Status(epoch=0, view=0, active=True, stable=0, executed=0)
    answers = [of(Send, bench.receive(3, status)) for _ in range(20)]
    assert [len(sent) > 0 for sent in answers] == [True] + [False] * 19
    bench.now_ms += bench.replica.settings.status_ms
    assert of(Send, bench.receive(3, status))


class Closed(Ledger):
    """An application whose every member was revoked."""

    def admits(self, sender: bytes, operation: bytes) -> None:
        raise UnknownSigner("revoked")


def test_a_waiting_request_that_is_no_longer_admitted_is_dropped_and_moves_no_view() -> None:
    bench = Bench()
    data = bench.request()
    bench.ask(data)
    bench.replica.execution.application = Closed()
    effects = bench.wait(2 * bench.replica.settings.view_timeout_ms)
    assert isinstance(of(Refuse, effects)[0].error, UnknownSigner)
    assert not said(SignedViewChange, effects)
    assert bench.replica.active
