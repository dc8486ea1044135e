"""Mode masked with real processes: a node that announced its masks and dies does not cost the others their round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from koinon.config import load_party, party_signer
from scripts.demo import APP
from scripts.federation import LocalFederation
from tests.e2e.helpers import complete, submit, wait_for_training

pytestmark = pytest.mark.timeout(600)


def test_a_node_killed_in_training_is_taken_out_of_the_sum(tmp_path: Path) -> None:
    with LocalFederation(tmp_path, replicas=4, nodes=4, apps=[APP]) as federation:
        identity = submit(federation, "dropout", mode="masked", rounds=1, epochs=40, round_seconds=30)
        opened = wait_for_training(federation, identity)
        home = federation.home("node-3")
        lost = party_signer(home, load_party(home)).address
        assert lost in opened.announced
        federation.kill("node-3")
        (round_,) = complete(federation, identity).rounds
        assert lost in round_.announced
        assert lost not in round_.submissions
        assert len(round_.submissions) == len(round_.revealed) == 3
        file = str(federation.home_folder / "federation.json")
        assert json.loads(federation.run("scripts.audit", "--federation", file, "--json"))["verdict"] == "PASS"
