"""Canonical bytes: one encoding a message, strict decoding, and the digests over it.

A message is a frozen `Message` struct. It is encoded as a MessagePack array whose first element is its class
name, so that two types never share bytes. `decode` accepts exactly what `encode` produces: it re-encodes and
compares, because a lenient decoder lets one meaning have many digests.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Annotated, Any, TypeVar, overload

import msgspec
from msgspec import Meta

from .errors import Malformed, NonCanonical, Oversized

try:  # the C implementation takes 1.5 µs where the portable one takes 8
    from sha3 import keccak_256 as _keccak_256

    def keccak(data: bytes) -> bytes:
        """Keccak-256 as Ethereum uses it (not NIST's SHA3-256): 32 bytes."""
        digest: bytes = _keccak_256(data).digest()
        return digest

except ImportError:  # pragma: no cover - platforms without the wheel
    from Crypto.Hash import keccak as _keccak

    def keccak(data: bytes) -> bytes:
        """Keccak-256 as Ethereum uses it (not NIST's SHA3-256): 32 bytes."""
        return _keccak.new(digest_bits=256, data=data).digest()


Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Address = Annotated[bytes, Meta(min_length=20, max_length=20)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
U8 = Annotated[int, Meta(ge=0, lt=2**8)]
U32 = Annotated[int, Meta(ge=0, lt=2**32)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
Text = Annotated[str, Meta(max_length=1024)]

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
"""All that msgspec raises about hostile bytes: text that is no UTF-8 is a ValueError, deep nesting a RecursionError."""

RECURSION_MAX = 5_000

ZERO_DIGEST = bytes(32)
ZERO_ADDRESS = bytes(20)


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is signed, hashed, stored or sent. Field order is the wire order.

    Field constraints are checked when bytes are decoded; invariants across fields in `__post_init__`, which
    runs on construction and on decoding alike (a ValueError there becomes `Malformed`).
    """


M = TypeVar("M", bound=Message)

_encoder = msgspec.msgpack.Encoder()


def encode(message: object) -> bytes:
    """The one encoding of `message` (a Message, or plain tuples, ints, bytes and strings)."""
    return _encoder.encode(message)


@cache
def _decoder(kind: object) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


@overload
def decode(kind: type[M], data: bytes, *, bytes_max: int = ...) -> M: ...
@overload
def decode(kind: Any, data: bytes, *, bytes_max: int = ...) -> Any: ...
def decode(kind: Any, data: bytes, *, bytes_max: int = 1 << 20) -> Any:
    """Parse `data` as a `kind` (a Message class or a union of them).

    Raises Oversized above `bytes_max`, Malformed when it isn't a `kind`, NonCanonical when another encoding
    of the same value exists.
    """
    if len(data) > bytes_max:
        raise Oversized(f"{len(data)} bytes where at most {bytes_max} are allowed")
    try:
        message = _decoder(kind).decode(data)
    except UNREADABLE as error:
        raise Malformed(f"not a {getattr(kind, '__name__', kind)}: {error}") from None
    if _encoder.encode(message) != data:
        raise NonCanonical(f"not the canonical encoding of a {type(message).__name__}")
    return message


def decode_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`, which may come from anybody; Malformed when it is none.

    What nests too deeply must end in an error before the stack does. The interpreter's limit sees to that, but
    libraries raise it (py_ecc, which eth-account brings, to 100,000), and a stack has no room for that.
    """
    if sys.getrecursionlimit() > RECURSION_MAX:
        sys.setrecursionlimit(RECURSION_MAX)
    try:
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
    except UNREADABLE as error:
        raise Malformed(f"not a JSON object: {error}") from None
    return found


def digest(message: Message) -> bytes:
    """Keccak-256 of the canonical encoding: 32 bytes."""
    return keccak(_encoder.encode(message))


def to_hex(value: bytes) -> str:
    return "0x" + value.hex()


def from_hex(text: str) -> bytes:
    """Bytes of a hexadecimal string with or without 0x; Malformed otherwise."""
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise Malformed(f"not hexadecimal: {text[:80]!r}") from None
