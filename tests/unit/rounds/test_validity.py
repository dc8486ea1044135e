"""Which bounds on the norm of updates a task may have: the derived one is provable, and others are refused with the
reason."""

from __future__ import annotations

from math import isqrt

import msgspec
import pytest

from koinon.errors import Rejected
from koinon.privacy.validation import Bound
from koinon.rounds.operations import NORM_CLIPS, CreateTask, OpenRound, Operation, ReportFault, TaskSpec
from koinon.rounds.validity import require_provable
from koinon.signing import Signer
from koinon.wire import Fault
from tests.unit.rounds.world import AGGREGATOR, MODEL, NODES, World


def spec_of(**changes: object) -> TaskSpec:
    return msgspec.structs.replace(World().spec, **changes)


@pytest.mark.parametrize(
    ("changes", "norm"),
    [
        ({"dimension": 62_006}, NORM_CLIPS * 32_767),
        ({"dimension": 100}, 10 * 32_767),
        ({"dimension": 62_006, "bits": 24}, (2**31 - 1) // 128),
        ({"dimension": 62_006, "bits": 24, "cohort_max": 3}, 2**26),
        ({"dimension": 10}, isqrt(10 * 32_767**2)),
        ({"norm_bound": 3_000_000, "clip": 2_000_000}, 3 * 32_767 // 2),
        ({"norm_bound": 1}, 1),
        ({"validate": False}, 0),
        ({"mode": "paillier"}, 0),
        ({"mode": "plain", "norm_bound": 5_000_000}, 0),
    ],
)
def test_the_bound_in_units_of_the_quantiser(changes: dict[str, object], norm: int) -> None:
    assert spec_of(**changes).norm == norm


@pytest.mark.parametrize("dimension", [1, 10, 650, 62_006, 1_126_410, 11_700_000])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_a_task_without_a_bound_of_its_own_is_provable(dimension: int, bits: int) -> None:
    world = World()
    world.do(NODES[0], CreateTask(spec=spec_of(dimension=dimension, bits=bits, nonce=1)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"norm_bound": 1}, "no larger than what rounding alone"),
        ({"dimension": 62_006, "norm_bound": 10_000}, "no larger than what rounding alone"),
        ({"norm_bound": 1_000_000_000}, "sum of 128 updates of norm 32767000 does not fit"),
        ({"norm_bound": 3_000_000_000, "cohort_max": 3}, "must lie in 1..67108864"),
        ({"dimension": 2**28, "norm_bound": 2_000_000_000, "cohort_max": 3}, r"not 2\^-40"),
    ],
)
def test_a_task_whose_bound_cannot_be_proved_is_refused_with_the_reason(
    changes: dict[str, object], reason: str
) -> None:
    world = World()
    with pytest.raises(Rejected, match=reason) as caught:
        world.do(NODES[0], CreateTask(spec=spec_of(nonce=1, **changes)))
    assert caught.value.rule == "unprovable"
    unproved = msgspec.structs.replace(spec_of(nonce=1, **changes), validate=False)
    world.do(NODES[0], CreateTask(spec=unproved))


@pytest.mark.parametrize("dimension", [4, 62_006])
@pytest.mark.parametrize("bits", [9, 16, 20, 24])
@pytest.mark.parametrize("cohort", [3, 32, 128])
def test_what_the_law_takes_a_full_cohort_can_carry_with_its_blindings(dimension: int, bits: int, cohort: int) -> None:
    spec = spec_of(dimension=dimension, bits=bits, cohort_max=cohort, commit=True)
    require_provable(spec, 4)
    assert spec.carried_norm**2 >= spec.norm**2 + 31 * 255**2
    assert spec.carried_norm * cohort < 2**31
    assert Bound.of(spec.coordinates, spec.carried_norm, 4).norm == spec.carried_norm


def test_a_bound_of_ones_own_leaves_room_for_the_blindings_too() -> None:
    units = (2**31 - 1) // 128
    bound = {"dimension": 62_006, "bits": 24, "clip": 2**23 - 1, "norm_bound": units}
    require_provable(spec_of(**bound), 4)
    with pytest.raises(Rejected, match="does not fit"):
        require_provable(spec_of(**bound, commit=True), 4)


def test_coordinates_too_narrow_for_a_blinding_are_refused_when_the_task_is_made() -> None:
    fields = {name: getattr(World().spec, name) for name in TaskSpec.__struct_fields__}
    with pytest.raises(ValueError, match="bits = 9 or more"):
        TaskSpec(**{**fields, "bits": 8, "commit": True})


@pytest.mark.parametrize("mode", ["shares", "masked", "plain"])
@pytest.mark.parametrize(("bits", "cohort", "fits"), [(24, 256, True), (24, 257, False), (23, 512, True)])
def test_a_full_cohort_whose_sum_leaves_the_ring_is_refused_when_the_task_is_made(
    mode: str, bits: int, cohort: int, fits: bool
) -> None:
    fields = {name: getattr(World().spec, name) for name in TaskSpec.__struct_fields__}
    wanted = {**fields, "mode": mode, "bits": bits, "cohort_max": cohort}
    if fits or mode == "plain":
        assert TaskSpec(**wanted).cohort_max == cohort
    else:
        with pytest.raises(ValueError, match="the ring has 32"):
            TaskSpec(**wanted)


