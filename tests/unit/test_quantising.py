"""From floats to what a task's rounds carry, and back: with noise, with commitments, and with neither."""

from __future__ import annotations

import secrets

import msgspec
import numpy as np
import pytest

from koinon import quantising
from koinon.encoding import keccak
from koinon.errors import OutOfRange
from koinon.privacy import fixed_point
from koinon.rounds.operations import MILLION, TaskSpec

RNG = np.random.default_rng(5)
SPEC = TaskSpec(
    name="t", app="t", mode="shares", strategy="fedavg", rounds=3, initial_model=keccak(b"m"), dimension=4_000,
    cohort_min=5,
)  # fmt: skip
NOISY = msgspec.structs.replace(SPEC, noise_multiplier=MILLION // 2, l2_clip=2 * MILLION)


def quantise(spec: TaskSpec, delta: np.ndarray, examples: int = 100) -> np.ndarray:
    rng = np.random.default_rng(1)
    return quantising.quantise(spec, delta, examples=examples, examples_cap=100, rng=rng, entropy=secrets.token_bytes)


def test_without_noise_nothing_changes() -> None:
    delta = RNG.normal(0, 0.01, SPEC.dimension)
    plain = fixed_point.quantise(delta, clip=1.0, bits=16, weight=0.5, rng=np.random.default_rng(1), norm=SPEC.norm)
    np.testing.assert_array_equal(quantise(SPEC, delta, 50), plain)
    back = quantising.mean(SPEC, plain, weight_sum=0.5)
    assert np.abs(back - delta).max() < 1e-3


def test_the_mean_of_noised_updates_is_the_mean_and_noise_of_the_planned_size() -> None:
    plan = NOISY.noise_plan
    assert plan is not None
    deltas = [RNG.normal(0, 0.005, NOISY.dimension) for _ in range(5)]
    total = sum(quantise(NOISY, delta) for delta in deltas)
    error = quantising.mean(NOISY, total, weight_sum=5.0) - np.mean(deltas, axis=0)
    expected = plan.sigma * np.sqrt(5) / (plan.scale * 5)
    assert abs(np.std(error) / expected - 1) < 0.1
    assert abs(error.mean()) < 4 * expected / np.sqrt(NOISY.dimension)


def test_a_long_update_is_clipped_before_the_noise() -> None:
    small = msgspec.structs.replace(NOISY, dimension=400)
    plan = small.noise_plan
    assert plan is not None
    long = quantise(small, np.full(400, 100.0))
    assert abs(long.mean() - plan.scale * 2.0 / 20) < 5 * plan.sigma / 20


def test_noised_updates_keep_the_proved_norm_and_the_range() -> None:
    plan = NOISY.noise_plan
    assert plan is not None
    assert NOISY.norm == plan.norm
    values = quantise(NOISY, RNG.normal(0, 10, NOISY.dimension))
    assert np.linalg.norm(values.astype(float)) <= NOISY.norm
    fixed_point.require_in_range(values, dimension=NOISY.dimension, bits=NOISY.bits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_with_noise_too(value: float) -> None:
    with pytest.raises(OutOfRange, match="NaN or infinite"):
        quantise(NOISY, np.full(NOISY.dimension, value))


def test_no_update_at_all_is_noise_only() -> None:
    assert np.any(quantise(NOISY, np.zeros(NOISY.dimension)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"l2_clip": 0}, "go together"),
        ({"noise_multiplier": 0}, "go together"),
        ({"bits": 8}, "outweighs"),
        ({"norm_bound": MILLION}, "no room for the noise"),
    ],
)
def test_a_task_whose_noise_cannot_be_is_refused_when_it_is_made(change: dict[str, int], reason: str) -> None:
    fields = {name: getattr(NOISY, name) for name in NOISY.__struct_fields__}
    with pytest.raises(ValueError, match=reason):
        TaskSpec(**{**fields, **change})


def test_a_commitment_adds_the_blindings_coordinates_and_room_for_them_in_the_norm() -> None:
    committed = msgspec.structs.replace(SPEC, commit=True)
    assert committed.coordinates == SPEC.dimension + 31
    assert committed.carried_norm**2 >= SPEC.norm**2 + 31 * 255**2
    assert SPEC.carried_norm == SPEC.norm
    total = np.arange(SPEC.dimension + 31)
    assert quantising.mean(committed, total, weight_sum=1.0).shape == (SPEC.dimension,)


def test_privacy_is_spent_round_by_round_and_only_where_there_is_noise() -> None:
    assert quantising.privacy_spent(SPEC, {5: 3}) is None
    one, three = (quantising.privacy_spent(NOISY, {5: rounds}) for rounds in (1, 3))
    assert one is not None
    assert three is not None
    assert 0 < one < three < 3 * one
    assert quantising.privacy_spent(NOISY, {}) == 0.0
