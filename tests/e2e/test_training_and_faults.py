"""Real processes train, are killed in the middle, and leave a past that passes the audit."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from koinon.audit.archives import read_archive
from koinon.config import load_party, party_signer
from koinon.rounds.operations import SubmitUpdate, decode_operation
from koinon.signing import authenticate
from koinon.wire import Request
from scripts.federation import LocalFederation
from tests.e2e.helpers import complete, small_federation, submit, wait_for_training

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with small_federation(tmp_path_factory.mktemp("federation")) as running:
        yield running


def audit(federation: LocalFederation, task: str) -> dict:  # type: ignore[type-arg]
    """The report of a passing audit; the federation's file is all that it needs."""
    file = str(federation.home_folder / "federation.json")
    report: dict = json.loads(federation.run("scripts.audit", task, "--federation", file, "--json"))  # type: ignore[type-arg]
    assert report["verdict"] == "PASS"
    return report


@pytest.mark.parametrize("mode", ["shares", "masked", "plain"])
def test_two_rounds_are_trained_certified_anchored_and_audited(federation: LocalFederation, mode: str) -> None:
    identity = submit(federation, f"train-{mode}", mode=mode)
    task = complete(federation, identity)
    assert [len(each.submissions) for each in task.rounds] == [3, 3]
    first, last = (each.accuracy() for each in task.rounds)
    assert first is not None
    assert last is not None
    assert last > first  # it learns
    lines = audit(federation, "0x" + identity.hex())["lines"]
    assert [line["round"] for line in lines if line["check"] == "aggregate"] == [1, 2]
    assert not [line for line in lines if line["verdict"] != "PASS"]


def test_a_round_is_certified_although_primary_and_aggregator_were_killed_in_it(federation: LocalFederation) -> None:
    identity = submit(federation, "killed", rounds=3, epochs=20)
    wait_for_training(federation, identity)
    federation.kill("replica-0")
    federation.kill("aggregator")
    federation.restart("aggregator")
    task = complete(federation, identity)
    assert [each.phase for each in task.rounds] == ["certified"] * 3
    federation.restart("replica-0")
    audit(federation, "killed")


def test_a_node_killed_in_a_round_contributes_once(federation: LocalFederation) -> None:
    identity = submit(federation, "once", rounds=3, epochs=20)
    opened = wait_for_training(federation, identity)
    federation.kill("node-1")
    federation.restart("node-1")
    task = complete(federation, identity)
    home = federation.home("node-1")
    node = party_signer(home, load_party(home)).address
    assert node in opened.cohort
    assert [node in each.submissions for each in task.rounds] == [True] * 3
    assert task.rewards[node] == 3 * 3
    for round_ in task.rounds:
        said = {each.update for each in submissions(federation, identity, node) if each.round == round_.number}
        assert said == {round_.submissions[node].update}
    audit(federation, "once")


def submissions(federation: LocalFederation, identity: bytes, node: bytes) -> list[SubmitUpdate]:
    """Every SubmitUpdate of `node` that was ever ordered, effective or not."""
    entries, problem = read_archive(federation.home("replica-1") / "data" / "archive")
    assert problem == ""
    found = []
    for entry in entries:
        for sealed in entry.batch.requests:
            said = authenticate(Request, sealed, federation.file.domain)
            operation = decode_operation(said.message.operation)
            if said.sender == node and isinstance(operation, SubmitUpdate) and operation.task == identity:
                found.append(operation)
    return found
