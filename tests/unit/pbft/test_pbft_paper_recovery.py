"""A replica that lost its journal, rule by rule (Castro & Liskov, TOCS 2002, section 4.3, estimation of where others
stand; Liskov & Cowling, Viewstamped Replication Revisited, section 4.3, asking afresh; ADR 0026)."""

from __future__ import annotations

import pytest

from pbft.events import Committed, Effect, GaveUp, Ignored, Misbehaved, Recovered, Send, StableCheckpoint
from pbft.messages import (
    Ballot,
    CheckpointVote,
    PrePrepare,
    Recovering,
    RecoveryRequest,
    RecoveryResponse,
    SignedNewView,
    SignedRecoveryRequest,
    SignedViewChange,
    Status,
)
from pbft.rejoin import RECOVERY_VIEWS_MAX
from tests.simulation.world import DOMAIN, signer
from tests.unit.pbft.bench import SETTINGS, Bench, of, persisted, said

LOST = Recovering(epoch=0, view=0, over=False)


def _wiped(index: int = 1, n: int = 4) -> Bench:
    bench = Bench(index, n)
    bench.restart(LOST)
    return bench


def _tell(bench: Bench, *views: int, since_ms: int | None = None) -> list[Effect]:
    """The others, in order, say where they stand."""
    since_ms = bench.replica._since_ms if since_ms is None else since_ms
    effects: list[Effect] = []
    for peer, view in zip(bench.others(), views, strict=False):
        effects += bench.receive(peer, RecoveryResponse(epoch=0, since_ms=since_ms, view=view))
    return effects


def _request(who: int, view: int, since_ms: int = 7) -> SignedRecoveryRequest:
    asked = RecoveryRequest(epoch=0, since_ms=since_ms, view=view)
    return SignedRecoveryRequest(message=asked, signature=signer("replica", who).sign(DOMAIN, asked))


def _begin(bench: Bench, view: int, *proposed: int) -> list[Effect]:
    """The NEW-VIEW of `view`, which proposes again what the others prepared in view 0."""
    proofs = [bench.proof(sequence, bench.batch(bench.request(sequence))) for sequence in proposed]
    changes = [bench.view_change(who, view, *proofs) for who in bench.others()[: bench.committee.quorum]]
    return bench.receive(bench.committee.primary(view), bench.new_view(view, *changes))


def _words(effects: list[Effect]) -> list[object]:
    kinds = (Ballot, PrePrepare, SignedViewChange, SignedNewView)
    return [word for kind in kinds for word in said(kind, effects)]


def test_tocs_4_3_a_replica_without_its_journal_votes_for_nothing_and_executes_what_others_commit() -> None:
    bench = _wiped()
    effects = bench.order(1, bench.batch())
    assert of(Committed, effects)
    assert not _words(effects)
    assert not [one for one in persisted(effects) if not isinstance(one, Recovering)]
    assert bench.replica.silent


def test_a_replica_whose_journal_is_empty_but_there_votes_at_once() -> None:
    bench = Bench()
    bench.restart()
    assert said(Ballot, bench.receive(0, bench.pre_prepare(1, bench.batch())))


def test_vr_revisited_4_3_it_asks_everybody_again_and_again_and_names_its_start() -> None:
    bench = _wiped()
    for _ in range(2):
        (asked,) = said(SignedRecoveryRequest, bench.wait(SETTINGS.status_ms))
        assert asked.message == RecoveryRequest(epoch=0, since_ms=bench.replica._since_ms, view=0)
        assert bench.replica.verifier.member(asked.message, asked.signature) == 1


def test_vr_revisited_4_3_answers_to_an_earlier_start_do_not_count() -> None:
    bench = _wiped()
    _tell(bench, 0, 0, 0, since_ms=bench.replica._since_ms - 1)
    assert bench.replica.speaks_from is None


def test_an_answer_that_names_no_view_to_speak_from_is_its_senders_fault() -> None:
    """Else the next request would name a view that no message can carry, and honest peers would bar who sent it."""
    bench = _wiped()
    assert of(Misbehaved, _tell(bench, 2**63 - 1))
    _tell(bench, 5, 5, 5)
    assert bench.replica.speaks_from == 6


def test_tocs_4_3_it_needs_2f_plus_1_others_that_remember() -> None:
    bench = _wiped()
    _tell(bench, 3, 3)
    bench.receive(0, RecoveryResponse(epoch=0, since_ms=bench.replica._since_ms, view=9))
    assert bench.replica.speaks_from is None
    assert "2 did" in bench.replica.waits_for
    _tell(bench, 3, 3, 5)
    assert bench.replica.speaks_from == 6, "above the highest of them, for it may have left that one, too"
    (asked,) = said(SignedRecoveryRequest, bench.wait(SETTINGS.status_ms))
    assert asked.message.view == 6


