"""Known bugs of PBFT implementations, put in one at a time: simulation must catch each of them (`gate.py`).

This judges the checkers, not the replica: a simulation that passes whatever the code does proves nothing. A mutation
is a function that patches the code; its docstring says what is wrong then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

import pbft.view_change
import pbft.views
from koinon.errors import Malformed
from koinon.wire import CheckpointCertificate
from pbft.certificates import Verifier
from pbft.core import Core
from pbft.execution import Execution
from pbft.log import LastSigned, Slot
from pbft.messages import NULL_DIGEST, SignedNewView, ViewChange
from pbft.ordering import Ordering
from pbft.quorum import Committee
from pbft.rejoin import Rejoin
from pbft.replica import Replica
from pbft.views import Views

from .storage import Disk

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutation:
    """`story` names the test that must fail; without one, some seed below SEEDS_MAX must."""

    name: str
    wrong: str
    patch: Patch
    story: str | None


MUTATIONS: dict[str, Mutation] = {}


def mutation(story: str | None = None) -> Callable[[Patch], Patch]:
    """Registers a mutation under its function's name."""

    def register(patch: Patch) -> Patch:
        name = patch.__name__.replace("_", " ")
        MUTATIONS[name] = Mutation(name, (patch.__doc__ or "").strip(), patch, story)
        return patch

    return register


# --- quorums and signatures


@mutation()
def quorum_of_2f(patch: pytest.MonkeyPatch) -> None:
    """2f votes make a certificate: two of them may share only a liar."""
    patch.setattr(Committee, "quorum", property(lambda self: max(1, 2 * self.f)))


@mutation()
def signatures_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Whoever speaks is believed to be anybody: each vote counts as that of the next member."""
    votes = count()
    patch.setattr(Verifier, "member", lambda self, *_, **__: next(votes) % self.committee.n)


@mutation(story="simulation.test_hard_stories::test_false_checkpoints_move_no_watermark")
def one_signer_counts_often(patch: pytest.MonkeyPatch) -> None:
    """Signatures are counted, not signers."""

    def distinct(self: Any, message: Any, signatures: Any, committee: Any, needed: int, what: str) -> set[int]:
        return {self.member(message, one, committee) for one in signatures} if len(signatures) >= needed else set()

    patch.setattr(Verifier, "_distinct", distinct)


@mutation()
def votes_of_any_digest_count(patch: pytest.MonkeyPatch) -> None:
    """A quorum is counted without comparing what its members voted for."""
    patch.setattr(Slot, "matching", lambda self, phase: sorted(self.votes(phase).items()))


@mutation()
def anybody_may_propose(patch: pytest.MonkeyPatch) -> None:
    """A pre-prepare need not be from the view's primary."""
    patch.setattr(Verifier, "primary_signed", lambda *_: None)


@mutation()
def commit_without_prepared(patch: pytest.MonkeyPatch) -> None:
    """COMMIT is said as soon as there is a pre-prepare, without 2f prepares."""
    honest = Ordering._try_prepared

    def hasty(self: Any, slot: Slot) -> None:
        full = self.committee.quorum
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Committee, "quorum", property(lambda _: 1))
            inner.setattr(Ordering, "_try_committed", lambda *_: None)
            honest(self, slot)
        assert self.committee.quorum == full
        self._try_committed(slot)

    patch.setattr(Ordering, "_try_prepared", hasty)


@mutation()
def second_proposal_accepted(patch: pytest.MonkeyPatch) -> None:
    """A backup votes for a second pre-prepare of a number when it comes."""
    patch.setattr(
        Ordering, "_report_primary", lambda self, slot, message, named: self._vote_prepare(slot, message, named)
    )


# --- execution and checkpoints


@mutation()
def executes_twice(patch: pytest.MonkeyPatch) -> None:
    """No client table: a request that is ordered twice takes effect twice."""
    honest = Execution._apply_one

    def apply(self: Any, data: bytes) -> Any:
        self._clients.clear()
        return honest(self, data)

    patch.setattr(Execution, "_apply_one", apply)
    patch.setattr(Execution, "last", lambda self, client: None)


@mutation()
def executes_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """Whatever is committed is executed at once, before lower numbers."""

    def ready(self: Any) -> None:
        for slot in self.log:
            if slot.committed and slot.view == self.view and slot.executed is None:
                self.execution.sequence = slot.sequence - 1
                self._execute(slot.entry(self.committee.quorum), answer=True)

    patch.setattr(Ordering, "_execute_ready", ready)


@mutation()
def clients_not_in_the_snapshot(patch: pytest.MonkeyPatch) -> None:
    """Who takes a snapshot over forgets which requests were executed."""
    honest = Execution.restore

    def restore(self: Any, *snapshot: Any) -> None:
        honest(self, *snapshot)
        self._clients = {}

    patch.setattr(Execution, "restore", restore)


@mutation()
def watermarks_never_move(patch: pytest.MonkeyPatch) -> None:
    """A stable checkpoint truncates nothing, and the window stays where it was."""
    patch.setattr(Core, "_advance", lambda self, certificate: None)


