"""Finding a task, telling its history, proving a reward, exporting a model: pure parts of the commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from koinon import merkle
from koinon.config import ContractAddresses, FederationFile, ReplicaEntry
from koinon.encoding import keccak, to_hex
from koinon.errors import ConfigError, UncertifiedModel
from koinon.learning.parameters import from_arrays
from koinon.rounds.operations import TaskSpec
from koinon.rounds.state import Evaluation, Round, Submission, Task, rewards_root
from koinon.signing import Signer
from koinon.wire import RoundCertificate, SignedReceipt
from node.exporting import export
from node.finding import choose
from node.following import History, line
from node.rewards import earned_until, proof_for
from node.trust import require_certified

NODES = tuple(bytes([number]) * 20 for number in (1, 2, 3))
TASK = keccak(b"a task")


def task(name: str = "digits", created: int = 0, status: str = "active") -> Task:
    spec = TaskSpec(
        name=name,
        app="digits",
        mode="plain",
        strategy="fedavg",
        rounds=2,
        initial_model=bytes(32),
        dimension=1,
        reward=5,
    )
    return Task(spec=spec, submitter=NODES[0], created_ms=created, status=status, model=bytes(32))


def certified(number: int, nodes: tuple[bytes, ...] = NODES) -> Round:
    kept = Submission(update=bytes(32), examples=10, loss=0, time_ms=2_000, holders=(0, 1, 2))
    certificate = RoundCertificate(
        task=TASK,
        round=number,
        epoch=0,
        parent_model=bytes(32),
        model=keccak(b"model"),
        updates_root=bytes(32),
        opening=bytes(32),
        rewards_root=bytes(32),
        rewards_total=0,
        participants=len(nodes),
    )
    return Round(
        number=number,
        phase="certified",
        parent_model=bytes(32),
        cohort=NODES,
        examples_cap=10,
        opened_ms=1_000,
        deadline_ms=9_000,
        submissions=dict.fromkeys(nodes, kept),
        closed_ms=2_500,
        certified_ms=4_000,
        certificate=certificate,
    )


# --- finding -----------------------------------------------------------------------------------------------------

FIRST, SECOND, THIRD = bytes.fromhex("abcd" * 16), bytes.fromhex("abce" * 16), bytes.fromhex("1234" * 16)
TASKS = {FIRST: task("one", 1), SECOND: task("two", 2), THIRD: task("two", 3)}


@pytest.mark.parametrize(
    ("given", "found"), [(None, THIRD), ("one", FIRST), ("two", THIRD), ("abcd", FIRST), ("0xABCEAB", SECOND)]
)
def test_a_task_is_found_by_name_by_prefix_or_as_the_latest(given: str | None, found: bytes) -> None:
    assert choose(TASKS, given) == found


@pytest.mark.parametrize("given", ["three", "abc", "ffff", ""])
def test_a_task_that_is_not_there_lists_those_that_are(given: str) -> None:
    with pytest.raises(ConfigError, match="no task is called") as caught:
        choose(TASKS, given)
    assert "abcdabcdabcd (one, active)" in (caught.value.hint or "")


def test_a_prefix_of_two_tasks_is_refused() -> None:
    both = {bytes.fromhex("abcd00" + "00" * 29): task("a"), bytes.fromhex("abcd01" + "00" * 29): task("b")}
    with pytest.raises(ConfigError, match="fits 2 tasks"):
        choose(both, "abcd")


@pytest.mark.parametrize("given", ["two", None])
def test_where_a_doubt_would_hurt_the_latest_is_not_taken(given: str | None) -> None:
    with pytest.raises(ConfigError):
        choose(TASKS, given, sure=True)


def test_without_tasks_the_next_step_is_to_submit_one() -> None:
    with pytest.raises(ConfigError, match="no tasks yet"):
        choose({}, None)


# --- history -----------------------------------------------------------------------------------------------------


def test_a_history_tells_each_event_once_and_in_order() -> None:
    found, history = task(), History(TASK)
    found.rounds = [certified(1)]
    first = [event["event"] for event in history.events(found)]
    assert first == ["opened", "update", "update", "update", "closed", "certified"]
    assert list(history.events(found)) == []
    found.rounds[0].evaluation = Evaluation(
        reporters=[NODES[0]], examples=4, loss_sum=2_000_000, accuracy_sum=3_000_000
    )
    found.status = "completed"
    told = list(history.events(found))
    assert [event["event"] for event in told] == ["evaluated", "ended"]
    assert told[0]["accuracy"] == 0.75
    assert told[0]["loss"] == 0.5


def test_a_history_reads_as_lines() -> None:
    found = task(status="stopped")
    found.rounds, found.reason = [certified(1)], "by its submitter"
    lines = [line(event) for event in History(TASK).events(found)]
    assert lines[0] == "round   1  opened for 3 nodes"
    assert lines[1] == "round   1  update 1/3 (10 examples)"
    assert lines[-1] == "task stopped after 0 certified rounds: by its submitter"


# --- rewards -----------------------------------------------------------------------------------------------------


def test_rewards_are_those_up_to_the_last_round_that_the_chain_holds() -> None:
    found = task()
    found.rounds = [certified(1), certified(2, NODES[:2]), certified(3)]
    assert earned_until(found, 2) == {NODES[0]: 10, NODES[1]: 10, NODES[2]: 5}


@pytest.mark.parametrize("account", NODES)
def test_a_proof_leads_to_the_root_that_the_committee_signs(account: bytes) -> None:
    amounts = {NODES[2]: 5, NODES[0]: 10, NODES[1]: 15}
    proof = proof_for(TASK, amounts, account)
    merkle.verify(rewards_root(TASK, amounts), merkle.reward_leaf(TASK, account, amounts[account]), proof)


# --- trust -------------------------------------------------------------------------------------------------------

SIGNERS = [Signer(bytes([number]) * 32) for number in range(1, 5)]
FEDERATION = FederationFile(
    version=1,
    name="test",
    chain_id=1,
    genesis_hash=to_hex(bytes(32)),
    rpc="",
    contracts=ContractAddresses(*(to_hex(bytes([number]) * 20) for number in range(1, 6))),  # type: ignore[misc]
    registrar=to_hex(bytes(20)),
    epoch=0,
    replicas=tuple(ReplicaEntry(address=to_hex(each.address), sealing_key="", url="") for each in SIGNERS),
)


def signed(*pairs: tuple[int, int]) -> Round:
    """A round whose certificate carries, as replica `i`'s signature, the one of signer `j`."""
    round_ = certified(1)
    assert round_.certificate is not None
    round_.signatures = tuple(
        SignedReceipt(replica=replica, signature=SIGNERS[signer].sign(FEDERATION.domain, round_.certificate))
        for replica, signer in pairs
    )
    return round_


