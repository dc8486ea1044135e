"""What the aggregator tells a real chain of the committee: its handovers in order, and who of it signed twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.anchor import Anchor
from aggregator.committee import CommitteeWatch
from aggregator.outbox import Kind, Outbox
from koinon.client import CommitteeClient
from koinon.committees import Committees
from koinon.config import ContractAddresses, FederationFile
from koinon.encoding import encode, keccak, to_hex
from koinon.epochs import Handover, Seat, epoch_change
from koinon.ledger import Ledger, Network
from koinon.records import EpochHandedOver, ReplicaConvicted
from koinon.wire import Checkpoint, CheckpointCertificate, Equivocation, Phase, Vote
from pbft.messages import Ballot
from tests.integration.aggregator.test_anchor import AGGREGATOR, REGISTRAR, REPLICAS, deployed, drain, new_task
from tests.integration.aggregator.world import World
from tests.integration.chains import running_chain
from tests.integration.pbft.test_peers import End


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with running_chain("embedded") as rpc:
        yield deployed(rpc)


def seats(*indices: int) -> tuple[Seat, ...]:
    return tuple(
        Seat(address=REPLICAS[index].address, sealing_key=bytes([index + 1]) * 32, url=f"http://{index}")
        for index in indices
    )


def federation_of(network: Network) -> FederationFile:
    at = network.contracts
    addresses = (to_hex(each) for each in (at.token, at.registry, at.committee, at.ledger, at.rewards))
    empty = FederationFile(
        version=1, name="watch", chain_id=network.chain_id, genesis_hash=to_hex(network.genesis_hash), rpc=network.rpc,
        contracts=ContractAddresses(*addresses),  # type: ignore[misc]
        registrar=to_hex(REGISTRAR.address), epoch=0, replicas=(),
    )  # fmt: skip
    return empty.with_committee(0, seats(0, 1, 2, 3))


def handover(federation: FederationFile, epoch: int, following: tuple[int, ...], signers: tuple[int, ...]) -> Handover:
    change = epoch_change(epoch + 1, seats(*following)).struct_hash()
    checkpoint = Checkpoint(epoch=epoch, sequence=64 * (epoch + 1), state=keccak(b"state"), next=change)
    signatures = tuple(REPLICAS[index].sign(federation.domain, checkpoint) for index in signers)
    certificate = CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)
    return Handover(certificate=certificate, seats=seats(*following))


def test_handovers_come_before_the_rounds_of_their_epoch_and_each_once(tmp_path: Path, network: Network) -> None:
    federation, ledger = federation_of(network), Ledger(network, AGGREGATOR)
    committees = Committees(federation, tmp_path / "handovers")
    committees.add([handover(federation, 0, (0, 1, 2), (0, 1, 2)), handover(federation, 1, (2, 0, 1), (0, 1, 2))])
    task = new_task(ledger, "handovers")
    outbox = Outbox(tmp_path / "outbox.sqlite")
    anchor = Anchor(ledger, outbox)
    watch = CommitteeWatch(CommitteeClient(committees), ledger, anchor)
    early = encode((2, keccak(b"model 0"), 1_000))

    async def scenario() -> None:
        outbox.ensure(task, 1, Kind.OPEN_ROUND, early, now_ms=0)
        await watch.handovers()
        await drain(anchor, outbox, seconds=60)
        await watch.handovers()  # the chain has them: nothing is queued

    asyncio.run(scenario())
    assert outbox.heads() == []
    events = ledger.events(0, ledger.block_number())
    assert [each.epoch for each in events if isinstance(each, EpochHandedOver)] == [1, 2]
    assert ledger.committee().addresses == tuple(seat.address for seat in seats(2, 0, 1))
    opened = ledger.round(task, 1)
    assert opened is not None
    assert opened.epoch == 2


def test_a_replica_that_signs_twice_is_convicted_once(world: World) -> None:
    """Replica 0 is played by the test, with its key: it tells the others two things about one slot."""
    federation, liar = world.federation, world.signer("replica-0")

    async def scenario() -> None:
        world.kill("replica-0")
        end = End(federation, 0, liar)
        await end.peers.start()
        try:
            async with CommitteeClient(federation) as client, asyncio.timeout(60):
                while len(end.peers.connected) < 3:
                    await asyncio.sleep(0.05)
                standing = await client.status(1)
                for word in (b"one", b"other"):
                    vote = Vote(
                        phase=Phase.COMMIT, epoch=0, view=standing["view"], sequence=standing["sequence"] + 30,
                        digest=keccak(word),
                    )  # fmt: skip
                    end.peers.send([1, 2, 3], encode(Ballot(vote=vote, signature=liar.sign(federation.domain, vote))))
                while not await asyncio.to_thread(world.ledger.convicted, liar.address):
                    await asyncio.sleep(0.1)
        finally:
            await end.peers.stop()
            world.start("replica-0", "pbft", "--home", str(world.homes / "replica-0"))

    asyncio.run(scenario())
    events = world.ledger.events(0, world.ledger.block_number())
    (event,) = (each for each in events if isinstance(each, ReplicaConvicted))
    assert (event.epoch, event.index, event.member) == (0, 0, liar.address)
    assert event.reporter == world.signer("aggregator").address
    assert "koinon_culprits_total 1.0" in world.ask_aggregator("/metrics")


def test_false_evidence_is_counted_and_told_to_nobody(tmp_path: Path, network: Network) -> None:
    """A replica may show whatever it likes; here it lays its own lie at another's door."""
    federation, ledger = federation_of(network), Ledger(network, AGGREGATOR)
    outbox = Outbox(tmp_path / "outbox.sqlite")
    watch = CommitteeWatch(CommitteeClient(federation), ledger, Anchor(ledger, outbox))
    first, second = (
        Vote(phase=Phase.COMMIT, epoch=0, view=0, sequence=9, digest=keccak(word)) for word in (b"one", b"other")
    )
    false = Equivocation(
        index=1,
        first=first,
        first_signature=REPLICAS[2].sign(federation.domain, first),
        second=second,
        second_signature=REPLICAS[2].sign(federation.domain, second),
    )
    assert not asyncio.run(watch.consider(2, false))
    assert watch.proofs == {}
    assert outbox.heads() == []


def test_who_shows_one_lie_is_not_listened_to_until_the_next_time(tmp_path: Path, network: Network) -> None:
    """A page of evidence of epochs that never were would cost a question to all replicas for each piece of it."""
    federation, ledger = federation_of(network), Ledger(network, AGGREGATOR)

    class Flooded(CommitteeClient):
        asked = 0

        async def evidence(self, index: int) -> tuple[Equivocation, ...]:
            vote = Vote(phase=Phase.COMMIT, epoch=2**32 - 1, view=0, sequence=9, digest=keccak(b"one"))
            made = Equivocation(index=1, first=vote, first_signature=bytes(64), second=vote, second_signature=bytes(64))
            return (made,) * 1000

        async def refresh(self) -> bool:
            self.asked += 1
            return False

    client = Flooded(federation)
    watch = CommitteeWatch(client, ledger, Anchor(ledger, Outbox(tmp_path / "outbox.sqlite")))
    asyncio.run(watch.evidence())
    assert client.asked == len(federation.replicas)
