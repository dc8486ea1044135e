"""Nodes in a real federation: a task from its submission to the rewards, and what goes wrong on the way."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from koinon.encoding import from_hex, keccak
from node.submissions import Submissions
from tests.integration.node.conftest import NODES, ROOT, World, until


def metrics(world: World, node: int) -> str:
    with urllib.request.urlopen(f"{world.federation.url(f'node-{node}')}/metrics", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


@pytest.fixture(scope="module")
def finished(world: World) -> list[dict[str, object]]:
    """The events of a task that ran to its end, as `submit --follow --json` told them."""
    task = world.task("walk", rounds=2, mode="shares", reward=3)
    return world.json("submit", str(task), "--follow")


def test_following_a_task_tells_every_step_and_ends_with_0(finished: list[dict[str, object]]) -> None:
    events = [event["event"] for event in finished]
    assert events[0] == "submitted"
    for number in (1, 2):
        of_round = [event["event"] for event in finished if event.get("round") == number]
        assert [each for each in of_round if each != "evaluated"] == [
            "opened",
            *["update"] * NODES,
            "closed",
            "certified",
        ]
        assert "evaluated" in of_round
    assert [event["status"] for event in finished if event["event"] == "ended"] == ["completed"]


def test_status_list_and_log_agree_with_what_was_followed(world: World, finished: list[dict[str, object]]) -> None:
    status = world.status("walk")
    assert (status["status"], status["certified"], len(status["history"])) == ("completed", 2, 2)
    assert all(each["reporters"] == NODES for each in status["history"])
    assert any(each["task"] == status["task"] for each in world.json("list"))
    told = world.koinon("log", "walk").stdout
    assert "certified by" in told
    assert "task completed after 2 certified rounds" in told


def test_an_exported_model_is_the_mean_that_the_committee_certified(
    world: World, finished: list[dict[str, object]], tmp_path: Path
) -> None:
    (about,) = world.json("model", "walk", "--round", "1", "--output", str(tmp_path / "model.npz"))
    assert about["model"] == world.status("walk")["history"][0]["model"]
    with np.load(tmp_path / "model.npz") as archive:
        # each node moves half the way from 0 to its number 0..3, all with the same number of examples
        assert archive["0"] == pytest.approx(np.full((4, 5), 0.75), abs=0.02)


def test_evaluate_measures_each_certified_round(world: World, finished: list[dict[str, object]]) -> None:
    said = world.json("evaluate", "walk", node=1)
    assert [each["round"] for each in said] == [1, 2]
    assert said[0]["accuracy"] == pytest.approx(1 / 1.25, abs=0.02)


def test_rewards_are_claimed_once(world: World, finished: list[dict[str, object]]) -> None:
    (first,) = world.json("claim", "walk", node=2)
    (again,) = world.json("claim", "walk", node=2)
    assert (first["claimed"], again["claimed"], again["earned"]) == (6, 0, 6)
    assert again["balance"] == first["balance"]


def test_a_round_that_is_not_certified_has_no_model(world: World, finished: list[dict[str, object]]) -> None:
    done = world.koinon("model", "walk", "--round", "9", code=2)
    assert "round 9 is not certified" in done.stderr


def test_every_phase_of_a_round_is_timed(world: World, finished: list[dict[str, object]]) -> None:
    lines = [each for each in world.lines(1) if each["examples"] == 10]
    assert {"train", "protect", "deliver", "submit", "task", "round"} <= set(lines[0])


def test_registering_again_changes_nothing(world: World) -> None:
    (said,) = world.json("register")
    assert (said["chain"], said["committee"]) == ("already registered", "already enrolled")


def test_members_and_replicas_are_shown(world: World) -> None:
    assert sum("node" in each["roles"] for each in world.json("nodes")) == NODES
    assert [each["reachable"] for each in world.json("replicas")] == [True] * 4


def test_a_task_of_an_app_that_nobody_offers_is_never_run(world: World) -> None:
    path = world.task("foreign", rounds=1)
    path.write_text(path.read_text().replace('app = "numbers"', 'app = "number"'))
    done = world.koinon("submit", str(path), code=2)
    assert "did you mean numbers?" in done.stderr


@pytest.mark.parametrize("kind", ["raise", "nan", "shape"])
def test_a_node_whose_code_fails_sits_the_round_out_and_is_back_in_the_next(world: World, kind: str) -> None:
    world.fault(3, kind)
    world.koinon("submit", str(world.task(f"broken-{kind}", rounds=2, seconds=5)))
    until(lambda: world.fits(3, f"broken-{kind}"), "the failing fit")
    until(lambda: any(line.get("event") == "round sat out" for line in world.log(3)), "the report of it")
    world.fault(3, "")
    assert world.koinon("log", f"broken-{kind}", "--follow").returncode == 0
    history = world.status(f"broken-{kind}")["history"]
    assert [each["updates"] for each in history] == [NODES - 1, NODES]
    assert 'koinon_refused_total{code="training",service="node"}' in metrics(world, 3)


def test_leaving_a_followed_task_leaves_it_running(world: World) -> None:
    world.fault(1, "wait")
    task = world.task("left", rounds=1)
    following = subprocess.Popen(
        world.command("submit", str(task), "--follow"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: world.fits(1, "left"), "the round")
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=30)
    assert following.returncode == 130
    assert "the task goes on; watch it again with: koinon log" in said
    world.fault(1, "")
    assert world.koinon("log", "left", "--follow").returncode == 0


def test_a_stopped_task_ends_its_follower_with_8(world: World) -> None:
    world.fault(1, "wait")
    world.koinon("submit", str(world.task("stopped", rounds=5)))
    until(lambda: world.fits(1, "stopped"), "the round")
    assert "only the submitter" in world.koinon("stop", "stopped", node=2, code=5).stderr
    (said,) = world.json("stop", "stopped")
    assert said["status"] == "stopped"
    world.koinon("log", "stopped", "--follow", code=8)


def test_a_node_killed_in_mid_round_sends_the_same_update_and_never_trains_twice(world: World) -> None:
    world.fault(0, "wait")
    world.koinon("submit", str(world.task("killed", rounds=1, mode="shares")), node=1)
    until(lambda: world.fits(0, "killed"), "the fit")
    until(lambda: world.status("killed")["history"][0]["updates"] == NODES - 1, "the others' updates")
    identity = from_hex(world.status("killed")["task"])
    for index in (2, 3):
        world.signal(f"replica-{index}", signal.SIGSTOP)
    try:
        world.fault(0, "")
        kept = Submissions(world.federation.home("node-0") / "data" / "submissions")
        record = until(lambda: kept.load(identity, 1), "the record on disk")
        world.kill("node-0")
    finally:
        for index in (2, 3):
            world.signal(f"replica-{index}", signal.SIGCONT)
    world.restart("node-0")
    assert world.koinon("log", "killed", "--follow").returncode == 0
    updates = [each for each in world.json("log", "killed") if each["event"] == "update"]
    assert len(updates) == NODES
    assert world.fits(0, "killed") == [1]
    (line,) = [each for each in world.lines(0) if each["task"] == identity.hex()]
    assert line["resent"] is True
    ordered = [
        each for each in world.log(0) if each.get("event") == "update submitted" and each["task"] == identity.hex()
    ]
    assert ordered[0]["update"] == keccak(record.update).hex()
    until(lambda: kept.load(identity, 1) is None, "the record's end")


def test_a_node_outlives_the_committee(world: World) -> None:
    replicas = [f"replica-{index}" for index in range(4)]
    for each in replicas:
        world.kill(each)
    try:
        until(lambda: not world.federation.ready("node-1"), "offline")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{world.federation.url('node-1')}/readyz", timeout=5)
        assert caught.value.code == 503
        assert b"Offline" in caught.value.read()
        assert "replica" in world.koinon("list", code=4).stderr
    finally:
        world.restart(*replicas)
    until(lambda: world.federation.ready("node-1"), "online again")
    assert world.json("submit", str(world.task("after", rounds=1)), "--follow")[-1]["event"] in ("ended", "evaluated")
