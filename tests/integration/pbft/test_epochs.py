"""A committee of processes changes while clients go on: growth, replacement, rotation, removal, and faults within."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from koinon.client import CommitteeClient
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
    """Wait until these homes' replicas stand where the furthest stands, in one epoch."""
    head = max([int((await committee.status(index))["sequence"]) for index in indices])
    for index in indices:
        await committee.until(
            index, lambda said: said.get("sequence", 0) >= head and said["epoch"] == committee.federation.epoch
        )


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
            assert await client.log(0, first=1) == await client.log(4, first=1)

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))
