"""Evidence of equivocation on disk: what this replica saw others sign twice, until somebody tells the chain.

One small file, replaced whole and durably. Bounds: one pair for each culprit, phase and slot (the core reports no
more), `PAIRS_PER_CULPRIT_MAX` pairs for each culprit and epoch, since one convicts, and `PAIRS_MAX` in all: what comes
later is counted and logged, and not kept. It is no part of the replica's state: losing it loses no safety.
"""

from __future__ import annotations

from pathlib import Path

from koinon.encoding import decode, encode
from koinon.errors import Malformed, StorageDamaged
from koinon.evidence import EVIDENCE_BYTES_MAX, PAIRS_MAX, slot_of
from koinon.wire import Equivocation

from .events import Evidence
from .journal import replace

PAIRS_PER_CULPRIT_MAX = 4


def transferable(effect: Evidence) -> Equivocation:
    """What the core found, as others can check it."""
    return Equivocation(
        index=effect.culprit,
        first=effect.first.vote,
        first_signature=effect.first.signature,
        second=effect.second.vote,
        second_signature=effect.second.signature,
    )


class EvidenceFile:
    """`kept` may be read from any thread; `keep` runs in the disk's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.kept: tuple[Equivocation, ...] = ()
        if path.exists():
            try:
                self.kept = decode(tuple[Equivocation, ...], path.read_bytes(), bytes_max=EVIDENCE_BYTES_MAX)
            except Malformed as error:
                hint = f"remove {path}: it is no part of the replica's state"
                raise StorageDamaged(f"{path.name}: {error.message}", hint=hint) from None

    def keep(self, found: Equivocation) -> bool:
        """Keep it durably unless the bounds are reached or its like is known; whether it was kept."""
        index, epoch, slot = found.index, found.first.epoch, slot_of(found.first)
        same = [each for each in self.kept if (each.index, each.first.epoch) == (index, epoch)]
        if len(self.kept) >= PAIRS_MAX or len(same) >= PAIRS_PER_CULPRIT_MAX:
            return False
        if any(slot_of(each.first) == slot for each in same):
            return False
        kept = (*self.kept, found)
        replace(self._path, encode(kept))
        self.kept = kept
        return True
