"""Wrong clocks: whose it is, why a primary was given up, and what the operator is told of it all."""

from __future__ import annotations

import json
import logging

import pytest

from koinon.errors import Malformed
from koinon.observe import JsonLines
from koinon.wire import CommittedBatch
from pbft.events import ClocksDiffer, Committed, GaveUp, Misbehaved
from pbft.reports import CLOCK_SECONDS, REPEAT_SECONDS, Reports, Seldom

from .bench import Bench, of


@pytest.mark.parametrize("skew_ms", [-30_001, 2_001])
def test_a_backup_refuses_a_batch_from_another_time(skew_ms: int) -> None:
    bench = Bench()
    batch = bench.batch(later_ms=skew_ms)
    effects = bench.receive(0, bench.pre_prepare(1, batch))
    assert effects == [ClocksDiffer(primary=0, sequence=1, time_ms=batch.time_ms, ahead_ms=skew_ms)]


def test_who_hands_on_a_batch_from_another_time_is_not_to_blame_for_its_primary() -> None:
    bench = Bench()
    effects = bench.receive(2, bench.pre_prepare(1, bench.batch(later_ms=60_000)))
    assert not of(Misbehaved, effects)
    assert of(ClocksDiffer, effects)[0].primary == 0


def test_a_primary_is_given_up_for_its_clock_when_that_is_why_nothing_is_ordered() -> None:
    bench = Bench()
    bench.ask(bench.request(1))
    reasons = []
    for _ in range(200):
        bench.receive(0, bench.pre_prepare(1, bench.batch(bench.request(1), later_ms=60_000)))
        if found := of(GaveUp, bench.wait(50)):
            reasons += found
            break
    (gave_up,) = reasons
    assert (gave_up.primary, gave_up.reason, gave_up.view) == (0, "clock", 0)
    assert gave_up.waited_ms > 0


def test_a_primary_that_is_silent_later_is_not_given_up_for_its_clock() -> None:
    bench = Bench()
    bench.receive(0, bench.pre_prepare(1, bench.batch(later_ms=60_000)))
    bench.wait(60_000)
    bench.ask(bench.request(1))
    found = [each for _ in range(200) for each in of(GaveUp, bench.wait(50))]
    assert found[0].reason != "clock"


# --- what the operator is told


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def differ(sequence: int, bench: Bench, ahead_ms: int) -> ClocksDiffer:
    return ClocksDiffer(primary=2, sequence=sequence, time_ms=bench.now_ms + ahead_ms, ahead_ms=ahead_ms)


def committed(sequence: int, bench: Bench, ahead_ms: int) -> Committed:
    batch = bench.batch(later_ms=ahead_ms)
    entry = CommittedBatch(epoch=0, view=0, sequence=sequence, batch=batch, signatures=())
    return Committed(entry, batch.time_ms, ())


def test_a_batch_that_we_refused_and_a_quorum_executed_shows_that_our_clock_is_wrong() -> None:
    clock, bench = Clock(), Bench()
    reports = Reports(clock)
    reports.clocks_differ(differ(7, bench, -60_000))
    assert reports.clock_ahead_ms == 0
    reports.committed(committed(7, bench, -60_000))
    assert reports.clock_ahead_ms == 60_000
    clock.seconds += CLOCK_SECONDS
    assert reports.clock_ahead_ms == 0


def test_another_batch_in_its_place_says_nothing_of_our_clock() -> None:
    clock, bench = Clock(), Bench()
    reports = Reports(clock)
    reports.clocks_differ(differ(7, bench, 60_000))
    reports.committed(committed(7, bench, 0))
    assert reports.clock_ahead_ms == 0


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonLines().format(record)) for record in caplog.records]


def test_the_log_names_the_primary_that_was_given_up_and_the_view_that_followed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    reports = Reports(clock)
    reports.view(4, True, 0)
    reports.gave_up(GaveUp(primary=0, reason="timeout", view=4, waited_ms=2_050))
    reports.view(5, False, 1)
    clock.seconds += 3
    reports.view(6, False, 2)
    clock.seconds += 1
    reports.view(6, True, 2)
    reports.view(6, True, 2)
    told = [{key: line[key] for key in line if key not in ("time", "level", "source")} for line in lines(caplog)]
    assert told == [
        {"event": "primary given up", "primary": 0, "reason": "timeout", "view": 4, "waited_seconds": 2.0},
        {"event": "view change", "next_view": 5, "next_primary": 1},
        {"event": "view change", "next_view": 6, "next_primary": 2},
        {"event": "view entered", "view": 6, "primary": 2, "after_seconds": 4.0},
    ]


def test_what_comes_with_every_message_is_told_seldom_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    reports = Reports(clock)
    for _ in range(500):
        reports.misbehaved(Misbehaved(2, Malformed("a frame of nonsense")))
    clock.seconds += REPEAT_SECONDS
    reports.misbehaved(Misbehaved(2, Malformed("a frame of nonsense")))
    assert [line["times"] for line in lines(caplog)] == [1, 500]


def test_different_lines_are_told_at_once() -> None:
    seldom = Seldom(Clock())
    assert [seldom.times(key) for key in ("one", "other", "one")] == [1, 1, 0]
