"""Floats to integers and back: clipping, weighting and stochastic rounding.

A node with weight w (its sample count over the cohort's cap, 0 < w <= 1) submits
round(clip(delta, ±c) · w · (2^(bits-1) − 1) / c); rounding is stochastic, so the sum is unbiased. Sums of
integers are exact, and dividing them is one IEEE operation a coordinate: every replica derives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from koinon.errors import OutOfRange

from .mode import Values

RING_BITS = 32
"""The width of a word where vectors are added modulo a power of two."""


def quantise(delta: NDArray[np.floating], *, clip: float, bits: int, weight: float, rng: np.random.Generator) -> Values:
    """float[d] -> int64[d] with |x| <= 2^(bits-1) - 1. Raises OutOfRange on NaN or infinity."""
    flat = np.asarray(delta, dtype=np.float64).ravel()
    if not np.isfinite(flat).all():
        raise OutOfRange(
            f"{int((~np.isfinite(flat)).sum())} of {flat.size} coordinates of the update are NaN or infinite",
            hint="lower the learning rate, or look at the training loss of this node",
        )
    if not 0.0 < weight <= 1.0:
        raise OutOfRange(f"a weight lies in (0, 1], not {weight}")
    scaled = np.clip(flat, -clip, clip) * (weight * (2 ** (bits - 1) - 1) / clip)
    rounded: Values = np.floor(scaled + rng.random(flat.size)).astype(np.int64)
    return np.clip(rounded, -_limit(bits), _limit(bits))


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