@mutation(story="simulation.test_hard_stories::test_false_checkpoints_move_no_watermark")
def checkpoint_certificate_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Anybody's certificate moves the watermarks."""
    patch.setattr(Verifier, "checkpoint", lambda self, certificate: None)


@mutation(story="simulation.test_hard_stories::test_false_state_from_a_peer_is_not_taken")
def entries_unchecked_in_state_transfer(patch: pytest.MonkeyPatch) -> None:
    """What a peer's archive holds is executed without its quorum of COMMITs."""
    patch.setattr(Verifier, "entry", lambda self, *_: None)


@mutation(
    story="simulation.test_hard_stories::test_one_peer_that_claims_to_be_far_ahead_and_proposes_nothing_stops_nobody"
)
def one_peer_believed(patch: pytest.MonkeyPatch) -> None:
    """The highest claim of any single peer says how far the committee is."""
    highest = property(lambda self: max((one.executed for one in self._statuses.values()), default=0))
    patch.setattr(Replica, "claimed", highest)


# --- view changes


def _select(patch: pytest.MonkeyPatch, select: Callable[[list[ViewChange]], Any]) -> None:
    def both(changes: Iterable[ViewChange]) -> Any:
        return select(list(changes))

    patch.setattr(pbft.views, "select", both)
    patch.setattr(pbft.view_change, "select", both)


_honest_select = pbft.view_change.select


@mutation()
def empty_o(patch: pytest.MonkeyPatch) -> None:
    """A new view proposes nothing of what was prepared before."""
    _select(patch, lambda changes: (_honest_select(changes)[0], []))


@mutation(story="simulation.test_hard_stories::test_what_prepared_in_the_highest_view_is_proposed_again")
def lower_view_preferred(patch: pytest.MonkeyPatch) -> None:
    """Of two proofs for one number, that of the lower view is taken."""

    def select(changes: list[ViewChange]) -> tuple[CheckpointCertificate, list[tuple[int, bytes]]]:
        stable, chosen = _honest_select(changes)
        proofs = sorted((one for change in changes for one in change.prepared), key=lambda one: -one.view)
        lowest = {proof.sequence: proof.digest for proof in proofs}
        return stable, [(number, lowest.get(number, digest)) for number, digest in chosen]

    _select(patch, select)


@mutation(story="simulation.test_hard_stories::test_a_number_that_nobody_prepared_is_filled_with_a_null_request")
def no_null_requests(patch: pytest.MonkeyPatch) -> None:
    """Numbers that nobody prepared are left out of a new view: a gap that nothing fills."""

    def select(changes: list[ViewChange]) -> tuple[CheckpointCertificate, list[tuple[int, bytes]]]:
        stable, chosen = _honest_select(changes)
        return stable, [(number, digest) for number, digest in chosen if digest != NULL_DIGEST]

    _select(patch, select)


@mutation()
def lost_proofs(patch: pytest.MonkeyPatch) -> None:
    """A view change tells nothing of what its sender prepared."""
    honest = ViewChange

    def forget(**fields: Any) -> ViewChange:
        return honest(**{**fields, "prepared": ()})

    patch.setattr(pbft.views, "ViewChange", forget)


@mutation(story="simulation.test_hard_stories::test_a_claim_without_a_proof_does_not_displace_what_was_committed")
def proofs_unchecked(patch: pytest.MonkeyPatch) -> None:
    """A view change may claim what nobody prepared."""
    patch.setattr(Verifier, "proof", lambda self, proof: None)


def _check_new_view(patch: pytest.MonkeyPatch, *, needed: Callable[[Committee], int], recompute: bool) -> None:
    """`check_new_view` with one rule less."""

    def check(verifier: Verifier, signed: SignedNewView) -> CheckpointCertificate:
        new_view = signed.message
        if verifier.member(new_view, signed.signature) != verifier.committee.primary(new_view.view):
            raise Malformed("not from its primary")
        senders = {pbft.view_change.check_view_change(verifier, change) for change in new_view.view_changes}
        if len(senders) < needed(verifier.committee):
            raise Malformed("too few")
        stable, expected = _honest_select(change.message for change in new_view.view_changes)
        if recompute and [(one.sequence, one.digest) for one in new_view.proposals] != expected:
            raise Malformed("does not follow")
        return stable

    patch.setattr(pbft.views, "check_new_view", check)


@mutation(
    story="unit.pbft.test_pbft_paper_views::test_section_4_4_a_backup_recomputes_o_and_rejects_a_new_view_that_leaves_a_prepared_batch_out"
)
def o_not_recomputed(patch: pytest.MonkeyPatch) -> None:
    """A backup believes whatever the new primary proposes."""
    _check_new_view(patch, needed=lambda committee: committee.quorum, recompute=False)


