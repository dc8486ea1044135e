"""For all updates, bounds and committees: what keeps the bound is accepted and opens exactly, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from koinon.privacy import Setting, Values
from koinon.privacy.shares import Shares
from koinon.privacy.validation import Alignment
from koinon.privacy.validation.squares import four_squares
from scripts._cheats import protect_anything
from tests.unit.privacy.federation import TASK, Federation, accepted, node, seeded

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
values_ = st.one_of(st.sampled_from([-32767, -1, 0, 1, 32767]), st.integers(-32767, 32767))
vectors = st.lists(values_, min_size=1, max_size=40).map(lambda row: np.array(row, dtype=np.int64))
committees = st.integers(1, 10)


def norm_of(values: Values) -> int:
    """The least bound that `values` keep."""
    return isqrt(int(values @ values) - 1) + 1 if values.any() else 1


@quick
@given(vectors, committees, st.integers(0, 2**20))
def test_bounded_updates_are_accepted_and_open_exactly(values: Values, replicas: int, spare: int) -> None:
    federation = Federation("shares", [values, -values], replicas=replicas, norm=norm_of(values) + spare)
    assert accepted(federation.setting, federation.protected[node(0)]) == list(range(replicas))
    opened = federation.open()
    np.testing.assert_array_equal(opened.values, federation.total)
    np.testing.assert_array_equal(federation.verify(opened.witness), federation.total)


@quick
@given(vectors, committees, st.lists(st.integers(-(2**40), 2**40), min_size=4, max_size=4), st.integers(1, 2**26))
def test_integers_of_any_other_norm_are_refused(values: Values, replicas: int, slack: list[int], norm: int) -> None:
    filled = np.append(values, slack).astype(np.int64)
    squares = sum(int(each) ** 2 for each in filled)
    setting = Setting(TASK, 3, replicas, len(values), 16, 16, norm=norm + (squares == norm**2))
    assert accepted(setting, protect_anything(setting, node(0), filled, seeded("any"))) == []


@quick
@given(vectors, st.sampled_from([4, 7]), st.data())
def test_no_bit_of_an_update_can_be_changed(values: Values, replicas: int, data: st.DataObject) -> None:
    setting = Setting(TASK, 3, replicas, len(values), 16, 16, norm=norm_of(values))
    protected = Shares().protect(setting, node(0), values, seeded("bits"))
    public = bytearray(protected.public)
    position = data.draw(st.integers(0, 8 * len(public) - 1))
    public[position // 8] ^= 1 << position % 8
    got = accepted(setting, replace(protected, public=bytes(public)))
    assert len(got) < replicas - setting.faulty  # a seed's commitment is no business of f replicas


@quick
@given(vectors, committees, st.integers(-(2**30), 2**30), st.data())
def test_alignment_holds_exactly_from_the_least_value_on(
    values: Values, replicas: int, away: int, data: st.DataObject
) -> None:
    direction = np.array(data.draw(st.lists(values_, min_size=len(values), max_size=len(values))), dtype=np.int64)
    reached = int(values @ direction)
    alignment = Alignment(direction.astype("<i2").tobytes(), reached - away)
    norm = norm_of(values)
    setting = Setting(TASK, 3, replicas, len(values), 16, 16, norm=norm, alignment=alignment)
    best = four_squares(away) if away >= 0 else (0, 0, 0, 0)
    filled = np.array([*values, *four_squares(norm**2 - int(values @ values)), *best], dtype=np.int64)
    expected = list(range(replicas)) if away >= 0 else []
    assert accepted(setting, protect_anything(setting, node(0), filled, seeded("aligned"))) == expected
