"""The replica's state and the tools that all its layers use: signing, emitting, checkpoints and watermarks.

A replica serves one epoch of the committee. It is built in layers, one duty each: `Core` (state, checkpoints; section
4.3), `Ordering` (three phases and execution; 4.2), `Views` (view changes; 4.4 and 4.5), `Rejoin` (a lost journal),
`Recovery` (state from peers and from disk), `Replica` (events, clients, peers' lag).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.errors import InvariantBroken
from koinon.signing import Domain, Signer, seal
from koinon.wire import Checkpoint, CheckpointCertificate, Phase, Replies, Reply, Vote

from .certificates import Verifier
from .deferred import Deferred
from .events import (
    ALL,
    Application,
    Effect,
    EpochEnded,
    Ignored,
    NeedState,
    Persist,
    Send,
    Settings,
    StableCheckpoint,
    SyncArchive,
)
from .execution import Execution
from .log import LastSigned, Log, Slot
from .messages import (
    GENESIS,
    Ballot,
    CheckpointVote,
    PeerMessage,
    Record,
    Recovering,
    SignedNewView,
    SignedViewChange,
    Status,
    ViewRecord,
)
from .pace import Pace
from .quorum import Committee
from .requests import Pending, Pool
from .view_change import fitting_window


class Core:
    """State and helpers. `view`, `active`, `stable`, `executed`, `primary` are for reading.

    `committees` are those of all epochs from the log's first entry on, as far as they are known; `base` certifies the
    handover with which `epoch` begins, and is believed: whoever builds the replica verified it.
    """

    def __init__(
        self,
        index: int,
        committees: Mapping[int, Committee],
        epoch: int,
        domain: Domain,
        signer: Signer,
        application: Application,
        settings: Settings | None = None,
        base: CheckpointCertificate = GENESIS,
    ) -> None:
        self.index = index
        self.epoch = epoch
        self.committee = committees[epoch]
        if self.committee.members[index] != signer.address:
            raise InvariantBroken(f"this key is not that of member {index} of epoch {epoch}")
        self.domain = domain
        self.settings = settings or Settings()
        self.settings = replace(self.settings, window=fitting_window(self.committee, self.settings))
        self._signer = signer
        window, bytes_max = self.settings.window, self.settings.request_bytes_max
        self.verifier = Verifier(committees, epoch, domain, base=base, window=window, request_bytes_max=bytes_max)
        self.execution = Execution(application, self.verifier, epoch=min(committees))
        self.base = base
        low = base.checkpoint.sequence
        self.log = Log(window, epoch=epoch, low=low)
        self._guard = LastSigned(low)
        self.pool = Pool(
            total_max=self.settings.pending_requests_max, per_client_max=self.settings.pending_per_client_max
        )
        self.pace = Pace(self.settings, self.committee.weak)
        self.now_ms = 0
        self.view = 0
        self.active = True
        self.certificate = base
        self._new_view: SignedNewView | None = None
        self._view_changes: dict[int, SignedViewChange] = {}
        self._view_deadline_ms: int | None = None
        self._view_entered_ms = 0
        self._left_ms = 0
        self._head: tuple[Pending | None, int] = (None, 0)
        self._attempts = 0
        self._assigned = low
        self._lost: Recovering | None = None
        self._since_ms = 0
        self._responses: dict[int, int] = {}
        self._granted_ms: dict[int, list[int]] = {}
        self._fetched: dict[int, tuple[int, int]] = {}
        self._proposed_time_ms = 0
        self._checkpoint_votes: dict[int, dict[int, CheckpointVote]] = {}
        self._snapshots: dict[int, bytes] = {}
        self._statuses: dict[int, Status] = {}
        self._answer_due_ms: dict[int, int] = {}
        self._future = Deferred(
            messages_max=self.settings.future_messages_max, bytes_max=self.settings.future_bytes_max
        )
        self._stable_due: tuple[CheckpointCertificate, bytes] | None = None
        self._replay_due = False
        self._ended = False
        self._status_due_ms = 0
        self._progress_ms = 0
        self._asked_state_ms = -1
        self._clocks_differed = (-1, 0)
        self._effects: list[Effect] = []

    # --- for reading

    @property
    def executed(self) -> int:
        """The last executed sequence number."""
        return self.execution.sequence

    @property
    def stable(self) -> int:
        """The last stable checkpoint: the low watermark."""
        return self.log.low

    @property
    def primary(self) -> int:
        """The index of the current view's primary."""
        return self.committee.primary(self.view)

    @property
    def handed_over(self) -> bool:
        """Whether this epoch's last entry was executed: what follows is another committee's."""
        return self.execution.epoch > self.epoch

    @property
    def recovering(self) -> bool:
        """Whether this replica lost its journal and cannot yet do all that a member does (`pbft.rejoin`)."""
        return self._lost is not None

    @property
    def silent(self) -> bool:
        """Whether it must not vote or propose in its view, since it may have done so and forgotten it."""
        return self._lost is not None and not 0 < self._lost.view <= self.view

    def seal(self, said: Reply | Replies) -> bytes:
        """The signed bytes of one or more replies that this replica gave."""
        return seal(self._signer, self.domain, said)

    # --- tools

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _persist(self, record: Record) -> None:
        self._emit(Persist(record))

    def _broadcast(self, message: PeerMessage) -> None:
        if self.committee.n > 1:
            self._emit(Send(ALL, message))

    def _ignore(self, sender: int, reason: str) -> None:
        self._emit(Ignored(sender, reason))

    def _sign_vote(self, phase: Phase, sequence: int, named: bytes) -> Ballot:
        """A vote in the current view; the guard stops the replica before a second one."""
        vote = Vote(phase=phase, epoch=self.epoch, view=self.view, sequence=sequence, digest=named)
        self._guard.claim(vote)
        return Ballot(vote=vote, signature=self._signer.sign(self.domain, vote))

    def _slot(self, sequence: int) -> Slot:
        """The slot, in the current view."""
        slot = self.log.slot(sequence)
        if slot.view != self.view:
            slot.enter(self.view)
        return slot

    def _defer(self, sender: int, message: PeerMessage, reason: str) -> None:
        """Keep a message that comes too early; when too many wait, the oldest goes (peers send again)."""
        fitted = self._future.add(sender, message)
        self._ignore(sender, f"{reason}-deferred" if fitted else f"{reason}-overflow")

    # --- checkpoints (section 4.3)

    def _make_checkpoint(self) -> None:
        """After executing a multiple of the interval: hand over if that is due, keep the snapshot, sign and tell its
        digest."""
        following = self.execution.hand_over()
        if self.executed < self.log.low:  # on the way to a checkpoint that is stable already
            return
        snapshot = self.execution.snapshot()
        checkpoint = Checkpoint(epoch=self.epoch, sequence=self.executed, state=keccak(snapshot), next=following)
        self._snapshots[self.executed] = snapshot
        if self.executed == self.log.low:
            self._reached_stable()
            return
        self._emit(SyncArchive())  # a certificate makes others discard what could order these entries again
        vote = CheckpointVote(checkpoint=checkpoint, signature=self._signer.sign(self.domain, checkpoint))
        self._broadcast(vote)
        self._count_checkpoint(self.index, vote)

    def _on_checkpoint_vote(self, sender: int, message: CheckpointVote) -> None:
        sequence = message.checkpoint.sequence
        if sequence <= self.log.low or sequence % self.settings.checkpoint_interval:
            self._ignore(sender, "old-checkpoint")
            return
        signer = self.verifier.member(message.checkpoint, message.signature)
        held = self._checkpoint_votes.get(signer, {}).get(sequence)
        if held is not None:  # the first one counts: no correct replica signs another state
            self._ignore(sender, "duplicate" if held.checkpoint == message.checkpoint else "other-checkpoint")
            return
        self._count_checkpoint(signer, message)

    def _count_checkpoint(self, signer: int, message: CheckpointVote) -> None:
        votes = self._checkpoint_votes.setdefault(signer, {})
        votes[message.checkpoint.sequence] = message
        while len(votes) > self.settings.window // self.settings.checkpoint_interval + 1:
            del votes[min(votes)]
        same = [
            held[message.checkpoint.sequence].signature
            for _, held in sorted(self._checkpoint_votes.items())
            if message.checkpoint.sequence in held
            and held[message.checkpoint.sequence].checkpoint == message.checkpoint
        ]
        if len(same) >= self.committee.quorum:
            signatures = tuple(same[: self.committee.quorum])
            self._advance(CheckpointCertificate(checkpoint=message.checkpoint, signatures=signatures))

    def _on_certificate(self, sender: int, certificate: CheckpointCertificate) -> None:
        if certificate.checkpoint.sequence <= self.log.low:
            self._ignore(sender, "old-checkpoint")
            return
        self.verifier.checkpoint(certificate)
        self._advance(certificate)

    def _advance(self, certificate: CheckpointCertificate) -> None:
        """Move the watermarks to a proven checkpoint, whether or not its state is here yet."""
        sequence = certificate.checkpoint.sequence
        if sequence <= self.log.low:
            return
        self.certificate = certificate
        self.log.truncate(sequence)
        self._guard.forget(sequence)
        self._assigned = max(self._assigned, sequence)
        for votes in self._checkpoint_votes.values():
            for old in [number for number in votes if number <= sequence]:
                del votes[old]
        self._replay_due = True
        if self.executed >= sequence:
            self._reached_stable()
        else:
            self._ask_state()

    def _reached_stable(self) -> None:
        """The state at the low watermark is (or was) here: let the shell keep it and shorten the journal."""
        sequence = self.certificate.checkpoint.sequence
        snapshot = self._snapshots.get(sequence)
        self._snapshots = {number: data for number, data in self._snapshots.items() if number >= sequence}
        if snapshot is None:
            return
        if keccak(snapshot) != self.certificate.checkpoint.state:
            raise InvariantBroken(f"our state after {sequence} is not the one that a quorum certified")
        if self.active:
            self._attempts = 0
        self._stable_due = (self.certificate, snapshot)

    def _tell_stable(self) -> None:
        """At the end of a step, when `retained` covers all that the step wrote down."""
        if self._stable_due is not None:
            (certificate, snapshot), self._stable_due = self._stable_due, None
            self._emit(StableCheckpoint(certificate, snapshot, self.retained()))

    def _tell_end(self) -> None:
        """Once the handover is stable and executed this replica is done: a last word for those who miss the proof."""
        if self._stable_end() and self.handed_over and not self._ended:
            self._ended = True
            self._broadcast(self.certificate)
            self._emit(EpochEnded(self.certificate))

    # --- handovers

    def _pending_change(self) -> bool:
        """Whether this epoch ends at the next checkpoint: a change was executed and waits for it."""
        return self.execution.epoch == self.epoch and self.execution.application.pending_change()

    def _stable_end(self) -> bool:
        """Whether a quorum certified the handover, be it executed here or not."""
        checkpoint = self.certificate.checkpoint
        return checkpoint.epoch == self.epoch and checkpoint.next != ZERO_DIGEST

    def _bound(self) -> int:
        """The last sequence number that this epoch still orders, as far as is known here.

        At most the high watermark; once a change is pending, the next checkpoint; what lies above is abandoned.
        """
        if self.handed_over:
            return self.executed
        if self._stable_end():
            return self.log.low
        if self._pending_change():
            interval = self.settings.checkpoint_interval
            return min(self.executed // interval * interval + interval, self.log.high)
        return self.log.high

    def _ask_state(self) -> None:
        self._asked_state_ms = self.now_ms
        certificate = self.certificate if self.certificate != GENESIS else None
        self._emit(NeedState(self.executed + 1, certificate))

    def retained(self) -> tuple[Record, ...]:
        """The journal that a restart needs: the checkpoint, the view, and what was signed above the watermark."""
        records: list[Record] = [self._lost] if self._lost is not None else []
        if self.certificate != GENESIS:
            records.append(self.certificate)
        if self._new_view is not None:
            records.append(self._new_view)
        if not self.active:
            records.append(ViewRecord(epoch=self.epoch, view=self.view))
        for slot in self.log:
            proven, current = slot.proven(), slot.pre_prepare()
            if slot.proof is not None and proven is not None:
                records += [proven, slot.proof]
            if current is not None and current != proven:
                records.append(current)
        return tuple(records)
