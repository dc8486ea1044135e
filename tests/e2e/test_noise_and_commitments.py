"""A task with differential privacy and commitments: trained by real processes, told by status, checked by the audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.demo import APP
from scripts.federation import LocalFederation
from tests.e2e.helpers import TASK, complete, submit_file

pytestmark = pytest.mark.timeout(600)
EXTRA = "noise_multiplier = 0.5\nl2_clip = 2.0\ncommit = true\n"


@pytest.mark.parametrize("mode", ["shares", "masked"])
def test_noise_is_added_counted_and_shown_and_every_sum_opens_its_commitments(tmp_path: Path, mode: str) -> None:
    with LocalFederation(tmp_path, replicas=4, nodes=3, apps=[APP]) as federation:
        path = tmp_path / "noisy.toml"
        head, config = TASK.format(name="noisy", epochs=1, round_seconds=120).split("[config]")
        path.write_text(f"{head}{EXTRA}\n[config]{config}")
        identity = submit_file(federation, path, mode=mode)
        task = complete(federation, identity)
        assert [len(each.submissions) for each in task.rounds] == [3, 3]
        assert task.opened == {3: 2}
        home = str(federation.home("node-1"))
        said = json.loads(federation.run("node", "status", "--home", home, "--json"))
        assert said["privacy"]["delta"] == 1e-5
        first, second = (each["epsilon"] for each in said["history"])
        assert 0 < first == second < said["privacy"]["epsilon"] < 2 * first
        file = str(federation.home_folder / "federation.json")
        report = json.loads(federation.run("scripts.audit", "--federation", file, "--verify-aggregate", "--json"))
        assert report["verdict"] == "PASS"
        checks = [line["check"] for line in report["lines"]]
        assert checks.count("commitments") == checks.count("privacy") == 2
        assert checks.count("privacy budget") == 1
