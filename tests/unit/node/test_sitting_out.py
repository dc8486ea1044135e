"""A node that is lied to about masks, or is asked for a task that its owner does not allow, sits out: counted, logged
with the reason and what to do, and heard of no more in that round."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from prometheus_client import REGISTRY

from koinon.config import NodeSettings
from koinon.errors import ConfigError
from koinon.rounds.operations import AnnounceMasks
from node.agent import run_agent, unwelcome
from node.follower import Follower
from tests.unit.node.masks import Masked
from tests.unit.rounds.world import NODES, World


def follower(world: Masked, place: int) -> Follower:
    home = SimpleNamespace(signer=NODES[place])
    taking_part = SimpleNamespace(masking=world.maskings[place])
    return Follower(
        cast("Any", home), cast("Any", None), cast("Any", None), cast("Any", taking_part), cast("Any", None),
        world.task, lambda: 100,
    )  # fmt: skip


def step(follower: Follower, world: Masked) -> bool:
    return asyncio.run(follower._mask(world.record, world.round))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def world(tmp_path: Path) -> Masked:
    return Masked(tmp_path)


def test_a_node_that_is_shown_a_forged_key_counts_reports_and_sits_the_round_out(
    world: Masked, caplog: pytest.LogCaptureFixture
) -> None:
    liar = NODES[2].address
    world.committees[0].lies["members"] = lambda told: {
        **told, liar: msgspec.structs.replace(told[liar], sealing_key=b"\x09" + bytes(31))
    }  # fmt: skip
    refused = counted("koinon_refused_total", service="node", code="unproven")
    out = counted("koinon_node_rounds_total", result="sat out")
    node = follower(world, 0)
    with caplog.at_level(logging.ERROR, logger="koinon.node.follower"):
        assert step(node, world)
    assert counted("koinon_refused_total", service="node", code="unproven") == refused + 1
    assert counted("koinon_node_rounds_total", result="sat out") == out + 1
    (line,) = (record for record in caplog.records if record.message == "round sat out")
    assert f"0x{liar.hex()}" in line.__dict__["reason"]
    assert line.__dict__["code"] == "unproven"
    assert "koinon-audit" in line.__dict__["hint"]
    assert not world.said(0, AnnounceMasks)
    assert not step(node, world)
    world.announce(1, 2, 3)
    assert not node._is_open_to_me(world.round)


def test_a_node_announces_confirms_and_reveals_when_it_is_its_turn(world: Masked) -> None:
    nodes = [follower(world, place) for place in range(4)]
    for node in nodes:
        assert step(node, world)
        assert not step(node, world)
    world.mask()
    world.submit()
    for count, node in enumerate(nodes, start=1):
        assert step(node, world)
        assert len(world.round.confirmed) == count
        assert step(node, world) == (count >= 3)  # from then on it reveals at once
    assert all(step(node, world) for node in nodes[:2])
    assert len(world.round.revealed) == 4
    assert not any(step(node, world) for node in nodes)


def test_a_node_that_restarts_goes_on_where_it_was(world: Masked) -> None:
    world.accepted()
    assert step(follower(world, 0), world)
    world.confirm(1, 2)
    world.maskings[0] = world.restarted(0)
    assert step(follower(world, 0), world)
    assert world.round.revealed == (NODES[0].address,)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        pytest.param(NodeSettings(apps={"digits": "x:y"}), "", id="all modes"),
        pytest.param(NodeSettings(apps={"digits": "x:y"}, modes=("masked", "shares")), "", id="this mode"),
        pytest.param(NodeSettings(apps={"digits": "x:y"}, modes=("masked",)), "mode 'shares'", id="another mode"),
        pytest.param(NodeSettings(apps={"digits": "x:y"}, cohort_min=4), "cohort_min is 4", id="small cohorts"),
        pytest.param(NodeSettings(), "app 'digits'", id="another app"),
    ],
)
def test_a_task_is_served_only_as_its_owner_allows(settings: NodeSettings, why: str) -> None:
    said = unwelcome(settings, World().spec)
    assert why in said
    assert bool(said) == bool(why)


def test_a_mode_that_does_not_exist_is_refused_at_the_start() -> None:
    home = SimpleNamespace(
        require_node=lambda: None, config=SimpleNamespace(node=NodeSettings(modes=("masked", "maskd")))
    )
    with pytest.raises(ConfigError, match="no such mode: maskd"):
        run_agent(cast("Any", home))