@mutation(story="simulation.test_hard_stories::test_f_plus_1_view_changes_begin_no_view")
def new_view_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """f+1 view changes begin a view: what others prepared may be missing."""
    _check_new_view(patch, needed=lambda committee: committee.weak, recompute=True)
    honest = Views._consider_view_changes

    def hasty(self: Any) -> None:
        honest(self)
        agreeing = self._agreeing(self.view)
        if not self.active and self.primary == self.index and len(agreeing) >= self.committee.weak:
            others = [held for signer, held in agreeing if signer != self.index]
            self._make_new_view([self._own_view_change(), *others[: self.committee.weak - 1]])

    patch.setattr(Views, "_consider_view_changes", hasty)


@mutation()
def old_new_view_accepted(patch: pytest.MonkeyPatch) -> None:
    """A NEW-VIEW of a lower view takes the replica back to it."""

    def on_new_view(self: Any, sender: int, signed: SignedNewView) -> None:
        if signed.message.view == self.view and self.active:
            return
        self._advance(pbft.views.check_new_view(self.verifier, signed))
        self._persist(signed)
        self._enter(signed)

    patch.setattr(Views, "_on_new_view", on_new_view)


@mutation(story="simulation.test_hard_stories::test_members_in_different_views_find_one_another")
def only_this_view_counts(patch: pytest.MonkeyPatch) -> None:
    """A new view's timer needs a quorum for exactly this view, as printed: members in different views wait for ever."""
    honest = Views._consider_view_changes

    def literal(self: Any) -> None:
        deadline = self._view_deadline_ms
        honest(self)
        if not self.active and len(self._agreeing(self.view)) < self.committee.quorum:
            self._view_deadline_ms = deadline

    patch.setattr(Views, "_consider_view_changes", literal)


@mutation(story="simulation.test_hard_stories::test_a_network_slower_than_the_timeout_is_waited_for")
def timer_never_doubles(patch: pytest.MonkeyPatch) -> None:
    """The timeout stays as it is, though no view can begin within it."""
    patch.setattr(Views, "view_timeout_ms", property(lambda self: self.settings.view_timeout_ms))


@mutation(story="simulation.test_hard_stories::test_a_committee_that_failed_for_an_hour_recovers_within_the_cap")
def timer_never_capped(patch: pytest.MonkeyPatch) -> None:
    """The timeout doubles for ever."""
    patch.setattr(
        Views, "view_timeout_ms", property(lambda self: self.settings.view_timeout_ms << min(self._attempts, 40))
    )


@mutation(story="simulation.test_recovery_stories::test_who_left_a_view_alone_is_followed_and_works_again")
def stranded_for_ever(patch: pytest.MonkeyPatch) -> None:
    """Who left a view that goes on without it waits for the next view change, which nothing brings about."""
    patch.setattr(Rejoin, "_stranded", False)


# --- epochs


@mutation(story="unit.pbft.test_epochs::test_a_view_change_proves_nothing_with_proofs_or_checkpoints_of_other_epochs")
def epoch_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Words of another epoch's committee count in this one."""
    honest = Replica._dispatch

    def dispatch(self: Any, sender: int, message: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr("pbft.replica.epoch_of", lambda _: None)
            honest(self, sender, message)

    patch.setattr(Replica, "_dispatch", dispatch)
    patch.setattr(Verifier, "require_epoch", lambda *_: None)


# --- disks


@mutation()
def no_fsync_before_send(patch: pytest.MonkeyPatch) -> None:
    """A vote is sent before it is on disk."""
    patch.setattr(Disk, "sync", lambda self: None)


@mutation(story="simulation.test_hard_stories::test_a_certified_state_outlives_a_power_outage_of_all_who_signed_it")
def checkpoint_vouched_for_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint vote is sent before the entries below it are synced: a certified state that nobody has."""
    patch.setattr(Disk, "sync_archive", lambda self: None)


@mutation()
def forgetful_restart(patch: pytest.MonkeyPatch) -> None:
    """A restart ignores what the journal says was signed."""
    patch.setattr(Replica, "_restore_record", lambda self, record: None)


@mutation()
def no_guard_and_no_first_vote(patch: pytest.MonkeyPatch) -> None:
    """Nothing refuses a second signature, and a second proposal gets one."""
    patch.setattr(LastSigned, "claim", lambda self, vote: None)
    second_proposal_accepted(patch)


@mutation(
    story="simulation.test_hard_stories::test_what_prepared_above_a_stable_checkpoint_outlives_a_restart_of_all_who_prepared_it"
)
def batch_of_a_proof_not_kept(patch: pytest.MonkeyPatch) -> None:
    """The journal keeps a proof, but not the batch that it is about."""
    patch.setattr(Slot, "proven", lambda self: None)


@mutation(
    story="unit.pbft.test_replica::test_the_journal_that_a_checkpoint_leaves_holds_the_view_that_began_in_the_same_step"
)
def journal_cut_within_a_step(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint shortens the journal before the rest of its step is written."""
    honest = Core._reached_stable

    def at_once(self: Any) -> None:
        honest(self)
        self._tell_stable()

    patch.setattr(Core, "_reached_stable", at_once)