def test_a_certificate_with_a_quorum_of_signatures_is_believed() -> None:
    assert require_certified(FEDERATION, TASK, signed((0, 0), (1, 1), (3, 3))).model == keccak(b"model")


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        ((0, 0), (1, 1)),
        ((0, 0), (1, 1), (1, 1)),
        ((0, 0), (1, 1), (2, 0)),
        ((0, 0), (1, 1), (9, 2)),
    ],
    ids=["none", "two", "twice the same", "another's signature", "no such replica"],
)
def test_a_certificate_without_a_quorum_is_not_believed(pairs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UncertifiedModel, match="3 are needed"):
        require_certified(FEDERATION, TASK, signed(*pairs))


def test_a_certificate_of_another_task_is_not_believed() -> None:
    with pytest.raises(UncertifiedModel):
        require_certified(FEDERATION, keccak(b"another"), signed((0, 0), (1, 1), (2, 2)))


# --- export ------------------------------------------------------------------------------------------------------

MODEL = from_arrays([np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2)], ["layer.weight", "layer.bias"])


def test_an_exported_model_has_the_same_named_values_in_every_format(tmp_path: Path) -> None:
    import torch
    from safetensors.numpy import load_file

    for suffix in (".safetensors", ".pt", ".npz"):
        export(MODEL, tmp_path / f"model{suffix}")
    with np.load(tmp_path / "model.npz") as archive:
        read = [
            load_file(tmp_path / "model.safetensors"),
            dict(archive),
            {name: each.numpy() for name, each in torch.load(tmp_path / "model.pt", weights_only=True).items()},
        ]
    for found in read:
        assert set(found) == {"layer.weight", "layer.bias"}
        assert found["layer.weight"].dtype == np.float32
        assert found["layer.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["layer.bias"].tolist() == [1, 1]


def test_an_export_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        export(MODEL, tmp_path / "nowhere" / "model.npz")
