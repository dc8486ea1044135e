"""The ordered log on disk: every executed `CommittedBatch`, for peers that lag and for auditors.

Append-only, one file, indexed in memory by sequence number (20 bytes an entry; opening reads 32). A replica that jumped
to a snapshot has a gap. Reading disturbs no writing, so threads may read while one appends. It need not be synced
before anything is answered, since the committee can commit a lost entry again from its journals; it must be synced
before a checkpoint is voted for, since a certificate lets everybody discard what is below.

So a power cut may take any page of what was not synced, not only the last ones. Entries up to `settled` are known to be
durable: what is wrong there is damage. The first bad one above it ends the archive, and those behind it go, too.
"""

from __future__ import annotations

import os
import sys
from array import array
from bisect import bisect_left, bisect_right
from pathlib import Path

from koinon.encoding import encode
from koinon.errors import InvariantBroken, StorageDamaged
from koinon.frames import frame_bytes, pack, read_frame, read_header, read_payload
from koinon.wire import CommittedBatch

from .journal import parse_stored, replace, write_all
from .messages import decode_entry

READ_BYTES_MAX = 4 << 20


class _Places:
    """Where entries lie in the file, by ascending sequence: 20 bytes each, since a log has many and only grows.

    One thread adds while others look up: an entry's sequence number comes last.
    """

    def __init__(self) -> None:
        self._sequences = array("Q")
        self._offsets = array("Q")
        self._lengths = array("I")

    @property
    def last(self) -> int:
        """The highest sequence number, 0 without any."""
        return self._sequences[-1] if self._sequences else 0

    def add(self, sequence: int, offset: int, length: int) -> None:
        self._offsets.append(offset)
        self._lengths.append(length)
        self._sequences.append(sequence)

    def drop_last(self) -> None:
        for column in (self._sequences, self._lengths, self._offsets):
            column.pop()

    def get(self, sequence: int) -> tuple[int, int] | None:
        """(offset of the frame, length of the payload), or None."""
        place = bisect_left(self._sequences, sequence)
        if place == len(self._sequences) or self._sequences[place] != sequence:
            return None
        return self._offsets[place], self._lengths[place]

    def after(self, sequence: int) -> int | None:
        """The first sequence number above this one."""
        place = bisect_right(self._sequences, sequence)
        return self._sequences[place] if place < len(self._sequences) else None


class Archive:
    """Entries by ascending sequence. Opening cuts off a torn tail; damage is StorageDamaged, now or when read.

    `settled` is the last entry that was certainly synced: that of a snapshot, which is saved after it. None: all were.
    """

    def __init__(self, path: Path, *, settled: int | None = None) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace(path, b"")
        self._file = os.open(path, os.O_RDWR)
        self._places = _Places()
        self.last = 0
        self._end = 0
        self._dirty = False
        try:
            self._scan(settled)
        except BaseException:
            os.close(self._file)
            raise

    def _scan(self, settled: int | None) -> None:
        """Headers only up to `settled` (and the last entry); above it whole entries, which are few."""
        end, start, name = os.fstat(self._file).st_size, 0, self.path.name
        durable = sys.maxsize if settled is None else settled
        while (header := self._header(end, durable)) is not None:
            start = self._end
            self.last = header[0]
            self._places.add(self.last, start, header[1])
            self._end += frame_bytes(header[1])
        newest = self._places.get(self.last)
        if newest is not None and settled is not None and self.last <= settled:
            read_payload(self._file, *newest, name)
        elif newest is not None and read_frame(self._file, start, end, name) is None:
            self._places.drop_last()
            self._end = start
            self.last = self._places.last
        if self._end < end:
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)

    def _header(self, end: int, settled: int) -> tuple[int, int] | None:
        """(sequence, payload length) of the next entry; None where the archive ends."""
        name, loose = self.path.name, self.last >= settled
        try:
            header = read_header(self._file, self._end, end, name)
            loose |= header is not None and header[0] > settled
            return header if not loose or read_frame(self._file, self._end, end, name) is not None else None
        except StorageDamaged:
            if loose:
                return None
            raise

    def append(self, entry: CommittedBatch) -> None:
        """Write the next entry (after a gap, when a snapshot was restored); durable after the next `sync`."""
        if entry.sequence <= self.last:
            raise InvariantBroken(f"entry {entry.sequence} after {self.last}")
        payload = encode(entry)
        frame = pack(entry.sequence, payload)
        write_all(self._file, frame, self._end)
        self._places.add(entry.sequence, self._end, len(payload))
        self._end += len(frame)
        self.last = entry.sequence
        self._dirty = True

    def sync(self) -> None:
        if self._dirty:
            os.fsync(self._file)
            self._dirty = False

    def read(self, from_sequence: int, limit: int, *, bytes_max: int = READ_BYTES_MAX) -> tuple[CommittedBatch, ...]:
        """At most `limit` entries from `from_sequence` on without a gap, and about `bytes_max` bytes; () if absent."""
        entries: list[CommittedBatch] = []
        size = 0
        while len(entries) < limit and size < bytes_max:
            place = self._places.get(from_sequence + len(entries))
            if place is None:
                break
            size += place[1]
            payload = read_payload(self._file, *place, self.path.name)
            entries.append(parse_stored(decode_entry, payload, self.path.name))
        return tuple(entries)

    def after(self, sequence: int) -> int | None:
        """The first entry above a sequence number."""
        return self._places.after(sequence)

    def close(self) -> None:
        self.sync()
        os.close(self._file)
