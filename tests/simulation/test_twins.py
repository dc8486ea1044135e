"""A fair slice of the twins' scenarios; `make twins` runs them all."""

from __future__ import annotations

import pytest

from tests.simulation.twins import Scenario, Twins, partitions, play, run, scenario, size

SLICE = {"views": 600, "groups": 600, "phases": 900, "sampled": 150}
PARTS = 3


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("family", sorted(SLICE))
def test_twins_split_no_committee_and_stop_none(family: str, part: int) -> None:
    count = SLICE[family] // PARTS
    total, failures = run(family, part * count, count)
    assert not failures, failures[0]
    assert total["scenarios"] == count
    assert 0 < total["committed_apart"] < count, "partitions that allow everything, or nothing, prove nothing"
    assert total["equivocations"] > 0, "no twin contradicted the other: they were not twins"


def test_the_families_hold_every_partition_up_to_the_twins_symmetry() -> None:
    assert len(partitions(5, 2)) == 16
    assert len(partitions(5, 5)) == 52  # Bell's number
    assert size("views") == 4 * (16**4 + 8**4) // 2  # 8 of 16 partitions do not change when the instances swap
    assert len(partitions(5, 3)) == 41
    assert size("groups") == 4 * (41**3 + 15**3) // 2
    for family in ("views", "groups"):
        some = {scenario(family, number) for number in range(2_000)}
        assert len({(one.twins, one.views) for one in some}) == 2_000
        assert {one.twins for one in some} == {(0,), (1,), (2,), (3,)}


def test_the_instances_of_a_twin_do_not_know_of_each_other() -> None:
    world = Twins(Scenario("by hand", 0, 4, (0,), ()))
    assert world.identities == (0, 1, 2, 3, 0)
    apart = (0, 0, 1, 1, 1)  # each instance of the primary has a backup that hears only this one
    world.separate((apart,) * 4)
    for client in (0, 1):
        world.request(client, 1, b"x", to=4 * client)
    world.run(100)
    said = [replica.log.slot(1).digest for replica in world.replicas if replica is not None]
    assert len(set(said)) == 2
    world.separate(None)
    assert world.run_until(lambda: all(world.answered(key) for key in world.pending), 20_000)
    assert {one.culprit for one in world.evidence} == {0}


def test_a_scenario_replays_exactly() -> None:
    assert play(scenario("sampled", 3)) == play(scenario("sampled", 3))
