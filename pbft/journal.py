"""What a replica must not forget: its journal of signed words, and the snapshot of its last stable checkpoint.

`append` buffers, `sync` makes durable (one fsync for many records), `rewrite` replaces the whole journal atomically
when a checkpoint becomes stable. Files are replaced by write, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from koinon.encoding import decode, encode
from koinon.errors import StorageDamaged
from koinon.wire import CheckpointCertificate

from .frames import HEADER_BYTES, pack, read_header, read_payload
from .messages import Record, decode_record

SNAPSHOTS_KEPT = 2


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old content or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


class Journal:
    """The append-only file of records. Opening it reads it; a torn tail is cut off, damage is StorageDamaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace(path, b"")
        self._file = path.open("r+b")
        try:
            self.records: tuple[Record, ...] = tuple(self._read())
        except BaseException:
            self._file.close()
            raise
        self._dirty = False

    def _read(self) -> list[Record]:
        end, offset, records = os.fstat(self._file.fileno()).st_size, 0, []
        while (header := read_header(self._file, offset, end, self.path.name)) is not None:
            payload = read_payload(self._file, offset, header[1], self.path.name)
            records.append(decode_record(payload))
            offset += HEADER_BYTES + header[1]
        if offset < end:
            self._file.truncate(offset)
            os.fsync(self._file.fileno())
        self._file.seek(offset)
        return records

    def append(self, record: Record) -> None:
        """Write a record; it is durable after the next `sync`."""
        self._file.write(pack(0, encode(record)))
        self._dirty = True

    def sync(self) -> None:
        """Make everything appended durable."""
        if self._dirty:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._dirty = False

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the journal's content, atomically and durably."""
        replace(self.path, b"".join(pack(0, encode(record)) for record in records))
        self._file.close()
        self._file = self.path.open("r+b")
        self._file.seek(0, os.SEEK_END)
        self._dirty = False

    @property
    def size_bytes(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self.sync()
        self._file.close()


class Snapshots:
    """Stable checkpoints' snapshots, one file each (`<sequence>.snapshot`); the last few are kept for peers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, certificate: CheckpointCertificate, snapshot: bytes) -> None:
        """Keep a snapshot durably, then forget all but the last SNAPSHOTS_KEPT."""
        sequence = certificate.checkpoint.sequence
        replace(self._path(sequence), pack(sequence, encode(certificate)) + pack(sequence, snapshot))
        for old in self._sequences()[:-SNAPSHOTS_KEPT]:
            self._path(old).unlink()

    def latest(self) -> tuple[CheckpointCertificate, bytes] | None:
        """The newest one; None when there is none. StorageDamaged when it isn't what was written."""
        sequences = self._sequences()
        return self._load(self._path(sequences[-1])) if sequences else None

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence:019d}.snapshot"

    def _sequences(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.snapshot"))

    def _load(self, path: Path) -> tuple[CheckpointCertificate, bytes]:
        with path.open("rb") as file:
            first, offset = self._frame(file, 0, path)
            second, _ = self._frame(file, offset, path)
        return decode(CheckpointCertificate, first), second

    def _frame(self, file: BinaryIO, offset: int, path: Path) -> tuple[bytes, int]:
        header = read_header(file, offset, path.stat().st_size, path.name)
        if header is None:
            raise StorageDamaged(f"{path.name} is cut off")
        return read_payload(file, offset, header[1], path.name), offset + HEADER_BYTES + header[1]
