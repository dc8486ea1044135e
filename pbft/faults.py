"""The nodes that this replica signs faults about, on disk until their round is over: a restart forgets none of them.

One small file, replaced whole and durably. Bound: `FAULTS_KEPT_MAX` faults; beyond it those of the round that was first
heard of go. It is no part of the replica's state: losing it loses no safety, only who has cheated this replica lately.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from koinon.encoding import decode, encode
from koinon.errors import Malformed, StorageDamaged
from koinon.wire import Fault

from .journal import replace

FAULTS_KEPT_MAX = 4096
FAULTS_BYTES_MAX = 1 << 20


class FaultFile:
    """Reads may come from any thread, at any time: what is kept is replaced, never changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = Lock()
        self._kept: tuple[Fault, ...] = ()
        if path.exists():
            try:
                self._kept = decode(tuple[Fault, ...], path.read_bytes(), bytes_max=FAULTS_BYTES_MAX)
            except Malformed as error:
                hint = f"remove {path}: it is no part of the replica's state"
                raise StorageDamaged(f"{path.name}: {error.message}", hint=hint) from None

    def of(self, task: bytes, round: int) -> tuple[Fault, ...]:
        """One a node, by ascending node."""
        found = (each for each in self._kept if (each.task, each.round) == (task, round))
        return tuple(sorted(found, key=lambda each: each.node))

    def rounds(self) -> set[tuple[bytes, int]]:
        return {(each.task, each.round) for each in self._kept}

    def keep(self, fault: Fault) -> None:
        """Durably; nothing when it is there."""
        with self._writing:
            if fault in self._kept:
                return
            kept = self._kept
            while len(kept) >= FAULTS_KEPT_MAX:
                kept = _without(kept, kept[0].task, kept[0].round)
            self._replace((*kept, fault))

    def erase(self, task: bytes, round: int) -> None:
        """Forget a round that is over."""
        with self._writing:
            self._replace(_without(self._kept, task, round))

    def _replace(self, kept: tuple[Fault, ...]) -> None:
        if kept != self._kept:
            replace(self._path, encode(kept))
            self._kept = kept


def _without(kept: tuple[Fault, ...], task: bytes, round: int) -> tuple[Fault, ...]:
    return tuple(each for each in kept if (each.task, each.round) != (task, round))
