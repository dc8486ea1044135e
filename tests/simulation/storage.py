"""What a simulated replica owns: its application's state, and a disk that forgets what was not synced."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from koinon.encoding import ZERO_DIGEST, decode, encode, keccak
from koinon.epochs import Handover, Seat, epoch_change
from koinon.errors import UnknownSigner
from koinon.wire import CommittedBatch
from pbft.messages import CheckpointCertificate, Record, Recovering


class Ledger:
    """The replicated application of the tests: an append-only list of (sender, operation), hashed in order.

    An operation that starts with CHANGE names the next committee, if none is named yet.
    """

    CHANGE = b"change of the committee:"

    def __init__(self) -> None:
        self.entries: tuple[tuple[bytes, bytes, int], ...] = ()
        self.epoch = 0
        self.seats: tuple[Seat, ...] = ()
        self.next_seats: tuple[Seat, ...] = ()

    @classmethod
    def change(cls, seats: tuple[Seat, ...]) -> bytes:
        """The operation that makes `seats` the next committee."""
        listed = encode(seats)
        return cls.CHANGE + keccak(listed) + listed

    def execute(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        self.entries += ((sender, operation, time_ms),)
        place = len(self.CHANGE) + 32
        named, listed = operation[len(self.CHANGE) : place], operation[place:]
        whole = operation.startswith(self.CHANGE) and keccak(listed) == named  # a garbler may relay it garbled
        if whole and not self.next_seats:
            self.next_seats = decode(tuple[Seat, ...], listed)
        return len(self.entries).to_bytes(4, "big") + operation

    def admits(self, sender: bytes, operation: bytes) -> None:
        if operation == b"stranger":
            raise UnknownSigner("nobody knows this party")

    def pending_change(self) -> bool:
        return bool(self.next_seats)

    def hand_over(self) -> bytes:
        if not self.next_seats:
            return ZERO_DIGEST
        self.epoch, self.seats, self.next_seats = self.epoch + 1, self.next_seats, ()
        return epoch_change(self.epoch, self.seats).struct_hash()

    def root(self) -> bytes:
        return keccak(self.snapshot())

    def snapshot(self) -> bytes:
        return encode((self.entries, self.epoch, self.seats, self.next_seats))

    def restore(self, snapshot: bytes) -> None:
        kind = tuple[tuple[tuple[bytes, bytes, int], ...], int, tuple[Seat, ...], tuple[Seat, ...]]
        self.entries, self.epoch, self.seats, self.next_seats = decode(kind, snapshot)


@dataclass
class Disk:
    """What survives a crash. Records and entries that were not synced are lost (perhaps not all of them)."""

    journal: list[Record] = field(default_factory=list)
    unsynced: list[Record] = field(default_factory=list)
    archive: dict[int, CommittedBatch] = field(default_factory=dict)
    archive_synced: int = 0
    certificate: CheckpointCertificate | None = None
    snapshot: bytes | None = None
    handovers: list[Handover] = field(default_factory=list)

    @classmethod
    def wiped(cls) -> Disk:
        """What a shell makes of an empty folder: all that is known is that something may be lost."""
        return cls(journal=[Recovering(epoch=0, view=0, over=False)])

    @property
    def recovering(self) -> bool:
        told = [record for record in self.journal if isinstance(record, Recovering)]
        return bool(told) and not told[-1].over

    def sync(self) -> None:
        self.journal += self.unsynced
        self.unsynced = []

    def sync_archive(self) -> None:
        self.archive_synced = max(self.archive, default=0)

    def crash(self, generator: random.Random) -> None:
        kept = generator.randrange(len(self.unsynced) + 1)
        self.journal += self.unsynced[:kept]
        self.unsynced = []
        floor = max(self.archive_synced, 0)
        top = max(self.archive, default=floor)
        cut = generator.randint(floor, top) if top > floor else top
        self.archive = {number: entry for number, entry in self.archive.items() if number <= cut}

    def prune(self, sequence: int) -> None:
        """Entries up to `sequence` are in the snapshot and go, where an operator keeps no longer archive."""
        self.archive = {number: entry for number, entry in self.archive.items() if number > sequence}

    def read(self, first: int, limit: int = 64) -> tuple[CommittedBatch, ...]:
        found: list[CommittedBatch] = []
        while len(found) < limit and first + len(found) in self.archive:
            found.append(self.archive[first + len(found)])
        return tuple(found)
