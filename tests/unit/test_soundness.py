"""Every cheat that is tried comes out as documented, and the table in docs/validation.md is that of these cheats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from koinon.privacy import mode
from scripts import soundness
from scripts._cheats import CHEATS, NODE, Cheat, Draw, receipts


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda each: f"{each.mode}: {each.what}")
def test_a_cheat_comes_out_as_documented(cheat: Cheat) -> None:
    found = soundness.count(cheat, tries=20, seed=2)
    assert found.tried == (2 if cheat.slow else 20)
    assert found.as_claimed, found.row


@pytest.mark.parametrize("aligned", [False, True])
def test_what_the_cheats_start_from_is_accepted_by_all(aligned: bool) -> None:
    for number in range(10):
        draw = Draw(3, number)
        setting = draw.validated(aligned=aligned)
        values = draw.update(setting) * (0 if aligned else 1)
        protected = mode("shares").protect(setting, NODE, values, draw.entropy)
        assert receipts("shares", setting, protected) == set(range(setting.replicas))


def test_the_documented_table_is_that_of_these_cheats() -> None:
    shown = soundness.documented()
    assert len(shown) == len(CHEATS)
    for row, cheat in zip(shown, CHEATS, strict=True):
        tried, caught = (int(each) for each in row.split(" | ")[2:4])
        assert row == soundness.Count(cheat, tried, caught).row
        assert tried >= 20
        assert caught == (tried if cheat.caught else 0)


def test_a_cheat_that_comes_out_otherwise_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = CHEATS[-1]
    monkeypatch.setattr(soundness, "CHEATS", (plain, replace(plain, caught=False)))
    target = tmp_path / "counts.json"
    assert soundness.main(["--tries", "3", "--json", str(target)]) == 1
    assert [each["as_claimed"] for each in json.loads(target.read_text())["cheats"]] == [True, False]
    assert "NOT AS CLAIMED" in capsys.readouterr().out
    monkeypatch.setattr(soundness, "CHEATS", (plain,))
    assert soundness.main(["--tries", "3"]) == 0


def test_tries_differ_and_can_be_repeated() -> None:
    one, same, other = (Draw(1, number).validated().task for number in (4, 4, 5))
    assert one == same != other
    assert np.any(Draw(1, 4).update(Draw(1, 4).validated()))
