"""What a replica process answers to those who watch it, alone and without a seat."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from koinon.errors import Unavailable
from tests.integration.committee import Committee


async def ask(url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.json()


def test_a_replica_that_cannot_do_its_part_says_why_and_is_healthy_all_the_same(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        newcomer = committee.newcomer()
        committee.start(0, newcomer)
        await committee.until(0, lambda said: said["state"] == "no quorum of links")
        await committee.until(newcomer, lambda said: said["state"] == "standby")
        for index, reason in ((0, "no quorum of links"), (newcomer, "standby")):
            status, said = await ask(f"{committee.urls[index]}/readyz")
            assert (status, said["ready"]) == (503, False)
            assert reason in said["reasons"]
            assert await ask(f"{committee.urls[index]}/healthz") == (200, {"ok": True, "problems": []})
        async with aiohttp.ClientSession() as session, session.get(f"{committee.urls[0]}/metrics") as answer:
            metrics = await answer.text()
        for line in ("koinon_epoch 0.0", "koinon_links 0.0", "koinon_ready 0.0", "koinon_lag 0.0"):
            assert line in metrics

    with Committee(tmp_path) as committee:
        asyncio.run(scenario(committee))


def test_a_wiped_replica_says_what_it_waits_for_and_is_back_once_the_others_remember(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        await committee.ready()
        committee.kill(2)
        committee.kill(3)
        shutil.rmtree(committee.home(3) / "data")
        committee.start(3)
        await committee.until(3, lambda said: "(2 did)" in said["recovering"])
        status, said = await ask(f"{committee.urls[3]}/readyz")
        assert status == 503
        assert "recovering: waits for 3 others that remember to say where they stand (2 did)" in said["reasons"]
        committee.kill(3)  # a second crash, with a journal this time, which says what is lost
        committee.start(2, 3)
        await committee.ready()
        await committee.until(3, lambda said: said["state"] == "active" and said["view"] == 1)
        for event in ("journal lost", "speaks again", "recovered from a lost journal"):
            assert committee.log(3).count(f'"{event}"') == 1

    with Committee(tmp_path) as committee:
        committee.start()
        asyncio.run(scenario(committee))


def test_who_asks_a_replica_that_is_down_learns_that_nobody_listens_there(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        async with committee.client() as client:
            with pytest.raises(Unavailable, match=r"replica 2 does not answer \(Connection refused"):
                await client.status(2)

    with Committee(tmp_path) as committee:
        asyncio.run(scenario(committee))
