"""The fully linear proof that committed integers have a bounded L2 norm (docs/validation.md, section 2).

The integers y (the update and four squares of slack) fill a matrix Y by rows. For column j, with random u_j, v_j,

    a_j(t) = sum_k Y_kj t^k + u_j t^rows        b_j(t) = sum_k Y_kj t^-k + v_j t^-(rows+1)

the coefficient of t^0 in Q = sum_j a_j b_j is ||y||^2, which must be norm^2; the node sends Q's other coefficients,
shared. At a point s that hashing fixes, it publishes all a_j(s) and b_j(s), and for a second hash kappa one number a
mask: the mask's part of all these, combined by powers of kappa. Who has the mask's seed checks that number alone;
everybody checks that the numbers and the masked vector add up to answers with sum_j a_j(s) b_j(s) = Q(s).

All is linear in the masks, so every check is made by whoever holds one mask, exactly, and no replica's word is
taken for another's. Boneh et al. 2019, "Zero-knowledge proofs on secret-shared data via fully linear PCPs".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koinon.encoding import encode, keccak
from koinon.errors import InvalidProof

from .bounds import Bound
from .field import Contraction, Floats, P, Plane, dot, element_bytes, elements, powers
from .masks import Mask, Planes, expand

_BLOCK = 32
"""Rows of a block of the Gram matrix, and with ROWS_MAX columns of it a product that starts no threads."""


@dataclass(frozen=True)
class _Sent:
    """A proof as sent: public shares of the coefficients, answers at the point, and one number a mask."""

    coefficients: list[int]
    answers: list[int]
    parts: list[int]

    @classmethod
    def parse(cls, bound: Bound, proof: bytes) -> _Sent:
        if len(proof) != bound.proof_bytes:
            raise InvalidProof(f"a proof of {len(proof)} bytes instead of {bound.proof_bytes}")
        values = elements(proof)
        if element_bytes(values) != proof:
            raise InvalidProof("a proof with numbers outside the field")
        first, second = bound.coefficients, bound.coefficients + bound.answers
        return cls(values[:first], values[first:second], values[second:])


class Verifier:
    """Checks one proof; `context` binds it to its sender and place, `public` is all that was committed before it.

    `public` starts with the masked vector. Raises InvalidProof, also when `proof` is malformed.
    """

    def __init__(self, bound: Bound, context: bytes, public: bytes, proof: bytes) -> None:
        self._bound = bound
        self._vector = public[: bound.vector_bytes]
        self._sent = _Sent.parse(bound, proof)
        self._query = _Query(bound, _first_hash(context, public, self._sent.coefficients))
        self._kappas = self._query.kappas(self._sent.answers)

    def require_public(self) -> None:
        """The published answers fit the norm, and the masked vector and the masks' numbers add up to them."""
        bound, query, answers = self._bound, self._query, self._sent.answers
        left, right = answers[: bound.columns], answers[bound.columns :]
        shown = [*answers, (dot(left, right) - bound.norm**2) % P]
        known = query.of_planes(Planes.parse(bound, self._vector), offset=bound.norm - 2 ** (8 * bound.width))
        known.append(dot(self._sent.coefficients, query.point_powers))
        if (dot(self._kappas, shown) - dot(self._kappas, known) - sum(self._sent.parts)) % P:
            raise InvalidProof("the proof does not hold for the bound")

    def require_component(self, number: int, seed: bytes) -> None:
        """The published number of mask `number` is what its seed gives."""
        if self._query.of_mask(expand(self._bound, seed), self._kappas) != self._sent.parts[number]:
            raise InvalidProof(f"the proof contradicts mask {number}")


def prove(bound: Bound, context: bytes, public: bytes, values: NDArray[np.int64], seeds: Sequence[bytes]) -> bytes:
    """The proof, `proof_bytes` long, for `values` (int64[coordinates] of norm exactly `norm`) masked by `seeds`.

    `public` is what was committed: the masked vector, then anything. A norm that is another gives a proof that fails.
    """
    blinds, shares = [0] * bound.answers, [0] * bound.coefficients
    for seed in seeds:
        mask = expand(bound, seed)
        blinds = [(a + b) % P for a, b in zip(blinds, mask.blinds, strict=True)]
        shares = [(a + b) % P for a, b in zip(shares, mask.coefficients, strict=True)]
    coefficients = [(a - b) % P for a, b in zip(_coefficients(bound, values, blinds), shares, strict=True)]
    query = _Query(bound, _first_hash(context, public, coefficients))
    answers = query.blinded(query.of_values(values), blinds)
    kappas = query.kappas(answers)
    parts = [query.of_mask(expand(bound, seed), kappas) for seed in seeds]
    return element_bytes([*coefficients, *answers, *parts])


