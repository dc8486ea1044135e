"""The fully linear proof that committed integers have a bounded L2 norm (docs/validation.md, section 2).

The integers y (the update and four squares of slack) fill a matrix Y by rows. For column j, with random u_j, v_j,

    a_j(t) = sum_k Y_kj t^k + u_j t^rows        b_j(t) = sum_k Y_kj t^-k + v_j t^-(rows+1)

the coefficient of t^0 in Q = sum_j a_j b_j is ||y||^2, which must be norm^2; the node sends Q's other coefficients,
shared. At a point s that hashing fixes, it publishes all a_j(s) and b_j(s), and for a second hash kappa one number a
mask: the mask's part of all these, combined by powers of kappa. Who has the mask's seed checks that number alone;
everybody checks that the numbers and the masked vector add up to answers with sum_j a_j(s) b_j(s) = Q(s).

An alignment <x, g> >= least is proved by four squares z of the difference, in the same way: Q' of one row z has the
coefficient sum_j z_j^2 of t^0, which must be <x, g> - least, one more linear functional.

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

from .bounds import SLACK, Alignment, Bound
from .field import Contraction, Floats, P, Plane, dot, element_bytes, elements, inner, powers
from .masks import Mask, Planes, expand, expand_hidden

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
    """Checks one proof of a norm of at most `norm`, which is no more than the bound's.

    `context` binds it to its sender, place and claim; `public` is all that was committed before it.
    `public` starts with the masked vector. Raises InvalidProof, also when `proof` is malformed.
    """

    def __init__(
        self, bound: Bound, norm: int, context: bytes, public: bytes, proof: bytes, alignment: Alignment | None = None
    ) -> None:
        self._bound, self._norm, self._alignment = bound, norm, alignment
        self._vector = public[: bound.vector_bytes]
        self._sent = _Sent.parse(bound, proof)
        self._query = _Query(bound, _first_hash(context, public, self._sent.coefficients), alignment)
        self._kappas = self._query.kappas(self._sent.answers)

    def require_public(self) -> None:
        """The published answers fit the norm, and the masked vector and the masks' numbers add up to them."""
        bound, answers, ends = self._bound, self._sent.answers, 2 * self._bound.columns
        left, right = answers[: bound.columns], answers[bound.columns : ends]
        shown = [*answers, (dot(left, right) - self._norm**2) % P]
        if self._alignment is not None:
            shown.append((dot(answers[ends : ends + SLACK], answers[ends + SLACK :]) + self._alignment.least) % P)
        vector = Planes.parse(bound, self._vector)
        known = self._query.of_planes(vector, self._sent.coefficients, offset=bound.norm - 2 ** (8 * bound.width))
        if (dot(self._kappas, shown) - dot(self._kappas, known) - sum(self._sent.parts)) % P:
            raise InvalidProof("the proof does not hold for the bound")

    def require_component(self, number: int, seed: bytes) -> None:
        """The published number of mask `number` is what its seed gives."""
        if self._query.of_mask(expand(self._bound, seed), self._kappas) != self._sent.parts[number]:
            raise InvalidProof(f"the proof contradicts mask {number}")


def prove(
    bound: Bound,
    context: bytes,
    public: bytes,
    values: NDArray[np.int64],
    seeds: Sequence[bytes],
    alignment: Alignment | None = None,
) -> bytes:
    """The proof, `proof_bytes` long, for `values` (int64[coordinates], as `fill_up` makes them) masked by `seeds`.

    `public` is what was committed: the masked vector, then anything. Other values give a proof that fails.
    """
    blinds, shares = [0] * bound.answers, [0] * bound.coefficients
    for seed in seeds:
        hidden = expand_hidden(bound, seed)
        blinds = [(a + b) % P for a, b in zip(blinds, hidden.blinds, strict=True)]
        shares = [(a + b) % P for a, b in zip(shares, hidden.coefficients, strict=True)]
    coefficients = [(a - b) % P for a, b in zip(_coefficients(bound, values, blinds), shares, strict=True)]
    query = _Query(bound, _first_hash(context, public, coefficients), alignment)
    answers = query.blinded(query.of_values(values), blinds)
    kappas = query.kappas(answers)
    parts = [query.of_mask(expand(bound, seed), kappas) for seed in seeds]
    return element_bytes([*coefficients, *answers, *parts])


