"""A replica that signs twice: the others keep the proof, show it, and still have it after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

from koinon.encoding import encode, keccak
from koinon.evidence import verify_equivocation
from koinon.wire import Equivocation, Phase, Vote
from pbft.messages import Ballot
from tests.integration.committee import Committee
from tests.integration.pbft.test_ordering import member, work
from tests.integration.pbft.test_peers import End

LIAR = 0


def ballots(committee: Committee) -> list[bytes]:
    """Two commits of the liar for one slot of view 0."""
    key, domain = committee.signers[LIAR], committee.federation.domain
    votes = [Vote(phase=Phase.COMMIT, epoch=0, view=0, sequence=40, digest=keccak(each)) for each in (b"one", b"other")]
    return [encode(Ballot(vote=vote, signature=key.sign(domain, vote))) for vote in votes]


def test_two_votes_for_one_slot_are_kept_shown_and_survive_a_restart(tmp_path: Path) -> None:
    async def shown(committee: Committee, index: int) -> tuple[Equivocation, ...]:
        async with committee.client() as client, asyncio.timeout(30):
            while not (found := await client.evidence(index)):
                await asyncio.sleep(0.05)
            return found

    async def scenario() -> None:
        with Committee(tmp_path) as committee:
            committee.start(1, 2, 3)
            liar = End(committee.federation, LIAR, committee.signers[LIAR])
            await liar.peers.start()
            try:
                await committee.ready(1, 2, 3, seconds=60)
                async with asyncio.timeout(30):
                    while len(liar.peers.connected) < 3:
                        await asyncio.sleep(0.05)
                for message in ballots(committee):
                    liar.peers.send([1, 2, 3], message)
                for index in (1, 2, 3):
                    (found,) = await shown(committee, index)
                    members = committee.federation.replica_addresses
                    culprit = verify_equivocation(committee.federation.domain, members, found)
                    assert culprit == committee.signers[LIAR].address
            finally:
                await liar.peers.stop()
            async with committee.client(await member(committee)) as client:
                await work(client, 2)
            committee.kill(1)
            committee.start(1)
            await committee.ready(1)
            assert await shown(committee, 1) == (found,)

    asyncio.run(scenario())
