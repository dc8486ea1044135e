from __future__ import annotations

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from koinon.encoding import encode
from koinon.errors import BadSignature, Malformed
from koinon.rounds.operations import StopTask
from koinon.signing import Domain, Signed, Signer, authenticate, recover, seal, signing_digest
from koinon.wire import Admission, Vote

DOMAIN = Domain(31337, b"\x22" * 20)
SIGNER = Signer(b"\x01" * 32)
VOTE = Vote(epoch=0, phase=2, view=1, sequence=7, digest=b"\x11" * 32)


def test_address_is_the_one_that_ethereum_derives() -> None:
    assert SIGNER.address.hex() == Account.from_key(SIGNER.secret).address[2:].lower()


@pytest.mark.parametrize(
    "message",
    [VOTE, Admission(member=b"\x33" * 20, roles=1, examples_max=5, sealing_key=b"\x44" * 32, serial=9)],
)
def test_typed_digest_equals_the_wallets_eip712_digest(message: Vote | Admission) -> None:
    name, fields = type(message).TYPE[:-1].split("(")
    types = [dict(zip(("type", "name"), field.split(" "), strict=True)) for field in fields.split(",")]
    values = dict(zip((each["name"] for each in types), message.__struct_fields__, strict=True))
    full = {
        "types": {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            name: types,
        },
        "primaryType": name,
        "domain": {"name": "Koinon", "version": "1", "chainId": 31337, "verifyingContract": "0x" + "22" * 20},
        "message": {key: _plain(getattr(message, field)) for key, field in values.items()},
    }
    wallet = Account.from_key(SIGNER.secret).sign_message(encode_typed_data(full_message=full))
    ours = SIGNER.sign(DOMAIN, message)
    assert wallet.r == int.from_bytes(ours[:32], "big")
    assert wallet.s == int.from_bytes(ours[32:], "big") & ((1 << 255) - 1)
    assert recover(bytes(wallet.message_hash), ours) == SIGNER.address


def _plain(value: int | bytes) -> int | str:
    return value if isinstance(value, int) else "0x" + value.hex()


def test_authenticate_names_the_signer() -> None:
    said = authenticate(Vote, seal(SIGNER, DOMAIN, VOTE), DOMAIN)
    assert said.message == VOTE
    assert said.sender == SIGNER.address


def test_a_signature_for_another_network_is_somebody_elses() -> None:
    for other in (Domain(1, DOMAIN.contract), Domain(DOMAIN.chain_id, b"\x23" * 20)):
        assert authenticate(Vote, seal(SIGNER, DOMAIN, VOTE), other).sender != SIGNER.address


def test_a_generic_message_is_bound_to_its_type() -> None:
    stop = StopTask(task=bytes(32))
    assert signing_digest(DOMAIN, stop) != signing_digest(DOMAIN, VOTE)
    with pytest.raises(Malformed):
        authenticate(Vote, seal(SIGNER, DOMAIN, stop), DOMAIN)


def test_changing_any_byte_of_a_sealed_vote_never_leaves_the_signer_standing() -> None:
    raw = seal(SIGNER, DOMAIN, VOTE)
    for at in range(len(raw)):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            said = authenticate(Vote, altered, DOMAIN)
        except (Malformed, BadSignature):
            continue
        assert said.sender != SIGNER.address


def test_a_high_s_is_refused() -> None:
    half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
    digest = signing_digest(DOMAIN, VOTE)
    r = SIGNER.sign_digest(digest)[:32]
    with pytest.raises(BadSignature, match="high s"):
        recover(digest, r + (half + 1).to_bytes(32, "big"))


def test_short_and_zero_signatures_are_refused() -> None:
    for signature in (b"", bytes(63), bytes(64), b"\xff" * 64):
        with pytest.raises(BadSignature):
            recover(bytes(32), signature)


def test_the_envelope_is_canonical() -> None:
    raw = seal(SIGNER, DOMAIN, VOTE)
    assert raw == encode(Signed(payload=encode(VOTE), signature=SIGNER.sign(DOMAIN, VOTE)))


def test_no_repr_shows_a_secret() -> None:
    assert SIGNER.secret.hex() not in repr(SIGNER)
