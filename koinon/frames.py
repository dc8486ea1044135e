"""Frames on disk: how the journal and the archive tell a torn tail from damage.

    mark 4 bytes | tag u64 | length u32 | crc32 of the three u32 | blake2b-128 of the payload | payload | 0xff

A crash while writing leaves a last frame that the end of the file cuts off, or of which some sectors were never
written: those read as zeros, because a file that has room after its last frame has zeros there. Such a frame is a torn
tail: nobody acted on it, and it is cut off. Anything else that doesn't check out was once whole and is damaged: a
replica that went on without it could sign twice, so that is StorageDamaged.

What tells them apart: sectors are written whole or not at all; mark and final byte see to it that no sector of a whole
frame is zero from end to end unless its payload has SECTOR_BYTES zeros in a row; and behind a torn tail there is no
whole frame. So each unit that is made durable at once must be one frame.
"""

from __future__ import annotations

import os
import struct
from hashlib import blake2b
from zlib import crc32

from koinon.errors import StorageDamaged

MARK = b"\xf0KF2"
END = b"\xff"
_HEAD = struct.Struct(">4sQI")
_CRC = struct.Struct(">I")
CHECK_BYTES = 16
HEADER_BYTES = _HEAD.size + _CRC.size + CHECK_BYTES
FRAME_BYTES_MAX = 1 << 29
SECTOR_BYTES = 512


def pack(tag: int, payload: bytes) -> bytes:
    """One frame; `tag` is a number below 2^64 that can be read without the payload."""
    head = _HEAD.pack(MARK, tag, len(payload))
    return b"".join((head, _CRC.pack(crc32(head)), blake2b(payload, digest_size=CHECK_BYTES).digest(), payload, END))


def frame_bytes(length: int) -> int:
    """The size of a frame with a payload of `length` bytes."""
    return HEADER_BYTES + length + len(END)


def read_header(file: int, offset: int, end: int, name: str) -> tuple[int, int] | None:
    """(tag, payload length) of the frame at `offset` of the open descriptor `file`; None when no frame is there, or
    the file, of `end` bytes, tears in its header or ends in it. StorageDamaged otherwise."""
    raw = os.pread(file, HEADER_BYTES, offset)
    found = parse_header(raw)
    if found is not None:
        return None if offset + frame_bytes(found[1]) > end else found
    if end - offset >= HEADER_BYTES:
        _require_torn(os.pread(file, end - offset, offset), HEADER_BYTES, offset, name, behind=1)
    return None


def read_payload(file: int, offset: int, length: int, name: str) -> bytes:
    """The payload of the frame at `offset`; StorageDamaged when it isn't what was written."""
    payload = _payload(file, offset, length)
    if payload is None:
        raise _damaged(name, offset)
    return payload


def read_frame(file: int, offset: int, end: int, name: str) -> tuple[int, bytes] | None:
    """(tag, payload) of the frame at `offset`; None when there is none or it is torn. StorageDamaged otherwise."""
    header = read_header(file, offset, end, name)
    if header is None:
        return None
    payload = _payload(file, offset, header[1])
    if payload is None:
        size = frame_bytes(header[1])
        _require_torn(os.pread(file, end - offset, offset), size, offset, name, behind=size)
        return None
    return header[0], payload


def parse_header(raw: bytes) -> tuple[int, int] | None:
    """(tag, payload length) of the first HEADER_BYTES of a frame; None when they are not whole."""
    if len(raw) < HEADER_BYTES:
        return None
    mark, tag, length = _HEAD.unpack_from(raw)
    (check,) = _CRC.unpack_from(raw, _HEAD.size)
    sound = mark == MARK and crc32(raw[: _HEAD.size]) == check and length <= FRAME_BYTES_MAX
    return (tag, length) if sound else None


def _payload(file: int, offset: int, length: int) -> bytes | None:
    raw = os.pread(file, CHECK_BYTES + length + len(END), offset + HEADER_BYTES - CHECK_BYTES)
    check, payload, last = raw[:CHECK_BYTES], raw[CHECK_BYTES : CHECK_BYTES + length], raw[CHECK_BYTES + length :]
    return payload if last == END and blake2b(payload, digest_size=CHECK_BYTES).digest() == check else None


def _require_torn(rest: bytes, size: int, offset: int, name: str, *, behind: int) -> None:
    """StorageDamaged unless `rest`, all that the file has from `offset` on, is what a crash leaves of one frame of
    at least `size` bytes: some of its sectors are missing, and no whole frame follows, `behind` bytes on or later.

    A payload holds clients' bytes, which may look like frames: where its length is known it is not searched."""
    stops = range(SECTOR_BYTES - offset % SECTOR_BYTES, size + SECTOR_BYTES, SECTOR_BYTES)
    starts = [0, *stops[:-1]]
    missing = any(not any(rest[start:stop]) for start, stop in zip(starts, stops, strict=True))
    if not missing or _whole_frame_in(rest[behind:]):
        raise _damaged(name, offset)


def _whole_frame_in(rest: bytes) -> bool:
    place = rest.find(MARK)
    while place >= 0:
        if parse_header(rest[place : place + HEADER_BYTES]) is not None:
            return True
        place = rest.find(MARK, place + 1)
    return False


def _damaged(name: str, offset: int) -> StorageDamaged:
    return StorageDamaged(f"{name} is damaged at byte {offset}", hint="restore the disk, or start it empty")
