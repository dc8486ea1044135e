"""One test for each rule of Castro & Liskov, "Practical Byzantine Fault Tolerance", OSDI 1999; section in the name."""

from __future__ import annotations

import pytest

from koinon.encoding import decode, encode, keccak
from koinon.errors import BadSignature, Malformed, Replayed, UnknownSigner
from koinon.signing import authenticate
from koinon.wire import Phase, Reply
from pbft.certificates import batch_digest
from pbft.events import (
    Committed,
    Evidence,
    Ignored,
    Misbehaved,
    Persist,
    Refuse,
    Respond,
    Send,
    StableCheckpoint,
)
from pbft.messages import (
    NULL_BATCH,
    NULL_DIGEST,
    CheckpointCertificate,
    CheckpointVote,
    NewView,
    PreparedProof,
    PrePrepare,
    Relay,
    SignedNewView,
    SignedViewChange,
    ViewRecord,
)
from pbft.quorum import Committee, faulty_max, quorum
from tests.simulation.world import DOMAIN, committee

from .bench import Bench, of, persisted, said, voted, with_settings

# --- section 3 and 4: sizes and primaries


@pytest.mark.parametrize("n", range(1, 40))
def test_section_3_two_quorums_share_an_honest_replica_and_the_faulty_cannot_stop_one(n: int) -> None:
    assert 2 * quorum(n) - n >= faulty_max(n) + 1
    assert n - faulty_max(n) >= quorum(n)


def test_section_3_four_replicas_tolerate_one_and_need_three() -> None:
    assert (committee(4).f, committee(4).quorum, committee(4).weak) == (1, 3, 2)
    assert (committee(7).f, committee(7).quorum, committee(7).weak) == (2, 5, 3)


def test_section_4_1_the_primary_is_view_modulo_n() -> None:
    assert [committee(4).primary(view) for view in range(6)] == [0, 1, 2, 3, 0, 1]


def test_a_member_is_found_by_address_and_a_stranger_is_not() -> None:
    members = committee(4)
    assert [members.index_of(address) for address in members.members] == [0, 1, 2, 3]
    with pytest.raises(UnknownSigner):
        members.index_of(b"\0" * 20)


def test_a_committee_counts_nobody_twice() -> None:
    with pytest.raises(Exception, match="distinct"):
        Committee((b"\x01" * 20, b"\x01" * 20))


# --- section 4.1: the client


def test_section_4_1_an_executed_request_is_answered_with_a_signed_reply() -> None:
    bench = Bench()
    (respond,) = of(Respond, bench.order(1, bench.batch(bench.request(7))))
    reply = authenticate(Reply, respond.data, DOMAIN)
    assert reply.sender == bench.committee.members[1]
    assert (reply.message.number, reply.message.result) == (7, b"\0\0\0\1do")


def test_section_4_1_a_retransmitted_request_gets_the_cached_reply_and_is_not_executed_again() -> None:
    bench = Bench()
    request = bench.request(7)
    first = of(Respond, bench.order(1, bench.batch(request)))
    again = bench.ask(request)
    assert of(Respond, again) == first
    assert len(bench.ledger.entries) == 1


def test_section_4_1_an_older_request_is_refused_with_a_reason() -> None:
    bench = Bench()
    bench.order(1, bench.batch(bench.request(7)))
    (refuse,) = of(Refuse, bench.ask(bench.request(6)))
    assert isinstance(refuse.error, Replayed)


def test_section_4_1_a_request_ordered_twice_is_executed_once() -> None:
    bench = Bench()
    request = bench.request(1)
    bench.order(1, bench.batch(request))
    (committed,) = of(Committed, bench.order(2, bench.batch(request)))
    assert committed.results == ()
    assert len(bench.ledger.entries) == 1


# --- section 4.2: normal operation


def test_section_4_2_the_primary_assigns_the_next_number_and_multicasts_a_pre_prepare() -> None:
    bench = Bench(0)
    request = bench.request()
    (pre_prepare,) = said(PrePrepare, bench.ask(request))
    assert (pre_prepare.view, pre_prepare.sequence, pre_prepare.batch.requests) == (0, 1, (request,))


def test_section_4_2_a_backup_relays_a_request_to_the_primary() -> None:
    bench = Bench(1)
    request = bench.request()
    effects = bench.ask(request) + bench.wait(500)
    assert said(Relay, effects)[0].request == request
    assert {effect.to for effect in of(Send, effects) if isinstance(effect.message, Relay)} == {0}


def test_section_4_2_a_backup_accepts_a_pre_prepare_and_multicasts_prepare() -> None:
    bench = Bench()
    batch = bench.batch()
    (vote,) = voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(1, batch)))
    assert (vote.view, vote.sequence, vote.digest) == (0, 1, batch_digest(batch))


def test_section_4_2_a_backup_rejects_a_pre_prepare_that_the_primary_did_not_sign() -> None:
    bench = Bench()
    (misbehaved,) = of(Misbehaved, bench.receive(0, bench.pre_prepare(1, bench.batch(), who=2)))
    assert isinstance(misbehaved.error, BadSignature)


def test_section_4_2_a_backup_rejects_a_pre_prepare_of_an_unsigned_request() -> None:
    bench = Bench()
    effects = bench.receive(0, bench.pre_prepare(1, bench.batch(b"no request")))
    assert isinstance(of(Misbehaved, effects)[0].error, Malformed)
    assert not voted(Phase.PREPARE, effects)