def test_tocs_4_3_fewer_than_f_liars_cannot_put_it_off_for_ever() -> None:
    bench = _wiped(1, 7)
    _tell(bench, 10**9, 10**9, 2, 2, 3)
    assert bench.replica.speaks_from == 10**9 + 1
    _tell(bench, 10**9, 10**9, 2, 2, 3, 3)
    assert bench.replica.speaks_from == 10**9 + 1, "five of six, one of them a liar's"
    bench = _wiped(1, 7)
    _tell(bench, 10**9, 2, 2, 2, 3, 3)
    assert bench.replica.speaks_from == 4


def test_it_stays_silent_in_a_view_that_it_may_have_spoken_in_and_speaks_in_a_later_one() -> None:
    bench = _wiped()
    _begin(bench, 2)
    assert not _words(bench.receive(2, bench.pre_prepare(1, bench.batch(), view=2)))
    _tell(bench, 2, 2, 2)
    assert bench.replica.speaks_from == 3
    effects = _begin(bench, 3)
    assert Recovering(epoch=0, view=3, over=False) in persisted(effects)
    assert said(Ballot, bench.receive(3, bench.pre_prepare(1, bench.batch(), view=3)))


def test_it_asks_for_no_view_change_and_joins_none() -> None:
    bench = _wiped()
    effects = bench.ask(bench.request(1)) + bench.wait(2 * SETTINGS.view_timeout_ms)
    for who in (0, 2, 3):
        effects += bench.receive(who, bench.view_change(who, 2))
    assert not _words(effects)
    assert (bench.replica.view, bench.replica.active) == (0, True)


def test_as_the_next_primary_it_begins_the_view_with_the_changes_of_a_quorum_of_others() -> None:
    bench = _wiped(1)
    _tell(bench, 0, 0, 0)
    batch = bench.batch()
    effects = bench.receive(0, bench.view_change(0, 1, bench.proof(1, batch)))
    effects += bench.receive(2, bench.view_change(2, 1))
    assert not _words(effects)
    effects = bench.receive(3, bench.view_change(3, 1))
    (begun,) = said(SignedNewView, effects)
    members = [bench.replica.verifier.member(one.message, one.signature) for one in begun.message.view_changes]
    assert sorted(members) == [0, 2, 3]
    assert [proposal.sequence for proposal in begun.message.proposals] == [1]
    assert persisted(effects)[0] == Recovering(epoch=0, view=1, over=False)


def test_it_is_back_once_all_that_the_view_proposes_again_is_prepared_and_then_its_view_change_proves_it() -> None:
    bench = _wiped(2)
    _tell(bench, 0, 0, 0)
    batch = bench.batch(bench.request(1))
    bench.order(1, batch)  # executed from the votes of others, in a view in which we may have voted otherwise
    changes = [bench.view_change(who, 1, bench.proof(1, batch)) for who in (0, 1, 3)]
    effects = bench.receive(1, bench.new_view(1, *changes))
    assert said(Ballot, effects), "it votes again"
    assert bench.replica.recovering
    assert "entry 1" in bench.replica.waits_for
    (status,) = said(Status, bench.wait(SETTINGS.status_ms))
    assert status.executed == 0, "so that peers send their votes again"
    assert not said(SignedViewChange, bench.wait(4 * SETTINGS.view_timeout_ms))
    effects = []
    for who in (0, 3):
        effects += bench.receive(who, bench.prepare(who, 1, batch, view=1))
    assert persisted(effects)[-1] == Recovering(epoch=0, view=1, over=True)
    assert not bench.replica.recovering
    bench.ask(bench.request(2))
    (change,) = said(SignedViewChange, bench.wait(SETTINGS.view_timeout_ms + 100))[:1]
    assert [(proof.sequence, proof.view) for proof in change.message.prepared] == [(1, 1)]


def test_a_view_that_proposes_nothing_again_ends_the_recovery_at_once() -> None:
    bench = _wiped()
    _tell(bench, 1, 1, 1)
    effects = _begin(bench, 2)
    assert not bench.replica.recovering
    assert bench.replica.waits_for == ""
    assert persisted(effects)[-1] == Recovering(epoch=0, view=2, over=True)


# --- its own second crash


