"""A replica that sends rubbish is shown the door, and nobody waits for it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from koinon.encoding import encode
from koinon.wire import Phase, Vote
from pbft.conduct import BLAMES_BURST
from pbft.messages import GENESIS, Ballot, Relay, SignedViewChange, ViewChange
from tests.integration.committee import Committee
from tests.integration.pbft.test_ordering import member, work
from tests.integration.pbft.test_peers import End, connected, ends, listening


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


@pytest.mark.parametrize("rogue", [0, 3])
def test_a_peer_that_floods_with_rubbish_is_barred_while_the_others_order_on(tmp_path: Path, rogue: int) -> None:
    async def scenario() -> None:
        with Committee(tmp_path) as committee:
            honest = [index for index in range(4) if index != rogue]
            committee.start(*honest)
            end = End(committee.federation, rogue, committee.signers[rogue])
            runner = await listening(end.peers, committee.urls[rogue])
            await end.peers.start()
            flood = asyncio.ensure_future(_flood(end, honest, _rubbish(committee, rogue)))
            try:
                await committee.ready(*honest, seconds=60)
                signer = await member(committee)
                async with committee.client(signer) as client:
                    await work(client, 3)
                async with asyncio.timeout(30), aiohttp.ClientSession() as session:
                    for index in honest:
                        while str(rogue) not in (await _status(session, committee, index))["barred"]:
                            await asyncio.sleep(0.05)
                        for name, least in (("koinon_misbehaved_total", BLAMES_BURST), ("koinon_barred_total", 1)):
                            counted = await _metric(session, committee, index, name)
                            assert set(counted) == {str(rogue)}, "nobody else is blamed"
                            assert counted[str(rogue)] >= least
                    if rogue != 0:  # as the primary it is given up for what it doesn't say
                        views = [(await _status(session, committee, index))["view"] for index in honest]
                        assert views == [0, 0, 0], "words alone move no view"
            finally:
                flood.cancel()
                await end.peers.stop()
                await runner.cleanup()

    asyncio.run(scenario())


def _rubbish(committee: Committee, rogue: int) -> list[bytes]:
    """What no decoder takes, what nobody signed, and a view change that is well made, and alone."""
    change = ViewChange(epoch=0, view=5, stable=GENESIS, prepared=())
    signature = committee.signers[rogue].sign(committee.federation.domain, change)
    forged = Vote(phase=Phase.COMMIT, epoch=0, view=0, sequence=1, digest=bytes(32))
    return [
        b"rubbish",
        encode(Ballot(vote=forged, signature=b"\xff" * 64)),
        encode(Relay(request=b"no request")),
        encode(SignedViewChange(message=change, signature=signature)),
    ]


async def _flood(rogue: End, victims: list[int], rubbish: list[bytes]) -> None:
    while True:
        for _ in range(5):
            for data in rubbish:
                rogue.peers.send(victims, data)
        await asyncio.sleep(0.01)


async def _status(session: aiohttp.ClientSession, committee: Committee, index: int) -> dict[str, Any]:
    async with session.get(committee.urls[index] + "/v1/status") as response:
        status: dict[str, Any] = await response.json()
        return status


async def _metric(session: aiohttp.ClientSession, committee: Committee, index: int, name: str) -> dict[str, float]:
    """The samples of a counter, by peer."""
    async with session.get(committee.urls[index] + "/metrics") as response:
        said = await response.text()
    return {peer: float(value) for peer, value in re.findall(rf'^{name}{{peer="(\d+)"}} (\S+)$', said, re.MULTILINE)}
