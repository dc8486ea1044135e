"""How well the primary orders: Aardvark's rule (Clement et al., NSDI 2009, sections 4.3 and 5.2), without its ratchet.

A backup looks at the requests that it knows of. It measures, in windows of `pace_window_ms`, how long they waited and
how many were executed, and compares the primary with the f+1 primaries before it: one of them was honest, so the best
of them is a fair share. The rules:

- A request is late when it waited longer than `allowed_ms` plus the time that ordering all those executed before it
  takes at `pace_rate_percent` of the best rate seen: a queue is no fault of the primary's, a slow queue is.
- A window in which most of the requests were late is a strike; a good one takes a strike back; one without requests
  says nothing. After `pace_strikes_max` strikes the primary is slow.
- A primary that `unfair_batches_max` times orders requests that came `unfair_ms` after one that it leaves lying is
  unfair.
- Until f+1 views were measured there is nobody to compare with: `allowed_ms` is half the view timeout.
- Only the f+1 views before count. Where everything is slow, f+1 views show just that, and the measure falls to it:
  honest slowness costs at most f+1 view changes each time it gets worse, and never an endless row of them.

Pure: the clock is the events', arithmetic is on integers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from .events import Settings
from .requests import Pending

SLOW = "slow"
UNFAIR = "unfair"


@dataclass(slots=True)
class Share:
    """What one view gave: the typical wait without the queue (ms), and requests a second. Best ones, smoothed."""

    wait_ms: int = -1
    rate: int = 0

    def take(self, wait_ms: int, rate: int) -> None:
        """A window better than what is known moves it a quarter of the way; a worse one doesn't."""
        first = self.wait_ms < 0
        if first or wait_ms < self.wait_ms:
            self.wait_ms = wait_ms if first else self.wait_ms - (self.wait_ms - wait_ms) // 4
        if rate > self.rate:
            self.rate = rate if first else self.rate + (rate - self.rate + 3) // 4


class Pace:
    """One replica's measure of its primaries. `weak` is f+1."""

    def __init__(self, settings: Settings, weak: int) -> None:
        self._settings = settings
        self._before: deque[Share] = deque(maxlen=weak)
        self._now = Share()
        self.ordered = 0
        self._since_ms = self._window_ms = 0
        self._since_ordered = self._window_ordered = 0
        self._waits: list[tuple[int, int]] = []
        self._strikes = self._longest_ms = 0
        self._overtaken = 0
        self._passed_over: Pending | None = None

    # --- what happens

    def enter(self, now_ms: int) -> None:
        """A new view begins: what the one before showed is kept, clocks of waiting requests start again."""
        if self._now.wait_ms < 0 and self._strikes:  # it showed nothing but that it takes longer than this
            self._now.wait_ms = self._longest_ms
        if self._now.wait_ms >= 0:
            self._before.append(self._now)
        self._now = Share()
        self.rest(now_ms)

    def rest(self, now_ms: int) -> None:
        """Nothing can be said about the time before `now_ms`: we were behind, or no primary was at work."""
        self._since_ms = self._window_ms = now_ms
        self._since_ordered = self._window_ordered = self.ordered
        self._waits, self._strikes, self._longest_ms = [], 0, 0
        self._overtaken, self._passed_over = 0, None

    def executed(self, known: Sequence[Pending], count: int, waiting: Pending | None, now_ms: int) -> None:
        """A batch of `count` requests was executed, `known` of which we knew; `waiting` is the oldest not proposed."""
        # What waited when the view began may have been prepared in the view before: it says nothing about this one.
        self._waits += [self._waited(pending, now_ms) for pending in known if pending.told_ms >= self._since_ms]
        self.ordered += count
        if waiting is not self._passed_over:
            self._passed_over, self._overtaken = waiting, 0
        if waiting is None:
            return
        bound = max(waiting.told_ms, self._since_ms) + self._settings.unfair_ms
        if any(pending.since_ms > bound for pending in known):
            self._overtaken += 1

    # --- what follows

    @property
    def allowed_ms(self) -> int:
        """So long a request may wait, besides the queue before it."""
        settings = self._settings
        if not self._compares:
            return max(settings.pace_floor_ms, settings.view_timeout_ms // 2)
        best = min(share.wait_ms for share in (*self._before, self._now) if share.wait_ms >= 0)
        return max(settings.pace_floor_ms, settings.pace_wait_factor * best)

    def judge(self, oldest: Pending | None, now_ms: int) -> str:
        """SLOW, UNFAIR or "". Ask at every tick; `oldest` is the request that has waited longest."""
        if self._overtaken >= self._settings.unfair_batches_max:
            return UNFAIR
        if now_ms - self._window_ms >= self._settings.pace_window_ms:
            self._end_window(oldest, now_ms)
        return SLOW if self._strikes >= self._settings.pace_strikes_max else ""

    @property
    def _compares(self) -> bool:
        return len(self._before) == self._before.maxlen

    def _waited(self, pending: Pending, now_ms: int) -> tuple[int, int]:
        """For how long in this view, and how many requests were executed meanwhile."""
        begun = max(pending.told_ms, self._since_ms)
        return now_ms - begun, self.ordered - max(pending.ordered, self._since_ordered)

    def _end_window(self, oldest: Pending | None, now_ms: int) -> None:
        late = [self._late(*wait) for wait in self._waits]
        if oldest is not None and self._late(*(waited := self._waited(oldest, now_ms))):
            late.append(True)
            self._longest_ms = max(self._longest_ms, waited[0])
        if late:
            self._strikes = max(0, self._strikes + (1 if 2 * sum(late) > len(late) else -1))
        if self._waits:
            self._measure(now_ms)
        self._window_ms, self._window_ordered, self._waits = now_ms, self.ordered, []

    def _late(self, waited_ms: int, before: int) -> bool:
        return waited_ms > self.allowed_ms + self._queue_ms(before, self._settings.pace_rate_percent)

    def _queue_ms(self, before: int, percent: int) -> int:
        """How long ordering `before` requests takes at `percent` of the best rate; 0 while there is none."""
        rate = max(share.rate for share in (*self._before, self._now))
        return before * 1_000 * 100 // (rate * percent) if rate and self._compares else 0

    def _measure(self, now_ms: int) -> None:
        waits = sorted(max(0, waited - self._queue_ms(before, 100)) for waited, before in self._waits)
        rate = (self.ordered - self._window_ordered) * 1_000 // (now_ms - self._window_ms)
        self._now.take(waits[len(waits) // 2], rate)
