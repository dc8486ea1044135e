"""A replica's archive, read by a stranger: what cannot be read becomes a finding that names the entry.

The file is one of `koinon.frames`, tagged with sequence numbers, each payload an encoded CommittedBatch. A file that
ends within a frame was cut off by a crash, which is no lie.
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from koinon.encoding import decode
from koinon.errors import RemoteError
from koinon.frames import CHECK_BYTES, END, HEADER_BYTES, frame_bytes, parse_header
from koinon.wire import CommittedBatch

ENTRY_BYTES_MAX = 8 << 20


def read_archive(path: Path) -> tuple[tuple[CommittedBatch, ...], str]:
    """The entries that can be read, and the first problem ("" when there is none)."""
    data = path.read_bytes()
    entries: list[CommittedBatch] = []
    problems: list[str] = []
    at = 0
    while len(data) - at >= HEADER_BYTES:
        header = parse_header(data[at : at + HEADER_BYTES])
        if header is None or header[1] > ENTRY_BYTES_MAX:
            if any(data[at:]):
                problems.append(f"the archive is damaged at byte {at}, after entry {len(entries)}")
            break
        sequence, length = header
        frame = data[at : at + frame_bytes(length)]
        if len(frame) < frame_bytes(length):
            break
        at += len(frame)
        payload = frame[HEADER_BYTES : HEADER_BYTES + length]
        check = frame[HEADER_BYTES - CHECK_BYTES : HEADER_BYTES]
        if not frame.endswith(END) or blake2b(payload, digest_size=CHECK_BYTES).digest() != check:
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
