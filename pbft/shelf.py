"""What a replica shows of its files to whoever asks: pages of the log, its newest checkpoint, chunks of snapshots.

Rules: reading has threads of its own and never waits for, or delays, the thread that writes votes. A snapshot that is
being fetched stays readable for a while after a newer one replaced it, because its file stays open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from koinon.encoding import encode, keccak
from koinon.errors import Missing
from koinon.wire import CheckpointCertificate

from .archive import Archive
from .journal import Snapshots
from .transfer import CHUNK_BYTES, announce
from .waiting import Workers

READ_THREADS = 2
READS_WAITING_MAX = 256
OPEN_MAX = 4
OPEN_SECONDS = 60.0


@dataclass(slots=True)
class _Open:
    """A snapshot file that is read: `size` bytes from `offset` on."""

    file: int
    certificate: CheckpointCertificate
    offset: int
    size: int
    used: float
    chunks: tuple[bytes, ...] = ()


class Shelf:
    """Reads `archive` and the snapshots in `folder`. The archive is closed by its owner, after `stop`."""

    def __init__(self, archive: Archive, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._archive = archive
        self._snapshots = Snapshots(folder)
        self._clock = clock
        self._open: dict[int, _Open] = {}
        self._log = Workers("log", threads=READ_THREADS, waiting_max=READS_WAITING_MAX)
        self._state = Workers("state", threads=1, waiting_max=READS_WAITING_MAX)

    def stop(self) -> None:
        self._log.stop(wait=True)
        self._state.stop(wait=True)
        for one in self._open.values():
            os.close(one.file)
        self._open = {}

    async def page(self, first: int, limit: int) -> bytes:
        """Encoded entries from `first` on; Unavailable when too many read."""
        return await self._log.run(lambda: encode(self._archive.read(first, limit)))

    async def checkpoint(self) -> bytes:
        """The newest stable checkpoint (`transfer.Shown`); Missing when there is none yet."""
        return await self._state.run(self._newest)

    async def chunk(self, sequence: int, first: int) -> bytes:
        """Bytes of the snapshot of `sequence` from `first` on, at most CHUNK_BYTES; Missing when it is gone."""
        return await self._state.run(self._chunk, sequence, first)

    # --- in the state thread

    def _newest(self) -> bytes:
        sequence = self._snapshots.newest()
        if sequence is None:
            raise Missing("no checkpoint is stable yet")
        held = self._held(sequence)
        if not held.chunks:  # once, as long as it is asked for
            held.chunks = tuple(keccak(_read(held, first)) for first in range(0, held.size, CHUNK_BYTES))
        return announce(held.certificate, held.size, held.chunks)

    def _chunk(self, sequence: int, first: int) -> bytes:
        return _read(self._held(sequence), first)

    def _held(self, sequence: int) -> _Open:
        now = self._clock()
        self._close_idle(now, keep=sequence)
        held = self._open.get(sequence)
        if held is None:
            try:
                held = self._open[sequence] = _Open(*self._snapshots.open(sequence), used=now)
            except FileNotFoundError:
                raise Missing(f"no snapshot of {sequence} here") from None
        held.used = now
        return held

    def _close_idle(self, now: float, *, keep: int) -> None:
        by_use = sorted((one for one in self._open if one != keep), key=lambda one: self._open[one].used)
        for place, sequence in enumerate(by_use):
            crowded = len(by_use) - place >= OPEN_MAX
            if crowded or now - self._open[sequence].used > OPEN_SECONDS:
                os.close(self._open.pop(sequence).file)


def _read(held: _Open, first: int) -> bytes:
    return os.pread(held.file, max(0, min(CHUNK_BYTES, held.size - first)), held.offset + first)
