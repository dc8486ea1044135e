"""One message, one digest: koinon.signing, the contracts and eth_account agree on every signed struct."""

from __future__ import annotations

import re
from typing import Any

import pytest
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak as eth_keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.encoding import to_hex
from koinon.epochs import Seat, epoch_change
from koinon.signing import Domain, Typed, signing_digest
from koinon.wire import Admission, Checkpoint, EpochChange, Revocation, RoundCertificate, Vote
from tests.contracts.world import World, fields

WORLD = World()

word32 = st.binary(min_size=32, max_size=32)
address = st.binary(min_size=20, max_size=20)


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


MESSAGES: dict[type[Typed], st.SearchStrategy[Any]] = {
    Admission: st.builds(
        Admission,
        member=address,
        roles=unsigned(8),
        examples_max=unsigned(32),
        sealing_key=word32,
        serial=unsigned(63),
    ),
    Revocation: st.builds(Revocation, member=address, serial=unsigned(63)),
    RoundCertificate: st.builds(
        RoundCertificate,
        task=word32,
        round=unsigned(32),
        epoch=unsigned(32),
        parent_model=word32,
        model=word32,
        updates_root=word32,
        opening=word32,
        rewards_root=word32,
        rewards_total=unsigned(63),
        participants=unsigned(32),
    ),
    Vote: st.builds(
        Vote, phase=unsigned(8), epoch=unsigned(32), view=unsigned(63), sequence=unsigned(63), digest=word32
    ),
    Checkpoint: st.builds(Checkpoint, epoch=unsigned(32), sequence=unsigned(63), state=word32, next=word32),
    EpochChange: st.builds(EpochChange, epoch=unsigned(32), members=word32, contacts=word32),
}
VIEWS = {
    Admission: ("MemberRegistry", "admissionDigest"),
    Revocation: ("MemberRegistry", "revocationDigest"),
    RoundCertificate: ("RoundLedger", "certificateDigest"),
    Vote: ("Committee", "voteDigest"),
}


def digest_of_eth_account(domain: Domain, message: Typed) -> bytes:
    name, declared = re.fullmatch(r"(\w+)\((.*)\)", message.TYPE).groups()  # type: ignore[union-attr]
    members = [field.split(" ") for field in declared.split(",")]
    signable = encode_typed_data(
        domain_data={
            "name": "Koinon",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": to_hex(domain.contract),
        },
        message_types={name: [{"name": field, "type": kind} for kind, field in members]},
        message_data={field: value for (_, field), value in zip(members, fields(message), strict=True)},
    )
    return bytes(eth_keccak(b"\x19" + signable.version + signable.header + signable.body))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_digest_equals_that_of_eth_account(kind: type[Typed], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    assert signing_digest(WORLD.domain, message) == digest_of_eth_account(WORLD.domain, message)


@pytest.mark.parametrize("kind", VIEWS, ids=lambda kind: kind.__name__)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_digest_equals_that_of_the_contract(kind: type[Typed], data: st.DataObject) -> None:
    message = data.draw(MESSAGES[kind])
    assert WORLD.view(*VIEWS[kind], fields(message)) == signing_digest(WORLD.domain, message)


@settings(max_examples=40, deadline=None)
@given(message=MESSAGES[Checkpoint])
def test_checkpoint_digest_equals_that_of_the_contract(message: Checkpoint) -> None:
    assert WORLD.view("Committee", "checkpointDigest", *fields(message)) == signing_digest(WORLD.domain, message)


SEATS = st.lists(st.builds(Seat, address=address, sealing_key=word32, url=st.text(max_size=256)), max_size=31)


@settings(max_examples=60, deadline=None)
@given(epoch=unsigned(32), seats=SEATS)
def test_epoch_change_hash_equals_that_of_the_contract(epoch: int, seats: list[Seat]) -> None:
    columns = [[getattr(seat, name) for seat in seats] for name in Seat.__struct_fields__]
    assert WORLD.view("Committee", "epochChange", epoch, *columns) == epoch_change(epoch, seats).struct_hash()


def test_domain_separator_equals_that_of_the_contract() -> None:
    assert WORLD.view("RoundLedger", "domainSeparator") == WORLD.domain.separator


def test_ledger_announces_its_domain() -> None:
    """EIP-5267, for wallets: fields 0x0f are name, version, chain id and contract."""
    interface_says = WORLD.evm.message_call(
        "0x" + "00" * 20, to_hex(WORLD.addresses["RoundLedger"]), bytes.fromhex("84b0196e"), is_static=True
    )
    assert bytes(interface_says)[:1] == b"\x0f"
    assert WORLD.addresses["RoundLedger"] in bytes(interface_says)
