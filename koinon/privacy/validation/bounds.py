"""The parameters of a norm proof, derived from the task and the committee, and why some are refused.

Derivations: docs/validation.md, sections 3 to 5. In short: a committed coordinate is an integer of at most 8 W bits
whatever the node does, W the bytes of a masked coordinate; so sums of squares stay below the prime of the proofs and
an equation in the field is one between integers. Honest coordinates are hidden by masks of k bits, k < 8 W, which
is statistical: the masks are as long as HIDING_BITS asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import isqrt, log2

from koinon.errors import ConfigError

from .field import ELEMENT_BYTES, ROWS_MAX, P

NORM_MAX = 2**26
"""The prover's float64 sums of squares stay exact: NORM_MAX^2 < 2^53."""
HIDING_BITS = 40
"""The view of a coalition is within 2^-HIDING_BITS of one that does not depend on the update, all its coordinates
together; the views of two updates are within twice that."""
SOUNDNESS_BITS = 128
"""One try of a cheat succeeds with probability 2^-SOUNDNESS_BITS at most (the tasks' values are beyond 2^-160)."""
MASKS_MAX = 120
"""As many as a committee of ten has; larger ones do not share seeds (koinon.privacy.shamir_shares)."""
SLACK = 4
"""Coordinates that fill the square of the norm up to the bound (four squares)."""
DIRECTION_MAX = 2**15 - 1
"""The largest coordinate of a direction that updates are compared with."""
WIDTHS = (8, 9, 10)


@dataclass(frozen=True)
class Alignment:
    """<x, direction> >= least: `direction` is int16[dimension], little-endian, and may be all zeros (with least 0)."""

    direction: bytes = field(repr=False)
    least: int


@dataclass(frozen=True)
class Bound:
    """||x|| <= norm for x int[dimension], hidden by `masks` masks. Build it with `Bound.of`.

    x and its slack fill a matrix of `rows` x `columns` row by row. `aligned`: an inner product is bounded, too, and
    its slack follows. `width` is W, the bytes of a masked coordinate, and `mask_bits` k.
    """

    dimension: int
    norm: int
    masks: int
    rows: int
    columns: int
    width: int
    mask_bits: int
    aligned: bool = False

    @staticmethod
    def of(dimension: int, norm: int, masks: int, *, aligned: bool = False) -> Bound:
        """ConfigError, with the reason, when no sound and hiding proof of this bound is offered."""
        return _of(dimension, norm, masks, aligned)

    @property
    def cells(self) -> int:
        """How many integers have `norm` as their norm: the update and its slack."""
        return self.dimension + SLACK

    @property
    def coordinates(self) -> int:
        return self.cells + (SLACK if self.aligned else 0)

    @property
    def coefficients(self) -> int:
        """How many coefficients of the proof's polynomials are sent: of t^-(rows+1) to t^rows, without t^0; and three
        of the alignment's."""
        return 2 * self.rows + 1 + (3 if self.aligned else 0)

    @property
    def answers(self) -> int:
        """How many linear answers the proof publishes: two polynomials of each column at one point."""
        return 2 * self.columns + (2 * SLACK if self.aligned else 0)

    @property
    def vector_bytes(self) -> int:
        return self.width * self.coordinates

    @property
    def proof_bytes(self) -> int:
        return ELEMENT_BYTES * (self.coefficients + self.answers + self.masks)

    @property
    def hidden_elements(self) -> int:
        """Field elements that a mask's stream goes on with: blinds of the answers, shares of the coefficients."""
        return self.answers + self.coefficients

    @property
    def soundness_bits(self) -> float:
        """-log2 of the probability that one try of a cheat succeeds (docs/validation.md, section 4)."""
        return log2(P - 1) - log2(self.coefficients + self.answers + 1)

    @property
    def longest(self) -> int:
        """No sum of absolute values of the hidden integers is larger. Whole numbers, as all replicas must agree."""
        found = isqrt(self.cells * self.norm**2) + 1
        if self.aligned:
            found += SLACK * (isqrt(2 * self.norm * DIRECTION_MAX * (isqrt(self.dimension) + 1)) + 1)
        return found

    @property
    def hiding_bits(self) -> float:
        """-log2 of the statistical distance of a masked vector from one that depends on nothing (docs/validation.md,
        section 5)."""
        return self.mask_bits - log2(self.longest)


@cache
def _of(dimension: int, norm: int, masks: int, aligned: bool) -> Bound:
    if not 1 <= norm <= NORM_MAX:
        raise ConfigError(
            f"a norm bound of {norm} units of the quantiser cannot be proved: it must lie in 1..{NORM_MAX}",
            hint="lower the task's norm_bound or its bits, or raise its clip",
        )
    if masks > MASKS_MAX:
        raise ConfigError(
            "no norm is proved to a committee of more than ten replicas",
            hint="submit the task with validate = false, or use a committee of at most ten",
        )
    cells = dimension + SLACK
    rows = min(ROWS_MAX, isqrt(cells))
    columns = -(-cells // rows)
    rows = -(-cells // columns)
    for width in WIDTHS:
        mask_bits = ((2 ** (8 * width) - 2 * norm) // masks).bit_length() - 1
        bound = Bound(dimension, norm, masks, rows, columns, width, mask_bits, aligned)
        if bound.longest << HIDING_BITS <= 1 << mask_bits:
            break
    else:
        raise ConfigError(
            f"masks of {mask_bits} bits hide {dimension} values of norm {norm} with 2^-{bound.hiding_bits:.0f} only, "
            f"not 2^-{HIDING_BITS}",
            hint="lower the task's norm_bound or its bits",
        )
    if cells * 2 ** (16 * bound.width) + norm**2 >= P:  # which an inner product with a direction is far below
        raise ConfigError(
            f"sums of {cells} squares of {8 * bound.width}-bit values wrap around the prime of the proof",
            hint="use a smaller model or a lower norm_bound",
        )
    if bound.soundness_bits < SOUNDNESS_BITS:
        raise ConfigError(f"a proof over {dimension} values errs with 2^-{bound.soundness_bits:.0f}")
    return bound
