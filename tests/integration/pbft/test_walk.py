"""A node's whole path through a committee of processes, in each mode, without a chain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from koinon.learning.parameters import model_digest
from tests.integration.committee import Committee
from tests.integration.walk import Walk


@pytest.fixture(scope="module")
def committee(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Committee]:
    with Committee(tmp_path_factory.mktemp("committee"), paillier_bits=2048) as made:
        made.start()
        asyncio.run(made.ready())
        yield made


@pytest.mark.parametrize("mode", ["plain", "shares", "paillier"])
def test_two_rounds_are_opened_certified_and_completed(committee: Committee, mode: str) -> None:
    async def scenario() -> None:
        walk = Walk(committee, mode)
        await walk.enrol()
        await walk.create()
        first, second = await walk.round(), await walk.round()
        await walk.evaluate(2, walk.keys[0], 900_000)
        record = await walk.record()
        assert record.status == "completed"
        assert [round_.phase for round_ in record.rounds] == ["certified", "certified"]
        assert record.rounds[1].parent_model == model_digest(first) != model_digest(second) == record.model
        assert record.rewards == {key.address: 14 for key in walk.keys}
        assert record.rounds[1].accuracy() == pytest.approx(0.9)

    asyncio.run(scenario())


def test_a_watcher_is_told_of_a_change_when_it_happens(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares")
        await walk.enrol()
        await walk.create()
        before = await walk.record()
        async with committee.client() as client:
            watching = asyncio.create_task(client.watch_task(walk.task, after=before.version, wait_ms=20_000))
            await asyncio.sleep(0.3)
            assert not watching.done()
            await walk.open()
            async with asyncio.timeout(5):
                after = await watching
        assert after.version == before.version + 1
        assert [round_.phase for round_ in after.rounds] == ["training"]

    asyncio.run(scenario())


def test_who_waits_for_a_stage_sleeps_through_the_updates_of_others(committee: Committee) -> None:
    async def scenario() -> None:
        walk = Walk(committee, "shares")
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        before = await walk.record()
        async with committee.client() as client:
            watching = asyncio.create_task(
                client.watch_task(walk.task, after=before.version, stage=before.stage, wait_ms=30_000)
            )
            for seed, key in enumerate(walk.keys[:-1]):
                await walk.submit(number, key, walk.values(seed))
            await asyncio.sleep(0.3)
            assert not watching.done()
            await walk.submit(number, walk.keys[-1], walk.values(9))
            async with asyncio.timeout(5):
                after = await watching
            assert after.stage == f"active.{number}.closed"
            behind = await client.watch_task(walk.task, after=after.version, stage=before.stage, wait_ms=300)
            assert behind.stage == after.stage

    asyncio.run(scenario())
