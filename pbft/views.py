"""View changes (Castro & Liskov 1999, sections 4.4 and 4.5.2): leaving a view, proving the next one, entering it."""

from __future__ import annotations

from koinon.wire import Phase

from .events import ALL, GaveUp, Send
from .log import Slot
from .messages import (
    Fetch,
    NewView,
    PreparedProof,
    Proposal,
    SignedNewView,
    SignedViewChange,
    ViewChange,
    ViewRecord,
)
from .ordering import Ordering
from .view_change import check_new_view, check_view_change, select


class Views(Ordering):
    """Liveness: a primary that does not order is replaced."""

    @property
    def view_timeout_ms(self) -> int:
        """Doubles with every view that brought nothing, up to its cap (section 4.5.2; the cap is ours)."""
        settings = self.settings
        return min(settings.view_timeout_ms << min(self._attempts, 16), settings.view_timeout_ms_max)

    # --- giving a primary up

    def _open_slots(self) -> list[Slot]:
        """What the primary proposed in this view and this epoch can still order."""
        bound = self._bound()
        return [
            slot for slot in self.log if slot.view == self.view and slot.digest is not None and slot.sequence <= bound
        ]

    def _check_primary(self) -> None:
        """A backup gives the primary up that lets it wait too long (section 4.4), is slow, or unfair (`pbft.pace`)."""
        reason = "" if self.handed_over else self.pace.judge(self.pool.oldest, self.now_ms)
        waited = self._waited_ms()
        if waited is None:
            self._attempts = 0
        elif waited > self.view_timeout_ms:
            reason = "timeout"
        if reason and self.primary != self.index:
            view, when_ms = self._clocks_differed
            if view == self.view and self.now_ms - when_ms <= self.view_timeout_ms:
                reason = "clock"
            self._emit(GaveUp(self.primary, reason, self.view, waited or 0))
            self._start_view_change(self.view + 1)

    def _waited_ms(self) -> int | None:
        """For how long one request has been waited for; None without any.

        As in the paper the timer starts again for the next request once the one waited for is executed: a queue is
        no reason to leave a view. A primary that orders one request a timeout is slow. One that orders nothing while a
        change of the committee is pending is given up, too. Once the handover is executed nothing can be ordered, and
        the primary is to blame for nothing.
        """
        if self.handed_over:
            return None
        if self.pool.oldest is not self._head[0]:
            self._head = (self.pool.oldest, self.now_ms)
        waiting = [slot.since_ms for slot in self._open_slots() if slot.sequence > self.executed]
        if self.pool.oldest is not None:
            waiting.append(self._head[1])
        if self._pending_change():
            waiting.append(self._progress_ms)
        return self.now_ms - max(min(waiting), self._view_entered_ms) if waiting else None

    def _excuse(self, stopped_ms: int) -> None:
        """Time in which we stood still ourselves is no delay of others: every timer runs on as if it had not been.

        A replica that leaves the view alone stays out of it until others follow, and they have no reason to.
        """
        if stopped_ms <= 0:
            return
        waited = self._waited_ms()
        if waited is not None:
            self._view_entered_ms = self.now_ms - max(0, waited - stopped_ms)
        if self._view_deadline_ms is not None:
            self._view_deadline_ms += stopped_ms
        self.pace.rest(self.now_ms)

    # --- leaving a view

    def _start_view_change(self, target: int) -> None:
        """Stop taking part in lower views, for good, then say so with proof of what was prepared there."""
        if self.active:
            self._left_ms = self.now_ms
        self.view, self.active = target, False
        self._attempts += 1
        self._view_deadline_ms = None
        self._persist(ViewRecord(epoch=self.epoch, view=target))
        self._tell_view_change()
        self._consider_view_changes()

    def _tell_view_change(self) -> None:
        """Send our view change; the deadline for the new view runs once a quorum has said the same."""
        self._broadcast(self._own_view_change())

    def _own_view_change(self) -> SignedViewChange:
        proofs: list[PreparedProof] = [slot.proof for slot in self.log if slot.proof is not None]
        change = ViewChange(epoch=self.epoch, view=self.view, stable=self.certificate, prepared=tuple(proofs))
        signed = SignedViewChange(message=change, signature=self._signer.sign(self.domain, change))
        self._view_changes[self.index] = signed
        return signed

    def _on_view_change(self, sender: int, signed: SignedViewChange) -> None:
        target = signed.message.view
        if target < self.view or (target == self.view and self.active):
            self._ignore(sender, "old-view-change")
            return
        signer = self.verifier.member(signed.message, signed.signature)
        held = self._view_changes.get(signer)
        if held is not None and held.message.view >= target:
            self._ignore(sender, "duplicate")
            return
        check_view_change(self.verifier, signed)
        self._view_changes[signer] = signed
        self._consider_view_changes()

    def _consider_view_changes(self) -> None:
        """Join when f+1 others are ahead (one of them is honest); begin when a quorum agrees."""
        ahead = [
            held.message.view
            for signer, held in self._view_changes.items()
            if signer != self.index and held.message.view > self.view
        ]
        if len(ahead) >= self.committee.weak:
            self._start_view_change(min(ahead))
            return
        if self.active:
            return
        # The paper counts changes to exactly this view. Where messages are lost, some members may have gone on to
        # a later one, and no quorum for any view would ever form: who is further on has left this view's past too.
        arrived = [held for held in self._view_changes.values() if held.message.view >= self.view]
        if self._view_deadline_ms is None and len(arrived) >= self.committee.quorum:
            self._view_deadline_ms = self.now_ms + self.view_timeout_ms
        agreeing = self._agreeing(self.view)
        if self.primary == self.index and len(agreeing) >= self.committee.quorum:
            others = [held for signer, held in agreeing if signer != self.index]
            self._make_new_view([self._own_view_change(), *others[: self.committee.quorum - 1]])

    def _agreeing(self, view: int) -> list[tuple[int, SignedViewChange]]:
        return [(one, held) for one, held in sorted(self._view_changes.items()) if held.message.view == view]

    # --- beginning a view

    def _make_new_view(self, changes: list[SignedViewChange]) -> None:
        """The new primary: compute O from V, sign it, write it down, tell, enter.

        V holds our own view change as of now, so O starts above our own watermark.
        """
        stable, chosen = select(change.message for change in changes)
        proposals = []
        for sequence, named in chosen:
            signature = self._sign_vote(Phase.PRE_PREPARE, sequence, named).signature
            proposals.append(Proposal(sequence=sequence, digest=named, signature=signature))
        new_view = NewView(epoch=self.epoch, view=self.view, view_changes=tuple(changes), proposals=tuple(proposals))
        signed = SignedNewView(message=new_view, signature=self._signer.sign(self.domain, new_view))
        self._persist(signed)
        self._broadcast(signed)
        self._advance(stable)
        self._enter(signed)

    def _on_new_view(self, sender: int, signed: SignedNewView) -> None:
        target = signed.message.view
        if target < self.view or (target == self.view and self.active):
            self._ignore(sender, "old-new-view")
            return
        stable = check_new_view(self.verifier, signed)
        self._persist(signed)
        self._advance(stable)
        self._enter(signed)

    def _enter(self, signed: SignedNewView) -> None:
        """Take the view up: its proposals as if pre-prepared, our requests as not yet proposed."""
        self._adopt(signed)
        self.pool.reset(self.now_ms)
        self._view_entered_ms = self._progress_ms = self.now_ms
        self.pace.enter(self.now_ms)
        self._replay_due = True
        for proposal in signed.message.proposals:
            if proposal.sequence in self.log:
                self._take_up(self._slot(proposal.sequence))

    def _adopt(self, signed: SignedNewView) -> None:
        """The state that a new view sets, also when it is read from the journal."""
        self.view, self.active = signed.message.view, True
        self._new_view = signed
        self._view_deadline_ms = None
        self._view_changes = {
            signer: held for signer, held in self._view_changes.items() if held.message.view > self.view
        }
        self._assigned = self.log.low
        for proposal in signed.message.proposals:
            self._assigned = max(self._assigned, proposal.sequence)
            if proposal.sequence in self.log:
                slot = self.log.slot(proposal.sequence)
                slot.enter(self.view, keep=proposal.digest)
                slot.since_ms = self.now_ms
                slot.digest, slot.primary_signature = proposal.digest, proposal.signature

    def _take_up(self, slot: Slot) -> None:
        """Vote on a proposal of the new view, or ask for its batch. A settled slot keeps its digest."""
        if slot.executed not in (None, slot.digest):
            self._ignore(self.primary, "settled-otherwise")
            return
        if slot.sequence > self._bound():
            self._ignore(self.primary, "above-handover")
            return
        pre_prepare = slot.pre_prepare()
        if pre_prepare is None and slot.digest is not None:
            self._emit(Send(ALL, Fetch(sequence=slot.sequence, digest=slot.digest)))
        elif pre_prepare is not None and slot.digest is not None:
            self._vote_prepare(slot, pre_prepare, slot.digest)
