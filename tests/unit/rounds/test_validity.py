"""Which bounds on the norm of updates a task may have: the derived one is provable, and others are refused with the
reason."""

from __future__ import annotations

from math import isqrt

import msgspec
import pytest

from koinon.errors import Rejected
from koinon.rounds.operations import NORM_CLIPS, CreateTask, TaskSpec
from tests.unit.rounds.world import NODES, World


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
