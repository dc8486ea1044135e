"""The message log between the watermarks (Castro & Liskov 1999, sections 4.2 and 4.3), and the last-signed guard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from koinon.errors import InvariantBroken
from koinon.wire import Batch, CommittedBatch, Phase, Vote

from .messages import NULL_BATCH, NULL_DIGEST, Ballot, PreparedProof, PrePrepare


@dataclass(slots=True)
class Slot:
    """One sequence number: the votes of its current `view`, and what outlives views (proof, bodies, fate).

    `bodies` holds the batches of at most three digests: the view's proposal, the proof's, the executed one's.
    """

    sequence: int
    epoch: int
    view: int = -1
    digest: bytes | None = None
    primary_signature: bytes = b""
    prepares: dict[int, Ballot] = field(default_factory=dict)
    commits: dict[int, Ballot] = field(default_factory=dict)
    prepared: bool = False
    committed: bool = False
    since_ms: int = 0
    proof: PreparedProof | None = None
    executed: bytes | None = None
    bodies: dict[bytes, Batch] = field(default_factory=dict)
    reported: set[tuple[int, int]] = field(default_factory=set)

    def enter(self, view: int, keep: bytes | None = None) -> None:
        """Forget the votes of an earlier view, but not the bodies that may be asked for."""
        kept = {self.proof.digest if self.proof else None, self.executed, keep}
        self.view, self.digest, self.primary_signature = view, None, b""
        self.prepares, self.commits, self.reported = {}, {}, set()
        self.prepared = self.committed = False
        self.bodies = {digest: batch for digest, batch in self.bodies.items() if digest in kept}

    def body(self, digest: bytes | None) -> Batch | None:
        if digest == NULL_DIGEST:
            return NULL_BATCH
        return self.bodies.get(digest) if digest else None

    def votes(self, phase: int) -> dict[int, Ballot]:
        return self.prepares if phase == Phase.PREPARE else self.commits

    def matching(self, phase: int) -> list[tuple[int, Ballot]]:
        """Ballots for the accepted digest, ascending by signer."""
        votes = self.votes(phase)
        return [(index, votes[index]) for index in sorted(votes) if votes[index].vote.digest == self.digest]

    def pre_prepare(self) -> PrePrepare | None:
        """The view's accepted pre-prepare, when its batch is here."""
        batch = self.body(self.digest)
        if batch is None:
            return None
        epoch, view, signature = self.epoch, self.view, self.primary_signature
        return PrePrepare(epoch=epoch, view=view, sequence=self.sequence, batch=batch, signature=signature)

    def proven(self) -> PrePrepare | None:
        """The pre-prepare that `proof` is about, from whatever view."""
        batch = self.body(self.proof.digest) if self.proof else None
        if self.proof is None or batch is None:
            return None
        epoch, view, signature = self.epoch, self.proof.view, self.proof.pre_prepare
        return PrePrepare(epoch=epoch, view=view, sequence=self.sequence, batch=batch, signature=signature)

    def entry(self, quorum: int) -> CommittedBatch:
        batch = self.body(self.digest)
        if batch is None or not self.committed:
            raise InvariantBroken(f"slot {self.sequence} is not committed")
        signatures = tuple(ballot.signature for _, ballot in self.matching(Phase.COMMIT)[:quorum])
        return CommittedBatch(
            epoch=self.epoch, view=self.view, sequence=self.sequence, batch=batch, signatures=signatures
        )


class Log:
    """Slots in (low, low + window] of one epoch, which begins above `low`."""

    def __init__(self, window: int, *, epoch: int, low: int) -> None:
        self.low = low
        self.window = window
        self.epoch = epoch
        self._slots: dict[int, Slot] = {}

    @property
    def high(self) -> int:
        return self.low + self.window

    def __contains__(self, sequence: int) -> bool:
        return self.low < sequence <= self.high

    def slot(self, sequence: int) -> Slot:
        """The slot, made if need be; only within the watermarks."""
        if sequence not in self:
            raise InvariantBroken(f"slot {sequence} is outside ({self.low}, {self.high}]")
        slot = self._slots.get(sequence)
        if slot is None:
            slot = self._slots[sequence] = Slot(sequence, self.epoch)
        return slot

    def find(self, sequence: int) -> Slot | None:
        return self._slots.get(sequence)

    def __iter__(self) -> Iterator[Slot]:
        """Ascending."""
        return iter([self._slots[sequence] for sequence in sorted(self._slots)])

    def truncate(self, sequence: int) -> None:
        """Move the low watermark up and discard what is below (section 4.3)."""
        self.low = max(self.low, sequence)
        self._slots = {number: slot for number, slot in self._slots.items() if number > self.low}


class LastSigned:
    """Refuses to sign two digests for one (phase, view, sequence) of its epoch, whatever the code above believes.

    It is rebuilt from the journal, where every vote is written before it is sent.
    """

    def __init__(self, low: int) -> None:
        self._signed: dict[tuple[int, int, int], bytes] = {}
        self._low = low

    def claim(self, vote: Vote) -> None:
        key = (vote.phase, vote.view, vote.sequence)
        if vote.sequence <= self._low or self._signed.setdefault(key, vote.digest) != vote.digest:
            raise InvariantBroken(f"asked to sign a second vote for phase, view, sequence {key}")

    def forget(self, sequence: int) -> None:
        """Below a stable checkpoint nothing is signed at all."""
        self._low = max(self._low, sequence)
        self._signed = {key: value for key, value in self._signed.items() if key[2] > self._low}
