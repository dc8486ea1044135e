"""Evidence of equivocation: two votes of one replica for one slot with different digests. Pure.

A correct replica never signs two (pbft/journal.py remembers what it signed), so the pair convicts whoever signed it,
whoever shows it: here, in the contract `Committee` (`reportEquivocation`), and in an audit.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import BadSignature, Malformed
from .signing import Domain, signer_of
from .wire import Equivocation, Phase, Vote

PAIRS_MAX = 256
"""As many as a replica keeps and shows, of all culprits and epochs together."""
EVIDENCE_BYTES_MAX = 1 << 20

Slot = tuple[int, int, int, int]
"""Phase, epoch, view and sequence: what a replica has one word for."""


def slot_of(vote: Vote) -> Slot:
    return vote.phase, vote.epoch, vote.view, vote.sequence


def verify_equivocation(domain: Domain, members: Sequence[bytes], evidence: Equivocation) -> bytes:
    """The address of the member who signed both; `members` are the committee of the votes' epoch, by index.

    Malformed when the votes do not contradict one another, BadSignature when the member named did not sign both.
    """
    first, second = evidence.first, evidence.second
    if first.phase not in tuple(Phase):
        raise Malformed(f"a vote of phase {first.phase}")
    if slot_of(first) != slot_of(second):
        raise Malformed("the votes are not for one slot")
    if first.digest == second.digest:
        raise Malformed("both votes are for one digest")
    if evidence.index >= len(members):
        raise Malformed(f"replica {evidence.index} of a committee of {len(members)}")
    culprit = members[evidence.index]
    for vote, signature in ((first, evidence.first_signature), (second, evidence.second_signature)):
        if (signer := signer_of(domain, vote, signature)) != culprit:
            raise BadSignature(f"a vote of 0x{signer.hex()}, not of replica {evidence.index}")
    return culprit
