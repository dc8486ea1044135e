"""Handovers: what proves one, and who is followed through them."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode as abi_encode
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from koinon.config import ContractAddresses, FederationFile
from koinon.encoding import ZERO_DIGEST, keccak, to_hex
from koinon.epochs import Handover, Seat, contacts_hash, epoch_change, follow, members_hash, verify_handover
from koinon.errors import BadSignature, Malformed, WrongEpoch
from koinon.signing import Domain, Signer
from koinon.wire import Checkpoint, CheckpointCertificate

DOMAIN = Domain(31337, b"\x22" * 20)


def key(index: int) -> Signer:
    return Signer(keccak(b"replica %d" % index))


def seats(*indices: int) -> tuple[Seat, ...]:
    return tuple(
        Seat(address=key(index).address, sealing_key=keccak(b"seal %d" % index), url=f"https://replica-{index}:7000")
        for index in indices
    )


def handover(epoch: int, following: tuple[Seat, ...], signers: tuple[int, ...], domain: Domain = DOMAIN) -> Handover:
    change = epoch_change(epoch + 1, following).struct_hash()
    checkpoint = Checkpoint(epoch=epoch, sequence=64 * (epoch + 1), state=keccak(b"state"), next=change)
    signatures = tuple(key(signer).sign(domain, checkpoint) for signer in signers)
    return Handover(certificate=CheckpointCertificate(checkpoint=checkpoint, signatures=signatures), seats=following)


def members(*indices: int) -> list[bytes]:
    return [seat.address for seat in seats(*indices)]


def federation() -> FederationFile:
    address = to_hex(b"\x22" * 20)
    empty = FederationFile(
        version=1, name="epochs", chain_id=DOMAIN.chain_id, genesis_hash="0x", rpc="http://127.0.0.1:1",
        contracts=ContractAddresses(
            token=address, registry=address, committee=address, ledger=address, rewards=address
        ),
        registrar=address, epoch=0, replicas=(),
    )  # fmt: skip
    return empty.with_committee(0, seats(0, 1, 2, 3))


FIRST = handover(0, seats(0, 1, 2, 3, 4), (0, 1, 2))
SECOND = handover(1, seats(0, 1, 2, 3, 5), (0, 1, 2, 4))


def test_a_quorum_hands_over() -> None:
    verify_handover(DOMAIN, 0, members(0, 1, 2, 3), FIRST)


@pytest.mark.parametrize("signers", [(), (0, 1), (0, 1, 1), (0, 1, 9), (0, 1, 2, 3, 3)])
def test_less_than_a_quorum_of_distinct_members_hands_nothing_over(signers: tuple[int, ...]) -> None:
    with pytest.raises(BadSignature):
        verify_handover(DOMAIN, 0, members(0, 1, 2, 3), handover(0, seats(0, 1, 2, 4), signers))


def test_the_seats_of_a_handover_are_those_that_the_quorum_named() -> None:
    for lie in (seats(0, 1, 2, 9), (), (replace(FIRST.seats[0], url="https://elsewhere"), *FIRST.seats[1:])):
        with pytest.raises(Malformed):
            verify_handover(DOMAIN, 0, members(0, 1, 2, 3), replace(FIRST, seats=lie))


def test_a_checkpoint_that_names_nobody_is_no_handover() -> None:
    checkpoint = replace(FIRST.certificate.checkpoint, next=ZERO_DIGEST)
    signatures = tuple(key(index).sign(DOMAIN, checkpoint) for index in (0, 1, 2))
    certificate = CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)
    for said in (FIRST.seats, ()):
        with pytest.raises(Malformed):
            verify_handover(DOMAIN, 0, members(0, 1, 2, 3), Handover(certificate=certificate, seats=said))


def test_a_handover_counts_in_its_own_epoch_and_domain_only() -> None:
    with pytest.raises(WrongEpoch):
        verify_handover(DOMAIN, 1, members(0, 1, 2, 3), FIRST)
    with pytest.raises(BadSignature):
        verify_handover(Domain(1, b"\x22" * 20), 0, members(0, 1, 2, 3), FIRST)


def test_following_leads_through_all_epochs_from_any_of_them() -> None:
    file = federation()
    last = follow(file, [FIRST, SECOND])
    assert (last.epoch, last.replica_addresses) == (2, tuple(members(0, 1, 2, 3, 5)))
    assert follow(follow(file, [FIRST]), [FIRST, SECOND]) == last
    assert follow(last, [FIRST, SECOND]) == last
    assert last.replicas[4].url == "https://replica-5:7000"
    assert follow(file, []) == file


def test_following_stops_at_a_gap_and_at_a_lie() -> None:
    with pytest.raises(WrongEpoch):
        follow(federation(), [SECOND])
    with pytest.raises(BadSignature):
        follow(federation(), [FIRST, handover(1, seats(0, 1, 2, 3, 5), (0, 1, 2))])


@given(st.lists(st.tuples(st.binary(min_size=20, max_size=20), st.binary(min_size=32, max_size=32), st.text())))
def test_members_and_contacts_are_hashed_as_solidity_encodes_them(
    places: list[tuple[bytes, bytes, str]],
) -> None:
    keys, urls = [key for _, key, _ in places], [url for _, _, url in places]
    assert contacts_hash(keys, urls) == keccak(abi_encode(["bytes32[]", "string[]"], [keys, urls]))
    packed = b"".join(address.rjust(32, b"\0") for address, _, _ in places)
    assert members_hash(address for address, _, _ in places) == keccak(packed)
