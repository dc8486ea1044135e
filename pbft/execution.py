"""Execution of the ordered log: exactly once, in order, the same everywhere (Castro & Liskov 1999, 4.1 and 4.2).

The client table (last number and result of each client) makes it exactly-once and answers retransmissions. It is
part of the snapshot. Time never runs backwards: a batch's requests see the larger of its own time and the time of
the batch before, so no agreement on clocks is needed beyond the ordered batch itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from koinon.encoding import ZERO_DIGEST, decode, encode, keccak
from koinon.errors import BlobMismatch, InvariantBroken, KoinonError, RemoteError, Replayed
from koinon.wire import Batch, Checkpoint

from .certificates import Verifier
from .events import Application, Executed
from .messages import SNAPSHOT_BYTES_MAX, Client, Snapshot


@dataclass(frozen=True, slots=True)
class Skipped:
    """An ordered request that had no effect: executed before, or refused by the application's `admits`."""

    client: bytes
    number: int
    error: KoinonError


class Execution:
    """The application, its client table and its clock after `sequence`; `epoch` is the one that orders what follows."""

    def __init__(self, application: Application, verifier: Verifier, *, epoch: int) -> None:
        self.application = application
        self.epoch = epoch
        self._verifier = verifier
        self._clients: dict[bytes, Client] = {}
        self.sequence = 0
        self.time_ms = 0

    def last(self, client: bytes) -> Client | None:
        """The client's last executed request and its result."""
        return self._clients.get(client)

    def apply(self, sequence: int, batch: Batch) -> tuple[list[Executed], list[Skipped]]:
        """Execute the batch of the next sequence number."""
        if sequence != self.sequence + 1:
            raise InvariantBroken(f"execution of {sequence} after {self.sequence}")
        self.sequence = sequence
        self.time_ms = max(self.time_ms, batch.time_ms)
        done: list[Executed] = []
        skipped: list[Skipped] = []
        for data in batch.requests:
            outcome = self._apply_one(data)
            if isinstance(outcome, Executed):
                done.append(outcome)
            elif outcome is not None:
                skipped.append(outcome)
        return done, skipped

    def _apply_one(self, data: bytes) -> Executed | Skipped | None:
        try:
            sender, request = self._verifier.request(data)
        except RemoteError:  # no quorum orders such bytes; were it to, all would skip them alike
            return None
        last = self._clients.get(sender)
        if last is not None and request.number <= last.number:
            return Skipped(sender, request.number, Replayed(f"request {request.number} was executed before"))
        try:
            self.application.admits(sender, request.operation)
        except InvariantBroken:
            raise
        except KoinonError as error:
            return Skipped(sender, request.number, error)
        result = self.application.execute(sender, request.operation, self.time_ms)
        self._clients[sender] = Client(address=sender, number=request.number, result=result)
        return Executed(sender, request.number, result)

    def hand_over(self) -> bytes:
        """At a checkpoint: the next epoch begins if a change is pending. What names its committee, or 32 zero bytes."""
        following = self.application.hand_over()
        self.epoch += following != ZERO_DIGEST
        return following

    def snapshot(self) -> bytes:
        """Canonical bytes of everything; their Keccak-256 is what checkpoints sign."""
        clients = tuple(self._clients[address] for address in sorted(self._clients))
        application = self.application.snapshot()
        return encode(
            Snapshot(
                epoch=self.epoch,
                sequence=self.sequence,
                time_ms=self.time_ms,
                clients=clients,
                root=keccak(application),
                application=application,
            )
        )

    def restore(self, data: bytes, checkpoint: Checkpoint) -> None:
        """Become the snapshot `data`, which a quorum certified as `checkpoint`; BlobMismatch when it is not that."""
        sequence = checkpoint.sequence
        if keccak(data) != checkpoint.state:
            raise BlobMismatch(f"the snapshot of {sequence} is not the one that the checkpoint certifies")
        snapshot = decode(Snapshot, data, bytes_max=SNAPSHOT_BYTES_MAX)
        if snapshot.sequence != sequence:
            raise BlobMismatch(f"a snapshot of {snapshot.sequence} where {sequence} was certified")
        if snapshot.epoch != checkpoint.epoch + (checkpoint.next != ZERO_DIGEST):
            raise InvariantBroken(f"the certified snapshot of {sequence} is of epoch {snapshot.epoch}")
        self.application.restore(snapshot.application)
        if keccak(self.application.snapshot()) != snapshot.root:
            raise InvariantBroken("the application restored a certified snapshot to another root")
        self._clients = {client.address: client for client in snapshot.clients}
        self.epoch, self.sequence, self.time_ms = snapshot.epoch, snapshot.sequence, snapshot.time_ms
