"""Which bytes a component sum has: f+1 equal signed digests decide, everybody else who spoke is named.

With at most f liars, one of any f+1 replicas is honest, so a digest that f+1 holders signed is the digest of
the true component; no decoding and no proof is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from koinon.encoding import keccak
from koinon.errors import BadPiece, CannotOpen, OutOfRange

from .mode import Held, Setting, Transcript


def decide(
    setting: Setting, number: int, holders: Iterable[int], transcript: Transcript, *, size: int
) -> tuple[bytes, frozenset[int]]:
    """The bytes of component `number` (exactly `size`) and the holders who signed another digest for it.

    Raises CannotOpen when no digest, or more than one, has f+1 holders, or when its bytes are missing or wrong.
    """
    votes: dict[bytes, list[int]] = {}
    for replica in sorted(holders):
        vote = transcript.digests.get(replica, {}).get(number)
        if vote is not None:
            votes.setdefault(bytes(vote), []).append(replica)
    needed = setting.faulty + 1
    decided = [vote for vote, voters in votes.items() if len(voters) >= needed]
    if len(decided) != 1:
        said = "; ".join(f"{vote.hex()[:8]} by {voters}" for vote, voters in sorted(votes.items())) or "nothing"
        few_or_many = "no digest has" if not decided else "more than one digest has"
        raise CannotOpen(f"component {number}: {few_or_many} {needed} replicas behind it ({said})")
    data = transcript.components.get(decided[0])
    if data is None:
        raise CannotOpen(f"component {number}: the bytes of {decided[0].hex()} are missing")
    if len(data) != size or keccak(data) != decided[0]:
        raise CannotOpen(f"component {number}: these are not the {size} bytes of {decided[0].hex()}")
    dissenters = (replica for vote, voters in votes.items() if vote != decided[0] for replica in voters)
    return data, frozenset(dissenters)


def require_cohort(setting: Setting, updates: Sequence[Held]) -> None:
    """OutOfRange unless 1..cohort updates are to be summed; BadPiece when a node occurs twice."""
    if not 1 <= len(updates) <= setting.cohort:
        raise OutOfRange(f"{len(updates)} updates to sum where 1 to {setting.cohort} are allowed")
    seen: set[bytes] = set()
    for held in updates:
        if held.node in seen:
            raise BadPiece(f"two updates of node 0x{held.node.hex()} in one sum")
        seen.add(held.node)


def require_cohort_opens(setting: Setting, publics: Mapping[bytes, bytes]) -> None:
    """CannotOpen unless the accepted set has 1..cohort updates."""
    if not 1 <= len(publics) <= setting.cohort:
        raise CannotOpen(f"{len(publics)} accepted updates where 1 to {setting.cohort} are allowed")


def require_no_witness(witness: bytes) -> None:
    """CannotOpen when a mode that has no witness is given one (evidence has one form)."""
    if witness:
        raise CannotOpen(f"a witness of {len(witness)} bytes where this mode has none")
