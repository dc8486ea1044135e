"""What peers did wrong, and for how long they are not talked to.

Each rejected message takes a token of its sender's bucket; the bucket fills again slowly. Whose bucket is empty is
barred: its link is closed, and none is made for a time that doubles with each bar up to a cap, and falls back with good
conduct. A peer that is barred loses its own voice only: the committee bears f of them by design. No bar is for ever,
because the fault may have been ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Counter

from koinon.errors import Barred

BLAMES_BURST = 32
BLAMES_PER_SECOND = 0.5
BAR_SECONDS = 1.0
BAR_SECONDS_MAX = 300.0
GOOD_BARS = 10
"""So many times the last bar without another one, and the next is half as long."""

MISBEHAVED = Counter("koinon_misbehaved_total", "Messages of a replica that no correct one sends", ["peer"])
BARRED = Counter("koinon_barred_total", "Times that a replica was barred for what it sent", ["peer"])


@dataclass(slots=True)
class _Record:
    tokens: float = BLAMES_BURST
    seen: float = 0.0
    bar_seconds: float = 0.0
    until: float = 0.0


class Conduct:
    """One replica's book on its peers. `clock` gives seconds and never runs backwards."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[int, _Record] = {}

    def blame(self, peer: int) -> bool:
        """Count one rejected message; True when the peer is barred for it now."""
        MISBEHAVED.labels(str(peer)).inc()
        now = self._clock()
        record = self._records.setdefault(peer, _Record(seen=now))
        if now < record.until:
            return False
        record.tokens = min(BLAMES_BURST, record.tokens + (now - record.seen) * BLAMES_PER_SECOND) - 1
        record.seen = now
        if record.tokens > 0:
            return False
        self._forgive(record, now)
        record.bar_seconds = min(2 * record.bar_seconds or BAR_SECONDS, BAR_SECONDS_MAX)
        record.until, record.tokens = now + record.bar_seconds, BLAMES_BURST
        record.seen = record.until
        BARRED.labels(str(peer)).inc()
        return True

    @staticmethod
    def _forgive(record: _Record, now: float) -> None:
        while record.bar_seconds >= BAR_SECONDS and now - record.until > GOOD_BARS * record.bar_seconds:
            record.until += GOOD_BARS * record.bar_seconds
            record.bar_seconds /= 2
        if record.bar_seconds < BAR_SECONDS:
            record.bar_seconds = 0.0

    def barred_seconds(self, peer: int) -> float:
        """How long the peer is still barred; 0 when it isn't."""
        record = self._records.get(peer)
        return max(0.0, record.until - self._clock()) if record else 0.0

    def require_good(self, peer: int) -> None:
        """Barred when the peer is."""
        if (left := self.barred_seconds(peer)) > 0:
            raise Barred(f"replica {peer} sent too much that no correct replica sends; try again in {left:.0f} s")

    def barred(self) -> dict[int, int]:
        """Who is barred, for how many seconds more; ascending."""
        return {peer: round(left) for peer in sorted(self._records) if (left := self.barred_seconds(peer)) > 0}
