"""Frames on disk: how the journal and the archive tell a torn tail from damage.

    tag u64 | length u32 | crc32 of (tag, length) u32 | blake2b-128 of the payload | payload

A crash while appending leaves a frame that the end of the file cuts off, or zeros where the file grew before its
data came: that is a torn tail, nobody acted on it, and it is cut off. Anything else that doesn't check out was once
whole and is damaged: a replica that went on without it could sign twice, so that is StorageDamaged.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import BinaryIO
from zlib import crc32

from koinon.errors import StorageDamaged

_HEAD = struct.Struct(">QI")
_CRC = struct.Struct(">I")
CHECK_BYTES = 16
HEADER_BYTES = _HEAD.size + _CRC.size + CHECK_BYTES
FRAME_BYTES_MAX = 1 << 29


def pack(tag: int, payload: bytes) -> bytes:
    """One frame; `tag` is a number below 2^64 that can be read without the payload."""
    head = _HEAD.pack(tag, len(payload))
    return head + _CRC.pack(crc32(head)) + blake2b(payload, digest_size=CHECK_BYTES).digest() + payload


def read_header(file: BinaryIO, offset: int, end: int, name: str) -> tuple[int, int] | None:
    """(tag, payload length) of the frame at `offset`; None when the file ends in it. StorageDamaged otherwise."""
    if end - offset < HEADER_BYTES:
        return None
    file.seek(offset)
    raw = file.read(HEADER_BYTES)
    tag, length = _HEAD.unpack_from(raw)
    (check,) = _CRC.unpack_from(raw, _HEAD.size)
    if crc32(raw[: _HEAD.size]) != check or length > FRAME_BYTES_MAX:
        if not any(raw) and not any(file.read()):
            return None
        raise StorageDamaged(f"{name} is damaged at byte {offset}", hint="restore the disk, or start it empty")
    return None if offset + HEADER_BYTES + length > end else (tag, length)


def read_payload(file: BinaryIO, offset: int, length: int, name: str) -> bytes:
    """The payload of the frame at `offset`; StorageDamaged when it isn't what was written."""
    file.seek(offset + HEADER_BYTES - CHECK_BYTES)
    check, payload = file.read(CHECK_BYTES), file.read(length)
    if blake2b(payload, digest_size=CHECK_BYTES).digest() != check:
        raise StorageDamaged(f"{name} is damaged at byte {offset}", hint="restore the disk, or start it empty")
    return payload
