"""State that comes from elsewhere: from peers, proved by signatures (section 5.3 of the thesis; here whole snapshots
and entries), and from the replica's own disk after a crash or at the beginning of an epoch."""

from __future__ import annotations

from koinon.errors import InvariantBroken, RemoteError
from koinon.wire import CheckpointCertificate, Phase

from .events import CatchUp, Misbehaved, Recovered
from .log import Slot
from .messages import PreparedProof, PrePrepare, Record, Recovering, SignedNewView, ViewRecord, epoch_of
from .rejoin import Rejoin


class Recovery(Rejoin):
    """Catching up and starting again."""

    # --- state transfer

    def _on_catch_up(self, event: CatchUp) -> None:
        try:
            if event.certificate is not None and event.snapshot is not None:
                self._transfer(event.sender, event.certificate, event.snapshot)
                # Before any entry above it is archived: a crash in between would leave an archive with a gap and
                # no snapshot to begin behind the gap.
                self._tell_stable()
            for entry in event.entries:
                if entry.sequence <= self.executed:
                    continue
                if entry.sequence != self.executed + 1 or self.handed_over:
                    self._ignore(event.sender, "later-epoch" if self.handed_over else "gap")
                    break
                self.verifier.entry(entry, self.execution.epoch)
                self._execute(entry, answer=True)
        except RemoteError as error:
            self._emit(Misbehaved(event.sender, error))
        self.pace.rest(self.now_ms)
        self._execute_ready()
        self._assigned = max(self._assigned, self.executed)

    def _transfer(self, sender: int, certificate: CheckpointCertificate, snapshot: bytes) -> None:
        """Jump to a state ahead of ours, if this committee certified it or its epoch begins with it."""
        checkpoint = certificate.checkpoint
        if checkpoint.sequence <= self.executed:
            self._ignore(sender, "old-snapshot")
        elif checkpoint.epoch != self.epoch and checkpoint != self.base.checkpoint:
            self._ignore(sender, "old-epoch" if checkpoint.epoch < self.epoch else "later-epoch")
        else:
            self.verifier.checkpoint(certificate)
            self._restore(certificate, snapshot)

    def _restore(self, certificate: CheckpointCertificate, snapshot: bytes) -> None:
        """Become a certified state; BlobMismatch when the snapshot is not that state."""
        checkpoint = certificate.checkpoint
        self.execution.restore(snapshot, checkpoint)
        self._snapshots[checkpoint.sequence] = snapshot
        self._progress_ms = self.now_ms
        if checkpoint.sequence > self.stable:
            self._advance(certificate)
        elif checkpoint.sequence == self.stable:
            self._reached_stable()
        else:  # on the way to a later one: what is archived from here on must have a beginning on disk
            self._stable_due = (certificate, snapshot)

    # --- recovery from our own disk

    def _recover(self, event: Recovered) -> None:
        """Become what the disk says. Damage is loud: any doubt raises a KoinonError."""
        self._since_ms = self.now_ms
        for record in event.records:  # first, since it decides what the others promise
            self._require_known_epoch(record)
            if isinstance(record, Recovering):
                self._forget(record)
        if event.certificate is not None and event.snapshot is not None:
            self.verifier.settled(event.certificate)
            self._require_known_epoch(event.certificate)
            if event.certificate.checkpoint.epoch < self.epoch and event.certificate.checkpoint.sequence > self.stable:
                raise InvariantBroken("the disk holds a checkpoint of an earlier epoch above this one's beginning")
            self._restore(event.certificate, event.snapshot)
        for entry in event.entries:
            if entry.sequence > self.executed:
                self.verifier.entry(entry, self.execution.epoch)
                self._execute(entry, answer=False)
        for record in event.records:
            if epoch_of(record) == self.epoch:
                self._restore_record(record)
        self._assigned = max(self._assigned, self.executed)
        self.pace.rest(self.now_ms)
        self._effects, self._stable_due = [], None
        for slot in self.log:  # alone, our own word is a quorum, and nobody sends it to us again
            self._try_committed(slot)
        self._execute_ready()

    def _require_known_epoch(self, record: Record) -> None:
        """A journal of a later epoch: what was signed there is unknown to a replica of this one."""
        epoch = epoch_of(record)
        if epoch is None or epoch > self.epoch:
            raise InvariantBroken(f"the disk of a replica of epoch {self.epoch} holds words of epoch {epoch}")

    def _restore_record(self, record: Record) -> None:
        match record:
            case CheckpointCertificate():
                self._advance(record)
            case ViewRecord():
                self.view, self.active = record.view, False
                self._attempts = 1
            case SignedNewView():
                for change in record.message.view_changes:
                    self._advance(change.message.stable)
                self._adopt(record)
                if self.primary == self.index:
                    self._reclaim(record)
            case PrePrepare() if record.sequence in self.log:
                self._restore_pre_prepare(self.log.slot(record.sequence), record)
            case PreparedProof() if record.sequence in self.log:
                self._restore_proof(self.log.slot(record.sequence), record)
            case _:
                pass  # below the watermark: settled

    def _reclaim(self, record: SignedNewView) -> None:
        for proposal in record.message.proposals:
            if proposal.sequence in self.log:
                self._sign_vote(Phase.PRE_PREPARE, proposal.sequence, proposal.digest)

    def _restore_pre_prepare(self, slot: Slot, record: PrePrepare) -> None:
        """Our word for this batch stands: sign it again (the same bytes), so that it can be sent again."""
        named = self.verifier.pre_prepare(record)
        current = record.view == self.view and self.active and not self.silent
        if current:
            slot = self._slot(record.sequence)
        slot.bodies[named] = record.batch
        if not current:
            return
        slot.digest, slot.primary_signature, slot.since_ms = named, record.signature, self.now_ms
        if self.primary == self.index:
            self._sign_vote(Phase.PRE_PREPARE, slot.sequence, named)
            self._assigned = max(self._assigned, slot.sequence)
        else:
            slot.prepares[self.index] = self._sign_vote(Phase.PREPARE, slot.sequence, named)

    def _restore_proof(self, slot: Slot, record: PreparedProof) -> None:
        if slot.proof is None or record.view > slot.proof.view:
            slot.proof = record
        if record.view != self.view or not self.active or self.silent:
            return
        slot = self._slot(record.sequence)
        if slot.digest != record.digest:
            raise InvariantBroken(f"the journal proves another batch for slot {slot.sequence} than it accepts")
        slot.prepared = True
        slot.commits[self.index] = self._sign_vote(Phase.COMMIT, slot.sequence, record.digest)
