from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.integration.aggregator.world import Participant, World, until


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One federation for all tests of this folder; each test makes tasks of its own."""
    made = World(tmp_path_factory.mktemp("federation"))
    try:
        made.start_aggregator()  # before the committee: it has to wait for it
        made.start_replicas()
        until(lambda: made.ask_aggregator("/readyz"), "the aggregator")
        yield made
    finally:
        made.stop_all()


@pytest.fixture(scope="session")
def nodes(world: World) -> list[Participant]:
    made = [Participant(world, index) for index in range(world.nodes)]

    async def enrol() -> None:
        for node in made:
            await node.enrol()

    asyncio.run(enrol())
    return made
