"""Decisions are functions of the records: which step, and who is invited."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scheduler import (
    Aggregate,
    Close,
    OpenNext,
    Over,
    Wait,
    certified_after,
    eligible,
    last_certified,
    next_step,
    select_cohort,
)
from koinon.rounds.operations import TaskSpec
from koinon.rounds.state import Member, Round, Task
from koinon.wire import Role

MODEL = b"\x05" * 32
VECTOR = [2, 4, 5, 7]


def spec(**changes: object) -> TaskSpec:
    settings = {
        "name": "t", "app": "a", "mode": "shares", "strategy": "fedavg", "rounds": 3, "initial_model": MODEL,
        "dimension": 4,
    }  # fmt: skip
    return TaskSpec(**(settings | changes))  # type: ignore[arg-type]


def member(*, roles: int = Role.NODE, active: bool = True, examples_max: int = 10) -> Member:
    return Member(roles=roles, examples_max=examples_max, sealing_key=bytes(32), serial=1, active=active, joined_ms=0)


def task(*phases: str, status: str = "active") -> Task:
    rounds = [
        Round(
            number=number, phase=phase, parent_model=MODEL, cohort=(), examples_cap=1, opened_ms=0,
            deadline_ms=1_000 * number,
        )
        for number, phase in enumerate(phases, 1)
    ]  # fmt: skip
    return Task(spec=spec(), submitter=bytes(20), created_ms=0, status=status, model=MODEL, rounds=rounds)


def members(count: int) -> dict[bytes, Member]:
    return {number.to_bytes(20, "big"): member() for number in range(1, count + 1)}


@pytest.mark.parametrize(
    ("phases", "now_ms", "step"),
    [
        ((), 0, OpenNext(1, after=0)),
        (("training",), 1_000, Wait(1, 1_000)),
        (("training",), 1_001, Close(1)),
        (("closed",), 0, Aggregate(1)),
        (("certified",), 0, OpenNext(2, after=1)),
        (("certified", "aborted"), 0, OpenNext(3, after=1)),
        (("aborted", "aborted"), 0, OpenNext(3, after=0)),
        (("certified", "training"), 5_000, Close(2)),
    ],
)
def test_the_step_follows_from_the_records(phases: tuple[str, ...], now_ms: int, step: object) -> None:
    assert next_step(task(*phases), now_ms) == step


@pytest.mark.parametrize("status", ["completed", "stopped", "failed"])
def test_a_task_that_is_over_gets_no_more_rounds(status: str) -> None:
    assert next_step(task("aborted", status=status), 0) == Over(status)


def test_certified_rounds_are_those_that_the_chain_may_lack() -> None:
    mixed = task("certified", "aborted", "certified", "training")
    assert [each.number for each in certified_after(mixed, 0)] == [1, 3]
    assert [each.number for each in certified_after(mixed, 1)] == [3]
    assert last_certified(mixed) == 3


def test_only_active_nodes_with_a_sample_count_are_eligible() -> None:
    known = {
        b"\x01" * 20: member(),
        b"\x02" * 20: member(active=False),
        b"\x03" * 20: member(roles=Role.AGGREGATOR),
        b"\x04" * 20: member(examples_max=0),
        b"\x05" * 20: member(roles=Role.NODE | Role.AUDITOR),
    }
    assert eligible(known) == [b"\x01" * 20, b"\x05" * 20]


def test_no_cohort_before_the_least_number_of_nodes_is_there() -> None:
    assert select_cohort(b"\x01" * 32, 1, spec(cohort_min=4), members(3)) == ()
    assert len(select_cohort(b"\x01" * 32, 1, spec(cohort_min=4), members(4))) == 4


def test_the_strategy_and_the_bounds_of_the_task_size_the_cohort() -> None:
    half = spec(config=(("fraction", "0.5"),))
    assert len(select_cohort(b"\x01" * 32, 1, half, members(20))) == 10
    assert len(select_cohort(b"\x01" * 32, 1, half, members(4))) == 3  # cohort_min
    assert len(select_cohort(b"\x01" * 32, 1, spec(cohort_max=5), members(20))) == 5


def test_the_draw_is_the_same_for_everybody_and_another_in_each_round() -> None:
    half = spec(config=(("fraction", "0.5"),))
    known = members(20)
    shuffled = dict(reversed(known.items()))
    draws = [select_cohort(b"\x01" * 32, number, half, known) for number in range(1, 9)]
    assert draws == [select_cohort(b"\x01" * 32, number, half, shuffled) for number in range(1, 9)]
    assert len(set(draws)) == len(draws)
    assert select_cohort(b"\x02" * 32, 1, half, known) != draws[0]


def test_the_draw_is_fixed_by_a_vector() -> None:
    half = spec(config=(("fraction", "0.5"),))
    drawn = select_cohort(b"\x01" * 32, 1, half, members(8))
    assert [int.from_bytes(address, "big") for address in drawn] == VECTOR


def test_over_many_rounds_every_node_is_invited_about_equally_often() -> None:
    half = spec(config=(("fraction", "0.5"),))
    known = members(10)
    invited = dict.fromkeys(known, 0)
    for number in range(1, 401):
        for address in select_cohort(b"\x01" * 32, number, half, known):
            invited[address] += 1
    assert all(150 < count < 250 for count in invited.values())


@given(st.binary(min_size=32, max_size=32), st.integers(1, 2**32 - 1), st.integers(0, 40), st.integers(3, 12))
def test_a_cohort_is_what_the_law_accepts(task_id: bytes, number: int, count: int, least: int) -> None:
    wanted = spec(cohort_min=least, cohort_max=12, config=(("fraction", "0.3"),))
    drawn = select_cohort(task_id, number, wanted, members(count))
    assert list(drawn) == sorted(set(drawn))
    assert drawn == () if count < least else least <= len(drawn) <= 12


def test_a_masked_round_without_reveals_is_waited_for_until_it_may_be_ended() -> None:
    waiting = task("closed")
    waiting.spec = spec(mode="masked")
    waiting.rounds[-1].cohort = tuple(bytes([number]) * 20 for number in range(1, 5))
    deadline_ms = waiting.opening_deadline_ms(waiting.rounds[-1])
    assert isinstance(next_step(waiting, deadline_ms), Wait)
    assert next_step(waiting, deadline_ms + 1) == Close(1)


def test_a_closed_round_is_tried_whatever_the_time() -> None:
    closed = task("closed")
    late_ms = closed.opening_deadline_ms(closed.rounds[-1]) + 10**6
    assert next_step(closed, late_ms) == Aggregate(1)