def test_no_norm_is_proved_to_more_than_ten_replicas_and_the_refusal_says_what_to_do() -> None:
    spec = spec_of()
    require_provable(spec, 10)
    for replicas in (11, 13, 31):
        with pytest.raises(Rejected, match="more than ten replicas; submit the task with validate = false") as caught:
            require_provable(spec, replicas)
        assert caught.value.rule == "unprovable"
        require_provable(spec_of(validate=False), replicas)


# --- nodes whose updates are false -----------------------------------------------------------------------------


def report(world: World, node: bytes, who: tuple[int, ...] = (0, 2), number: int = 1) -> ReportFault:
    fault = Fault(task=world.task, round=number, node=node)
    return ReportFault(fault=fault, signatures=world.signatures(fault, who))


def refused(world: World, rule: str, sender: Signer, operation: Operation) -> None:
    with pytest.raises(Rejected) as caught:
        world.do(sender, operation)
    assert caught.value.rule == rule


def test_a_node_that_f_plus_one_replicas_accuse_is_barred_from_the_task() -> None:
    world = World(rounds=2)
    world.open()
    for node in NODES[:-1]:
        world.do(node, world.update(node))
    cheat = NODES[-1]
    assert world.record.rounds[0].phase == "training"
    world.do(AGGREGATOR, report(world, cheat.address))
    assert world.record.barred == {cheat.address: 1}
    assert world.record.rounds[0].phase == "closed"  # nobody else is awaited
    refused(world, "barred", cheat, world.update(cheat))
    world.complete()
    assert set(world.record.rewards) == {node.address for node in NODES[:-1]}
    refused(world, "barred", AGGREGATOR, OpenRound(task=world.task, round=2, parent_model=world.record.model,
                                                   cohort=tuple(node.address for node in NODES)))  # fmt: skip
    world.open(2, cohort=NODES[:-1])


@pytest.mark.parametrize("who", [(), (0,), (1, 0), (0, 0)])
def test_f_replicas_cannot_bar_a_node(who: tuple[int, ...]) -> None:
    world = World()
    world.open()
    refused(world, "fault", AGGREGATOR, report(world, NODES[0].address, who))
    other = Fault(task=world.task, round=1, node=NODES[1].address)
    false = ReportFault(
        fault=msgspec.structs.replace(other, node=NODES[0].address), signatures=world.signatures(other, (0, 2))
    )
    refused(world, "fault", AGGREGATOR, false)
    assert not world.record.barred


def test_a_stranger_to_the_round_or_a_node_with_an_accepted_update_is_not_barred() -> None:
    world = World()
    refused(world, "unknown-round", AGGREGATOR, report(world, NODES[0].address))
    world.open(cohort=NODES[:3])
    refused(world, "fault", AGGREGATOR, report(world, NODES[3].address))
    world.do(NODES[0], world.update(NODES[0]))
    refused(world, "fault", AGGREGATOR, report(world, NODES[0].address))
    refused(world, "unknown-round", AGGREGATOR, report(world, NODES[1].address, number=2))
    world.do(AGGREGATOR, report(world, NODES[1].address))
    refused(world, "fault", AGGREGATOR, report(world, NODES[1].address))


def test_a_round_with_too_few_updates_still_waits_for_its_deadline() -> None:
    world = World()
    world.open(cohort=NODES[:3])
    world.do(NODES[0], world.update(NODES[0]))
    world.do(NODES[1], world.update(NODES[1]))
    world.do(AGGREGATOR, report(world, NODES[2].address))
    assert world.record.rounds[0].phase == "training"
    world.now += 10_001
    world.close()
    assert world.record.rounds[0].phase == "aborted"


# --- alignment -------------------------------------------------------------------------------------------------


def test_a_round_names_the_model_before_its_parent_once_one_is_certified() -> None:
    world = World(rounds=3)
    world.open()
    assert world.record.rounds[0].previous == bytes(32)
    world.now += 10_001
    world.close()  # aborted: nothing was learnt
    world.open(2)
    assert world.record.rounds[1].previous == bytes(32)
    for node in NODES:
        world.do(node, world.update(node, 2))
    world.complete(2)
    world.open(3)
    assert world.record.rounds[2].previous == world.record.rounds[1].parent_model == MODEL


@pytest.mark.parametrize("changes", [{"mode": "paillier"}, {"mode": "plain"}, {"validate": False}])
def test_an_alignment_that_nobody_would_prove_is_refused(changes: dict[str, object]) -> None:
    world = World()
    with pytest.raises(Rejected, match="proved together with the norm"):
        world.do(NODES[0], CreateTask(spec=spec_of(nonce=1, aligned=0, **changes)))
    world.do(NODES[0], CreateTask(spec=spec_of(nonce=1, aligned=0)))
