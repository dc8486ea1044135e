"""Vectors over F_p with p = 2^32 - 5, shares as points of polynomials, and the decoder that finds who lies.

p is the largest prime below 2^32: an element is a 32-bit word, a product fits 64 bits, and 2^32 = 5 (mod p) reduces it
without a division. Replica i's point is i + 1; 0 is the secret's.

Decoding is Berlekamp and Welch's (US patent 4,633,470, 1986; Gemmell and Sudan 1992): of answers at m points, at most
e of which are wrong, a polynomial of degree f is recovered when m >= f + 1 + 2e. A vector is decoded by `fold`: random
linear combinations of its coordinates, the same for all answers, form a codeword of single numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from koinon.encoding import encode, keccak

from .keystream import apply_keystream

P = 2**32 - 5
FOLDS = 5
"""Independent combinations: a false vector has the folds of a true one with probability p^-5, about 2^-160."""

Words = NDArray[np.uint32]
_SPARE_WORDS = 64
_CHUNK = 1 << 14
_LOW = np.uint64(2**32 - 1)


def uniform(seed: bytes, count: int) -> Words:
    """uint32[count], uniform in 0..p-1: the first words of the seed's keystream that are below p."""
    words = count + _SPARE_WORDS
    while True:
        drawn = np.zeros(words, dtype="<u4")
        apply_keystream(drawn, seed, np.add)
        accepted = drawn if drawn.max() < P else drawn[drawn < P]
        if accepted.size >= count:
            return accepted[:count]
        words *= 2


def to_field(values: NDArray[np.int64]) -> Words:
    """uint32[d] from signed integers within +-(p - 1) / 2."""
    return np.mod(values, P).astype("<u4")


def from_field(words: Words) -> NDArray[np.int64]:
    """The signed integers of `to_field`."""
    values = words.astype(np.int64)
    values[values > P // 2] -= P
    return values


def add_up(vectors: Iterable[Words], size: int) -> Words:
    """The sum of fewer than 2^32 vectors, uint32[size]."""
    total = np.zeros(size, dtype=np.uint64)
    for each in vectors:
        total += each
    return (total % np.uint64(P)).astype("<u4")


def combine(weights: Sequence[int], vectors: Sequence[Words]) -> Words:
    """sum w v of at most 2^29 equally long vectors."""
    result = np.empty(vectors[0].size, dtype="<u4")
    for start in range(0, result.size, _CHUNK):
        block = slice(start, start + _CHUNK)
        total = np.zeros(result[block].size, dtype=np.uint64)
        for weight, vector in zip(weights, vectors, strict=True):
            product = vector[block] * np.uint64(weight)
            total += product & _LOW
            product >>= np.uint64(32)
            product *= np.uint64(5)
            total += product
        result[block] = total % np.uint64(P)
    return result


class Folding:
    """FOLDS combinations of a vector's coordinates, drawn from a 32-byte challenge."""

    def __init__(self, challenge: bytes, size: int) -> None:
        self._rows = [uniform(keccak(encode(("koinon/fold", challenge, row))), size) for row in range(FOLDS)]

    def __call__(self, vector: Words) -> tuple[int, ...]:
        wide = vector.astype(np.uint64)
        folds = []
        for row in self._rows:
            products = wide * row
            folds.append((int((products & _LOW).sum()) + 5 * int((products >> np.uint64(32)).sum())) % P)
        return tuple(folds)


def weights_at(point: int, points: Sequence[int]) -> list[int]:
    """Lagrange: the value at `point` is the sum of these times the values at `points`."""
    weights = []
    for mine in points:
        above = below = 1
        for other in points:
            if other != mine:
                above = above * (point - other) % P
                below = below * (mine - other) % P
        weights.append(above * pow(below, -1, P) % P)
    return weights


def wrong_points(values: Mapping[int, int], degree: int, errors: int) -> frozenset[int] | None:
    """The points whose value is not the one polynomial's of this degree; None when more than `errors` are wrong.

    `values`: point -> field element; len(values) >= degree + 1 + 2 errors.
    """
    rows = []  # E(x) y = Q(x): E of degree `errors`, Q of degree `errors + degree`, not both zero
    for x, y in values.items():
        powers = [pow(x, k, P) for k in range(degree + errors + 1)]
        rows.append([y * power % P for power in powers[: errors + 1]] + [-power % P for power in powers])
    solution = _kernel_vector(rows)
    locator, product = solution[: errors + 1], solution[errors + 1 :]
    good = [x for x in values if _evaluate(locator, x)][: degree + 1]
    if len(good) <= degree:
        return None
    found = [_evaluate(product, x) * pow(_evaluate(locator, x), -1, P) % P for x in good]
    wrong = frozenset(x for x, y in values.items() if _dot(weights_at(x, good), found) != y)
    return wrong if len(wrong) <= errors else None


def _dot(left: Sequence[int], right: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True)) % P


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    total = 0
    for each in reversed(coefficients):
        total = (total * x + each) % P
    return total


def _kernel_vector(rows: list[list[int]]) -> list[int]:
    """A vector but zero that all rows are orthogonal to, if there is one (else zero): Gauss and Jordan."""
    width = len(rows[0])
    pivots: list[int] = []
    for column in range(width):
        rank = len(pivots)
        found = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if found is None:
            continue
        rows[rank], rows[found] = rows[found], rows[rank]
        inverse = pow(rows[rank][column], -1, P)
        rows[rank] = [each * inverse % P for each in rows[rank]]
        for i, row in enumerate(rows):
            if i != rank and row[column]:
                rows[i] = [(a - row[column] * b) % P for a, b in zip(row, rows[rank], strict=True)]
        pivots.append(column)
    free = next((column for column in range(width) if column not in pivots), None)
    vector = [0] * width
    if free is not None:
        vector[free] = 1
        for i, column in enumerate(pivots):
            vector[column] = -rows[i][free] % P
    return vector
