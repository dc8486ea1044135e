"""Every natural number is the sum of four squares (Lagrange 1770); here, which ones.

The first two are searched from the largest square downwards, so that what must be a sum of two squares is small and
is looked for by hand; rests that are no sum of three squares (Legendre 1798: 4^a (8b + 7)) are skipped. Which of the
many representations is found is of no matter: it is as secret as the number.
"""

from __future__ import annotations

from math import isqrt, sqrt

import numpy as np
from numpy.typing import NDArray

from koinon.errors import OutOfRange

from .bounds import Alignment


def fill_up(norm: int, values: NDArray[np.int64], alignment: Alignment | None = None) -> NDArray[np.int64]:
    """int64[coordinates]: `values` and four squares that give it the norm `norm`; and where it is aligned, four
    that say by how much. OutOfRange above the norm, or below the least inner product."""
    length = sqrt(np.square(values.astype(np.float64)).sum())  # the exact sum may not fit into int64
    missing = norm**2 - int(values @ values) if length < norm + 1 else -1
    if missing < 0:
        raise OutOfRange(f"an update of norm {length:.0f} where {norm} is allowed")
    filled = [*four_squares(missing)]
    if alignment is not None:
        direction = np.frombuffer(alignment.direction, dtype="<i2").astype(np.int64)
        above = int(values @ direction) - alignment.least
        if above < 0:
            raise OutOfRange(
                f"the update's inner product with the direction is {-above} below the least, {alignment.least}",
                hint="this node's data pull the model another way; it cannot take part in this round",
            )
        filled += four_squares(above)
    return np.concatenate([values, filled]).astype(np.int64)


def four_squares(number: int) -> tuple[int, int, int, int]:
    """Four non-negative integers whose squares sum to `number` (>= 0)."""
    if number < 0:
        raise ValueError(f"{number} is negative")
    if number and number % 4 == 0:  # the few representations of 4^a are all multiples of 2^a
        a, b, c, d = four_squares(number // 4)
        return 2 * a, 2 * b, 2 * c, 2 * d
    first = isqrt(number)
    while not _is_three_squares(number - first * first):
        first -= 1
    rest = number - first * first
    for second in range(isqrt(rest), -1, -1):
        pair = _two_squares(rest - second * second)
        if pair is not None:
            return first, second, *pair
    raise ArithmeticError(f"{rest} is no sum of three squares")  # Legendre says that it is


def _is_three_squares(number: int) -> bool:
    while number and number % 4 == 0:
        number //= 4
    return number % 8 != 7


def _two_squares(number: int) -> tuple[int, int] | None:
    for larger in range(isqrt(number), isqrt(number // 2) - 1, -1):
        smaller = isqrt(number - larger * larger)
        if larger * larger + smaller * smaller == number:
            return larger, smaller
    return None
