"""What this node has bound itself to: one record a task and round, on disk before anything leaves the node.

Two different updates of one node for one round would let somebody subtract them, and a second training run costs its
owner. So the update, and the pieces sealed for each replica, are written first; after a crash the same bytes are sent
again. Once 2f+1 receipts are there, the operation that will be ordered is written too, before it is sent.

Pieces are already sealed to their replicas (HPKE), so the record holds nothing that a replica's key does not guard;
its mode is 0600 all the same.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from koinon.config import write_atomically
from koinon.encoding import U32, Digest, Message, decode, encode, keccak
from koinon.errors import Malformed, PrivacyError
from koinon.rounds.operations import Millionths, SubmitUpdate
from koinon.wire import SignedReceipt

RECORD_BYTES_MAX = 1 << 30


class Submission(Message, frozen=True):
    """`update` is the encoded `Update`; `sealed[i]` the box for replica i; `operation` SubmitUpdate or b""."""

    task: Digest
    round: U32
    parent_model: Digest
    examples: U32
    loss: Millionths
    update: bytes
    sealed: tuple[bytes, ...]
    operation: bytes = b""

    def bind(self, receipts: dict[int, bytes]) -> Submission:
        """The same submission with the operation that its receipts allow (64-byte signatures by replica)."""
        operation = SubmitUpdate(
            task=self.task,
            round=self.round,
            parent_model=self.parent_model,
            update=keccak(self.update),
            examples=self.examples,
            loss=self.loss,
            receipts=tuple(SignedReceipt(replica=i, signature=each) for i, each in sorted(receipts.items())),
        )
        return Submission(
            task=self.task,
            round=self.round,
            parent_model=self.parent_model,
            examples=self.examples,
            loss=self.loss,
            update=self.update,
            sealed=self.sealed,
            operation=encode(operation),
        )


class Submissions:
    """The folder `data/submissions`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._saving = Lock()
        root.mkdir(parents=True, exist_ok=True)

    def path(self, task: bytes, round_: int) -> Path:
        return self.root / f"{task.hex()}-{round_}.bin"

    def load(self, task: bytes, round_: int) -> Submission | None:
        """The record of this round, or None; Malformed when the file is not one (then the round is sat out)."""
        try:
            content = self.path(task, round_).read_bytes()
        except FileNotFoundError:
            return None
        record = decode(Submission, content, bytes_max=RECORD_BYTES_MAX)
        if (record.task, record.round) != (task, round_):
            raise Malformed(f"{self.path(task, round_).name} is the record of another round")
        return record

    def save(self, record: Submission) -> None:
        """Durably; PrivacyError when another update of this round is there (a thread may outlive who gave it up)."""
        with self._saving:
            kept = self.load(record.task, record.round)
            if kept is not None and kept.update != record.update:
                raise PrivacyError(f"another update for round {record.round} was made before: it stays")
            write_atomically(self.path(record.task, record.round), encode(record), mode=0o600)

    def discard_before(self, task: bytes, round_: int) -> int:
        """Remove the records of rounds below `round_`, which are over; how many there were."""
        gone = 0
        for path in self.root.glob(f"{task.hex()}-*.bin"):
            number = path.stem.rpartition("-")[2]
            if number.isdigit() and int(number) < round_:
                path.unlink(missing_ok=True)
                gone += 1
        return gone
