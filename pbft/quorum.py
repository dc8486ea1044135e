"""Who is in the committee and how many of them are enough (Castro & Liskov 1999, sections 3 and 4.1).

f = ⌊(n-1)/3⌋ members may lie. A quorum is n-f: any two quorums share at least f+1 members, so at least one honest
one, also when n is no 3f+1. With n = 3f+1 it is the paper's 2f+1. A weak quorum, f+1, holds one honest member.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from koinon.epochs import faulty_max, quorum
from koinon.errors import InvariantBroken, UnknownSigner
from koinon.wire import COMMITTEE_MAX

__all__ = ["COMMITTEE_MAX", "Committee", "faulty_max", "quorum"]


@dataclass(frozen=True)
class Committee:
    """The replicas' 20-byte addresses; a replica's index is its place in `members`."""

    members: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= COMMITTEE_MAX or len(set(self.members)) != len(self.members):
            raise InvariantBroken(f"a committee has 1 to {COMMITTEE_MAX} distinct members")

    @cached_property
    def n(self) -> int:
        return len(self.members)

    @cached_property
    def f(self) -> int:
        return faulty_max(self.n)

    @cached_property
    def quorum(self) -> int:
        return quorum(self.n)

    @cached_property
    def weak(self) -> int:
        """f+1: at least one of so many is honest."""
        return self.f + 1

    @cached_property
    def _indices(self) -> dict[bytes, int]:
        return {member: index for index, member in enumerate(self.members)}

    def primary(self, view: int) -> int:
        """The index of the view's primary: p = v mod n (section 4.1)."""
        return view % self.n

    def index_of(self, address: bytes) -> int:
        """The index of a member; UnknownSigner when it is none."""
        try:
            return self._indices[address]
        except KeyError:
            raise UnknownSigner(f"0x{address.hex()} is no member of the committee") from None