def test_a_second_crash_forgets_neither_the_silence_nor_where_it_ends() -> None:
    bench = _wiped(2)
    batch = bench.batch()
    written = persisted(bench.order(1, batch))
    bench.restart(LOST, *written)  # type: ignore[arg-type]
    assert bench.replica.silent
    _tell(bench, 0, 0, 0)
    changes = [bench.view_change(who, 1, bench.proof(1, batch)) for who in (0, 1, 3)]
    written = persisted(bench.receive(1, bench.new_view(1, *changes)))
    bench.restart(LOST, *written)  # type: ignore[arg-type]
    assert (bench.replica.view, bench.replica.silent, bench.replica.recovering) == (1, False, True)
    assert not said(SignedViewChange, bench.ask(bench.request(3)) + bench.wait(9_000))
    bench.restart(LOST, *written, Recovering(epoch=0, view=1, over=True))  # type: ignore[arg-type]
    assert not bench.replica.recovering


def test_the_journal_that_a_checkpoint_leaves_still_says_that_words_are_lost() -> None:
    bench = _wiped()
    effects: list[Effect] = []
    for sequence in range(1, 5):
        effects += bench.order(sequence, bench.batch(bench.request(sequence)))
    (own,) = said(CheckpointVote, effects)
    for who in bench.others():
        effects += bench.receive(who, bench.checkpoint(who, 4, own.checkpoint.state))
    (stable,) = of(StableCheckpoint, effects)
    assert stable.retained[0] == LOST


def test_what_was_lost_in_an_earlier_epoch_is_lost_in_this_one() -> None:
    bench = Bench(1, epoch=1)
    bench.restart(Recovering(epoch=0, view=4, over=False))
    assert bench.replica.silent
    assert bench.replica.speaks_from is None
    bench.restart(Recovering(epoch=0, view=4, over=False), Recovering(epoch=0, view=4, over=True))
    assert not bench.replica.recovering


# --- its peers


def test_vr_revisited_4_3_a_peer_says_where_it_stands_but_not_one_that_is_recovering_itself() -> None:
    bench = Bench()
    bench.receive(2, _request(2, view=0, since_ms=9))
    effects = bench.receive(3, _request(3, view=0, since_ms=8))
    assert [(sent.to, sent.message) for sent in of(Send, effects)] == [
        (3, RecoveryResponse(epoch=0, since_ms=8, view=0))
    ]
    assert not of(Send, _wiped().receive(3, _request(3, view=1)))


def test_a_peer_leaves_for_the_next_view_only_and_hands_the_request_on() -> None:
    bench = Bench()
    asked = _request(3, view=10**12)
    effects = bench.receive(3, asked)
    assert of(GaveUp, effects) == [GaveUp(0, "recovery", 0, 0)]
    assert said(SignedRecoveryRequest, effects) == [asked]
    assert said(SignedViewChange, effects)[0].message.view == 1
    assert not said(SignedViewChange, bench.receive(3, asked)), "one view at a time"


def test_a_request_that_was_handed_on_moves_a_view_and_is_answered_by_nobody() -> None:
    bench = Bench()
    effects = bench.receive(2, _request(3, view=1))
    assert said(SignedViewChange, effects)
    assert not said(RecoveryResponse, effects)


def test_who_stands_in_the_asked_view_already_stays() -> None:
    bench = Bench()
    _begin(bench, 2)
    assert not said(SignedViewChange, bench.receive(3, _request(3, view=2)))


def test_one_replica_moves_few_views_a_minute_so() -> None:
    bench, moved = Bench(2), 0
    for turn in range(3 * RECOVERY_VIEWS_MAX):
        moved += len(said(SignedViewChange, bench.receive(3, _request(3, view=100 + turn))))
        if not bench.replica.active:
            _begin(bench, bench.replica.view)
    assert moved == RECOVERY_VIEWS_MAX
    assert of(Ignored, bench.receive(3, _request(3, view=200)))[-1].reason == "recovery-too-often"
    bench.now_ms += SETTINGS.recovery_ms
    assert said(SignedViewChange, bench.receive(3, _request(3, view=200)))


def test_nobody_asks_in_the_name_of_another_one() -> None:
    bench, asked = Bench(), RecoveryRequest(epoch=0, since_ms=1, view=1)
    forged = SignedRecoveryRequest(message=asked, signature=signer("client", 0).sign(DOMAIN, asked))
    assert of(Misbehaved, bench.receive(3, forged))
    assert bench.replica.active


@pytest.mark.parametrize("records", [(), (LOST,)])
def test_recovery_is_asked_for_only_by_who_lost_something(records: tuple[Recovering, ...]) -> None:
    bench = Bench()
    bench.restart(*records)
    bench.replica.step(Recovered(bench.now_ms, records))
    assert bool(said(SignedRecoveryRequest, bench.wait(1_000))) == bool(records)