class _Query:
    """The linear functionals of one proof: fixed by what was sent before them, the same for every mask."""

    def __init__(self, bound: Bound, seed: bytes) -> None:
        self._bound, self._seed = bound, seed
        point = _challenge("point", seed)
        self._contraction = Contraction(point, bound.rows, bound.columns)
        upward = powers(point, bound.rows + 1)[1:]
        downward = powers(pow(point, -1, P), bound.rows + 2)[1:]
        self._blinding = (upward[-1], downward[-1])
        self.point_powers = [*reversed(downward), *upward]
        """s^n for n from -(rows+1) to rows without 0, as the coefficients are sent."""

    def kappas(self, answers: Sequence[int]) -> list[int]:
        """Powers of the second challenge, which depends on the answers: one each, and one for the coefficients."""
        return powers(_challenge("kappa", self._seed + element_bytes(answers)), self._bound.answers + 1)

    def of_planes(self, planes: Planes, *, offset: int = 0) -> list[int]:
        """The answers, a_j(s) then b_j(s), that unsigned integers plus `offset` each give without blinds."""
        left, right = self._contraction.apply(planes.for_contraction())
        return self._shifted(left + right, offset)

    def of_values(self, values: NDArray[np.int64]) -> list[int]:
        """The same for integers within +-norm."""
        words = (values + self._bound.norm).astype("<u4").view("<u2")
        left, right = self._contraction.apply([Plane(words, 0, 2)])
        return self._shifted(left + right, -self._bound.norm)

    def blinded(self, answers: Sequence[int], blinds: Sequence[int]) -> list[int]:
        """Plus u_j s^rows, and plus v_j s^-(rows+1)."""
        weights = [weight for weight in self._blinding for _ in range(self._bound.columns)]
        return [(a + b * c) % P for a, b, c in zip(answers, blinds, weights, strict=True)]

    def of_mask(self, mask: Mask, kappas: Sequence[int]) -> int:
        """The number of a mask: all that it adds to the answers and coefficients, combined."""
        answers = self.blinded(self.of_planes(mask.planes), mask.blinds)
        return dot(kappas, [*answers, dot(mask.coefficients, self.point_powers)])

    def _shifted(self, answers: Sequence[int], offset: int) -> list[int]:
        if not offset:
            return list(answers)
        bound, contraction = self._bound, self._contraction
        in_last_row = bound.coordinates - (bound.rows - 1) * bound.columns
        ones: list[int] = []
        for terms in (contraction.ascending, contraction.descending):
            ones += [sum(terms)] * in_last_row + [sum(terms[:-1])] * (bound.columns - in_last_row)
        return [(a + offset * b) % P for a, b in zip(answers, ones, strict=True)]


def _first_hash(context: bytes, public: bytes, coefficients: Sequence[int]) -> bytes:
    return keccak(encode(("koinon/shares/proof", context, keccak(public), element_bytes(coefficients))))


def _challenge(name: str, seed: bytes) -> int:
    """A field element but zero, from 512 bits of hash: within 2^-320 of uniform."""
    wide = b"".join(keccak(encode(("koinon/shares/challenge", name, number, seed))) for number in range(2))
    return int.from_bytes(wide, "little") % (P - 1) + 1


def _coefficients(bound: Bound, values: NDArray[np.int64], blinds: Sequence[int]) -> list[int]:
    """Q's coefficients in the order of `_Query.point_powers`. The sums of products of values are exact in float64."""
    rows, columns = bound.rows, bound.columns
    matrix = np.zeros((rows, columns))
    matrix.ravel()[: values.size] = values
    gram = _gram(matrix)
    lags = [int(np.trace(gram, offset=lag)) for lag in range(1, rows)]
    by_u, by_v = _times_blinds(matrix, blinds[:columns]), _times_blinds(matrix, blinds[columns:])
    both = dot(blinds[:columns], blinds[columns:])
    down, up = [*by_v, both], by_u[::-1]  # of t^-(rows+1) to t^-1, and of t^1 to t^rows
    for lag, sum_of_products in enumerate(lags, start=1):
        up[lag - 1] += sum_of_products
        down[rows + 1 - lag] += sum_of_products
    return [each % P for each in (*down, *up)]


def _gram(matrix: Floats) -> Floats:
    """The upper triangle of matrix @ matrix.T, in blocks."""
    rows, columns = matrix.shape
    gram = np.zeros((rows, rows))
    for start in range(0, columns, 8 * _BLOCK):
        part = matrix[:, start : start + 8 * _BLOCK]
        for i in range(0, rows, _BLOCK):
            for j in range(i, rows, _BLOCK):
                gram[i : i + _BLOCK, j : j + _BLOCK] += part[i : i + _BLOCK] @ part[j : j + _BLOCK].T
    return gram


def _times_blinds(matrix: Floats, blinds: Sequence[int]) -> list[int]:
    """matrix @ blinds, exactly: the blinds in limbs of 16 bits."""
    limbs = np.frombuffer(element_bytes(blinds), dtype="<u2").reshape(len(blinds), -1).astype(np.float64)
    sums = np.zeros((matrix.shape[0], limbs.shape[1]))
    for start in range(0, len(blinds), 2 * _BLOCK):
        block = slice(start, start + 2 * _BLOCK)
        sums += matrix[:, block] @ limbs[block]
    return [sum(int(each) << (16 * place) for place, each in enumerate(row)) for row in sums]
