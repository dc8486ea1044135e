"""Processes whose peers no longer have the beginning of the log: the state comes as a snapshot."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiohttp

from pbft.archive import Archive
from tests.integration.committee import Committee
from tests.integration.pbft.test_ordering import agree, member, work

CHECKPOINT = 64


def _age(committee: Committee, index: int) -> None:
    """Make this replica's archive begin behind its checkpoint, as that of one which got there by a snapshot."""
    path = committee.home(index) / "data" / "archive"
    whole = Archive(path)
    later = whole.read(CHECKPOINT + 1, 10_000)
    assert whole.read(1, 1), "it began there before"
    whole.close()
    path.unlink()
    aged = Archive(path)
    for entry in later:
        aged.append(entry)
    aged.close()


async def _transfers(committee: Committee, index: int) -> str:
    url = committee.federation.replicas[index].url + "/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()


def test_a_wiped_replica_gets_a_snapshot_from_peers_whose_archives_begin_above_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        with Committee(tmp_path) as committee:
            committee.start()
            await committee.ready()
            signer = await member(committee)
            async with committee.client(signer) as client:
                while min(await committee.sequences(0, 1, 2)) <= CHECKPOINT + 2:
                    await work(client, 8)
            for index in range(4):
                committee.kill(index)
            for index in range(3):
                _age(committee, index)
            shutil.rmtree(committee.home(3) / "data")
            committee.start()
            await committee.ready()
            top = await agree(committee, 0, 1, 2, 3)
            assert top > CHECKPOINT
            assert 'koinon_state_transfers_total{kind="snapshot",result="done"} 1.0' in await _transfers(committee, 3)
            committee.kill(0)
            async with committee.client(signer) as client:  # it has a vote, and what it votes on
                await work(client, 2)
            committee.kill(3)
            restored = Archive(committee.home(3) / "data" / "archive")
            assert not restored.read(1, 1)
            assert restored.read(CHECKPOINT + 1, 1)
            restored.close()

    asyncio.run(scenario())
