"""A whole federation changes its committee: the chain follows by itself, and the audit finds one history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from koinon.audit import Selection, examine
from koinon.audit.gather import gather_online
from koinon.client import CommitteeClient
from koinon.records import EpochHandedOver, RoundOpened
from koinon.rounds.operations import ChangeCommittee
from tests.integration.aggregator.world import Participant, World, create_task, see_through, until


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A federation of its own: other tests count on four replicas."""
    made = World(tmp_path_factory.mktemp("handover"))
    try:
        made.start_aggregator()
        made.start_replicas()
        until(lambda: made.ask_aggregator("/readyz"), "the aggregator")
        yield made
    finally:
        made.stop_all()


def test_chain_follows_the_committee_and_the_audit_finds_one_history(world: World) -> None:
    given = world.federation
    nodes = [Participant(world, index) for index in range(world.nodes)]

    async def scenario() -> None:
        for node in nodes:
            await node.enrol()
        before = await create_task(world, "node-0", rounds=1)
        await see_through(world, nodes, before, rounds=1)
        async with CommitteeClient(given, world.signer("registrar")) as registrar:
            await registrar.submit(ChangeCommittee(epoch=1, seats=given.seats[:3]))
            async with asyncio.timeout(60):
                while world.ledger.epoch() < 1:
                    await asyncio.sleep(0.1)
            await registrar.refresh()
            world.federation = registrar.federation
        assert world.federation.epoch == 1
        after = await create_task(world, "node-1", rounds=1)
        await see_through(world, nodes, after, rounds=1, seconds=90)

    asyncio.run(scenario())
    events = world.ledger.events(0, world.ledger.block_number())
    assert [each.epoch for each in events if isinstance(each, EpochHandedOver)] == [1]
    assert [each.epoch for each in events if isinstance(each, RoundOpened)] == [0, 1]
    evidence, history = asyncio.run(gather_online(given, Selection()))
    report = examine(evidence, history)
    assert report.passed, report.first_lie
    (handover,) = (line for line in report.lines if line.check == "handover")
    assert handover.detail.startswith("epoch 1: 3 members of epoch 0 signed")
