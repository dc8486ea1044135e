"""From a node's floats to the integers that a task's rounds carry, and back: the same for every party.

Without noise, integers are units of clip / (2^(bits-1) - 1) (`privacy.fixed_point`). With it the grid is coarser, so
that there is room for the noise, and the update's L2 norm is clipped first (`privacy.budget`). In a task with
commitments the bytes of the node's blinding follow the vector, as more coordinates (`privacy.commitments`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from koinon.privacy import fixed_point
from koinon.privacy.budget import add_noise, epsilon
from koinon.privacy.mode import Entropy, Values
from koinon.rounds.operations import MILLION, TaskSpec


def quantise(
    spec: TaskSpec,
    delta: NDArray[np.floating],
    *,
    examples: int,
    examples_cap: int,
    rng: np.random.Generator,
    entropy: Entropy,
) -> Values:
    """float[d] -> int64[d] that the task allows: clipped, weighted, rounded, and with the task's noise.

    The node's weight is its sample count `examples` over the cohort's cap. OutOfRange on NaN or infinity.
    """
    clip, plan, weight = spec.clip / MILLION, spec.noise_plan, examples / examples_cap
    if plan is None:
        norm = spec.norm_for(examples, examples_cap)
        return fixed_point.quantise(delta, clip=clip, bits=spec.bits, weight=weight, rng=rng, norm=norm)
    flat = fixed_point.require_finite(delta)
    length = float(np.linalg.norm(flat))
    shortened = flat * min(1.0, spec.l2_clip / MILLION / length) if length else flat
    scaled = np.clip(shortened, -clip, clip) * (weight * plan.scale)
    rounded: Values = np.floor(scaled + rng.random(flat.size)).astype(np.int64)
    return add_noise(rounded, plan, entropy)


def mean(spec: TaskSpec, total: Values, *, weight_sum: float) -> NDArray[np.float64]:
    """The weighted mean delta, float64[d], from the exact sum of quantised updates."""
    vector, plan = total[: spec.dimension], spec.noise_plan
    if plan is None:
        return fixed_point.mean(vector, clip=spec.clip / MILLION, bits=spec.bits, weight_sum=weight_sum)
    return vector.astype(np.float64) / (plan.scale * weight_sum)


def privacy_spent(spec: TaskSpec, opened: Mapping[int, int]) -> float | None:
    """The epsilon, at the task's delta, of a node that took part in all rounds of which the sum was opened.

    `opened`: number of accepted updates -> how many rounds had so many. None for a task without noise.
    """
    plan = spec.noise_plan
    if plan is None:
        return None
    return epsilon(plan, [count for count, times in opened.items() for _ in range(times)], spec.delta / MILLION)
