"""A replica's archive, read by a stranger: what cannot be read becomes a finding that names the entry.

The format is the replicas' (pbft/frames.py): a file of frames, each `mark | sequence u64 | length u32 | crc32 of the
three u32 | blake2b-128 of the payload | payload | 0xff`, the payload an encoded CommittedBatch. A file that ends
within a frame was cut off by a crash, which is no lie.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

from koinon.encoding import decode
from koinon.errors import RemoteError
from koinon.wire import CommittedBatch

ENTRY_BYTES_MAX = 8 << 20
_MARK, _END = b"\xf0KF2", b"\xff"
_HEAD = struct.Struct(">4sQI")
_CHECKS = struct.Struct(">I16s")
_HEADER_BYTES = _HEAD.size + _CHECKS.size


def read_archive(path: Path) -> tuple[tuple[CommittedBatch, ...], str]:
    """The entries that can be read, and the first problem ("" when there is none)."""
    data = path.read_bytes()
    entries: list[CommittedBatch] = []
    problems: list[str] = []
    at = 0
    while len(data) - at >= _HEADER_BYTES:
        mark, sequence, length = _HEAD.unpack_from(data, at)
        head_check, body_check = _CHECKS.unpack_from(data, at + _HEAD.size)
        if mark != _MARK or crc32(data[at : at + _HEAD.size]) != head_check or length > ENTRY_BYTES_MAX:
            if any(data[at:]):
                problems.append(f"the archive is damaged at byte {at}, after entry {len(entries)}")
            break
        payload = data[at + _HEADER_BYTES : at + _HEADER_BYTES + length]
        last = data[at + _HEADER_BYTES + length : at + _HEADER_BYTES + length + len(_END)]
        if not last:
            break
        at += _HEADER_BYTES + length + len(_END)
        if last != _END or blake2b(payload, digest_size=16).digest() != body_check:
            problems.append(f"log entry {sequence} is damaged on disk (its checksum differs)")
        try:
            entry = decode(CommittedBatch, payload, bytes_max=ENTRY_BYTES_MAX)
        except RemoteError as error:
            problems.append(f"log entry {sequence} cannot be read: {error.message}")
            continue
        if entry.sequence != sequence:
            problems.append(f"log entry {sequence} says that it is entry {entry.sequence}")
        entries.append(entry)
    return tuple(entries), problems[0] if problems else ""
