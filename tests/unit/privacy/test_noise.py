"""The sampler draws what its source says, from whatever randomness it is given."""

import hashlib
from math import exp

import numpy as np
import pytest

from koinon.errors import InvariantBroken
from koinon.privacy.mode import Entropy
from koinon.privacy.noise import SIGMA_MAX, discrete_gaussian


def stream(seed: str) -> Entropy:
    """A fixed stream of bytes, so that a statistical test has one outcome for ever."""
    position = 0

    def entropy(count: int) -> bytes:
        nonlocal position
        position += 1
        return hashlib.shake_256(f"{seed}/{position}".encode()).digest(count)

    return entropy


@pytest.mark.parametrize("sigma", [1, 2, 7])
def test_frequencies_are_those_of_the_discrete_gaussian(sigma: int) -> None:
    size = 60_000
    drawn = discrete_gaussian(size, sigma, stream(f"frequencies {sigma}"))
    support = range(-12 * sigma, 12 * sigma + 1)
    weights = np.array([exp(-x * x / (2 * sigma * sigma)) for x in support])
    expected = size * weights / weights.sum()
    observed = np.array([int((drawn == x).sum()) for x in support])
    assert observed.sum() == size
    common = expected > 10
    statistic = float(((observed - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # chi-square: mean k, variance 2k


@pytest.mark.parametrize("sigma", [40, 5_000, SIGMA_MAX])
def test_moments_fit_at_every_scale(sigma: int) -> None:
    drawn = discrete_gaussian(60_000, sigma, stream(f"moments {sigma}")) / sigma
    assert abs(drawn.mean()) < 4 / 60_000**0.5
    assert abs(drawn.var() - 1) < 4 * (2 / 60_000) ** 0.5
    assert abs((drawn**4).mean() - 3) < 4 * (96 / 60_000) ** 0.5
    assert abs((drawn > 0).mean() - 0.5) < 0.01


def test_draws_depend_on_nothing_but_the_randomness() -> None:
    first, second = (discrete_gaussian(100, 9, stream("same")) for _ in range(2))
    assert first.dtype == np.int64
    assert first.tolist() == second.tolist()
    assert first.tolist() != discrete_gaussian(100, 9, stream("other")).tolist()


def test_an_empty_vector_needs_no_noise() -> None:
    assert discrete_gaussian(0, 5, stream("nothing")).shape == (0,)


@pytest.mark.parametrize("sigma", [0, -1, SIGMA_MAX + 1])
def test_refuses_a_scale_that_it_cannot_draw_exactly(sigma: int) -> None:
    with pytest.raises(InvariantBroken, match="scale"):
        discrete_gaussian(1, sigma, stream("unused"))


@pytest.mark.parametrize("stuck", [b"\x00", b"\xff"])
def test_a_stuck_source_of_randomness_stops_the_node_instead_of_hanging(stuck: bytes) -> None:
    with pytest.raises(InvariantBroken, match="randomness is broken"):
        discrete_gaussian(4, 3, lambda count: stuck * count)
