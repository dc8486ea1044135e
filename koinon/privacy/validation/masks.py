"""Masks and masked vectors: integers of up to 80 bits, kept as planes of 32, 32 and 0, 8 or 16 bits.

A mask is the AES-256-CTR keystream of a seed at nonce zero: all low words, all middle words, all top words (cut to
`mask_bits` together), then the field elements that blind the proof. The low words come first and are the mask of
the update modulo 2^32, which is all that the round's sum needs.

The masked vector is (y - norm - sum of masks) mod 2^(8 width), which is the negative integer it stands for plus
2^(8 width): every masked vector that fits the format stands for integers of at most 8 width bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from .bounds import Bound
from .field import ELEMENT_BYTES, Plane, elements

Words = NDArray[np.uint32]
_BLOCK_BYTES = 16
_ZEROS = memoryview(bytes(1 << 17))


@dataclass(frozen=True, repr=False)
class Planes:
    """Unsigned integers by their bits: uint32[d] low and middle words, and the bytes above (uint8, uint16 or none)."""

    low: Words
    middle: Words
    top: NDArray[np.uint8] | NDArray[np.uint16] | None

    @classmethod
    def parse(cls, bound: Bound, data: bytes | memoryview) -> Planes:
        """From the first `vector_bytes` of `data`; no copies."""
        count = bound.coordinates
        low = np.frombuffer(data, dtype="<u4", count=count)
        middle = np.frombuffer(data, dtype="<u4", count=count, offset=4 * count)
        over = bound.width - 8
        top = np.frombuffer(data, dtype=f"<u{over}", count=count, offset=8 * count) if over else None
        return cls(low, middle, top)

    def part(self, start: int, stop: int) -> Planes:
        """The values start..stop-1."""
        top = None if self.top is None else self.top[start:stop]
        return Planes(self.low[start:stop], self.middle[start:stop], top)

    def integers(self) -> list[int]:
        tops = [0] * self.low.size if self.top is None else self.top.tolist()
        words = zip(self.low.tolist(), self.middle.tolist(), tops, strict=True)
        return [low | middle << 32 | top << 64 for low, middle, top in words]

    def for_contraction(self) -> list[Plane]:
        planes = [Plane(self.low.view("<u2"), 0, 2), Plane(self.middle.view("<u2"), 4, 2)]
        return planes if self.top is None else [*planes, Plane(self.top, 8, 1)]


class Hidden:
    """A mask's parts of the blinds (of the answers) and of the proof's coefficients."""

    def __init__(self, bound: Bound, data: bytes) -> None:
        self._answers, self._data = bound.answers, data

    @property
    def blinds(self) -> list[int]:
        return elements(self._data[: ELEMENT_BYTES * self._answers])

    @property
    def coefficients(self) -> list[int]:
        return elements(self._data[ELEMENT_BYTES * self._answers :])


@dataclass(frozen=True, repr=False)
class Mask:
    """One mask: its integers, and what it hides of the proof."""

    planes: Planes
    hidden: Hidden


def expand(bound: Bound, seed: bytes) -> Mask:
    """The mask of a 32-byte seed."""
    data = _stream(seed, 0, bound.vector_bytes + ELEMENT_BYTES * bound.hidden_elements)
    planes = Planes.parse(bound, data)
    if planes.top is None:
        np.bitwise_and(planes.middle, np.uint32(2 ** (bound.mask_bits - 32) - 1), out=planes.middle)
    else:
        np.bitwise_and(planes.top, planes.top.dtype.type(2 ** (bound.mask_bits - 64) - 1), out=planes.top)
    return Mask(planes, Hidden(bound, bytes(data[bound.vector_bytes :])))


def expand_hidden(bound: Bound, seed: bytes) -> Hidden:
    """The same without the integers, which are nearly all of a mask."""
    return Hidden(bound, bytes(_stream(seed, bound.vector_bytes, ELEMENT_BYTES * bound.hidden_elements)))


def _stream(seed: bytes, start: int, size: int) -> memoryview:
    """Bytes start..start+size-1 of a seed's keystream, writable."""
    block, skipped = divmod(start, _BLOCK_BYTES)
    stream = Cipher(algorithms.AES256(seed), modes.CTR(block.to_bytes(_BLOCK_BYTES, "big"))).encryptor()
    buffer = bytearray(skipped + size + _BLOCK_BYTES - 1)  # update_into wants a block more than it writes
    view = memoryview(buffer)
    for place in range(0, skipped + size, len(_ZEROS)):
        stream.update_into(_ZEROS[: skipped + size - place], view[place:])
    return view[skipped : skipped + size]


def mask_vector(bound: Bound, values: NDArray[np.int64], seeds: Iterable[bytes]) -> bytes:
    """The masked vector of `values` (int64[coordinates], a little less than masks) as planes, `vector_bytes` long."""
    low = bound.norm - values
    middle = np.zeros(bound.coordinates, dtype=np.int64)
    top = np.zeros(bound.coordinates, dtype=np.int64)
    for seed in seeds:
        mask = expand(bound, seed).planes
        low += mask.low
        middle += mask.middle
        if mask.top is not None:
            top += mask.top
    middle += low >> 32
    top += middle >> 32
    # minus the sum, in the words' two's complement
    low = -(low & 0xFFFFFFFF)
    middle = (low >> 63) - (middle & 0xFFFFFFFF)
    top = (middle >> 63) - top
    words = low.astype("<u4").tobytes() + middle.astype("<u4").tobytes()
    over = bound.width - 8
    return words + (top.astype(f"<u{over}").tobytes() if over else b"")
