"""Castro & Liskov 1999, sections 4.4 and 4.5: view changes and liveness. One test a rule."""

from __future__ import annotations

from koinon.encoding import decode, encode, keccak
from koinon.wire import Phase
from pbft.certificates import batch_digest
from pbft.events import (
    Committed,
    Ignored,
    Misbehaved,
    Persist,
    Send,
    Tick,
)
from pbft.messages import (
    NULL_BATCH,
    NULL_DIGEST,
    CheckpointCertificate,
    NewView,
    PreparedProof,
    SignedNewView,
    SignedViewChange,
    ViewRecord,
)

from .bench import Bench, of, said, voted

# --- section 4.4: view changes


def _timeout(bench: Bench) -> list[object]:
    bench.ask(bench.request(50))
    return bench.wait(2_200)  # type: ignore[return-value]


def test_section_4_4_a_backup_whose_request_is_not_executed_in_time_starts_a_view_change() -> None:
    bench = Bench()
    effects = _timeout(bench)
    (change,) = {signed.message.view for signed in said(SignedViewChange, effects)}  # type: ignore[arg-type]
    assert change == 1
    assert not bench.replica.active


def test_section_4_4_a_backup_without_a_waiting_request_does_not() -> None:
    bench = Bench()
    assert not said(SignedViewChange, bench.wait(10_000))


def test_a_backup_that_was_stopped_itself_does_not_blame_the_primary_for_that_time() -> None:
    bench = Bench()
    bench.ask(bench.request(50))
    bench.wait(300)
    bench.now_ms += 5_000
    woken = bench.replica.step(Tick(bench.now_ms, stopped_ms=4_500))
    assert not said(SignedViewChange, woken)
    assert not said(SignedViewChange, bench.wait(1_000))
    assert said(SignedViewChange, bench.wait(500)), "what it waited awake counts on: 300 + 500 + 1000 ms, and some"


def test_a_new_view_is_waited_for_as_long_by_a_replica_that_was_stopped_meanwhile() -> None:
    bench = Bench(2)
    _timeout(bench)
    for who in (0, 3):
        bench.receive(who, bench.view_change(who, 1))
    bench.now_ms += 20_000
    bench.replica.step(Tick(bench.now_ms, stopped_ms=19_500))
    assert bench.replica.view == 1
    bench.wait(4_000)
    assert bench.replica.view == 2


def test_section_4_4_after_a_view_change_nothing_more_is_accepted_in_the_old_view() -> None:
    bench = Bench(2)
    _timeout(bench)
    effects = bench.receive(0, bench.pre_prepare(1, bench.batch()))
    assert [type(effect) for effect in effects] == [Ignored]


def test_section_4_4_the_view_change_carries_a_proof_for_each_prepared_batch() -> None:
    bench = Bench(2)
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    bench.receive(0, bench.pre_prepare(2, bench.batch(bench.request(2))))
    bench.receive(1, bench.prepare(1, 1, batch))
    signed = said(SignedViewChange, _timeout(bench))[0]  # type: ignore[arg-type]
    (proof,) = signed.message.prepared
    assert (proof.sequence, proof.digest) == (1, batch_digest(batch))
    bench.replica.verifier.proof(proof)


def test_section_4_4_the_new_primary_waits_for_2f_plus_1_view_changes_then_multicasts_new_view() -> None:
    bench = Bench(1)
    _timeout(bench)
    assert not said(SignedNewView, bench.receive(2, bench.view_change(2, 1)))
    (signed,) = said(SignedNewView, bench.receive(3, bench.view_change(3, 1)))
    assert (signed.message.view, len(signed.message.view_changes)) == (1, 3)
    assert bench.replica.active


def test_section_4_4_o_proposes_what_was_prepared_in_the_highest_view_and_null_requests_in_gaps() -> None:
    bench = Bench(1)
    old, young = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    view = 5
    changes = [
        bench.view_change(0, view, bench.proof(3, old, view=0)),
        bench.view_change(2, view, bench.proof(1, old, view=2), bench.proof(3, young, view=4)),
        bench.view_change(3, view),
    ]
    effects = []
    for who, change in zip((0, 2, 3), changes, strict=True):
        effects += bench.receive(who, change)
    (signed,) = said(SignedNewView, effects)
    proposed = [(proposal.sequence, proposal.digest) for proposal in signed.message.proposals]
    assert proposed == [(1, batch_digest(old)), (2, NULL_DIGEST), (3, batch_digest(young))]


