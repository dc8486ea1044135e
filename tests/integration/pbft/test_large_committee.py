"""A committee of eleven real replicas, for which mode shares is Shamir's: a round with f of them down."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.committee import Committee
from tests.integration.walk import Walk

REPLICAS, DOWN = 11, (1, 4, 10)


def test_eleven_replicas_certify_a_round_while_three_are_down(tmp_path: Path) -> None:
    async def scenario(committee: Committee) -> None:
        up = [index for index in range(REPLICAS) if index not in DOWN]
        await committee.ready(*up, seconds=180)
        walk = Walk(committee, "shares", validate=False)
        await walk.enrol()
        await walk.create()
        number = await walk.open()
        given = [walk.values(position) for position in range(3)]
        for key, values in zip(walk.keys, given, strict=True):
            await walk.submit(number, key, values, to=up)
        opening, model, total = await walk.open_sum(number)
        assert (total == sum(given)).all()
        await walk.complete(*await walk.certify(number, opening, model))

    with Committee(tmp_path, replicas=REPLICAS) as committee:
        committee.start(*(index for index in range(REPLICAS) if index not in DOWN))
        asyncio.run(scenario(committee))
