"""What a replica must not forget: its journal of signed words, and the snapshot of its last stable checkpoint.

`append` collects, `sync` makes durable, `rewrite` replaces the whole journal atomically when a checkpoint becomes
stable. What one `sync` makes durable is one frame, so that a crash tears nothing but the last one. The file is written
over zeros that were allocated before: such a sync need not wait for the file system's own records. Files are replaced
by write, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from koinon.config import sync_folder
from koinon.encoding import decode, encode
from koinon.errors import Malformed, StorageDamaged
from koinon.frames import FRAME_BYTES_MAX, HEADER_BYTES, frame_bytes, pack, read_frame, read_header
from koinon.wire import CheckpointCertificate

from .messages import Record, Recovering, decode_record

SNAPSHOTS_KEPT = 2
GROW_BYTES = 256 * 1024
GROUP_TAG = 1

T = TypeVar("T")


def replace(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a crash leaves the old content or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def write_all(file: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset` of an open descriptor."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def sync_data(file: int) -> None:
    """Make what was written durable, and of the file's attributes only what reading it back needs."""
    getattr(os, "fdatasync", os.fsync)(file)  # macOS has no fdatasync


def parse_stored(parse: Callable[[bytes], T], data: bytes, name: str) -> T:
    """What `parse` makes of the payload of a whole frame of the file `name`; StorageDamaged where it is Malformed.

    Its checksum is right, so nobody lied and no disk forgot: another version wrote it.
    """
    try:
        return parse(data)
    except Malformed as error:
        raise StorageDamaged(f"{name} holds what this version cannot read: {error.message}") from None


def _parse_group(data: bytes) -> list[Record]:
    group: tuple[bytes, ...] = decode(tuple[bytes, ...], data, bytes_max=FRAME_BYTES_MAX)
    return [decode_record(record) for record in group]


def _parse_certificate(data: bytes) -> CheckpointCertificate:
    return decode(CheckpointCertificate, data)


def mark_loss(path: Path) -> bool:
    """Where there is no journal, begin one that says that what was signed before may be lost; whether that was so.

    A home that is made for a key that never spoke has an empty journal: a missing one is a lost one.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, _group([encode(Recovering(epoch=0, view=0, over=False))]))
    return True


class Journal:
    """The file of records. Opening it reads it; a torn tail is cut off, damage is StorageDamaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            replace(path, b"")
        self._file = os.open(path, os.O_RDWR)
        self._end = self._allocated = 0
        self._unsynced: list[bytes] = []
        try:
            self.records: tuple[Record, ...] = tuple(self._read())
        except BaseException:
            os.close(self._file)
            raise

    def _read(self) -> list[Record]:
        size = os.fstat(self._file).st_size
        records: list[Record] = []
        while (frame := read_frame(self._file, self._end, size, self.path.name)) is not None:
            records += parse_stored(_parse_group, frame[1], self.path.name)
            self._end += frame_bytes(len(frame[1]))
        if self._end < size:  # what a torn frame left must not look like a part of the next one
            os.ftruncate(self._file, self._end)
        self._allocated = self._end
        self._allocate(self._end + GROW_BYTES)
        os.fsync(self._file)
        return records

    def _allocate(self, size: int) -> None:
        """Zeros up to `size`; the caller syncs."""
        write_all(self._file, bytes(size - self._allocated), self._allocated)
        self._allocated = size

    def append(self, record: Record) -> None:
        """Take a record; it is durable after the next `sync`."""
        self._unsynced.append(encode(record))

    def sync(self) -> None:
        """Make everything appended durable."""
        if not self._unsynced:
            return
        frame = _group(self._unsynced)
        if self._end + len(frame) > self._allocated:
            self._allocate(self._end + len(frame) + GROW_BYTES)
        write_all(self._file, frame, self._end)
        sync_data(self._file)
        self._end += len(frame)
        self._unsynced = []

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the journal's content, and what was appended since the last `sync`, atomically and durably."""
        content = b"".join(_group([encode(record)]) for record in records)
        replace(self.path, content + bytes(GROW_BYTES))
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR)
        self._end, self._allocated = len(content), len(content) + GROW_BYTES
        self._unsynced = []

    @property
    def size_bytes(self) -> int:
        """The bytes that hold records."""
        return self._end

    def close(self) -> None:
        self.sync()
        os.close(self._file)


def _group(records: list[bytes]) -> bytes:
    return pack(GROUP_TAG, encode(records))


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

    def newest(self) -> int | None:
        """The sequence number of the newest one."""
        return max(self._sequences(), default=None)

    def open(self, sequence: int) -> tuple[int, CheckpointCertificate, int, int]:
        """For reading in parts: an open descriptor, the certificate, and where in the file which bytes lie.

        FileNotFoundError when there is none, StorageDamaged as `latest`; the bytes themselves are not checked.
        """
        path = self._path(sequence)
        file = os.open(path, os.O_RDONLY)
        try:
            first, offset = self._frame(file, 0, path)
            header = read_header(file, offset, os.fstat(file).st_size, path.name)
            if header is None:
                raise StorageDamaged(f"{path.name} is cut off")
            return file, parse_stored(_parse_certificate, first, path.name), offset + HEADER_BYTES, header[1]
        except BaseException:
            os.close(file)
            raise

    def _path(self, sequence: int) -> Path:
        return self.folder / f"{sequence:019d}.snapshot"

    def _sequences(self) -> list[int]:
        return sorted(int(path.stem) for path in self.folder.glob("*.snapshot"))

    def _load(self, path: Path) -> tuple[CheckpointCertificate, bytes]:
        file = os.open(path, os.O_RDONLY)
        try:
            first, offset = self._frame(file, 0, path)
            second, _ = self._frame(file, offset, path)
        finally:
            os.close(file)
        return parse_stored(_parse_certificate, first, path.name), second

    def _frame(self, file: int, offset: int, path: Path) -> tuple[bytes, int]:
        frame = read_frame(file, offset, os.fstat(file).st_size, path.name)
        if frame is None:
            raise StorageDamaged(f"{path.name} is cut off")
        return frame[1], offset + frame_bytes(len(frame[1]))
