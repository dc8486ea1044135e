"""For all sample counts that a node may claim: honest updates of that weight always keep the bound of the claim, and
nobody proves more than it allows, or another claim than its own."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, isqrt

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koinon.errors import InvariantBroken
from koinon.privacy import Setting
from koinon.privacy.mode import Claim
from koinon.privacy.shares import Shares
from koinon.privacy.validation import Alignment
from koinon.privacy.validation.squares import four_squares
from koinon.quantising import quantise
from koinon.rounds.operations import MILLION, TaskSpec
from scripts._cheats import protect_anything
from tests.unit.privacy.federation import TASK, accepted, node, seeded

SPEC = TaskSpec(
    name="t", app="t", mode="shares", strategy="fedavg", rounds=1, initial_model=bytes(32), dimension=9, cohort_max=16
)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
caps = st.one_of(st.sampled_from([1, 2, 3, 600, 2**32 - 1]), st.integers(1, 2**32 - 1))


@st.composite
def claims(draw: st.DrawFn) -> tuple[int, int]:
    """(claimed samples, cap): the ends are as likely as all between."""
    cap = draw(caps)
    return draw(st.one_of(st.sampled_from([1, cap, max(1, cap - 1), -(-cap // 2)]), st.integers(1, cap))), cap


class Upwards(np.random.Generator):
    """Rounds everything up: the worst that stochastic rounding can do."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size: int) -> np.ndarray:  # type: ignore[override]
        return np.full(size, 1 - 2.0**-53)


