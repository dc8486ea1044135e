"""What operations cost, against the committed figures: a change of gas is a decision, not an accident.

After a deliberate change: UPDATE_GAS=1 pytest tests/contracts/test_gas.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from koinon.encoding import keccak
from koinon.wire import Role, Vote
from tests.contracts.world import INITIAL, SPEC, TASK, World, key

SNAPSHOT = Path(__file__).with_name("gas.json")
TOLERANCE_PERCENT = 1


def measure() -> dict[str, int]:
    figures = {}
    for replicas in (4, 31):
        world = World(replicas)
        figures["register"] = world.admit(key("newcomer"), Role.NODE).gas
        figures["createTask"] = world.send(world.user, "RoundLedger", "createTask", TASK, SPEC, INITIAL, 0).gas
        figures["openRound, first"] = world.open_round().gas
        figures[f"commitRound, first, n={replicas}"] = world.commit(world.certificate()).gas
        model = world.certificate().model
        figures["openRound, later"] = world.open_round(2, model).gas
        later = world.certificate(round=2, parent_model=model, model=keccak(b"model 2"))
        figures[f"commitRound, later, n={replicas}"] = world.commit(later).gas
        world.open_round(3, later.model)
        update = world.send(world.node, "RoundLedger", "submitUpdate", TASK, 3, keccak(b"update"), 600)
        figures["submitUpdate"] = update.gas
        votes = [Vote(phase=3, epoch=0, view=0, sequence=9, digest=keccak(each)) for each in (b"one", b"other")]
        figures[f"reportEquivocation, n={replicas}"] = world.report(1, *votes).gas
        figures[f"installEpochByCertificate, n={replicas}"] = world.hand_over(world.replicas).gas
    return figures


def test_gas_is_as_committed() -> None:
    figures = measure()
    if os.environ.get("UPDATE_GAS"):
        SNAPSHOT.write_text(json.dumps(figures, indent=2) + "\n")
    committed = json.loads(SNAPSHOT.read_text())
    assert figures.keys() == committed.keys()
    for name, gas in figures.items():
        assert gas == pytest.approx(committed[name], rel=TOLERANCE_PERCENT / 100), name


def test_certified_round_costs_as_designed() -> None:
    """docs/adr/0010: open and commit together below 210,000 gas with 4 replicas, 340,000 with 31."""
    committed = json.loads(SNAPSHOT.read_text())
    assert committed["openRound, later"] + committed["commitRound, later, n=4"] < 210_000
    assert committed["openRound, later"] + committed["commitRound, later, n=31"] < 340_000
