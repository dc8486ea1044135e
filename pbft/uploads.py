"""How many bytes each member stored here: the quota that keeps one member from filling everybody's disk."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from koinon.errors import Oversized

BLOB_BYTES_PER_MEMBER_MAX = 64 << 30


class Uploads:
    """A file with one line an upload ("<address> <bytes>"). A torn last line is ignored: a quota is no ledger."""

    def __init__(self, path: Path, *, bytes_per_member_max: int = BLOB_BYTES_PER_MEMBER_MAX) -> None:
        self._path = path
        self._bytes_per_member_max = bytes_per_member_max
        self._used: defaultdict[str, int] = defaultdict(int)
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines:
            member, _, size = line.partition(" ")
            if len(member) == 40 and size.isdecimal():
                self._used[member] += int(size)

    def require_room(self, member: bytes, size: int) -> None:
        """Oversized when `size` more bytes would exceed the member's quota."""
        used = self._used[member.hex()]
        if used + size > self._bytes_per_member_max:
            raise Oversized(
                f"0x{member.hex()} stores {used} bytes here, and at most {self._bytes_per_member_max} are allowed",
                hint="finish or stop tasks, or ask the operator for a larger quota",
            )

    def add(self, member: bytes, size: int) -> None:
        self._used[member.hex()] += size
        with self._path.open("a") as file:
            file.write(f"{member.hex()} {size}\n")
