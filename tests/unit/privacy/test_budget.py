"""From a task's wishes to noise, and from rounds to epsilon."""

import secrets
from dataclasses import replace
from math import erfc, exp, isqrt, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koinon.errors import OutOfRange
from koinon.privacy.budget import TAIL, TAIL_PROBABILITY, NoisePlan, add_noise, epsilon, plan_noise

LENET = {"dimension": 62_006, "bits": 16, "clip": 1.0, "l2_clip": 1.0, "multiplier": 1.0, "cohort_min": 5}


@given(
    dimension=st.integers(1, 200_000),
    bits=st.integers(8, 24),
    clip=st.floats(0.001, 100),
    l2_clip=st.floats(0.001, 100),
    multiplier=st.floats(0.05, 20),
    cohort_min=st.integers(3, 1024),
)
def test_every_plan_keeps_its_promises(
    dimension: int, bits: int, clip: float, l2_clip: float, multiplier: float, cohort_min: int
) -> None:
    try:
        plan = plan_noise(
            dimension=dimension, bits=bits, clip=clip, l2_clip=l2_clip, multiplier=multiplier, cohort_min=cohort_min
        )
    except OutOfRange:
        return
    largest = plan.scale * min(clip, l2_clip) + 1
    assert largest + TAIL * plan.sigma <= 2 ** (bits - 1) - 1
    assert plan.sensitivity >= plan.scale * l2_clip + sqrt(dimension)
    assert plan.multiplier(cohort_min) >= 0.999 * multiplier
    assert plan.multiplier(cohort_min + 1) > plan.multiplier(cohort_min)


def test_noise_for_too_few_bits_is_refused_with_what_to_do() -> None:
    with pytest.raises(OutOfRange, match="outweighs") as refused:
        plan_noise(**{**LENET, "bits": 12})
    assert "bits" in (refused.value.hint or "")


def test_noise_too_small_to_be_counted_is_refused() -> None:
    with pytest.raises(OutOfRange, match="sigma"):
        plan_noise(**{**LENET, "dimension": 10, "multiplier": 1e-6})


def test_the_noise_of_many_nodes_adds_up_in_the_sum() -> None:
    plan = plan_noise(**LENET)
    total = sum(add_noise(np.zeros(62_006, dtype=np.int64), plan, secrets.token_bytes) for _ in range(5))
    assert abs(np.std(total) / (plan.sigma * sqrt(5)) - 1) < 0.02


def test_noised_values_stay_within_the_tail() -> None:
    plan = NoisePlan(scale=1.0, sigma=4, sensitivity=1, dimension=100_000)
    noised = add_noise(np.full(100_000, 7, dtype=np.int64), plan, secrets.token_bytes)
    assert int(np.abs(noised - 7).max()) <= TAIL * 4


def test_the_probability_of_a_tail_is_what_is_counted() -> None:
    assert 0.95 * TAIL_PROBABILITY < erfc(TAIL / sqrt(2)) < TAIL_PROBABILITY


def test_epsilon_grows_with_rounds_and_shrinks_with_company() -> None:
    plan = plan_noise(**LENET)
    once, ten = epsilon(plan, [5], 1e-5), epsilon(plan, [5] * 10, 1e-5)
    assert 0 < once < ten < 10 * once
    assert epsilon(plan, [10] * 10, 1e-5) < ten
    assert epsilon(plan, [], 1e-5) == 0.0


def test_epsilon_of_one_round_is_near_the_known_value_of_the_gaussian_mechanism() -> None:
    # noise multiplier 1 at delta 1e-5: 4.38 exactly (Balle and Wang 2018); Renyi accounting gives a little more
    plan = NoisePlan(scale=1.0, sigma=1_000, sensitivity=1_000, dimension=1)
    assert 4.37 < epsilon(plan, [2], 1e-5) < 5.0


def test_noise_that_nobody_else_adds_protects_nobody() -> None:
    assert epsilon(plan_noise(**LENET), [1], 1e-5) == float("inf")


def test_a_delta_below_what_the_tails_cost_is_never_reached() -> None:
    assert epsilon(plan_noise(**LENET), [5] * 10, 1e-14) == float("inf")


def test_tails_are_paid_for_at_the_price_of_epsilon() -> None:
    """A mechanism within t of an (epsilon, delta)-private one is (epsilon, delta + (1 + e^epsilon) t)-private."""
    plan = plan_noise(**LENET)
    tails = 5 * 62_006 * TAIL_PROBABILITY
    for rounds in (1, 10, 40):
        told = epsilon(plan, [5] * rounds, 1e-5)
        assert told == float("inf") or (1 + exp(told)) * rounds * tails < 1e-5
    assert 18 < epsilon(plan, [5] * 10, 1e-5) < 20
    assert epsilon(plan, [5] * 40, 1e-5) == float("inf")  # about 53 without the tails


def test_rounding_is_part_of_the_sensitivity() -> None:
    plan = plan_noise(**LENET)
    assert plan.sensitivity - plan.scale >= isqrt(62_006)
    assert replace(plan, sensitivity=2 * plan.sensitivity).multiplier(5) == pytest.approx(plan.multiplier(5) / 2)
