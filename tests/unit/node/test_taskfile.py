from __future__ import annotations

from pathlib import Path

import pytest

from koinon.errors import ConfigError, UnknownKey
from node.taskfile import TaskFile, changed, default_task, load_task

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "digits" / "task.toml"


def test_the_example_is_a_task() -> None:
    task = load_task(EXAMPLE)
    task.require_sane()
    spec = task.spec(b"\1" * 32, 10, cohort_max=5, nonce=7)
    assert (spec.clip, spec.round_ms, spec.nonce, spec.cohort_max) == (2_000_000, 120_000, 7, 5)
    assert dict(spec.config) == {"batch_size": "32", "epochs": "5", "learning_rate": "0.03"}


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "task.toml"
    path.write_text('app = "digits"\nround = 3\n')
    with pytest.raises(UnknownKey, match="unknown key round") as caught:
        load_task(path)
    assert "rounds" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", "rounds = 3", 'app = "a"\nrounds = "many"', "app = ", 'app = "a"\nconfig = 3'])
def test_a_file_that_is_no_task_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "task.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_task(path)


@pytest.mark.parametrize(
    "values",
    [
        {"rounds": 0},
        {"rounds": -1},
        {"bits": 4},
        {"bits": 64},
        {"clip": 0.0},
        {"clip": float("nan")},
        {"clip": float("inf")},
        {"cohort_min": 2},
        {"cohort_min": 9, "cohort_max": 5},
        {"round_seconds": 0.1},
        {"reward": -1},
        {"name": "no spaces please"},
        {"mode": "secret"},
        {"strategy": "magic"},
        {"config": {"epochs": "zero"}},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_before_anything_happens(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        changed(TaskFile(app="digits"), **values).require_sane()


def test_options_win_over_the_file_only_where_they_are_given() -> None:
    task = changed(TaskFile(app="digits", rounds=3, mode="plain"), rounds=9, mode=None)
    assert (task.rounds, task.mode) == (9, "plain")


def test_a_task_without_reward_needs_no_budget() -> None:
    assert TaskFile(app="a").cohort(active=5, balance=0) == (128, 0)


def test_a_budget_pays_every_update_of_every_round() -> None:
    assert TaskFile(app="a", rounds=4, reward=2).cohort(active=5, balance=1000) == (5, 40)


def test_a_small_balance_makes_the_cohort_smaller() -> None:
    assert TaskFile(app="a", rounds=4, reward=2, cohort_max=10).cohort(active=5, balance=33) == (4, 32)


def test_a_balance_that_cannot_pay_the_smallest_cohort_is_refused() -> None:
    with pytest.raises(ConfigError, match="this node has 23"):
        TaskFile(app="a", rounds=4, reward=2).cohort(active=5, balance=23)


def test_without_a_file_the_task_beside_the_first_app_is_meant() -> None:
    apps = {"digits": f"{EXAMPLE.parent / 'client.py'}:client_fn"}
    assert default_task(apps, Path("/")) == load_task(EXAMPLE)
    assert default_task({"other": apps["digits"]}, Path("/")) == TaskFile(app="other")
    assert default_task({"packaged": "some.module:client_fn"}, Path("/")) == TaskFile(app="packaged")


def test_without_any_app_there_is_no_default_task() -> None:
    with pytest.raises(ConfigError, match="no app is configured"):
        default_task({}, Path("/"))
