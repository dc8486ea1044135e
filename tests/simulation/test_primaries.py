"""Primaries that live and are no good, and those that only have a hard time (`pbft.pace`), told one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koinon.signing import seal
from koinon.wire import Request
from pbft.events import ClientRequest
from tests.simulation.byzantine import LIARS
from tests.simulation.world import DOMAIN, SMALL, World, signer


def _views(world: World) -> set[int]:
    return {replica.view for replica in world.honest()}


@pytest.mark.parametrize("clients", [1, 4])
def test_a_primary_that_stays_just_below_the_timeout_is_replaced(clients: int) -> None:
    world = World(4, seed=21)
    world.byzantine[0] = LIARS["slow-primary"]
    for client in range(clients):
        world.script(client, 60)
    assert world.run_until(lambda: min(_views(world)) > 0, 20 * SMALL.view_timeout_ms), "nobody minds"
    begun, done = world.now_ms, world.done
    assert world.run_until(lambda: not world.current, 60_000)
    spent = world.now_ms - begun
    assert spent < (60 * clients - done) * SMALL.view_timeout_ms // 4, "and the next one is as slow"


def test_a_primary_that_leaves_out_one_client_is_replaced_while_the_others_are_served() -> None:
    world = World(4, seed=22, settings=replace(SMALL, view_timeout_ms=20_000, view_timeout_ms_max=20_000))
    world.byzantine[0] = LIARS["censor"]
    for client in range(3):
        world.script(client, 400 if client else 1)
    assert world.run_until(lambda: 0 not in world.current, 15_000), "its request still waits"
    assert min(_views(world)) > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_slow_network_costs_a_few_views_and_no_storm(seed: int) -> None:
    world = World(4, seed=seed, settings=replace(SMALL, view_timeout_ms=6_000, view_timeout_ms_max=24_000))
    world.network.delay_ms_max = 1_500
    for client in range(3):
        world.script(client, 200)
    world.run(90_000)
    early = max(_views(world))
    world.run(180_000)
    assert early <= 2 * world.committee.weak
    assert max(_views(world)) - early <= world.committee.weak


def test_an_idle_committee_stays_in_its_view() -> None:
    world = World(4, seed=23)
    world.script(0, 3)
    world.run(300_000)
    assert _views(world) == {0}


def test_no_single_client_can_have_a_primary_replaced() -> None:
    """Floods, duplicates, old numbers, what the law refuses, garbage; to one backup alone or to all."""
    world = World(4, seed=24)
    world.script(1, 40)
    key = signer("client", 0)
    number = 0
    for turn in range(400):
        number += world.random.randint(0, 3)
        to = world.random.choice([1, 2, 3])
        operation = world.random.choice([b"stranger", b"do", b"x" * 1000])
        data = seal(key, DOMAIN, Request(number=max(0, number - turn % 5), operation=operation))
        if turn % 7 == 0:
            data = world.random.randbytes(200)
        for index in range(4) if turn % 3 == 0 else [to]:
            for _ in range(world.random.randint(1, 8)):
                world._schedule(turn * 50 + world.random.randint(0, 50), index, ClientRequest(0, data))
    world.run(60_000)
    assert not world.current
    assert _views(world) == {0}