class _Query:
    """The linear functionals of one proof: fixed by what was sent before them, the same for every mask.

    In the order of `kappas`: the answers a_j(s), b_j(s) and, with an alignment, those of its slack; the coefficients'
    sum Q(s) - q_0; and, with an alignment, the inner product plus the like sum.
    """

    def __init__(self, bound: Bound, seed: bytes, alignment: Alignment | None) -> None:
        self._bound, self._seed = bound, seed
        point = _challenge("point", seed)
        self._contraction = Contraction(point, bound.rows, bound.columns)
        up = powers(point, bound.rows + 1)[1:]
        down = powers(pow(point, -1, P), bound.rows + 2)[1:]
        self._point_powers = [*reversed(down), *up]
        self._blinding = [up[-1]] * bound.columns + [down[-1]] * bound.columns
        self._direction: NDArray[np.int16] | None = None
        if alignment is not None:
            self._direction = np.frombuffer(alignment.direction, dtype="<i2")
            self._slack_powers = [down[1], down[0], up[0]]
            self._blinding += [up[0]] * SLACK + [down[1]] * SLACK

    def kappas(self, answers: Sequence[int]) -> list[int]:
        """Powers of the second challenge, which depends on the answers."""
        count = self._bound.answers + (1 if self._direction is None else 2)
        return powers(_challenge("kappa", self._seed + element_bytes(answers)), count)

    def of_mask(self, mask: Mask, kappas: Sequence[int]) -> int:
        """The number of a mask: all that it adds to the answers and sums, combined."""
        seen = self.of_planes(mask.planes, mask.hidden.coefficients)
        blinded = self.blinded(seen[: self._bound.answers], mask.hidden.blinds)
        return dot(kappas, [*blinded, *seen[self._bound.answers :]])

    def of_planes(self, planes: Planes, coefficients: Sequence[int], *, offset: int = 0) -> list[int]:
        """What unsigned integers plus `offset` each, and shares of coefficients, answer without blinds."""
        bound = self._bound
        left, right = self._contraction.apply(planes.part(0, bound.cells).for_contraction())
        answers = self._shifted(left + right, offset)
        sums = [dot(coefficients[: len(self._point_powers)], self._point_powers)]
        if self._direction is not None:
            slack = [each + offset for each in planes.part(bound.cells, bound.coordinates).integers()]
            answers += [*slack, *slack]
            along = inner(planes.part(0, bound.dimension).for_contraction(), self._direction)
            along += offset * int(self._direction.sum(dtype=np.int64))
            sums.append((along + dot(coefficients[-len(self._slack_powers) :], self._slack_powers)) % P)
        return answers + sums

    def of_values(self, values: NDArray[np.int64]) -> list[int]:
        """The answers, without blinds, for integers within +-norm (and any slack of an alignment)."""
        bound = self._bound
        words = (values[: bound.cells] + bound.norm).astype("<u4").view("<u2")
        left, right = self._contraction.apply([Plane(words, 0, 2)])
        slack = values[bound.cells :].tolist()
        return [*self._shifted(left + right, -bound.norm), *slack, *slack]

    def blinded(self, answers: Sequence[int], blinds: Sequence[int]) -> list[int]:
        """Plus u_j s^rows, and plus v_j s^-(rows+1); of an alignment's slack, which is one row, s and s^-2."""
        return [(a + b * c) % P for a, b, c in zip(answers, blinds, self._blinding, strict=True)]

    def _shifted(self, answers: Sequence[int], offset: int) -> list[int]:
        if not offset:
            return list(answers)
        bound, contraction = self._bound, self._contraction
        in_last_row = bound.cells - (bound.rows - 1) * bound.columns
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
    """Q's coefficients of t^-(rows+1) to t^rows without t^0, then those of the alignment's slack, of t^-2, t^-1 and t.

    The sums of products of values are exact in float64.
    """
    rows, columns = bound.rows, bound.columns
    matrix = np.zeros((rows, columns))
    matrix.ravel()[: bound.cells] = values[: bound.cells]
    gram = _gram(matrix)
    u, v = blinds[:columns], blinds[columns : 2 * columns]
    by_u, by_v = _times_blinds(matrix, u), _times_blinds(matrix, v)
    down, up = [*by_v, dot(u, v)], by_u[::-1]  # of t^-(rows+1) to t^-1, and of t^1 to t^rows
    for lag in range(1, rows):
        products = int(np.trace(gram, offset=lag))
        up[lag - 1] += products
        down[rows + 1 - lag] += products
    found = [*down, *up]
    if bound.aligned:
        slack = values[bound.cells :].tolist()
        u, v = blinds[2 * columns : 2 * columns + SLACK], blinds[2 * columns + SLACK :]
        found += [dot(v, slack), dot(u, v), dot(u, slack)]
    return [each % P for each in found]


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
