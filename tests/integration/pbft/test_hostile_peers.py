"""A replica that sends rubbish is shown the door, and nobody waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp

from pbft.conduct import BLAMES_BURST
from tests.integration.committee import Committee
from tests.integration.pbft.test_ordering import member, work
from tests.integration.pbft.test_peers import End, connected, ends


def test_a_barred_peer_loses_its_link_and_gets_it_back_when_the_bar_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with ends(tmp_path) as (made, _):
            await connected(made[2], 0, 1)
            await connected(made[1], 0, 2)
            for _ in range(2 * BLAMES_BURST):  # the bucket fills a little meanwhile
                made[2].peers.blame(0)
            assert made[2].peers.connected == (1,)
            assert 0 in made[2].peers.conduct.barred()
            made[1].peers.send([2], b"still here")
            assert await made[2].heard.get() == (1, b"still here")
            await connected(made[2], 0, 1)
            assert not made[2].peers.conduct.barred()

    asyncio.run(scenario())


def test_a_peer_that_floods_with_rubbish_is_barred_while_the_others_order_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        with Committee(tmp_path) as committee:
            committee.start(1, 2, 3)
            rogue = End(committee.federation, 0, committee.signers[0])
            await rogue.peers.start()
            flood = asyncio.ensure_future(_flood(rogue))
            try:
                await committee.ready(1, 2, 3, seconds=60)
                signer = await member(committee)
                async with committee.client(signer) as client:
                    await work(client, 3)
                async with asyncio.timeout(30), aiohttp.ClientSession() as session:
                    for index in (1, 2, 3):
                        while "0" not in await _barred(session, committee, index):
                            await asyncio.sleep(0.05)
            finally:
                flood.cancel()
                await rogue.peers.stop()

    asyncio.run(scenario())


async def _flood(rogue: End) -> None:
    while True:
        for _ in range(20):
            rogue.peers.send([1, 2, 3], b"rubbish")
        await asyncio.sleep(0.01)


async def _barred(session: aiohttp.ClientSession, committee: Committee, index: int) -> dict[str, int]:
    async with session.get(committee.federation.replicas[index].url + "/v1/status") as response:
        barred: dict[str, int] = (await response.json())["barred"]
        return barred
