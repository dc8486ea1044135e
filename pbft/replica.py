"""The replica: Castro & Liskov's protocol (OSDI 1999) as `step(event) -> effects`.

Rules: no I/O, no clock, no randomness; equal events give equal effects. What a message says is verified before any
state changes, so a rejected message (`Misbehaved`) leaves no trace. Nothing is dropped without an effect that says
so. Additions to the paper are those that a lossy network and restarts ask for, none of which counts toward a
quorum: `Status` (peers answer it with what its sender lacks), fetching of batches and of state, capped timers.
"""

from __future__ import annotations

from koinon.errors import (
    InvariantBroken,
    KoinonError,
    RemoteError,
    Replayed,
)
from koinon.wire import CheckpointCertificate

from .events import (
    ALL,
    CatchUp,
    ClientRequest,
    Effect,
    Event,
    Ignored,
    Misbehaved,
    Received,
    Recovered,
    Refuse,
    Send,
    Tick,
)
from .messages import (
    Ballot,
    Body,
    CheckpointVote,
    Fetch,
    PeerMessage,
    PrePrepare,
    RecoveryResponse,
    Relay,
    SignedNewView,
    SignedRecoveryRequest,
    SignedViewChange,
    Status,
    decode_peer,
    epoch_of,
)
from .recovery import Recovery

__all__ = ["Replica"]

TOLD_ALL = 2
"""The relay of a request that goes to everybody: the primary had its time after the first."""
RELAY_TIMES = 2
"""A request waits for so many times the usual before it is relayed; at most half the view timeout."""


