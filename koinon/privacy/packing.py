"""Many small signed integers in few large ones, and back: offset binary in slots of equal width.

A value x of B bits is stored as x + 2^(B-1); k of them add to less than 2^(B + ceil(log2 cohort)), the width of a
slot, so that no slot carries into its neighbour. A packed integer has at most k-3 bits for a k-bit modulus: it stays
below n/3, where stock phe reads a plaintext as positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from gmpy2 import mpz

from .mode import Values


@dataclass(frozen=True)
class Slots:
    """How `dimension` values are spread: `count` slots of `width` bits a packed integer."""

    dimension: int
    bits: int
    width: int
    count: int

    @classmethod
    def of(cls, *, dimension: int, bits: int, cohort: int, modulus_bits: int) -> Slots:
        width = bits + (cohort - 1).bit_length()
        return cls(dimension, bits, width, (modulus_bits - 3) // width)

    @property
    def integers(self) -> int:
        """How many packed integers there are."""
        return -(-self.dimension // self.count)

    @property
    def integer_bits(self) -> int:
        """No sum of packed integers of honest nodes is longer than this."""
        return self.width * self.count

    def pack(self, values: Values, summands: int = 1) -> list[mpz]:
        """int64[dimension], sums of `summands` values |x| < 2^(bits-1) -> packed integers, first in the lowest slot.

        Packing is additive: the packed integers of sums are the sums of the packed integers.
        """
        slots = np.zeros(self.integers * self.count, dtype="<u8")
        slots[: self.dimension] = values + summands * (1 << (self.bits - 1))
        bits = np.unpackbits(slots.view(np.uint8).reshape(-1, 8), axis=1, count=self.width, bitorder="little")
        rows = np.packbits(bits.reshape(self.integers, -1), axis=1, bitorder="little")
        return [mpz.from_bytes(row.tobytes(), "little") for row in rows]

    def unpack(self, integers: Sequence[mpz], summands: int) -> Values:
        """Sums of `summands` packed integers, each below 2^integer_bits -> the sums of the values, int64."""
        width = (self.integer_bits + 7) // 8
        raw = np.frombuffer(b"".join(i.to_bytes(width, "little") for i in integers), dtype=np.uint8)
        bits = np.unpackbits(raw.reshape(self.integers, width), axis=1, count=self.integer_bits, bitorder="little")
        packed = np.zeros((self.integers * self.count, 8), dtype=np.uint8)
        rows = np.packbits(bits.reshape(-1, self.width), axis=1, bitorder="little")
        packed[:, : rows.shape[1]] = rows
        slots: Values = packed.view("<i8").ravel()[: self.dimension].astype(np.int64)
        return slots - summands * (1 << (self.bits - 1))
