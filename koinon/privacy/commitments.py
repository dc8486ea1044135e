"""Pedersen commitments to updates: anybody checks the sum of a round, trusting nobody (Pedersen 1991).

A node commits to its vector before it is secret-shared: C = sum s_k G_k + r H over the 255-bit scalars s_k into
which `packing` packs the vector, in the prime-order group G1 of BLS12-381. Nobody who cannot take discrete
logarithms opens C in two ways: the generators are hashed to the curve (RFC 9380), so that nobody knows a relation
between them. On the same assumption C hides the vector. It does not hide it perfectly: r has 248 of the group's 255
bits, and of each byte of it the round's sum is opened. Commitments add: the product of all must open to the opened
sum and to the sum of the blindings.

The sum of the blindings travels as part of the vector: r is 31 bytes long, and its bytes are 31 more coordinates of
the update, carried by whatever mode carries the others. Nothing else is opened, so nothing else leaks.

What a failure says: some node committed to another vector than it shared, or the committee opened another sum than
the accepted one. It does not say who.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from py_arkworks_bls12381 import G1Point, Scalar

from koinon.errors import BadPiece, CannotOpen

from .mode import Entropy, Values
from .packing import Slots

COMMITMENT_BYTES = 48
BLINDING_BYTES = 31
"""Below the group's 255-bit order. A bytewise sum with one honest node's leaves 220 bits and more open."""
SCALAR_BITS = 255
_SUITE = b"KOINON-V01-CS01-with-BLS12381G1_XMD:SHA-256_SSWU_RO_"


def draw_blinding(entropy: Entropy) -> Values:
    """int64[31] of values in 0..255, to be appended to the vector before it is protected."""
    return np.frombuffer(entropy(BLINDING_BYTES), dtype=np.uint8).astype(np.int64)


def commit(values: Values, blinding: Values, *, bits: int, cohort: int) -> bytes:
    """The compressed point that commits to int64[d] (|x| < 2^(bits-1)) under int64[31] of blinding; 48 bytes."""
    return _commitment(values, blinding, bits=bits, cohort=cohort, summands=1).to_compressed_bytes()


def require_commitment(node: bytes, data: bytes) -> None:
    """BadPiece, naming the node, unless `data` is a point of the group."""
    try:
        _point(data)
    except ValueError as error:
        raise BadPiece(f"the commitment of node 0x{node.hex()} is no point of the group: {error}") from None


def verify_sum(commitments: Sequence[bytes], total: Values, blinding: Values, *, bits: int, cohort: int) -> None:
    """CannotOpen unless the commitments' product opens to int64[d] `total` under the summed int64[31] `blinding`."""
    try:
        product = sum((_point(each) for each in commitments), G1Point.identity())
    except ValueError as error:
        raise CannotOpen(f"a commitment is no point of the group: {error}") from None
    bound = len(commitments) << (bits - 1)  # of honest nodes; beyond it a slot would reach into its neighbour
    if max(-int(total.min(initial=0)), int(total.max(initial=0))) >= bound or blinding.min(initial=0) < 0:
        raise CannotOpen("the opened sum lies outside what the accepted updates can add to")
    if product != _commitment(total, blinding, bits=bits, cohort=cohort, summands=len(commitments)):
        raise CannotOpen(f"the sum is not the one that the {len(commitments)} accepted nodes committed to")


def _point(data: bytes) -> G1Point:
    """ValueError unless `data` is the one compressed form of a point in the prime-order subgroup."""
    if len(data) != COMMITMENT_BYTES:
        raise ValueError(f"{len(data)} bytes")
    point = G1Point.from_compressed_bytes(data)
    if point.to_compressed_bytes() != data:
        raise ValueError("not its compressed form")
    return point


def _commitment(values: Values, blinding: Values, *, bits: int, cohort: int, summands: int) -> G1Point:
    slots = Slots.of(dimension=values.size, bits=bits, cohort=cohort, modulus_bits=SCALAR_BITS)
    packed = slots.pack(values, summands)
    r = sum(int(byte) << (8 * place) for place, byte in enumerate(blinding))
    scalars = [Scalar.from_le_bytes_mod_order(int(each).to_bytes(32, "little")) for each in packed]
    scalars.append(Scalar.from_le_bytes_mod_order(r.to_bytes(40, "little")))
    return G1Point.multiexp_unchecked([*generators(slots.integers), _blinding_generator()], scalars)


@lru_cache(maxsize=4)
def generators(count: int) -> tuple[G1Point, ...]:
    """G_0 .. G_(count-1); about 0.2 ms each, once a process."""
    return tuple(_generator(b"value" + number.to_bytes(4, "big")) for number in range(count))


@lru_cache(maxsize=1)
def _blinding_generator() -> G1Point:
    return _generator(b"blinding")


def _generator(name: bytes) -> G1Point:
    return G1Point.hash_to_curve(b"koinon/commitment/" + name, _SUITE)
