"""The prime field of the proofs, p = 2^192 - 237, and the one operation on long vectors that they need.

That operation contracts a matrix of unsigned integers with powers of a field element: row k of `rows` x `columns`
is multiplied by s^k and by s^-k, and the rows are added. The integers come as planes of 8 or 16 bits, the powers as
eight limbs of 24 bits, so that float64 matrix products of them are exact: 24 + 16 bits and `ROWS_MAX` = 2^8 terms
stay below 2^53. The limbs' products are then carried in base 2^8, and only `columns` results become Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

P = 2**192 - 237
ELEMENT_BYTES = 24
ROWS_MAX = 256
LIMB_BYTES = 3
LIMBS = ELEMENT_BYTES // LIMB_BYTES

_TERMS_MAX = 1 << 20
"""So many products of 16 and 15 bits add up exactly in float64."""
_BLAS_MNK = 1 << 18
"""Products of at most this size run in the calling thread (OpenBLAS starts no others): they are short, and replicas
check several updates at once."""

Floats = NDArray[np.float64]


class Plane(NamedTuple):
    """Bits `8 * offset` and up of every value: uint8[d] or, little-endian, uint16[d * parts] with `parts` a value."""

    words: NDArray[np.uint8] | NDArray[np.uint16]
    offset: int
    parts: int


def elements(data: bytes) -> list[int]:
    """Field elements from 24 bytes each, little-endian. Uniform bytes give an element within 2^-184 of uniform."""
    starts = range(0, len(data), ELEMENT_BYTES)
    return [int.from_bytes(data[start : start + ELEMENT_BYTES], "little") % P for start in starts]


def element_bytes(values: Sequence[int]) -> bytes:
    """24 bytes a value, each in 0..P-1."""
    return b"".join(value.to_bytes(ELEMENT_BYTES, "little") for value in values)


def powers(base: int, count: int) -> list[int]:
    """1, base, ..., base^(count-1) in the field."""
    return list(accumulate(repeat(base, count - 1), lambda power, factor: power * factor % P, initial=1))


def dot(left: Sequence[int], right: Sequence[int]) -> int:
    """The inner product in the field, of equal lengths."""
    return sum(a * b for a, b in zip(left, right, strict=True)) % P


def inner(planes: Sequence[Plane], direction: NDArray[np.int16]) -> int:
    """The exact inner product of unsigned integers and int16s, of equal lengths."""
    total = 0
    for start in range(0, direction.size, _TERMS_MAX):
        factors = direction[start : start + _TERMS_MAX].astype(np.float64)
        for plane in planes:
            words = plane.words.reshape(-1, plane.parts)[start : start + _TERMS_MAX]
            for part in range(plane.parts):
                total += int((words[:, part] * factors).sum()) << (8 * plane.offset + 16 * part)
    return total


class Contraction:
    """Sums over the rows of a matrix, weighted by s^k and by s^-k, for one s."""

    def __init__(self, point: int, rows: int, columns: int) -> None:
        if not 1 <= rows <= ROWS_MAX:
            raise ValueError(f"{rows} rows where sums are exact up to {ROWS_MAX}")
        self.rows, self.columns = rows, columns
        self.ascending = powers(point, rows)
        self.descending = powers(pow(point, -1, P), rows)
        self._limbs = np.vstack([_limbs(self.ascending), _limbs(self.descending)])

    def apply(self, planes: Sequence[Plane]) -> tuple[list[int], list[int]]:
        """The `columns` sums with s^k and with s^-k of row-major values (at most rows x columns; the rest is zero)."""
        last = LIMB_BYTES * (LIMBS - 1) + max(plane.offset + 2 * plane.parts for plane in planes)
        digits = np.zeros((last + 8, 2, self.columns), dtype=np.int64)
        for plane in planes:
            self._add(digits, plane)
        carried = _carry(digits)
        sums = [int.from_bytes(row, "little") % P for row in carried]
        return sums[: self.columns], sums[self.columns :]

    def _add(self, digits: NDArray[np.int64], plane: Plane) -> None:
        """Add the plane's products to `digits`, a few columns of the matrix at a time: it stays in the cache."""
        width = self.columns * plane.parts
        whole = plane.words.size // width
        matrix, rest = plane.words[: whole * width].reshape(whole, width), plane.words[whole * width :]
        step = max(1, _BLAS_MNK // self._limbs.size)
        products, buffer = np.empty((2 * LIMBS, width)), np.empty((self.rows, step))
        for start in range(0, width, step):
            block = buffer[:, : min(step, width - start)]
            block[:whole] = matrix[:, start : start + step]
            block[whole:] = 0.0
            if (last := rest[start : start + step]).size:
                block[whole, : last.size] = last
            np.matmul(self._limbs, block, out=products[:, start : start + step])
        exact = products.astype(np.int64).reshape(2, LIMBS, self.columns, plane.parts)
        for limb in range(LIMBS):
            for part in range(plane.parts):
                digits[LIMB_BYTES * limb + plane.offset + 2 * part] += exact[:, limb, :, part]


def _limbs(values: Sequence[int]) -> Floats:
    """float64[LIMBS, n]: limb i of each value, of 24 bits."""
    raw = np.frombuffer(element_bytes(values), dtype=np.uint8).reshape(len(values), LIMBS, LIMB_BYTES)
    limbs: Floats = raw @ np.array([1.0, 2.0**8, 2.0**16])
    return np.ascontiguousarray(limbs.T)


def _carry(digits: NDArray[np.int64]) -> list[bytes]:
    """Base-256 digits with overflow, int64[positions, ...], to little-endian bytes of each value."""
    positions = digits.shape[0]
    proper = np.empty((positions, digits[0].size), dtype=np.uint8)
    carry = np.zeros(digits[0].size, dtype=np.int64)
    for position in range(positions):
        carry += digits[position].ravel()
        proper[position] = carry & 0xFF
        carry >>= 8
    flat = np.ascontiguousarray(proper.T).tobytes()
    return [flat[start : start + positions] for start in range(0, len(flat), positions)]
