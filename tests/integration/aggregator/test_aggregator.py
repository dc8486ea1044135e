"""The aggregator against a real committee and a real chain, with the faults that it has to survive."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from koinon.client import CommitteeClient
from koinon.encoding import keccak
from koinon.rounds.operations import StopTask
from koinon.signing import seal
from koinon.wire import Contribution
from tests.integration.aggregator.world import (
    Cheat,
    Opponent,
    Participant,
    TwoFaced,
    World,
    create_task,
    escrow,
    see_through,
    until,
)

KILLS = 4


def exactly_once(world: World, task: bytes, rounds: int) -> None:
    for name in ("RoundOpened", "RoundCommitted"):
        assert [each.round for each in world.events(name, task)] == list(range(1, rounds + 1)), name


def test_every_round_is_certified_and_anchored_once(world: World, nodes: list[Participant]) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=3)
        state = await see_through(world, nodes, task, rounds=3)
        assert state.status == "completed"
        assert [each.phase for each in state.rounds] == ["certified"] * 3
        assert world.ledger.latest_model(task) == state.model
        exactly_once(world, task, 3)
        until(lambda: task.hex() in (world.homes / "aggregator/data/rounds.jsonl").read_text(), "timings")

        def over() -> bool:
            shown = {each["task"]: each for each in world.ask_aggregator("/v1/status")["tasks"]}
            return bool(shown[task.hex()]["phase"] == "over" and shown[task.hex()]["certified"] == 3)

        until(over, "the task's end in /v1/status")

    asyncio.run(scenario())
    lines = (world.homes / "aggregator/data/rounds.jsonl").read_text().splitlines()
    keys = {"task", "round", "open_round", "wait", "open", "certify", "complete", "chain"}
    assert all(set(json.loads(line)) == keys for line in lines)


def test_a_node_whose_update_is_too_long_is_left_out_and_not_invited_again(
    world: World, nodes: list[Participant]
) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=2, round_ms=30_000)
        cheat = Cheat(world, nodes.index(nodes[-1]))
        state = await see_through(world, [*nodes[:-1], cheat], task, rounds=2)
        address = cheat.signer.address
        assert state.barred == {address: 1}
        assert address in state.rounds[0].cohort
        assert [len(each.submissions) for each in state.rounds] == [3, 3]
        assert state.rounds[0].closed_ms < state.rounds[0].deadline_ms  # nobody waits for a barred node
        assert address not in state.rounds[1].cohort
        assert address not in state.rewards

    asyncio.run(scenario())


def test_a_replica_whose_accusation_an_accepted_update_contradicts_is_named_with_the_node(
    world: World, nodes: list[Participant]
) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=1, round_ms=30_000)
        liar = TwoFaced(world, nodes.index(nodes[-1]))
        state = await see_through(world, [*nodes[:-1], liar], task, rounds=1)
        assert liar.signer.address in state.rounds[0].submissions
        assert not state.barred
        assert 'koinon_dissenters_total{about="fault",replica="2"} 1.0' in world.ask_aggregator("/metrics")
        lines = (world.folder / "aggregator.log").read_text().splitlines()
        (line,) = [each for each in lines if "one of them lied" in each and task.hex() in each]
        assert liar.signer.address.hex() in line
        assert world.signer("replica-2").address.hex() in line

    asyncio.run(scenario())


def test_a_node_that_pulls_against_the_last_step_is_barred_where_alignment_is_asked_for(
    world: World, nodes: list[Participant]
) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=3, round_ms=30_000, aligned=-500_000)
        opponent = Opponent(world, nodes.index(nodes[-1]))
        state = await see_through(world, [*nodes[:-1], opponent], task, rounds=3)
        assert state.barred == {opponent.signer.address: 2}
        assert [len(each.submissions) for each in state.rounds] == [4, 3, 3]
        assert [each.previous for each in state.rounds] == [
            bytes(32), state.rounds[0].parent_model, state.rounds[1].parent_model
        ]  # fmt: skip

    asyncio.run(scenario())


@pytest.mark.parametrize("mode", ["plain", "paillier"])
def test_the_other_modes_are_opened_and_certified_too(world: World, nodes: list[Participant], mode: str) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=1, mode=mode)
        state = await see_through(world, nodes, task, rounds=1)
        assert world.ledger.latest_model(task) == state.model != state.spec.initial_model

    asyncio.run(scenario())


def test_an_aggregator_killed_again_and_again_finishes_each_round_once(world: World, nodes: list[Participant]) -> None:
    dice = random.Random(7)
    kills = 0

    def kill_sometimes() -> None:
        nonlocal kills
        if kills < KILLS:
            kills += 1
            until(lambda: world.ask_aggregator("/readyz"), "the aggregator after a kill")
            time.sleep(dice.uniform(0.0, 1.0))
            world.kill("aggregator")
            world.start_aggregator()

    async def scenario() -> None:
        task = await create_task(world, "node-1", rounds=3)
        state = await see_through(world, nodes, task, rounds=3, seconds=180, meanwhile=kill_sometimes)
        assert [each.phase for each in state.rounds] == ["certified"] * 3
        exactly_once(world, task, 3)

    asyncio.run(scenario())
    assert kills == KILLS


def test_a_silent_node_costs_the_deadline_and_no_more(world: World, nodes: list[Participant]) -> None:
    async def scenario() -> None:
        nodes[3].silent = True
        try:
            task = await create_task(world, "node-2", rounds=1, round_ms=2_500)
            state = await see_through(world, nodes, task, rounds=1)
        finally:
            nodes[3].silent = False
        assert len(state.rounds[0].submissions) == 3
        assert nodes[3].signer.address not in state.rounds[0].submissions
        assert state.rounds[0].closed_ms > state.rounds[0].deadline_ms

    asyncio.run(scenario())


def test_rounds_without_a_quorum_fail_the_task_and_nothing_is_committed(world: World, nodes: list[Participant]) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=1, round_ms=1_000)
        async with CommitteeClient(world.federation) as client:
            async with asyncio.timeout(30):
                while (state := await client.task(task, rounds=0)).status == "active":
                    await asyncio.sleep(0.1)
        assert (state.status, [each.phase for each in state.rounds]) == ("failed", ["aborted"] * 3)
        assert world.events("RoundCommitted", task) == []

        def over() -> bool:
            shown = {each["task"]: each for each in world.ask_aggregator("/v1/status")["tasks"]}
            return bool(shown[task.hex()]["phase"] == "over")

        until(over, "the failed task's end")

    asyncio.run(scenario())


def test_a_replica_that_signs_a_wrong_sum_is_outvoted_and_named(world: World, nodes: list[Participant]) -> None:
    """Replica 0 (its key is at hand) answers with a contribution to components that nobody else computed."""

    def lie(task: bytes, root: bytes) -> None:
        said = Contribution(
            task=task, round=1, updates_root=root, replica=0,
            components=tuple((number, keccak(bytes([number]))) for number in (1, 2, 3)),
        )  # fmt: skip
        folder = world.homes / "replica-0/data/contributions"
        folder.mkdir(parents=True, exist_ok=True)
        sealed = seal(world.signer("replica-0"), world.federation.domain, said)
        (folder / f"{task.hex()}-1").write_bytes(sealed)

    async def scenario() -> None:
        task = await create_task(world, "node-1", rounds=1)
        running = [asyncio.ensure_future(node.run(task)) for node in nodes[:3]]
        async with CommitteeClient(world.federation, nodes[3].signer) as client, asyncio.timeout(40):
            while not (state := await client.task(task)).rounds or len(state.rounds[-1].submissions) < 3:
                await asyncio.sleep(0.1)
            world.kill("aggregator")  # so that nobody opens before the lie is in place
            await nodes[3].take_part(task, client, state, state.rounds[-1])
            closed = (await client.task(task)).rounds[-1]
            assert closed.phase == "closed"
            lie(task, closed.updates_root)
            world.start_aggregator()
            await asyncio.gather(*running)
            while world.committed(task) < 1:
                await asyncio.sleep(0.1)
            assert (await client.task(task)).status == "completed"

    asyncio.run(scenario())
    assert 'koinon_dissenters_total{about="component",replica="0"} 1.0' in world.ask_aggregator("/metrics")


def test_a_task_whose_budget_comes_late_waits_for_the_chain(world: World, nodes: list[Participant]) -> None:
    async def scenario() -> None:
        task = await create_task(world, "node-0", rounds=1, on_chain=False)

        def waits() -> bool:
            shown = {each["task"]: each for each in world.ask_aggregator("/v1/status")["tasks"]}
            return "escrowed" in shown.get(task.hex(), {}).get("detail", "")

        until(waits, "the reason for waiting in /v1/status")
        async with CommitteeClient(world.federation) as client:
            state = await client.task(task)
        assert state.rounds == []
        escrow(world, world.signer("node-0"), task, state.spec)
        await see_through(world, nodes, task, rounds=1)

    asyncio.run(scenario())


def test_a_stopped_task_ends_and_another_one_runs_beside_it(world: World, nodes: list[Participant]) -> None:
    async def scenario() -> None:
        stopped = await create_task(world, "node-0", rounds=50)
        other = await create_task(world, "node-1", rounds=1)
        async with CommitteeClient(world.federation, world.signer("node-0")) as client:
            async with asyncio.timeout(30):
                while not (await client.task(stopped)).rounds:
                    await asyncio.sleep(0.1)
            await client.submit(StopTask(task=stopped))
        await see_through(world, nodes, other, rounds=1)

        def over() -> bool:
            shown = {each["task"]: each for each in world.ask_aggregator("/v1/status")["tasks"]}
            return bool(shown[stopped.hex()]["phase"] == "over" and shown[stopped.hex()]["status"] == "stopped")

        until(over, "the stopped task's end")

    asyncio.run(scenario())


def test_homes_that_cannot_work_end_the_command_with_a_reason(world: World, tmp_path: Path) -> None:
    def ends(home: Path, code: int, reason: str) -> None:
        name = f"broken-{code}-{home.name}"
        process = world.start(name, "aggregator", "--home", str(home))
        assert process.wait(timeout=60) == code
        assert reason in (world.folder / f"{name}.log").read_text()

    ends(world.homes / "node-0", 2, "is the home of a node")
    homeless = tmp_path / "not-admitted"
    shutil.copytree(world.homes / "aggregator", homeless, ignore=shutil.ignore_patterns("data", "admission.json"))
    config = (homeless / "config.toml").read_text()
    (homeless / "config.toml").write_text(re.sub(r"port = \d+", "port = 0", config))
    ends(homeless, 2, "no admission")
    elsewhere = tmp_path / "other-chain"
    shutil.copytree(homeless, elsewhere)
    known = world.federation.genesis_hash
    federation = (elsewhere / "federation.json").read_text().replace(known, "0x" + "ab" * 32)
    (elsewhere / "federation.json").write_text(federation)
    ends(elsewhere, 3, "genesis")


def test_it_stops_cleanly_when_asked(world: World) -> None:
    assert world.stop("aggregator") == 0
    world.start_aggregator()
    until(lambda: world.ask_aggregator("/readyz"), "the aggregator again")