def test_section_4_4_a_backup_enters_a_proven_new_view_and_prepares_its_proposals() -> None:
    bench = Bench(2)
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    bench.receive(3, bench.prepare(3, 1, batch))
    changes = [
        bench.view_change(1, 1),
        bench.view_change(2, 1, bench.proof(1, batch)),
        bench.view_change(3, 1),
    ]
    effects = bench.receive(1, bench.new_view(1, *changes))
    (vote,) = voted(Phase.PREPARE, effects)
    assert (vote.view, vote.sequence, vote.digest) == (1, 1, batch_digest(batch))
    assert (bench.replica.view, bench.replica.active) == (1, True)


def test_section_4_4_a_null_request_executes_as_nothing() -> None:
    bench = Bench(2)
    batch = bench.batch()
    changes = [bench.view_change(who, 1, *proofs) for who, proofs in ((0, ()), (1, (bench.proof(2, batch),)), (3, ()))]
    bench.receive(1, bench.new_view(1, *changes))
    effects = []
    for who in (0, 3):
        effects += bench.receive(who, bench.prepare(who, 1, NULL_BATCH, view=1))
    for who in (0, 1, 3):
        effects += bench.receive(who, bench.commit(who, 1, NULL_BATCH, view=1))
    (committed,) = of(Committed, effects)
    assert (committed.entry.batch, committed.results) == (NULL_BATCH, ())
    assert bench.ledger.entries == ()


def test_section_4_4_a_backup_recomputes_o_and_rejects_a_new_view_that_leaves_a_prepared_batch_out() -> None:
    bench = Bench(2)
    changes = (bench.view_change(0, 1, bench.proof(1, bench.batch())), bench.view_change(1, 1), bench.view_change(3, 1))
    lie = bench.sign_new_view(NewView(epoch=0, view=1, view_changes=changes, proposals=()))
    misbehaved = of(Misbehaved, bench.receive(1, lie))
    assert ["do not follow" in one.error.message for one in misbehaved] == [True]
    assert bench.replica.view == 0


def test_section_4_4_a_new_view_needs_2f_plus_1_distinct_view_changes() -> None:
    bench = Bench(2)
    twice = (bench.view_change(1, 1), bench.view_change(3, 1), bench.view_change(3, 1))
    for changes in (twice, twice[:2]):
        assert of(Misbehaved, bench.receive(1, bench.new_view(1, *changes)))
    assert bench.replica.view == 0


def test_section_4_4_only_the_primary_of_a_view_can_begin_it() -> None:
    bench = Bench(2)
    changes = tuple(bench.view_change(who, 1) for who in (0, 1, 3))
    honest = bench.new_view(1, *changes)
    stolen = bench.view_change(3, 1)
    forged = SignedNewView(message=honest.message, signature=stolen.signature)
    assert of(Misbehaved, bench.receive(3, forged))
    assert bench.replica.view == 0


def _forged(bench: Bench, **changes: object) -> PreparedProof:
    honest = bench.proof(1, bench.batch())
    fields = {name: getattr(honest, name) for name in honest.__struct_fields__}
    return PreparedProof(**{**fields, **changes})  # type: ignore[arg-type]


def test_section_4_4_a_view_change_with_a_forged_proof_is_rejected() -> None:
    bench = Bench(2)
    honest = bench.proof(1, bench.batch())
    primary = bench.prepare(0, 1, bench.batch()).signature
    lies = [
        _forged(bench, digest=b"\3" * 32),
        _forged(bench, prepares=honest.prepares[:1]),
        _forged(bench, prepares=honest.prepares[:1] * 2),
        _forged(bench, prepares=(honest.prepares[0], primary)),
        _forged(bench, pre_prepare=honest.prepares[0]),
        _forged(bench, sequence=2),
        _forged(bench, view=1),
        bench.proof(9, bench.batch()),
    ]
    for lie in lies:
        assert of(Misbehaved, bench.receive(3, bench.view_change(3, 1, lie))), lie
    assert 3 not in bench.replica._view_changes


def test_section_4_4_a_view_change_with_a_forged_checkpoint_is_rejected() -> None:
    bench = Bench(2)
    votes = [bench.checkpoint(who, 4, b"\5" * 32) for who in (0, 1)]
    certificate = CheckpointCertificate(
        checkpoint=votes[0].checkpoint, signatures=tuple(vote.signature for vote in votes)
    )
    assert of(Misbehaved, bench.receive(3, bench.view_change(3, 1, stable=certificate)))


