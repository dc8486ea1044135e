"""What a replica tells its operator of the committee: which primary was given up and why, which view it is in, whose
clock is wrong. Log lines and metrics, made of the core's effects; docs/operating.md says what to do about each.

A fault that lasts comes with every message: equal lines are told once in REPEAT_SECONDS, with the number of times.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from prometheus_client import Counter, Gauge

from koinon.observe import VIEW

from .events import ClocksDiffer, Committed, GaveUp, Misbehaved

REPEAT_SECONDS = 10.0
KEYS_MAX = 1024
REFUSED_MAX = 1024
CLOCK_SECONDS = 10.0
"""So long after the last sign of it a replica says that its own clock is wrong."""

GIVEN_UP = Counter("koinon_primaries_given_up_total", "View changes that this replica asked for", ["primary", "reason"])
CLOCK_REFUSALS = Counter("koinon_clock_refusals_total", "Batches refused for their primary's clock", ["primary"])
CLOCK_WRONG = Gauge(
    "koinon_clock_wrong_seconds", "How far this replica's own clock is ahead of the committee's; else 0"
)

log = logging.getLogger("koinon.pbft")
Clock = Callable[[], float]


class Seldom:
    """Which of many equal lines are told."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[Hashable, tuple[float, int]] = {}

    def times(self, key: Hashable) -> int:
        """How often `key` came since it was told last, this time included; 0 to tell nothing now."""
        now = self._clock()
        at, since = self._told.get(key, (float("-inf"), 0))
        due = now - at >= REPEAT_SECONDS
        if key not in self._told and len(self._told) >= KEYS_MAX:
            self._told.clear()
        self._told[key] = (now, 0) if due else (at, since + 1)
        return since + 1 if due else 0


class Reports:
    """One replica's. `view` is told after each turn, the rest as it happens."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._seldom = Seldom(clock)
        self._refused: dict[int, ClocksDiffer] = {}
        self._wrong_until = float("-inf")
        self._view: tuple[int, bool] | None = None
        self._left_at = 0.0
        CLOCK_WRONG.set_function(lambda: self.clock_ahead_ms / 1000)
        self._ahead_ms = 0

    @property
    def clock_ahead_ms(self) -> int:
        """How far this replica's clock is ahead of those of a quorum (negative: behind); 0 when nothing says so."""
        return self._ahead_ms if self._clock() < self._wrong_until else 0

    def view(self, number: int, active: bool, primary: int) -> None:
        """The replica is in view `number` now, or on its way there."""
        if (number, active) == self._view:
            return
        VIEW.set(number)
        known, self._view = self._view, (number, active)
        if not active:
            if known is None or known[1]:
                self._left_at = self._clock()
            log.warning("view change", extra={"next_view": number, "next_primary": primary})
        elif known is not None:
            seconds = 0.0 if known[1] else round(self._clock() - self._left_at, 1)
            log.info("view entered", extra={"view": number, "primary": primary, "after_seconds": seconds})

    def gave_up(self, effect: GaveUp) -> None:
        GIVEN_UP.labels(str(effect.primary), effect.reason).inc()
        about: dict[str, object] = {"primary": effect.primary, "reason": effect.reason, "view": effect.view}
        if effect.reason == "timeout":  # the other verdicts are not about one request
            about["waited_seconds"] = round(effect.waited_ms / 1000, 1)
        log.warning("primary given up", extra=about)

    def misbehaved(self, effect: Misbehaved) -> None:
        error = effect.error
        if times := self._seldom.times(("misbehaved", effect.sender, error.code)):
            about = {"peer": effect.sender, "code": error.code, "reason": error.message, "times": times}
            log.warning("misbehaved", extra=about)

    # --- clocks

    def clocks_differ(self, effect: ClocksDiffer) -> None:
        """A batch was refused for its primary's clock. One of the two is wrong; `committed` may tell which."""
        CLOCK_REFUSALS.labels(str(effect.primary)).inc()
        if len(self._refused) >= REFUSED_MAX:
            self._refused.clear()
        self._refused[effect.sequence] = effect
        if times := self._seldom.times(("clock", effect.primary)):
            about = {"primary": effect.primary, "ahead_seconds": effect.ahead_ms / 1000, "times": times}
            log.warning("a primary's clock differs from this replica's", extra=about)

    def committed(self, effect: Committed) -> None:
        """What we refused and a quorum took: then it is our own clock."""
        sequence = effect.entry.sequence
        refused = self._refused.pop(sequence, None)
        if refused is None or refused.time_ms != effect.entry.batch.time_ms:
            return
        self._refused = {number: kept for number, kept in self._refused.items() if number > sequence}
        self._ahead_ms, self._wrong_until = -refused.ahead_ms, self._clock() + CLOCK_SECONDS
        if times := self._seldom.times("own clock"):
            hint = "set the clock (NTP); nothing has to be restarted"
            about = {"ahead_seconds": self._ahead_ms / 1000, "times": times, "hint": hint}
            log.error("this replica's clock is wrong", extra=about)
