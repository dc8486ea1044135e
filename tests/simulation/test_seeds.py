"""Three thousand committees in bad weather, and the soak that runs more. A failure names the command to replay it."""

from __future__ import annotations

import json

import pytest

from tests.simulation.byzantine import LIARS
from tests.simulation.run import main, soak
from tests.simulation.weather import guarded, play

SEEDS_PER_TEST = 50
TESTS = 60


@pytest.mark.parametrize("first", range(0, SEEDS_PER_TEST * TESTS, SEEDS_PER_TEST))
def test_a_committee_stays_safe_in_bad_weather_and_goes_on_after_it(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        assert guarded(seed).executed > 0


def test_a_seed_replays_exactly() -> None:
    assert play(5) == play(5)


def test_a_soak_of_processes_sees_what_one_process_sees() -> None:
    alone, together = soak(40, 24, jobs=1), soak(40, 24, jobs=2)
    alone.seconds = together.seconds = 0
    assert alone == together
    assert alone.seeds == 24
    assert alone.injected["drop"] > 0
    assert alone.happened["view changes"] > 0


def test_a_failing_seed_names_its_replay_and_the_soak_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forgetful(self: object) -> object:
        raise AssertionError("injected")

    monkeypatch.setattr("pbft.views.Views._own_view_change", forgetful)
    assert main(["--first", "0", "--seeds", "8", "--jobs", "1", "--json"]) == 1
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert summary["seeds"] == 8
    assert summary["failed"][0] < 7, "it went on"
    for seed in summary["failed"]:
        assert f"make soak SEED={seed}" in captured.err


def test_every_liar_says_what_it_does() -> None:
    for name, liar in LIARS.items():
        assert liar.__doc__, name
        assert liar.__name__.replace("_", "-") == name
