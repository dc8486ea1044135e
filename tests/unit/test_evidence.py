"""Evidence of equivocation: what convicts, and everything that does not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from koinon.encoding import decode, encode, keccak
from koinon.errors import BadSignature, Malformed
from koinon.evidence import verify_equivocation
from koinon.signing import Domain, Signer
from koinon.wire import Equivocation, Phase, Vote

DOMAIN = Domain(31337, b"\x22" * 20)
KEYS = [Signer(keccak(b"replica %d" % index)) for index in range(4)]
MEMBERS = [key.address for key in KEYS]
VOTE = Vote(phase=Phase.COMMIT, epoch=0, view=1, sequence=9, digest=keccak(b"one"))
OTHER = replace(VOTE, digest=keccak(b"other"))


def evidence(
    first: Vote = VOTE, second: Vote = OTHER, *, index: int = 2, signers: tuple[int, int] = (2, 2)
) -> Equivocation:
    return Equivocation(
        index=index,
        first=first,
        first_signature=KEYS[signers[0]].sign(DOMAIN, first),
        second=second,
        second_signature=KEYS[signers[1]].sign(DOMAIN, second),
    )


@pytest.mark.parametrize("phase", Phase)
def test_two_votes_for_one_slot_convict_their_signer(phase: Phase) -> None:
    proof = evidence(replace(VOTE, phase=phase), replace(OTHER, phase=phase))
    assert verify_equivocation(DOMAIN, MEMBERS, decode(Equivocation, encode(proof))) == MEMBERS[2]


@pytest.mark.parametrize("change", [{"phase": 2}, {"epoch": 1}, {"view": 2}, {"sequence": 10}], ids=str)
def test_votes_for_different_slots_convict_nobody(change: dict[str, int]) -> None:
    with pytest.raises(Malformed, match="not for one slot"):
        verify_equivocation(DOMAIN, MEMBERS, evidence(second=replace(OTHER, **change)))


def test_votes_for_one_digest_convict_nobody() -> None:
    with pytest.raises(Malformed, match="one digest"):
        verify_equivocation(DOMAIN, MEMBERS, evidence(VOTE, VOTE))


@pytest.mark.parametrize("phase", [0, 4, 255])
def test_votes_out_of_phase_convict_nobody(phase: int) -> None:
    with pytest.raises(Malformed, match="phase"):
        verify_equivocation(DOMAIN, MEMBERS, evidence(replace(VOTE, phase=phase), replace(OTHER, phase=phase)))


@pytest.mark.parametrize("signers", [(1, 2), (2, 1), (1, 1)])
def test_nobody_is_convicted_by_the_votes_of_another(signers: tuple[int, int]) -> None:
    with pytest.raises(BadSignature, match="not of replica 2"):
        verify_equivocation(DOMAIN, MEMBERS, evidence(signers=signers))


def test_votes_of_another_network_convict_nobody() -> None:
    with pytest.raises(BadSignature):
        verify_equivocation(Domain(31338, DOMAIN.contract), MEMBERS, evidence())


def test_index_beyond_the_committee_convicts_nobody() -> None:
    with pytest.raises(Malformed, match="replica 4 of a committee of 4"):
        verify_equivocation(DOMAIN, MEMBERS, evidence(index=4))
