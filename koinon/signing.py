"""Who said it: EIP-712 digests, compact secp256k1 signatures, and `Authenticated` messages.

Every signature in Koinon is over an EIP-712 digest in one domain a network (name, version, chain id, round
ledger's address), so that a signature made for one network is worthless in another, and so that a contract can
check what replicas say to one another. Messages that a contract checks are `Typed` (EIP-712 struct with static
fields); all others are signed as `Message(string kind,bytes32 payload)`.

Signatures are 64 bytes (EIP-2098: r ‖ yParity·2^255 + s, low s). `Authenticated` is built only here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar, Generic, TypeVar

from coincurve import PrivateKey, PublicKey

from .encoding import Message, Signature, decode, encode, keccak
from .errors import BadSignature

_DOMAIN_TYPE = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_MESSAGE_TYPE = keccak(b"Message(string kind,bytes32 payload)")
_HALF_ORDER = bytes.fromhex("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0")


@dataclass(frozen=True)
class Domain:
    """The EIP-712 domain of one network; `contract` is the RoundLedger's 20-byte address."""

    chain_id: int
    contract: bytes

    @cached_property
    def separator(self) -> bytes:
        return keccak(
            _DOMAIN_TYPE
            + keccak(b"Koinon")
            + keccak(b"1")
            + self.chain_id.to_bytes(32, "big")
            + self.contract.rjust(32, b"\0")
        )


class Typed(Message, frozen=True):
    """A message that Solidity can check. `TYPE` is its EIP-712 type string, fields in the same order.

    Only static types: unsigned integers, `bytes32` and `address`.
    """

    TYPE: ClassVar[str]

    def struct_hash(self) -> bytes:
        words = [_type_hash(self.TYPE)]
        for name in self.__struct_fields__:
            value = getattr(self, name)
            words.append(value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0"))
        return keccak(b"".join(words))


@cache
def _type_hash(kind: str) -> bytes:
    return keccak(kind.encode())


def signing_digest(domain: Domain, message: Message) -> bytes:
    """The 32 bytes that are signed for `message` in `domain`."""
    if isinstance(message, Typed):
        struct = message.struct_hash()
    else:
        struct = keccak(_MESSAGE_TYPE + _type_hash(type(message).__name__) + keccak(encode(message)))
    return keccak(b"\x19\x01" + domain.separator + struct)


def address_of(public_key: PublicKey) -> bytes:
    """The 20-byte Ethereum address of a secp256k1 key."""
    return keccak(public_key.format(compressed=False)[1:])[12:]


class Signer:
    """A secp256k1 identity. Signing is deterministic (RFC 6979)."""

    def __init__(self, secret: bytes) -> None:
        self._key = PrivateKey(secret)
        self.address = address_of(self._key.public_key)

    @property
    def secret(self) -> bytes:
        return self._key.secret

    def __repr__(self) -> str:
        return f"Signer(0x{self.address.hex()})"

    def sign_digest(self, digest: bytes) -> bytes:
        raw = self._key.sign_recoverable(digest, hasher=None)
        return raw[:32] + bytes([raw[32] | raw[64] << 7]) + raw[33:64]

    def sign(self, domain: Domain, message: Message) -> bytes:
        """A 64-byte signature of `message` in `domain`."""
        return self.sign_digest(signing_digest(domain, message))


def recover(digest: bytes, signature: bytes) -> bytes:
    """The address whose key signed `digest`; BadSignature when there is none."""
    if len(signature) != 64:
        raise BadSignature(f"a signature has 64 bytes, not {len(signature)}")
    parity, first = signature[32] >> 7, signature[32] & 0x7F
    s = bytes([first]) + signature[33:]
    if s > _HALF_ORDER:
        raise BadSignature("signature with a high s")
    try:
        key = PublicKey.from_signature_and_message(signature[:32] + s + bytes([parity]), digest, hasher=None)
    except Exception:
        raise BadSignature("not a secp256k1 signature") from None
    return address_of(key)


def signer_of(domain: Domain, message: Message, signature: bytes) -> bytes:
    """The address that signed `message` in `domain`; BadSignature when there is none."""
    return recover(signing_digest(domain, message), signature)


class Signed(Message, frozen=True):
    """An envelope on the wire: the canonical bytes of one message and a signature over it."""

    payload: bytes
    signature: Signature


M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Authenticated(Generic[M]):
    """A message whose signature was checked. `signature` makes it transferable evidence."""

    message: M
    sender: bytes
    signature: bytes


def seal(signer: Signer, domain: Domain, message: Message) -> bytes:
    """The wire bytes of `message`, signed."""
    return encode(Signed(payload=encode(message), signature=signer.sign(domain, message)))


def authenticate(kind: type[M], data: bytes, domain: Domain, *, bytes_max: int = 1 << 20) -> Authenticated[M]:
    """Parse and verify what `seal` made. Raises Malformed (or a kind of it) or BadSignature.

    The sender is whoever signed; the caller decides whether that party may speak.
    """
    envelope = decode(Signed, data, bytes_max=bytes_max + 256)
    message = decode(kind, envelope.payload, bytes_max=bytes_max)
    return Authenticated(message, signer_of(domain, message, envelope.signature), envelope.signature)
