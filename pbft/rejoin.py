"""A replica that lost its journal: when it may speak again (Castro & Liskov, TOCS 2002, section 4.3, estimation; Liskov
& Cowling, Viewstamped Replication Revisited, section 4.3; ADR 0026 has the argument).

Two words of one replica contradict each other only within one view, and what it forgot can be missed only in a view
change. So it follows in silence until a view begins in which it cannot have spoken, with the view changes of others
alone, and asks for no view change before all that this view proposes again is prepared or settled here.

It never left for a view above `highest + 1`, where `highest` is the highest view that a quorum asked for. Any 2f+1
others with whole journals hold an honest replica of that quorum, which, asked afresh, stands at `highest` or above. As
the view after that need not come by itself, it asks for it: who stands below leaves, for the next view only, and hands
the signed request on, so that nobody leaves alone. It does so at most RECOVERY_VIEWS_MAX times in `recovery_ms` for one
and the same member, which bounds what a liar gets. Who kept its journal, and left a view that goes on without it,
asks in the same way.
"""

from __future__ import annotations

from koinon.errors import Malformed

from .events import GaveUp, Send
from .messages import Recovering, RecoveryRequest, RecoveryResponse, SignedNewView, SignedRecoveryRequest
from .views import Views

RECOVERY_VIEWS_MAX = 3
"""An honest one asks for a view at most two above that of the committee."""
VIEW_MAX = 2**63 - 1
"""The last one that messages can name."""


class Rejoin(Views):
    """Recovery without memory."""

    # --- the one that lost its journal

    def _forget(self, lost: Recovering) -> None:
        """The journal says that words may be lost. What was found out in an earlier epoch is of no use in this one."""
        known = lost.view if lost.epoch == self.epoch else 0
        self._lost = None if lost.over else Recovering(epoch=self.epoch, view=known, over=False)

    @property
    def speaks_from(self) -> int | None:
        """The lowest view in which this replica, without its journal, cannot have spoken; None while it can't know."""
        told, enough = sorted(self._responses.values()), 2 * self.committee.f + 1
        return max(told[enough - 1], self.view) + 1 if len(told) >= enough else None

    @property
    def waits_for(self) -> str:
        """What keeps this replica from doing all that a member does; "" when nothing does."""
        if not self.recovering:
            return ""
        if not self.silent:
            return f"entry {self._unproven()} to be prepared again"
        if self.speaks_from is not None:
            return f"view {self.speaks_from}"
        return f"{2 * self.committee.f + 1} others that remember to say where they stand ({len(self._responses)} did)"

    def _ask_to_rejoin(self) -> None:
        if self.silent:
            view = self.speaks_from or 0
        elif self._stranded:
            view = self.view
        else:
            return
        asked = RecoveryRequest(epoch=self.epoch, since_ms=self._since_ms, view=view)
        self._broadcast(SignedRecoveryRequest(message=asked, signature=self._signer.sign(self.domain, asked)))

    @property
    def _stranded(self) -> bool:
        """Whether it left a view in which others go on, longer ago than a primary is given twice.

        Its view change promised that it does not come back, and the others have no reason to follow: until some other
        view change the committee would have one member less.
        """
        if self.active or self.recovering or self.now_ms - self._left_ms < 2 * self.settings.view_timeout_ms:
            return False
        below = [one for one in self._statuses.values() if one.active and one.view < self.view]
        return len(below) >= self.committee.weak

    def _on_recovery_response(self, sender: int, told: RecoveryResponse) -> None:
        if not self.silent or told.since_ms != self._since_ms or sender in self._responses:
            self._ignore(sender, "late-recovery-response")
            return
        if told.view == VIEW_MAX:
            raise Malformed(f"view {told.view} has no next one")
        self._responses[sender] = told.view
        self._consider_view_changes()

    def _consider_view_changes(self) -> None:
        """Without memory it joins nobody, and begins a view of its own with what a quorum of others proves."""
        if not self.recovering:
            super()._consider_view_changes()
            return
        for view in sorted({held.message.view for held in self._view_changes.values()}):
            changes = [held for signer, held in self._agreeing(view) if signer != self.index]
            mine = view > self.view and self.committee.primary(view) == self.index
            if mine and len(changes) >= self.committee.quorum and self._speaks_in(view):
                self.view, self.active = view, False
                self._make_new_view(changes[: self.committee.quorum])
                return

    def _enter(self, signed: SignedNewView) -> None:
        self._speaks_in(signed.message.view)
        super()._enter(signed)

    def _speaks_in(self, view: int) -> bool:
        """Whether to speak in a view that begins; written down before the first word is said in it."""
        if self.silent and self.speaks_from is not None and view >= self.speaks_from:
            self._lost = Recovering(epoch=self.epoch, view=view, over=False)
            self._persist(self._lost)
        return self._lost is None or 0 < self._lost.view <= view

    def _unproven(self) -> int | None:
        """The first entry that this view proposed again and of which neither a proof of this view is here nor a stable
        checkpoint."""
        bound = self._bound()
        for proposal in self._new_view.message.proposals if self._new_view is not None else ():
            if self.stable < proposal.sequence <= bound:
                slot = self.log.find(proposal.sequence)
                if slot is None or slot.proof is None or slot.proof.view != self.view:
                    return proposal.sequence
        return None

    def _shown(self) -> int:
        """How far a status says that we got: peers send their votes for what comes after it."""
        unproven = self._unproven() if self.recovering and not self.silent else None
        return self.executed if unproven is None else min(self.executed, unproven - 1)

    def _end_recovery(self) -> None:
        """At the end of a step: our next view change will prove all that it must."""
        if self._lost is None or self.silent or not self.active or self._unproven() is not None:
            return
        self._persist(Recovering(epoch=self.epoch, view=self._lost.view, over=True))
        self._lost = None

    # --- its peers

    def _on_recovery_request(self, sender: int, signed: SignedRecoveryRequest) -> None:
        asked = signed.message
        who = self.verifier.member(asked, signed.signature)
        if who == self.index or self.recovering or self.handed_over:
            self._ignore(sender, "recovery-request")  # of no use is what we forgot, or what is over
            return
        if who == sender:
            self._emit(Send(who, RecoveryResponse(epoch=self.epoch, since_ms=asked.since_ms, view=self.view)))
        recent = [at for at in self._granted_ms.get(who, ()) if self.now_ms - at < self.settings.recovery_ms]
        if not self.active or self.view >= asked.view:
            if who != sender:
                self._ignore(sender, "recovery-request")  # handed on, and nothing to do any more
        elif len(recent) >= RECOVERY_VIEWS_MAX:
            self._ignore(sender, "recovery-too-often")
        else:
            self._granted_ms[who] = [*recent, self.now_ms]
            self._emit(GaveUp(self.primary, "recovery", self.view, 0))
            self._broadcast(signed)
            self._start_view_change(self.view + 1)
