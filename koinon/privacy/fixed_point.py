"""Floats to integers and back: clipping, weighting and stochastic rounding.

A node with weight w (its sample count over the cohort's cap, 0 < w <= 1) submits
round(clip(delta, ±c) · w · (2^(bits-1) − 1) / c); rounding is stochastic, so the sum is unbiased. Sums of
integers are exact, and dividing them is one IEEE operation a coordinate: every replica derives the same bytes.

Where the norm is bounded, a longer vector is shortened to it before it is rounded (clipping by norm).
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from koinon.errors import OutOfRange

from .mode import Values

RING_BITS = 32
"""The width of a word where vectors are added modulo a power of two."""


def quantise(
    delta: NDArray[np.floating], *, clip: float, bits: int, weight: float, rng: np.random.Generator, norm: int = 0
) -> Values:
    """float[d] -> int64[d] with |x| <= 2^(bits-1) - 1 and, unless `norm` is 0, ||x|| <= norm.

    Raises OutOfRange on NaN or infinity, and when rounding alone could exceed the norm (norm <= sqrt(d)).
    """
    flat = require_finite(delta)
    if not 0.0 < weight <= 1.0:
        raise OutOfRange(f"a weight lies in (0, 1], not {weight}")
    scaled = np.clip(flat, -clip, clip) * (weight * (2 ** (bits - 1) - 1) / clip)
    noise = rng.random(flat.size)
    rounded = _rounded(scaled, noise, bits)
    if norm and np.square(rounded.astype(np.float64)).sum() > norm**2:  # exact up to 2^53, above all bounds squared
        room = norm - np.sqrt(flat.size)  # rounding moves each coordinate by less than one
        if room <= 0:
            raise OutOfRange(f"a norm of {norm} units is less than {flat.size} coordinates may get by rounding")
        rounded = _rounded(scaled * min(1.0, room / np.linalg.norm(scaled)), noise, bits)
    return rounded


def require_finite(delta: NDArray[np.floating]) -> NDArray[np.float64]:
    """The update as float64[d]; OutOfRange on NaN or infinity."""
    flat: NDArray[np.float64] = np.asarray(delta, dtype=np.float64).ravel()
    if not np.isfinite(flat).all():
        raise OutOfRange(
            f"{int((~np.isfinite(flat)).sum())} of {flat.size} coordinates of the update are NaN or infinite",
            hint="lower the learning rate, or look at the training loss of this node",
        )
    return flat


def _rounded(scaled: NDArray[np.float64], noise: NDArray[np.float64], bits: int) -> Values:
    integers: Values = np.floor(scaled + noise).astype(np.int64)
    return np.clip(integers, -_limit(bits), _limit(bits))


def rounding_slack(dimension: int) -> int:
    """Stochastic rounding moves each coordinate by less than one, so a vector by less than this."""
    return isqrt(dimension) + 1


def mean(total: Values, *, clip: float, bits: int, weight_sum: float) -> NDArray[np.float64]:
    """The weighted mean delta, float64[d], from the exact sum of quantised updates."""
    return total.astype(np.float64) * (clip / (_limit(bits) * weight_sum))


def require_in_range(values: Values, *, dimension: int, bits: int) -> None:
    """OutOfRange unless `values` is int64[dimension] within the quantiser's bounds."""
    if values.shape != (dimension,) or values.dtype != np.int64:
        raise OutOfRange(f"expected int64[{dimension}], got {values.dtype}{list(values.shape)}")
    if values.size and max(-int(values.min()), int(values.max())) > _limit(bits):  # abs() overflows at -2^63
        raise OutOfRange(f"a value exceeds ±{_limit(bits)} ({bits} bits)")


def require_ring_fits(*, bits: int, cohort: int) -> None:
    """OutOfRange unless `cohort` values of `bits` add up within the ring of 32-bit words."""
    growth = (cohort - 1).bit_length()
    if bits + growth > RING_BITS:
        raise OutOfRange(
            f"the sum of {cohort} updates of {bits} bits needs {bits + growth} bits; the ring has {RING_BITS}",
            hint="lower the task's bits or its largest cohort",
        )


def _limit(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)
