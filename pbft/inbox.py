"""The events that wait for the core: a share for each source, served in turn.

Rules: a peer that floods fills its own share and waits; it takes no place of another peer, of the clients or of the
clock. Within one source the order is kept. What this replica tells itself (ticks, state that it fetched) has a share
of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque

from koinon.errors import Unavailable

from .events import Event

OWN = -1
CLIENTS = -2
EVENTS_PER_SOURCE_MAX = 4096
BYTES_PER_SOURCE_MAX = 32 << 20
"""One message may be larger than what is left: it waits until the share is empty."""


class _Share:
    def __init__(self) -> None:
        self.events: deque[tuple[Event, int]] = deque()
        self.size = 0
        self.room = asyncio.Event()
        self.room.set()


class Inbox:
    """Bounded queues by source. `put` waits for room, `put_nowait` refuses; `get` takes from all in turn."""

    def __init__(self, *, events_max: int = EVENTS_PER_SOURCE_MAX, bytes_max: int = BYTES_PER_SOURCE_MAX) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._shares: dict[int, _Share] = {}
        self._turn: deque[int] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(share.events) for share in self._shares.values())

    def waiting(self, source: int) -> tuple[int, int]:
        """Events and bytes of one source."""
        share = self._shares.get(source)
        return (len(share.events), share.size) if share else (0, 0)

    def full(self, source: int, size: int = 0) -> bool:
        share = self._shares.get(source)
        if share is None or not share.events:
            return False
        return len(share.events) >= self._events_max or share.size + size > self._bytes_max

    async def put(self, source: int, event: Event, size: int = 0) -> None:
        """Add an event; waits while the source's share is full, so that a fast peer has to."""
        while self.full(source, size):
            room = self._shares[source].room
            room.clear()
            await room.wait()
        self._add(source, event, size)

    def put_nowait(self, source: int, event: Event, size: int = 0) -> None:
        """Add an event; Unavailable when the source's share is full."""
        if self.full(source, size):
            raise Unavailable("too many requests wait", hint="wait for earlier requests to be answered")
        self._add(source, event, size)

    def _add(self, source: int, event: Event, size: int) -> None:
        share = self._shares.get(source)
        if share is None:
            share = self._shares[source] = _Share()
        if not share.events:
            self._turn.append(source)
        share.events.append((event, size))
        share.size += size
        self._filled.set()

    async def get(self, events_max: int) -> list[Event]:
        """Up to `events_max` events, one of each source in turn; waits for the first."""
        while not self._turn:
            self._filled.clear()
            await self._filled.wait()
        taken: list[Event] = []
        while self._turn and len(taken) < events_max:
            source = self._turn.popleft()
            share = self._shares[source]
            event, size = share.events.popleft()
            share.size -= size
            share.room.set()
            if share.events:
                self._turn.append(source)
            taken.append(event)
        return taken
