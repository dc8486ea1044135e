"""The committed artifacts are what the sources compile to."""

from __future__ import annotations

import json

import pytest

from koinon.artifacts import CONTRACTS, artifacts_folder
from koinon.errors import ConfigError, Unavailable
from scripts import compile as compiler


@pytest.fixture(scope="module")
def compiled() -> dict[str, str]:
    try:
        return compiler.compile_contracts()
    except (ConfigError, Unavailable) as error:
        pytest.skip(f"no compiler here: {error.message}")


def test_committed_artifacts_are_what_the_sources_compile_to(compiled: dict[str, str]) -> None:
    assert set(compiled) == {f"{name}.json" for name in CONTRACTS}
    for name, text in compiled.items():
        assert (artifacts_folder() / name).read_text(encoding="utf-8") == text, name


def test_check_fails_on_a_single_changed_byte(compiled: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compiler._check(compiled) == 0
    altered = dict(compiled)
    changed = json.loads(altered["Rewards.json"])
    changed["bytecode"] = changed["bytecode"][:-2] + "ff"
    altered["Rewards.json"] = json.dumps(changed, indent=1, sort_keys=True) + "\n"
    assert compiler._check(altered) == 1
    assert "DIFFERENT Rewards.json" in capsys.readouterr().out


def test_no_metadata_hash_is_in_the_bytecode(compiled: dict[str, str]) -> None:
    """With one, a changed comment would change the code, and the same code would differ between machines."""
    for name, text in compiled.items():
        assert "a264697066735822" not in json.loads(text)["bytecode"], name


def test_storage_layout_is_part_of_the_artifact(compiled: dict[str, str]) -> None:
    layout = json.loads(compiled["RoundLedger.json"])["storageLayout"]["storage"]
    assert [slot["label"] for slot in layout][-2:] == ["_tasks", "_rounds"]