def test_section_4_4_min_s_is_the_highest_stable_checkpoint_and_who_lacks_it_fetches_the_state() -> None:
    bench = Bench(2)
    votes = [bench.checkpoint(who, 4, b"\5" * 32) for who in (0, 1, 3)]
    stable = CheckpointCertificate(checkpoint=votes[0].checkpoint, signatures=tuple(vote.signature for vote in votes))
    changes = (bench.view_change(0, 1, stable=stable), bench.view_change(1, 1), bench.view_change(3, 1))
    effects = bench.receive(1, bench.new_view(1, *changes))
    assert (bench.replica.stable, bench.replica.executed, bench.replica.view) == (4, 0, 1)
    assert any(type(effect).__name__ == "NeedState" for effect in effects)


# --- section 4.5: liveness


def test_section_4_5_2_f_plus_1_view_changes_for_later_views_pull_a_replica_to_the_smallest_of_them() -> None:
    bench = Bench(2)
    assert not said(SignedViewChange, bench.receive(3, bench.view_change(3, 7)))
    (signed,) = said(SignedViewChange, bench.receive(0, bench.view_change(0, 5)))
    assert signed.message.view == 5


def test_section_4_5_2_one_liar_alone_moves_nobody() -> None:
    bench = Bench(2)
    for view in (1, 5, 10**6):
        bench.receive(3, bench.view_change(3, view))
    assert (bench.replica.view, bench.replica.active) == (0, True)


def test_section_4_5_2_without_a_quorum_of_view_changes_the_timer_does_not_run() -> None:
    bench = Bench(2)
    _timeout(bench)
    bench.wait(60_000)
    assert bench.replica.view == 1


def test_section_4_5_2_a_view_that_does_not_begin_in_time_is_left_and_the_timeout_doubles_up_to_its_cap() -> None:
    bench = Bench(2)
    _timeout(bench)
    for who in (0, 3):
        bench.receive(who, bench.view_change(who, 1))
    assert bench.replica.view_timeout_ms == 4_000
    bench.wait(3_900)
    assert bench.replica.view == 1
    bench.wait(200)
    assert (bench.replica.view, bench.replica.view_timeout_ms) == (2, 8_000)
    bench.replica._attempts = 60
    assert bench.replica.view_timeout_ms == bench.replica.settings.view_timeout_ms_max


def test_a_view_that_was_left_is_written_down_before_the_view_change_is_sent() -> None:
    bench = Bench(2)
    effects = _timeout(bench)
    kinds = [type(one.record if isinstance(one, Persist) else getattr(one, "message", None)) for one in effects]
    assert kinds.index(ViewRecord) < kinds.index(SignedViewChange)


def test_votes_are_typed_so_that_a_contract_can_check_them() -> None:
    bench = Bench()
    (send,) = of(Send, bench.receive(0, bench.pre_prepare(1, bench.batch())))
    assert decode(type(send.message), encode(send.message)) == send.message


def test_section_4_4_the_timer_stops_once_the_request_is_executed() -> None:
    bench = Bench(2)
    request = bench.request(1)
    bench.ask(request)
    bench.order(1, bench.batch(request))
    assert not said(SignedViewChange, bench.wait(20_000))
    assert bench.replica.active


def test_section_4_4_a_view_change_tells_of_nothing_below_its_stable_checkpoint() -> None:
    bench = Bench(2)
    for sequence in range(1, 6):
        bench.order(sequence, bench.batch(bench.request(sequence)))
    state = keccak(bench.replica._snapshots[4])
    for who in (0, 1, 3):
        bench.receive(who, bench.checkpoint(who, 4, state))
    signed = said(SignedViewChange, _timeout(bench))[0]  # type: ignore[arg-type]
    assert signed.message.stable.checkpoint.sequence == 4
    assert [proof.sequence for proof in signed.message.prepared] == [5]


def test_section_4_5_1_no_view_is_skipped_while_one_is_awaited_but_for_f_plus_1() -> None:
    """A replica that left for view 1 stays there until the timer or f+1 others move it."""
    bench = Bench(2)
    _timeout(bench)
    bench.receive(3, bench.view_change(3, 9))
    assert bench.replica.view == 1
    bench.receive(0, bench.view_change(0, 8))
    assert bench.replica.view == 8
