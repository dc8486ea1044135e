"""What an audit judges, gathered beforehand: logs, blobs, what the chain says. Plain data, no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from koinon.config import FederationFile
from koinon.errors import BlobMismatch, Unavailable
from koinon.rounds.state import Task
from koinon.wire import CommittedBatch

from .chain import ChainFacts


@dataclass(frozen=True)
class ReplicaLog:
    """The ordered log as one replica keeps it, ascending.

    `absent` says why there is nothing at all (the replica is down); `problem` what cannot even be decoded.
    """

    replica: int
    entries: tuple[CommittedBatch, ...] = ()
    absent: str = ""
    problem: str = ""


@dataclass(frozen=True)
class BlobCopy:
    """A blob as its holders have it: `content` is a copy that fits its digest, `false` names the others."""

    content: bytes | None
    false: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    federation: FederationFile
    logs: tuple[ReplicaLog, ...]
    chain: ChainFacts | None
    blobs: Mapping[bytes, BlobCopy] = field(default_factory=dict)
    tasks: Mapping[bytes, Task] | None = None
    """What f+1 replicas say their state is, or None offline."""

    def blob(self, digest: bytes, what: str) -> bytes:
        """A genuine copy of the blob; BlobMismatch naming a false one, Unavailable when nobody has it."""
        copy = self.blobs.get(digest, BlobCopy(None))
        if copy.false:
            raise BlobMismatch(f"{what}: {'; '.join(copy.false)}")
        if copy.content is None:
            raise Unavailable(f"{what}: nobody has blob 0x{digest.hex()}")
        return copy.content
