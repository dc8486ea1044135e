"""The rule by which a slow or unfair primary is replaced, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pbft.events import Settings
from pbft.pace import SLOW, UNFAIR, Pace
from pbft.requests import Pending

SETTINGS = Settings()


class Watch:
    """A backup's view of a committee with f = 1: requests come and are executed at the times that a test says."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.now_ms = 1_000_000
        self.pace = Pace(settings, weak=2)
        self.pace.rest(self.now_ms)
        self.waiting: list[Pending] = []
        self.number = 0
        self.views = 0

    def hear(self, count: int = 1) -> None:
        for _ in range(count):
            self.number += 1
            client = self.number.to_bytes(20, "big")
            self.waiting.append(Pending(client, 1, b"", self.now_ms, self.now_ms, self.now_ms, self.pace.ordered))

    def execute(self, count: int, *, skip: int = 0) -> None:
        known = self.waiting[skip : skip + count]
        del self.waiting[skip : skip + count]
        self.pace.executed(known, len(known), self.waiting[0] if self.waiting else None, self.now_ms)

    def judge(self) -> str:
        verdict = self.pace.judge(self.waiting[0] if self.waiting else None, self.now_ms)
        if verdict:
            self.views += 1
            self.pace.enter(self.now_ms)
        return verdict

    def loop(self, wait_ms: int, seconds: int, *, until: str = "never") -> str:
        """One client that asks again as soon as it is answered, `wait_ms` after it asked."""
        end, verdict = self.now_ms + seconds * 1_000, ""
        if not self.waiting:
            self.hear()
        while self.now_ms < end and verdict != until:
            self.now_ms += 50
            if self.now_ms - max(self.waiting[0].since_ms, 0) >= wait_ms:
                self.execute(1)
                self.hear()
            verdict = self.judge()
        return verdict

    def saturate(self, rate: int, seconds: int) -> str:
        """Always a thousand requests in the queue, `rate` of them executed in a second."""
        verdict = ""
        for _ in range(seconds * 20):
            self.now_ms += 50
            self.hear(1_000 - len(self.waiting))
            self.execute(rate // 20)
            verdict = verdict or self.judge()
        return verdict

    def shown(self, waits: Iterable[int]) -> Watch:
        """Views that took so long for a request, before the current one."""
        for wait_ms in waits:
            self.loop(wait_ms, 3)
            self.pace.enter(self.now_ms)
        self.waiting, self.views = [], 0
        return self


def test_a_primary_just_below_the_timeout_is_slow_even_when_nobody_else_was_seen() -> None:
    assert Watch().loop(SETTINGS.view_timeout_ms - 100, 30, until=SLOW) == SLOW


def test_a_primary_much_slower_than_the_ones_before_it_is_slow() -> None:
    watch = Watch().shown([20, 20])
    assert watch.loop(SETTINGS.pace_floor_ms + 150, 30, until=SLOW) == SLOW


def test_a_primary_within_the_floor_is_never_slow() -> None:
    watch = Watch().shown([20, 20])
    watch.loop(SETTINGS.pace_floor_ms - 50, 300)
    assert watch.views == 0


def test_one_slow_window_is_forgiven() -> None:
    watch = Watch().shown([20, 20])
    for _ in range(20):
        watch.loop(700, 1)
        watch.loop(20, 3)
    assert watch.views == 0


def test_two_slow_windows_of_three_are_not() -> None:
    watch = Watch().shown([20, 20])
    for _ in range(10):
        watch.loop(900, 2)
        watch.loop(20, 1)
    assert watch.views > 0


@given(wait_ms=st.integers(100, 8_000))
def test_where_everything_is_slow_only_f_plus_1_views_are_left(wait_ms: int) -> None:
    watch = Watch()
    watch.loop(wait_ms, 120)
    assert watch.views <= 2
    settled = watch.views
    watch.loop(wait_ms, 120)
    assert watch.views == settled


def test_a_network_that_gets_slower_costs_f_plus_1_views_and_then_peace() -> None:
    watch = Watch().shown([10, 10])
    watch.loop(1_500, 60)
    assert 1 <= watch.views <= 2
    settled = watch.views
    watch.loop(1_500, 240)
    assert watch.views == settled


def test_once_it_is_fast_again_a_slow_primary_is_noticed_again() -> None:
    watch = Watch().shown([1_500, 1_500])
    watch.shown([10, 10])
    assert watch.loop(1_500, 30, until=SLOW) == SLOW


def test_without_requests_there_is_no_verdict() -> None:
    watch = Watch().shown([20, 20])
    for _ in range(10_000):
        watch.now_ms += 50
        assert watch.judge() == ""


def test_a_request_that_is_never_executed_makes_its_primary_slow() -> None:
    watch = Watch().shown([20, 20])
    assert watch.loop(10**9, 30, until=SLOW) == SLOW


def test_a_long_queue_at_full_rate_is_no_fault() -> None:
    watch = Watch()
    for _ in range(2):
        watch.saturate(400, 10)
        watch.pace.enter(watch.now_ms)
    assert watch.saturate(400, 60) == ""


def test_a_quarter_of_the_rate_of_others_is_a_fault() -> None:
    watch = Watch()
    for _ in range(2):
        watch.saturate(800, 10)
        watch.pace.enter(watch.now_ms)
    assert watch.saturate(200, 60) == SLOW


def test_a_primary_that_leaves_one_request_lying_while_later_ones_pass_is_unfair() -> None:
    watch = Watch().shown([20, 20])
    watch.hear()
    verdict = ""
    for _ in range(100):
        watch.now_ms += 50
        watch.hear()
        watch.execute(1, skip=1)
        verdict = verdict or watch.judge()
    assert verdict == UNFAIR


def test_requests_that_pass_by_a_little_are_not_unfair() -> None:
    watch = Watch().shown([20, 20])
    for _ in range(200):
        watch.hear()
        watch.now_ms += 300
        watch.hear()
        watch.execute(1, skip=1)
        watch.now_ms += 50
        watch.execute(1)
        assert watch.judge() == ""


def test_what_happened_while_this_replica_was_behind_is_not_held_against_anybody() -> None:
    watch = Watch().shown([20, 20])
    for _ in range(100):
        watch.loop(900, 1)
        watch.pace.rest(watch.now_ms)
    assert watch.views == 0


def test_the_bounds_can_be_set() -> None:
    patient = Watch(replace(SETTINGS, pace_floor_ms=5_000))
    patient.loop(1_900, 60)
    assert patient.views == 0