def test_section_4_2_a_backup_rejects_a_second_pre_prepare_for_the_same_number_and_keeps_the_evidence() -> None:
    bench = Bench()
    first, second = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    bench.receive(0, bench.pre_prepare(1, first))
    effects = bench.receive(0, bench.pre_prepare(1, second))
    (evidence,) = of(Evidence, effects)
    assert not voted(Phase.PREPARE, effects)
    assert evidence.culprit == 0
    assert evidence.first.vote.digest != evidence.second.vote.digest
    for ballot in (evidence.first, evidence.second):
        assert bench.replica.verifier.member(ballot.vote, ballot.signature) == 0


def test_section_4_2_a_pre_prepare_outside_the_watermarks_is_not_accepted() -> None:
    bench = Bench()
    assert not voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(9, bench.batch())))
    assert voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(8, bench.batch())))


def test_section_4_2_a_message_of_another_view_has_no_effect_in_this_one() -> None:
    bench = Bench(2)
    effects = bench.receive(1, bench.pre_prepare(1, bench.batch(), view=1))
    assert [type(effect) for effect in effects] == [Ignored]


def test_section_4_2_the_primary_sends_no_prepare_and_none_is_counted() -> None:
    primary, bench = Bench(0), Bench(1)
    assert not voted(Phase.PREPARE, primary.ask(primary.request()))
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    assert of(Misbehaved, bench.receive(0, bench.prepare(0, 1, batch)))
    assert not bench.replica.log.slot(1).prepared


def test_section_4_2_prepared_needs_the_pre_prepare_and_2f_matching_prepares_then_commit_is_multicast() -> None:
    bench = Bench()
    batch, other = bench.batch(), bench.batch(bench.request(2))
    assert not voted(Phase.COMMIT, bench.receive(0, bench.pre_prepare(1, batch)))
    assert not voted(Phase.COMMIT, bench.receive(2, bench.prepare(2, 1, other)))
    (vote,) = voted(Phase.COMMIT, bench.receive(3, bench.prepare(3, 1, batch)))
    assert vote.digest == batch_digest(batch)


def test_section_4_2_prepares_may_come_before_the_pre_prepare() -> None:
    bench = Bench()
    batch = bench.batch()
    bench.receive(2, bench.prepare(2, 1, batch))
    assert voted(Phase.COMMIT, bench.receive(0, bench.pre_prepare(1, batch)))


def test_section_4_2_one_replica_is_one_prepare_however_often_it_is_sent() -> None:
    bench = Bench(1, 7)
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    for _ in range(5):
        effects = bench.receive(2, bench.prepare(2, 1, batch))
    assert not voted(Phase.COMMIT, effects)


def test_section_4_2_committed_local_needs_2f_plus_1_commits() -> None:
    bench = Bench()
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    bench.receive(2, bench.prepare(2, 1, batch))
    assert not of(Committed, bench.receive(2, bench.commit(2, 1, batch)))
    (committed,) = of(Committed, bench.receive(3, bench.commit(3, 1, batch)))
    bench.replica.verifier.entry(committed.entry)
    assert len(committed.entry.signatures) == 3


def test_section_4_2_commits_alone_do_not_commit_what_is_not_prepared() -> None:
    bench = Bench()
    batch = bench.batch()
    for who in (0, 2, 3):
        bench.receive(who, bench.commit(who, 1, batch))
    assert not of(Committed, bench.receive(0, bench.pre_prepare(1, batch)))
    assert of(Committed, bench.receive(2, bench.prepare(2, 1, batch)))


def test_section_4_2_requests_are_executed_in_the_order_of_their_numbers() -> None:
    bench = Bench()
    first, second = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    assert not of(Committed, bench.order(2, second))
    assert [one.entry.sequence for one in of(Committed, bench.order(1, first))] == [1, 2]


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.COMMIT])
def test_section_4_2_two_votes_of_one_replica_are_evidence_and_the_first_counts(phase: Phase) -> None:
    bench = Bench()
    bench.receive(2, bench.vote(2, phase, 0, 1, b"\1" * 32))
    (evidence,) = of(Evidence, bench.receive(2, bench.vote(2, phase, 0, 1, b"\2" * 32)))
    assert (evidence.culprit, evidence.first.vote.digest) == (2, b"\1" * 32)
    assert bench.replica.log.slot(1).votes(phase)[2].vote.digest == b"\1" * 32


def test_a_word_is_written_down_before_it_is_said() -> None:
    """Not in the paper, which lets replicas keep their memory; ours are restarted."""
    bench = Bench()
    batch = bench.batch()
    accepted = bench.receive(0, bench.pre_prepare(1, batch))
    assert [type(effect) for effect in accepted] == [Persist, Send]
    prepared = bench.receive(2, bench.prepare(2, 1, batch))
    assert [type(effect) for effect in prepared] == [Persist, Send]
    assert isinstance(persisted(prepared)[0], PreparedProof)


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
    lie = bench.sign_new_view(NewView(view=1, view_changes=changes, proposals=()))
    (misbehaved,) = of(Misbehaved, bench.receive(1, lie))
    assert "do not follow" in misbehaved.error.message
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
