"""What a simulated replica owns: its application's state, and a disk that forgets what was not synced."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from koinon.encoding import decode, encode, keccak
from koinon.errors import UnknownSigner
from koinon.wire import CommittedBatch
from pbft.messages import CheckpointCertificate, Record


class Ledger:
    """The replicated application of the tests: an append-only list of (sender, operation), hashed in order."""

    def __init__(self) -> None:
        self.entries: tuple[tuple[bytes, bytes, int], ...] = ()

    def execute(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        self.entries += ((sender, operation, time_ms),)
        return len(self.entries).to_bytes(4, "big") + operation

    def admits(self, sender: bytes, operation: bytes) -> None:
        if operation == b"stranger":
            raise UnknownSigner("nobody knows this party")

    def root(self) -> bytes:
        return keccak(self.snapshot())

    def snapshot(self) -> bytes:
        return encode(self.entries)

    def restore(self, snapshot: bytes) -> None:
        self.entries = decode(tuple[tuple[bytes, bytes, int], ...], snapshot)


@dataclass
class Disk:
    """What survives a crash. Records and entries that were not synced are lost (perhaps not all of them)."""

    journal: list[Record] = field(default_factory=list)
    unsynced: list[Record] = field(default_factory=list)
    archive: dict[int, CommittedBatch] = field(default_factory=dict)
    archive_synced: int = 0
    certificate: CheckpointCertificate | None = None
    snapshot: bytes | None = None

    def sync(self) -> None:
        self.journal += self.unsynced
        self.unsynced = []

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
