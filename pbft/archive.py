"""The ordered log on disk: every executed `CommittedBatch`, for peers that lag and for auditors.

Append-only, one file, indexed in memory by sequence number (opening reads 32 bytes an entry). A replica that jumped
to a snapshot has a gap. It need not be synced before anything is answered, since the committee can commit a lost
entry again from its journals; it must be synced before a stable checkpoint shortens the journal.
"""

from __future__ import annotations

import os
from pathlib import Path

from koinon.encoding import encode
from koinon.errors import InvariantBroken
from koinon.wire import CommittedBatch

from .frames import HEADER_BYTES, pack, read_header, read_payload
from .journal import replace
from .messages import decode_entry

READ_BYTES_MAX = 4 << 20


class Archive:
    """Entries by ascending sequence. Opening cuts off a torn tail; damage is StorageDamaged, now or when read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace(path, b"")
        self._file = path.open("r+b")
        self._index: dict[int, tuple[int, int]] = {}
        self.last = 0
        self._end = 0
        try:
            self._scan()
        except BaseException:
            self._file.close()
            raise
        self._dirty = False

    def _scan(self) -> None:
        end, final = os.fstat(self._file.fileno()).st_size, None
        while (header := read_header(self._file, self._end, end, self.path.name)) is not None:
            final = (self._end, header[1])
            self._index[header[0]] = final
            self.last = header[0]
            self._end += HEADER_BYTES + header[1]
        if final is not None:
            read_payload(self._file, *final, self.path.name)
        if self._end < end:
            self._file.truncate(self._end)
            os.fsync(self._file.fileno())

    def append(self, entry: CommittedBatch) -> None:
        """Write the next entry (after a gap, when a snapshot was restored); durable after the next `sync`."""
        if entry.sequence <= self.last:
            raise InvariantBroken(f"entry {entry.sequence} after {self.last}")
        payload = encode(entry)
        self._file.seek(self._end)
        self._file.write(pack(entry.sequence, payload))
        self._index[entry.sequence] = (self._end, len(payload))
        self._end += HEADER_BYTES + len(payload)
        self.last = entry.sequence
        self._dirty = True

    def sync(self) -> None:
        if self._dirty:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._dirty = False

    def read(self, from_sequence: int, limit: int, *, bytes_max: int = READ_BYTES_MAX) -> tuple[CommittedBatch, ...]:
        """At most `limit` entries from `from_sequence` on without a gap, and about `bytes_max` bytes; () if absent."""
        entries: list[CommittedBatch] = []
        size = 0
        while len(entries) < limit and size < bytes_max:
            place = self._index.get(from_sequence + len(entries))
            if place is None:
                break
            size += place[1]
            entries.append(decode_entry(read_payload(self._file, *place, self.path.name)))
        return tuple(entries)

    def close(self) -> None:
        self.sync()
        self._file.close()
