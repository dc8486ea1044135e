"""A committee of processes changes while clients go on: growth, replacement, rotation, removal, and faults within."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from koinon.client import CommitteeClient
from koinon.committees import Committees
from koinon.errors import Rejected, WrongEpoch
from koinon.rounds.operations import CreateTask, StopTask, TaskSpec
from koinon.signing import Signer
from koinon.wire import Role
from tests.integration.committee import Committee


async def member(committee: Committee) -> Signer:
    signer = Signer(secrets.token_bytes(32))
    async with committee.client(signer) as client:
        await client.submit(committee.enrolment(signer, Role.NODE))
    return signer


async def work(client: CommitteeClient, count: int = 1) -> None:
    """Order `count` tasks one after the other and stop them again."""
    for _ in range(count):
        spec = TaskSpec(
            name=f"task-{secrets.token_hex(8)}", app="none", mode="plain", strategy="fedavg", rounds=1,
            initial_model=bytes(32), dimension=1,
        )  # fmt: skip
        made = await client.submit(CreateTask(spec=spec))
        await client.submit(StopTask(task=made.subject))


async def agree(committee: Committee, *indices: int) -> None:
    """Wait until these homes' replicas are in the last epoch and stand where the furthest stands."""
    epoch = committee.federation.epoch
    for index in indices:
        await committee.until(index, lambda said: said["epoch"] == epoch and said["state"] == "active")
    head = max([int((await committee.status(index))["sequence"]) for index in indices])
    for index in indices:
        await committee.until(index, lambda said: said.get("sequence", 0) >= head)


@contextlib.asynccontextmanager
async def busy(committee: Committee, signer: Signer) -> AsyncIterator[list[int]]:
    """A client with the first federation.json that submits all the while; how often it was answered."""
    answered = [0]

    async def submit() -> None:
        async with CommitteeClient(committee.first, signer) as client:
            while True:
                await work(client)
                answered[0] += 1

    task = asyncio.create_task(submit())
    try:
        yield answered
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_a_fifth_replica_joins_four_while_clients_submit(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        await committee.until(newcomer, lambda said: said["state"] == "standby")
        async with busy(committee, signer) as answered:
            await committee.hand_over(0, 1, 2, 3, newcomer)
            before = answered[0]
            while answered[0] < before + 3:
                await asyncio.sleep(0.05)
        assert committee.federation.epoch == 1
        assert len(committee.federation.replicas) == 5
        await agree(committee, 0, 1, 2, 3, newcomer)
        async with committee.client() as client:
            logs = [await client.log(index, first=1) for index in (0, 4)]
        shared = min(map(len, logs))
        assert [entry.batch for entry in logs[0][:shared]] == [entry.batch for entry in logs[1][:shared]]

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_a_dead_replica_is_replaced_by_an_empty_newcomer_and_an_old_file_still_leads_there(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        committee.kill(3)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        await committee.hand_over(0, 1, 2, newcomer)
        await committee.hand_over(newcomer, 1, 2, 0)
        assert committee.federation.epoch == 2
        kept = Committees(committee.first, tmp_path / "handovers")
        async with CommitteeClient(kept, signer) as client:
            await work(client, 2)
        assert kept.federation == committee.federation
        assert Committees(committee.first, tmp_path / "handovers").federation == committee.federation
        await agree(committee, 0, 1, 2, newcomer)

    with Committee(tmp_path / "homes") as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_a_key_is_rotated_and_a_member_leaves(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        renewed = committee.newcomer()
        committee.start(renewed)
        await committee.hand_over(0, renewed, 2, 3)
        await committee.until(1, lambda said: said["state"] == "standby" and said["epoch"] == 1)
        await committee.hand_over(renewed, 2, 3)
        for gone in (0, 1):
            await committee.until(gone, lambda said: said["state"] == "standby" and said["epoch"] == 2)
        async with committee.client(signer) as client:
            await work(client, 2)
        await agree(committee, renewed, 2, 3)
        outside = CommitteeClient(committee.first.with_committee(2, committee.seats(1)))
        async with outside as client:
            assert (await client.handovers(0, first=0))[-1].certificate.checkpoint.epoch == 1
            with pytest.raises(WrongEpoch, match="no seat"):
                await client._call(0, "GET", "/v1/tasks")

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_a_replica_that_was_down_over_a_change_comes_back(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        committee.kill(1)
        await committee.hand_over(0, 1, 2, 3, newcomer)
        async with committee.client(signer) as client:
            await work(client)
        committee.start(1)
        await agree(committee, 0, 1, 2, 3, newcomer)

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


@pytest.mark.parametrize("when", ["a change is pending", "another one is through"])
def test_a_replica_killed_in_the_middle_of_a_handover_comes_back_in_the_next_epoch(tmp_path: Path, when: str) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        changing = asyncio.create_task(committee.hand_over(0, 1, 2, 3, newcomer))
        if when == "a change is pending":
            await committee.until(2, lambda said: bool(said.get("changing")) or said["epoch"] == 1)
        else:
            await committee.until(3, lambda said: said["epoch"] == 1)
        committee.kill(2)
        committee.start(2)
        await changing
        async with committee.client(signer) as client:
            await work(client)
        await agree(committee, 0, 1, 2, 3, newcomer)

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_all_replicas_killed_after_a_handover_begin_in_the_new_epoch(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        signer = await member(committee)
        newcomer = committee.newcomer()
        committee.start(newcomer)
        await committee.hand_over(0, 1, 2, 3, newcomer)
        for index in (0, 1, 2, 3, newcomer):
            committee.kill(index)
        committee.start(0, 1, 2, 3, newcomer)
        await agree(committee, 0, 1, 2, 3, newcomer)
        async with committee.client(signer) as client:
            await work(client)

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_a_change_that_the_law_refuses_is_not_sent(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        first, second = committee.newcomer(), committee.newcomer()
        before = await committee.sequences(0, 1, 2, 3)
        for seats in ((0, 1, first, second), (0, 1, 2, 2), ()):
            with pytest.raises(Rejected) as refused:
                await committee.hand_over(*seats)
            assert refused.value.rule == "committee-change"
        assert await committee.sequences(0, 1, 2, 3) == before

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_a_replica_whose_disk_was_wiped_after_a_change_begins_in_the_new_epoch(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        newcomer = committee.newcomer()
        committee.start(newcomer)
        await committee.hand_over(0, 1, 2, 3, newcomer)
        committee.kill(3)
        shutil.rmtree(committee.home(3) / "data")
        before = len(committee.log(3))
        committee.start(3)
        await agree(committee, 0, 1, 2, 3, newcomer)
        said = committee.log(3)[before:]
        assert '"event": "serving", "index": 3, "epoch": 1' in said
        assert '"epoch": 0' not in said

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))
