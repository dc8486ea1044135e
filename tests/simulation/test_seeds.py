"""Some hundreds of committees in bad weather. A failure names the command that replays its seed."""

from __future__ import annotations

import pytest

from tests.simulation.run import guarded, play

SEEDS_PER_TEST = 10
TESTS = 16


@pytest.mark.parametrize("first", range(0, SEEDS_PER_TEST * TESTS, SEEDS_PER_TEST))
def test_a_committee_stays_safe_in_bad_weather_and_goes_on_after_it(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        assert guarded(seed).executed > 0


def test_a_seed_replays_exactly() -> None:
    assert play(5) == play(5)


@pytest.mark.parametrize(
    ("seed", "fixed"),
    [
        (166, "members in different views never formed a quorum for any of them"),
        (1083, "a restarted replica forgot the batch of a proof that it still told"),
        (5264, "a checkpoint in the step of a new view shortened the journal to before that view"),
    ],
)
def test_a_seed_that_once_failed(seed: int, fixed: str) -> None:
    assert guarded(seed).executed > 0, fixed