class Replica(Recovery):
    """One member of the committee. Synchronous, no I/O.

    Read-only for the shell: `view`, `active` (False during a view change), `stable` (last stable sequence),
    `executed` (last executed sequence), `claimed` (as far as an honest peer got), `waits_for` (after a lost journal),
    `primary` (index), `index`, `committee`, `execution`, `pool`.
    """

    def step(self, event: Event) -> list[Effect]:
        """Take one event; return the effects that the shell must perform, in order.

        Raises InvariantBroken (and whatever the application raises) when this replica must stop.
        """
        self.now_ms = max(self.now_ms, event.now_ms)
        if self._ended:
            return [Ignored(event.sender, "epoch-ended")] if isinstance(event, Received) else []
        match event:
            case Received(sender=sender, data=data):
                self._receive(sender, data)
            case ClientRequest(data=data):
                self._on_request(data)
            case Tick():
                self._excuse(event.stopped_ms)
                self._on_tick()
            case CatchUp():
                self._on_catch_up(event)
            case Recovered():
                self._recover(event)
        self._replay()
        self._propose()
        self._end_recovery()
        self._tell_stable()
        self._tell_end()
        effects, self._effects = self._effects, []
        return effects

    # --- messages of peers

    def _receive(self, sender: int, data: bytes) -> None:
        try:
            message = decode_peer(data)
        except RemoteError as error:
            self._emit(Misbehaved(sender, error))
            return
        self._dispatch(sender, message)

    def _dispatch(self, sender: int, message: PeerMessage) -> None:
        epoch = epoch_of(message)
        if epoch is not None and epoch != self.epoch:  # a correct peer may be an epoch behind us, or ahead
            self._ignore(sender, "old-epoch" if epoch < self.epoch else "later-epoch")
            return
        try:
            match message:
                case PrePrepare():
                    self._on_pre_prepare(sender, message)
                case Ballot():
                    self._on_ballot(sender, message)
                case CheckpointVote():
                    self._on_checkpoint_vote(sender, message)
                case CheckpointCertificate():
                    self._on_certificate(sender, message)
                case SignedViewChange():
                    self._on_view_change(sender, message)
                case SignedNewView():
                    self._on_new_view(sender, message)
                case Relay():
                    self._on_request(message.request, relayed_by=sender)
                case Status():
                    self._on_status(sender, message)
                case SignedRecoveryRequest():
                    self._on_recovery_request(sender, message)
                case RecoveryResponse():
                    self._on_recovery_response(sender, message)
                case Fetch():
                    self._on_fetch(sender, message)
                case Body():
                    self._on_body(sender, message)
        except RemoteError as error:
            self._emit(Misbehaved(sender, error))

    def _replay(self) -> None:
        """Take up the messages that came too early, now that view or watermarks moved."""
        while self._replay_due:
            self._replay_due = False
            for sender, message in self._future.take():
                self._dispatch(sender, message)

    # --- clients (sections 4.1 and 4.2)

    def _on_request(self, data: bytes, *, relayed_by: int | None = None) -> None:
        """Order a client's request, or answer from the client table if it was executed before."""
        client, number = b"", -1
        try:
            client, request = self.verifier.request(data)
            number = request.number
            last = self.execution.last(client)
            if last is not None and number == last.number:
                self._respond(client, number, last.result)
                return
            if last is not None and number < last.number:
                raise Replayed(f"request {number} is older than {last.number}, the last one executed")
            self.execution.application.admits(client, request.operation)
            if relayed_by is not None and (client, number) in self.pool:
                self._ignore(relayed_by, "duplicate")
            relays = 0 if relayed_by is None else TOLD_ALL
            self.pool.add(client, number, data, self.now_ms, self.pace.ordered, relays)
        except InvariantBroken:
            raise
        except KoinonError as error:
            if relayed_by is not None:
                if number < 0:  # a correct replica relays only what it could read
                    raise
                self._ignore(relayed_by, f"relayed-{error.code}")  # the law may know more here, or less, than there
            self._emit(Refuse(client, number, error))

    # --- time

    def _on_tick(self) -> None:
        if self.now_ms >= self._status_due_ms:
            self._status_due_ms = self.now_ms + self.settings.status_ms
            self._broadcast(
                Status(epoch=self.epoch, view=self.view, active=self.active, stable=self.stable, executed=self._shown())
            )
            self._ask_to_rejoin()
            if not self.active:
                self._tell_view_change()
                self._consider_view_changes()
            self._ask_again()
        if not self.active or self._lagging():
            self.pace.rest(self.now_ms)
        if self._lagging():
            self._on_lag()
        elif self.active and not self.recovering:
            self._check_primary()
        elif self._view_deadline_ms is not None and self.now_ms >= self._view_deadline_ms:
            self._start_view_change(self.view + 1)

    def _ask_again(self) -> None:
        """Relay what the primary leaves lying (section 4.2), and ask again for batches that are missing.

        The first time to the primary; the second time to all, so that all see what it does with it. Where requests
        usually wait longer, they are relayed later in proportion: a queue is no neglect, and telling everybody about
        all that is in it would make it longer.
        """
        if not self.active:
            return
        if self.primary != self.index:
            longest_ms = self.settings.view_timeout_ms // 2
            patience_ms = max(self.settings.status_ms, min(RELAY_TIMES * self.pool.usual_ms, longest_ms))
            overdue = self.pool.unproposed(self.now_ms, patience_ms, self.settings.batch_requests_max)
            for pending in overdue:
                if self._still_admitted(pending.data):
                    self._emit(Send(ALL if pending.relays == TOLD_ALL else self.primary, Relay(request=pending.data)))
        for slot in self._open_slots():
            if slot.body(slot.digest) is None and slot.digest is not None:
                self._emit(Send(ALL, Fetch(sequence=slot.sequence, digest=slot.digest)))

    def _still_admitted(self, data: bytes) -> bool:
        """Whether the law would take a waiting request; what it no longer takes is no fault of the primary's."""
        client, request = self.verifier.request(data)
        try:
            self.execution.application.admits(client, request.operation)
        except InvariantBroken:
            raise
        except KoinonError as error:
            self.pool.drop(client, request.number)
            self._emit(Refuse(client, request.number, error))
            return False
        return True

    # --- peers that lag, and our own lag

    def _on_status(self, sender: int, status: Status) -> None:
        """Answer with what the peer seems to lack; what it may merely not have received yet, only when it is stuck."""
        before = self._statuses.get(sender)
        self._statuses[sender] = status
        if self.now_ms < self._answer_due_ms.get(sender, 0):
            self._ignore(sender, "status-too-soon")  # a few bytes ask for megabytes
            return
        silent = len(self._effects)
        self._answer(sender, status, before)
        if len(self._effects) > silent:
            self._answer_due_ms[sender] = self.now_ms + self.settings.status_ms // 2

    def _answer(self, sender: int, status: Status, before: Status | None) -> None:
        behind = (status.view, status.active) < (self.view, True)
        if self.active and behind and self._new_view is not None:
            self._emit(Send(sender, self._new_view))
        if status.stable < self.stable:
            self._emit(Send(sender, self.certificate))
        if before == status and not behind and self.active:
            self._resend(sender, status)
        if before == status and status.stable == self.stable:
            for sequence, vote in sorted(self._checkpoint_votes.get(self.index, {}).items()):
                if sequence > status.stable:
                    self._emit(Send(sender, vote))

    def _resend(self, sender: int, status: Status) -> None:
        """Our votes for the slots that a stuck peer has not executed; also the pre-prepare, which is transferable.

        A pre-prepare that is younger than the time between two statuses is on its way: it may be a megabyte.
        """
        if status.view != self.view:
            return
        first = max(status.executed, self.stable) + 1
        for sequence in range(first, first + self.settings.resend_slots_max):
            slot = self.log.find(sequence)
            if slot is None or slot.view != self.view:
                continue
            pre_prepare = slot.pre_prepare()
            if pre_prepare is not None and self.now_ms - slot.since_ms >= self.settings.status_ms:
                self._emit(Send(sender, pre_prepare))
            for votes in (slot.prepares, slot.commits):
                if self.index in votes:
                    self._emit(Send(sender, votes[self.index]))

    def _lagging(self) -> bool:
        """Whether the state exists elsewhere: a certificate says so, or f+1 peers, one of them honest."""
        if self.executed < self.stable:
            return True
        return self.claimed > self.executed

    @property
    def claimed(self) -> int:
        """How far at least one honest peer has executed."""
        claimed = sorted((status.executed for status in self._statuses.values()), reverse=True)
        return claimed[self.committee.weak - 1] if len(claimed) >= self.committee.weak else 0

    def _on_lag(self) -> None:
        patience = self.settings.catch_up_ms
        if self.now_ms - max(self._progress_ms, self._asked_state_ms) >= patience:
            self._ask_state()
