"""Quantisation: bounded, unbiased, and strict about what is no number."""

from __future__ import annotations

import numpy as np
import pytest

from koinon.errors import OutOfRange
from koinon.privacy.fixed_point import mean, quantise, require_in_range


def test_a_value_at_the_clip_becomes_the_largest_integer() -> None:
    delta = np.array([1.0, -1.0, 5.0, -5.0, 0.0])
    got = quantise(delta, clip=1.0, bits=16, weight=1.0, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(got, [32767, -32767, 32767, -32767, 0])


def test_rounding_is_unbiased_and_off_by_less_than_one_step() -> None:
    delta = np.full(200_000, 0.3)
    got = quantise(delta, clip=1.0, bits=8, weight=0.5, rng=np.random.default_rng(0))
    exact = 0.3 * 0.5 * 127
    assert np.abs(got - exact).max() < 1
    assert abs(got.mean() - exact) < 5 * 0.5 / np.sqrt(got.size)


def test_the_mean_of_weighted_updates_is_their_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    deltas, weights = rng.uniform(-1, 1, (5, 100)), np.array([0.1, 0.9, 1.0, 0.5, 0.3])
    total = sum(
        (quantise(d, clip=1.0, bits=24, weight=w, rng=rng) for d, w in zip(deltas, weights, strict=True)),
        np.zeros(100, dtype=np.int64),
    )
    got = mean(total, clip=1.0, bits=24, weight_sum=float(weights.sum()))
    np.testing.assert_allclose(got, np.average(deltas, axis=0, weights=weights), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_refused_and_counted(bad: float) -> None:
    with pytest.raises(OutOfRange, match="2 of 3 coordinates"):
        quantise(np.array([bad, 0.0, bad]), clip=1.0, bits=16, weight=1.0, rng=np.random.default_rng(0))


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.01, float("nan")])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(OutOfRange, match="weight"):
        quantise(np.zeros(1), clip=1.0, bits=16, weight=weight, rng=np.random.default_rng(0))


def test_the_most_negative_integer_is_out_of_range() -> None:
    """abs(-2^63) is -2^63 in int64: an absolute value let it pass."""
    with pytest.raises(OutOfRange, match="exceeds"):
        require_in_range(np.array([-(2**63)]), dimension=1, bits=16)


def test_a_vector_longer_than_the_norm_is_shortened_and_keeps_its_direction() -> None:
    delta = np.full(1000, 0.5)
    got = quantise(delta, clip=1.0, bits=16, weight=1.0, rng=np.random.default_rng(0), norm=100_000)
    assert 99_000 < np.linalg.norm(got) <= 100_000
    assert got.max() - got.min() <= 1


def test_a_vector_within_the_norm_is_rounded_as_without_one() -> None:
    delta = np.random.default_rng(1).uniform(-1, 1, 100)
    free = quantise(delta, clip=1.0, bits=16, weight=0.7, rng=np.random.default_rng(2))
    norm = int(np.ceil(np.linalg.norm(free)))
    bounded = quantise(delta, clip=1.0, bits=16, weight=0.7, rng=np.random.default_rng(2), norm=norm)
    np.testing.assert_array_equal(free, bounded)


def test_a_norm_that_rounding_alone_could_exceed_is_refused() -> None:
    with pytest.raises(OutOfRange, match="by rounding"):
        quantise(np.full(100, 0.5), clip=1.0, bits=8, weight=1.0, rng=np.random.default_rng(0), norm=10)
