"""One replica and the end of its epoch: what it takes, refuses and says when the committee changes under it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.epochs import epoch_change
from koinon.errors import InvariantBroken, Malformed, WrongEpoch
from koinon.wire import Batch, Checkpoint, CheckpointCertificate, CommittedBatch, Phase
from pbft.events import (
    CatchUp,
    Committed,
    Effect,
    EpochEnded,
    Ignored,
    Misbehaved,
    NeedState,
    Recovered,
    StableCheckpoint,
)
from pbft.messages import GENESIS, CheckpointVote, NewView, PeerMessage, Status, ViewRecord
from tests.simulation.members import seats
from tests.simulation.world import DOMAIN, Ledger, signer
from tests.unit.pbft.bench import Bench, of, persisted, said, voted, with_settings

NEXT = seats(range(5))
CHANGE = Ledger.change(NEXT)
FOLLOWING = epoch_change(1, NEXT).struct_hash()


def _changing(index: int = 1) -> tuple[Bench, list[Effect]]:
    """A replica that has just executed a change of the committee in slot 1; the handover is due at 4."""
    bench = Bench(index)
    effects = bench.order(1, bench.batch(bench.request(1, CHANGE)))
    assert bench.ledger.pending_change()
    return bench, effects


def _nothing(bench: Bench) -> Batch:
    return replace(bench.batch(), requests=())


def _empty(bench: Bench, up_to: int) -> list[Effect]:
    """Empty batches up to a sequence number, ordered by everybody."""
    effects: list[Effect] = []
    for sequence in range(bench.replica.executed + 1, up_to + 1):
        effects += bench.order(sequence, _nothing(bench))
    return effects


def _certificate(checkpoint: Checkpoint, who: tuple[int, ...] = (0, 2, 3)) -> CheckpointCertificate:
    signatures = tuple(signer("replica", one).sign(DOMAIN, checkpoint) for one in who)
    return CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)


def _handover(state: bytes = keccak(b"the state at 4")) -> CheckpointCertificate:
    return _certificate(Checkpoint(epoch=0, sequence=4, state=state, next=FOLLOWING))


def _state(bench: Bench) -> tuple[object, ...]:
    replica = bench.replica
    slots = [(slot.sequence, slot.digest, len(slot.prepares), len(slot.commits)) for slot in replica.log]
    return replica.view, replica.active, replica.stable, replica.executed, slots, sorted(replica._view_changes)


def _everything(bench: Bench) -> list[PeerMessage]:
    """A message of each kind that names its epoch, as correct replicas of `bench.epoch` say it."""
    batch, state = bench.batch(), keccak(b"state")
    sequence = bench.replica.stable + 1
    low = bench.replica.certificate
    checkpoint = Checkpoint(epoch=bench.epoch, sequence=sequence + 3, state=state, next=ZERO_DIGEST)
    changes = [bench.view_change(who, 1, stable=low) for who in range(bench.committee.quorum)]
    return [
        bench.pre_prepare(sequence, batch),
        bench.prepare(2, sequence, batch),
        bench.commit(2, sequence, batch),
        bench.checkpoint(2, sequence + 3, state),
        _certificate(checkpoint, tuple(range(bench.committee.quorum))),
        bench.view_change(2, 1, stable=low),
        bench.new_view(1, *changes),
        Status(epoch=bench.epoch, view=0, active=True, stable=0, executed=10**6),
    ]


# --- words of other epochs


@pytest.mark.parametrize("kind", range(8))
def test_what_is_said_in_an_earlier_epoch_counts_no_more(kind: int) -> None:
    message = _everything(Bench())[kind]
    bench = Bench(1, 5, epoch=1, base=_handover())
    before = _state(bench)
    assert bench.receive(2, message) == [Ignored(2, "old-epoch")]
    assert _state(bench) == before


@pytest.mark.parametrize("kind", range(8))
def test_what_is_said_in_a_later_epoch_does_not_count_yet(kind: int) -> None:
    message = _everything(Bench(1, 5, epoch=1, base=_handover()))[kind]
    bench = Bench()
    before = _state(bench)
    assert bench.receive(2, message) == [Ignored(2, "later-epoch")]
    assert _state(bench) == before


@pytest.mark.parametrize("kind", range(7))
def test_each_of_these_words_counts_in_its_own_epoch(kind: int) -> None:
    for bench in (Bench(), Bench(1, 5, epoch=1, base=_handover())):
        before = _state(bench)
        effects = bench.receive(2, _everything(bench)[kind])
        assert not of(Misbehaved, effects)
        assert not any(one.reason.endswith("epoch") for one in of(Ignored, effects))
        assert _state(bench) != before or kind == 3  # a vote for a checkpoint waits for others


def test_a_signature_of_another_epoch_does_not_fit_this_one() -> None:
    bench = Bench(1, 5, epoch=1, base=_handover())
    old = Bench().pre_prepare(5, bench.batch())
    effects = bench.receive(0, replace(old, epoch=1))
    assert [type(effect.error).__name__ for effect in of(Misbehaved, effects)] == ["UnknownSigner"]


def test_a_view_change_proves_nothing_with_proofs_or_checkpoints_of_other_epochs() -> None:
    bench, earlier = Bench(1, 5, epoch=1, base=_handover()), Bench()
    proof = earlier.proof(5, bench.batch())
    later = _certificate(Checkpoint(epoch=0, sequence=8, state=keccak(b"x"), next=ZERO_DIGEST))
    low = bench.replica.certificate
    for change, error in (
        (bench.view_change(2, 1, proof, stable=low), WrongEpoch),
        (bench.view_change(2, 1, stable=later), WrongEpoch),
        (bench.view_change(2, 1, stable=GENESIS), WrongEpoch),
    ):
        assert [type(effect.error) for effect in of(Misbehaved, bench.receive(2, change))] == [error]
    own = _certificate(Checkpoint(epoch=1, sequence=4, state=keccak(b"x"), next=ZERO_DIGEST), (0, 1, 2, 3))
    (effect,) = of(Misbehaved, bench.receive(2, bench.view_change(2, 1, stable=own)))
    assert type(effect.error) is Malformed
    old_view = NewView(epoch=1, view=1, view_changes=(earlier.view_change(2, 1),), proposals=())
    (effect,) = of(Misbehaved, bench.receive(1, bench.sign_new_view(old_view)))
    assert isinstance(effect.error, WrongEpoch)


# --- empty batches


def test_a_backup_takes_an_empty_batch_only_while_a_change_is_pending() -> None:
    bench = Bench()
    (effect,) = bench.receive(0, bench.pre_prepare(1, _nothing(bench)))
    assert isinstance(effect, Misbehaved)
    bench, _ = _changing()
    assert voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(2, _nothing(bench))))


def test_an_empty_batch_that_may_follow_a_change_waits_until_it_can_be_judged() -> None:
    bench = Bench()
    assert bench.receive(0, bench.pre_prepare(2, _nothing(bench))) == [Ignored(0, "early-empty-deferred")]
    effects = bench.order(1, bench.batch(bench.request(1, CHANGE)))
    assert [vote.sequence for vote in voted(Phase.PREPARE, effects)] == [1, 2]
    bench = Bench()
    bench.receive(0, bench.pre_prepare(2, _nothing(bench)))
    effects = bench.order(1, bench.batch(bench.request(1)))
    assert [vote.sequence for vote in voted(Phase.PREPARE, effects)] == [1]


def test_a_primary_orders_empty_batches_up_to_the_handover_and_not_beyond() -> None:
    bench = Bench(0)
    bench.ask(bench.request(1, CHANGE))
    proposed = []
    for sequence in range(1, 5):
        batch = bench.replica.log.slot(sequence).body(bench.replica.log.slot(sequence).digest)
        assert batch is not None
        proposed.append(len(batch.requests))
        _all_vote(bench, sequence)
    assert proposed == [1, 0, 0, 0]
    assert bench.replica.handed_over
    bench.ask(bench.request(1, client=7))
    bench.wait(500)
    assert bench.replica.log.find(5) is None


def test_a_primary_stops_at_the_high_mark_although_the_handover_lies_above_it() -> None:
    bench = Bench(0, settings=with_settings(window=6))
    for sequence in range(1, 6):
        _all_vote(bench, sequence, bench.request(sequence))
    bench.ask(bench.request(6, CHANGE))
    _all_vote(bench, 6)
    bench.wait(500)
    assert bench.ledger.pending_change()
    assert (bench.replica.executed, bench.replica.stable, bench.replica.log.find(7)) == (6, 0, None)


def _all_vote(bench: Bench, sequence: int, *requests: bytes) -> None:
    """The others vote for what replica 0, the primary, proposes."""
    for data in requests:
        bench.ask(data)
    slot = bench.replica.log.slot(sequence)
    batch = slot.body(slot.digest)
    assert batch is not None
    for who in (1, 2, 3):
        bench.receive(who, bench.prepare(who, sequence, batch))
    for who in (1, 2, 3):
        bench.receive(who, bench.commit(who, sequence, batch))


def test_a_backup_gives_up_a_primary_that_does_not_bring_the_handover_about() -> None:
    bench, _ = _changing()
    bench.wait(bench.replica.settings.view_timeout_ms + 100)
    assert (bench.replica.view, bench.replica.active) == (1, False)
    calm = Bench()
    calm.order(1, calm.batch(calm.request(1)))
    calm.wait(calm.replica.settings.view_timeout_ms + 100)
    assert (calm.replica.view, calm.replica.active) == (0, True)


def test_once_the_handover_is_executed_the_primary_is_to_blame_for_nothing() -> None:
    bench, _ = _changing()
    _empty(bench, 4)
    bench.ask(bench.request(1, client=7))
    bench.wait(3 * bench.replica.settings.view_timeout_ms)
    assert (bench.replica.view, bench.replica.active) == (0, True)


# --- the handover


def test_the_last_checkpoint_names_the_next_committee_and_a_quorum_of_it_ends_the_epoch() -> None:
    bench, _ = _changing()
    effects = _empty(bench, 4)
    (own,) = [vote.checkpoint for vote in said(CheckpointVote, effects)]
    assert (own.epoch, own.sequence, own.next) == (0, 4, FOLLOWING)
    assert own.state == keccak(bench.replica.execution.snapshot())
    bench.receive(0, _vote(own, 0))
    effects = bench.receive(2, _vote(own, 2))
    kinds = [type(effect) for effect in effects if isinstance(effect, StableCheckpoint | EpochEnded)]
    assert kinds == [StableCheckpoint, EpochEnded]
    (ended,) = of(EpochEnded, effects)
    assert ended.certificate.checkpoint == own
    assert said(CheckpointCertificate, effects) == [ended.certificate], "a last word for those who miss the proof"


def test_after_its_end_a_replica_takes_and_says_nothing() -> None:
    bench, own = _ended()
    before = _state(bench)
    for message in _everything(bench):
        assert bench.receive(2, message) == [Ignored(2, "epoch-ended")]
    assert bench.ask(bench.request(9)) == []
    assert bench.wait(5_000) == []
    assert _state(bench) == before
    assert own.next == FOLLOWING


def test_nothing_is_prepared_above_a_handover_that_is_due() -> None:
    bench, _ = _changing()
    batch = bench.batch(bench.request(2))
    assert bench.receive(0, bench.pre_prepare(5, batch)) == [Ignored(0, "above-handover")]
    assert bench.receive(2, bench.commit(2, 5, batch)) == [Ignored(2, "above-handover")]
    assert voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(4, batch)))


def test_what_was_committed_above_the_handover_is_abandoned() -> None:
    bench = Bench()
    assert not of(Committed, bench.order(5, bench.batch(bench.request(1, client=3))))
    slot = bench.replica.log.find(5)
    assert slot is not None
    assert slot.committed
    bench.order(1, bench.batch(bench.request(1, CHANGE)))
    effects = _empty(bench, 4)
    assert [effect.entry.sequence for effect in of(Committed, effects)] == [2, 3, 4]
    assert bench.replica.executed == 4
    assert bench.ledger.entries[-1][1] == CHANGE


def test_a_view_change_after_the_handover_goes_on_but_prepares_nothing_above_it() -> None:
    bench = Bench()
    above = bench.batch(bench.request(1, client=3))
    proof = bench.proof(5, above)
    bench.order(1, bench.batch(bench.request(1, CHANGE)))
    _empty(bench, 4)
    entered = bench.new_view(2, *[bench.view_change(who, 2, proof) for who in (0, 2, 3)])
    effects = bench.receive(2, entered)
    assert (bench.replica.view, bench.replica.active) == (2, True)
    assert Ignored(2, "above-handover") in effects
    assert not [vote for vote in voted(Phase.PREPARE, effects) if vote.sequence > 4]


def test_an_entry_of_the_old_epoch_above_the_handover_is_refused_whoever_signed_it() -> None:
    bench = Bench(1, 5, epoch=1, base=_handover())
    old, entries = Bench(), []
    for sequence, batch in enumerate((bench.batch(bench.request(1, CHANGE)), *[_nothing(bench)] * 3), start=1):
        entries.append(_entry(old, sequence, batch))
    state = _state_at_4(entries)
    bench = Bench(1, 5, epoch=1, base=_handover(state))
    lie = _entry(old, 5, bench.batch(bench.request(2)))
    effects = bench.replica.step(CatchUp(bench.now_ms, 2, (*entries, lie)))
    assert bench.replica.executed == 4
    (effect,) = of(Misbehaved, effects)
    assert isinstance(effect.error, WrongEpoch)
    truth = _entry(bench, 5, bench.batch(bench.request(2)))
    bench.replica.step(CatchUp(bench.now_ms, 2, (truth,)))
    assert bench.replica.executed == 5


def test_a_replica_that_follows_the_log_alone_stops_at_the_handover_and_ends_when_it_meets_the_proof() -> None:
    bench, later = Bench(), Bench(1, 5, epoch=1, base=_handover())
    entries = [
        _entry(bench, sequence, batch)
        for sequence, batch in enumerate((bench.batch(bench.request(1, CHANGE)), *[_nothing(bench)] * 3), start=1)
    ]
    beyond = _entry(later, 5, later.batch(later.request(2)))
    effects = bench.replica.step(CatchUp(bench.now_ms, 2, (*entries, beyond)))
    assert (bench.replica.executed, bench.replica.handed_over) == (4, True)
    assert Ignored(2, "later-epoch") in effects
    assert not of(EpochEnded, effects)
    own = Checkpoint(epoch=0, sequence=4, state=_state_at_4(entries), next=FOLLOWING)
    assert of(EpochEnded, bench.receive(3, _certificate(own)))


def test_a_certified_handover_that_is_not_executed_here_stops_the_epoch_and_asks_for_its_state() -> None:
    bench = Bench()
    effects = bench.receive(3, _handover())
    assert [need.certificate for need in of(NeedState, effects)] == [_handover()]
    assert not of(EpochEnded, effects)
    assert bench.receive(0, bench.pre_prepare(5, bench.batch())) == [Ignored(0, "above-handover")]


def test_a_new_epoch_takes_the_snapshot_that_it_begins_with_and_no_other_of_the_old_one() -> None:
    bench, own = _ended()
    snapshot = bench.replica._snapshots[4]
    base = _certificate(own)
    later = Bench(1, 5, epoch=1, base=base)
    other = _certificate(Checkpoint(epoch=0, sequence=8, state=own.state, next=ZERO_DIGEST))
    assert later.replica.step(CatchUp(later.now_ms, 2, (), other, snapshot)) == [Ignored(2, "old-epoch")]
    effects = later.replica.step(CatchUp(later.now_ms, 2, (), base, snapshot))
    assert of(StableCheckpoint, effects)
    assert (later.replica.executed, later.replica.execution.epoch) == (4, 1)
    assert later.ledger.seats == NEXT


# --- recovery


def test_a_new_epoch_forgets_what_was_signed_in_the_one_before() -> None:
    earlier, bench = Bench(), Bench(1, 5, epoch=1, base=_handover())
    batch = earlier.batch()
    records = [
        ViewRecord(epoch=0, view=7),
        *persisted(earlier.receive(0, earlier.pre_prepare(5, batch))),
        *persisted(earlier.receive(2, earlier.prepare(2, 5, batch))),
    ]
    bench.restart(*records)  # type: ignore[arg-type]
    assert (bench.replica.view, bench.replica.active, bench.replica.stable) == (0, True, 4)
    other = bench.batch(bench.request(2))
    assert voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(5, other)))


def test_words_of_a_later_epoch_on_its_disk_stop_a_replica() -> None:
    later, bench = Bench(1, 5, epoch=1, base=_handover()), Bench()
    for record in (ViewRecord(epoch=1, view=1), later.pre_prepare(5, later.batch()), later.proof(5, later.batch())):
        with pytest.raises(InvariantBroken):
            bench.restart(record)
    own, snapshot = _ended()[1], b""
    certificate = _certificate(replace(own, epoch=1, next=ZERO_DIGEST), (0, 1, 2, 3))
    bench.committees[1] = later.committee
    bench.restart()
    with pytest.raises(InvariantBroken):
        bench.replica.step(Recovered(bench.now_ms, (), (), certificate, snapshot))


def test_a_replica_that_crashed_after_the_last_checkpoint_ends_again_when_it_recovers() -> None:
    bench, own = _ended()
    snapshot = bench.replica._snapshots[4]
    again = Bench()
    effects = again.replica.step(Recovered(again.now_ms, (), (), _certificate(own), snapshot))
    assert [effect.certificate.checkpoint for effect in of(EpochEnded, effects)] == [own]


def _ended() -> tuple[Bench, Checkpoint]:
    """A replica of epoch 0 that saw its end, and the checkpoint there."""
    bench, _ = _changing()
    (own,) = [vote.checkpoint for vote in said(CheckpointVote, _empty(bench, 4))]
    for who in (0, 2):
        bench.receive(who, _vote(own, who))
    return bench, own


def _vote(checkpoint: Checkpoint, who: int) -> CheckpointVote:
    return CheckpointVote(checkpoint=checkpoint, signature=signer("replica", who).sign(DOMAIN, checkpoint))


def _entry(bench: Bench, sequence: int, batch: Batch) -> CommittedBatch:
    """An entry that a quorum of the bench's committee signed."""
    signatures = tuple(bench.commit(who, sequence, batch).signature for who in range(bench.committee.quorum))
    return CommittedBatch(epoch=bench.epoch, view=0, sequence=sequence, batch=batch, signatures=signatures)


def _state_at_4(entries: list[CommittedBatch]) -> bytes:
    """The digest of the state that the entries lead to."""
    bench = Bench(2)
    bench.replica.step(CatchUp(bench.now_ms, 3, tuple(entries)))
    return keccak(bench.replica.execution.snapshot())
