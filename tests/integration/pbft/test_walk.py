"""A node's whole path through a committee of processes, in each mode, without a chain."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from koinon.learning.parameters import model_digest
from tests.integration.committee import Committee, Walk


@pytest.mark.parametrize("mode", ["plain", "shares"])
def test_two_rounds_are_opened_certified_and_completed(tmp_path: Path, mode: str) -> None:
    asyncio.run(_two_rounds(tmp_path, mode, 0))


async def _two_rounds(folder: Path, mode: str, paillier_bits: int) -> None:
    with Committee(folder, paillier_bits=paillier_bits) as committee:
        committee.start()
        await committee.ready()
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