@st.composite
def tasks(draw: st.DrawFn) -> TaskSpec:
    """Of any size, width and bound that the law takes: at least twice what rounding may add."""
    dimension, bits = draw(st.integers(1, 3000)), draw(st.sampled_from([8, 16, 20]))
    limit = 2 ** (bits - 1) - 1
    least = isqrt(4 * dimension - 1) + 1
    units = draw(st.one_of(st.just(0), st.integers(min(least, 2**26), 2**26)))
    bound = -(-units * MILLION // limit)
    spec = msgspec.structs.replace(
        SPEC, dimension=dimension, bits=bits, norm_bound=bound, cohort_max=3, commit=draw(st.booleans()) and bits > 8
    )
    return spec if units == 0 or spec.norm <= 2**26 else msgspec.structs.replace(spec, norm_bound=0)


@quick
@given(tasks(), claims())
def test_the_bound_of_a_claim_is_its_share_of_the_bound_and_the_room_for_rounding(
    spec: TaskSpec, claim: tuple[int, int]
) -> None:
    examples, cap = claim
    fixed = min(spec.norm, isqrt(spec.dimension) + 1)
    found = spec.norm_for(examples, cap)
    assert found == fixed + ceil(Fraction((spec.norm - fixed) * examples, cap))
    assert spec.norm_for(cap, cap) == spec.norm
    assert spec.norm_for(max(1, examples - 1), cap) <= found <= spec.norm
    assert spec.carried(found) <= spec.carried_norm
    assert msgspec.structs.replace(spec, validate=False).norm_for(examples, cap) == 0


@quick
@given(tasks(), claims(), st.sampled_from(["zero", "equal", "one", "clip", "beyond", "noise", "tiny"]), st.booleans())
def test_an_honest_update_keeps_the_bound_of_its_claim_however_it_is_rounded(
    spec: TaskSpec, claim: tuple[int, int], kind: str, upwards: bool
) -> None:
    examples, cap = claim
    delta = {
        "zero": np.zeros(spec.dimension),
        "equal": np.full(spec.dimension, 0.37),
        "one": np.eye(1, spec.dimension)[0],
        "clip": np.where(np.arange(spec.dimension) % 2, 1.0, -1.0),
        "beyond": np.full(spec.dimension, -1e300),
        "noise": np.random.default_rng(examples).normal(0, 0.5, spec.dimension),
        "tiny": np.full(spec.dimension, 1e-300),
    }[kind]
    rng = Upwards() if upwards else np.random.default_rng(examples)
    values = quantise(spec, delta, examples=examples, examples_cap=cap, rng=rng, entropy=seeded("q"))
    assert int(values @ values) <= spec.norm_for(examples, cap) ** 2


@pytest.mark.parametrize("examples", [1, 7, 99, 100])
def test_an_honest_update_with_noise_keeps_the_bound_of_its_claim(examples: int) -> None:
    spec = msgspec.structs.replace(SPEC, dimension=4000, noise_multiplier=MILLION // 2, l2_clip=2 * MILLION)
    for number in range(20):
        rng = np.random.default_rng(number)
        values = quantise(
            spec, rng.normal(0, 10, 4000), examples=examples, examples_cap=100, rng=rng, entropy=seeded(f"n{number}")
        )
        assert int(values @ values) <= spec.norm_for(examples, 100) ** 2
    assert spec.norm_for(1, 100) < spec.norm_for(100, 100) == spec.norm


def setting_of(spec: TaskSpec, examples: int, cap: int, alignment: Alignment | None = None) -> Setting:
    norm, least = spec.norm_for(examples, cap), alignment.least if alignment else 0
    return Setting(
        TASK, 3, 4, spec.dimension, 16, 16, norm=spec.norm, alignment=alignment,
        claims={node(0): Claim(examples, norm, least)},
    )  # fmt: skip


def vector_of(squares: int, dimension: int) -> np.ndarray:
    """int64[dimension] of that squared norm."""
    return np.array([*four_squares(squares), *[0] * (dimension - 4)], dtype=np.int64)


@quick
@given(claims())
def test_the_bound_of_a_claim_is_allowed_and_one_more_is_not(claim: tuple[int, int]) -> None:
    setting = setting_of(SPEC, *claim)
    norm = setting.claim(node(0)).norm
    full = np.append(vector_of(norm**2, SPEC.dimension), [0, 0, 0, 0])
    assert accepted(setting, protect_anything(setting, node(0), full, seeded("f"))) == [0, 1, 2, 3]
    over = np.append(vector_of(norm**2 + 1, SPEC.dimension), [0, 0, 0, 0])
    assert accepted(setting, protect_anything(setting, node(0), over, seeded("o"))) == []


@quick
@given(claims(), claims())
def test_a_proof_holds_for_the_claim_that_it_was_made_for_and_no_other(
    made: tuple[int, int], said: tuple[int, int]
) -> None:
    """Also where both have the same bound, or the update is short enough for both."""
    setting, other = setting_of(SPEC, *made), setting_of(SPEC, *said)
    protected = Shares().protect(setting, node(0), np.zeros(SPEC.dimension, dtype=np.int64), seeded("z"))
    same = setting.claims == other.claims
    assert accepted(other, protected) == ([0, 1, 2, 3] if same else [])
    renamed = replace(setting, claims={node(0): replace(setting.claim(node(0)), examples=made[0] + 1)})
    assert accepted(renamed, protected) == []


@pytest.mark.parametrize("norm", [0, 1, 2])
def test_the_smallest_bounds_are_proved(norm: int) -> None:
    setting = replace(setting_of(SPEC, 1, 1), claims={node(0): Claim(1, norm)})
    for squares in range(norm**2 + 1):
        fitting = vector_of(squares, SPEC.dimension)
        assert accepted(setting, Shares().protect(setting, node(0), fitting, seeded("s"))) == [0, 1, 2, 3]
    over = np.append(vector_of(norm**2 + 1, SPEC.dimension), [0, 0, 0, 0])
    assert accepted(setting, protect_anything(setting, node(0), over, seeded("o"))) == []


def test_an_alignment_is_proved_for_the_claims_own_least_value() -> None:
    direction = np.arange(-4, 5, dtype="<i2")
    values = np.arange(9, dtype=np.int64)
    reached = int(values @ direction.astype(np.int64))
    setting = setting_of(SPEC, 600, 600, Alignment(direction.tobytes(), reached))
    protected = Shares().protect(setting, node(0), values, seeded("a"))
    assert accepted(setting, protected) == [0, 1, 2, 3]
    higher = replace(setting, claims={node(0): replace(setting.claim(node(0)), least=reached + 1)})
    assert accepted(higher, protected) == []


def test_a_claim_that_nobody_made_or_that_the_setting_cannot_carry_is_our_own_mistake() -> None:
    setting = setting_of(SPEC, 1, 1)
    with pytest.raises(InvariantBroken):
        setting.claim(node(1))
    with pytest.raises(InvariantBroken):
        replace(setting, claims={node(0): Claim(1, SPEC.norm + 1)}).claim(node(0))
