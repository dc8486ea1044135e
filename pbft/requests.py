"""The requests that wait to be executed, with quotas: a flood of one client must not crowd out the others."""

from __future__ import annotations

from dataclasses import dataclass

from koinon.errors import Unavailable

Key = tuple[bytes, int]


@dataclass(slots=True)
class Pending:
    """A request that was heard of at `since_ms` and is `proposed` in a slot of the current view, or not.

    The primary was `told_ms` of it: when we heard it if the client sent it to all, else when we relayed it first.
    `ordered` requests had been executed by then. `relays` counts how often we handed it on.
    """

    client: bytes
    number: int
    data: bytes
    since_ms: int
    relayed_ms: int
    told_ms: int
    ordered: int
    relays: int = 0
    proposed: bool = False


class Pool:
    """Waiting requests in order of arrival."""

    def __init__(self, *, total_max: int, per_client_max: int) -> None:
        self._total_max = total_max
        self._per_client_max = per_client_max
        self._waiting: dict[Key, Pending] = {}
        self._numbers: dict[bytes, set[int]] = {}
        self._ready: dict[Key, None] = {}
        self._begun_ms = 0
        self.usual_ms = 0
        """How long requests have waited lately in this view until another replica proposed them."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: Key) -> bool:
        return key in self._waiting

    def add(self, client: bytes, number: int, data: bytes, now_ms: int, ordered: int = 0, relays: int = 0) -> None:
        """Keep a request, heard after `ordered` executed ones and `relays` relays; Unavailable when a quota is used up.

        The first of two with one number stays.
        """
        if (client, number) in self._waiting:
            return
        numbers = self._numbers.setdefault(client, set())
        if len(self._waiting) >= self._total_max or len(numbers) >= self._per_client_max:
            if not numbers:
                del self._numbers[client]
            raise Unavailable("too many requests wait", hint="wait for earlier requests to be answered")
        numbers.add(number)
        self._waiting[client, number] = Pending(client, number, data, now_ms, now_ms, now_ms, ordered, relays)
        self._ready[client, number] = None

    def executed(self, client: bytes, number: int) -> None:
        """Drop every request of `client` up to `number`: none of them can be executed any more."""
        for stale in [held for held in self._numbers.get(client, ()) if held <= number]:
            self.drop(client, stale)

    def drop(self, client: bytes, number: int) -> None:
        if self._waiting.pop((client, number), None) is not None:
            self._ready.pop((client, number), None)
            self._numbers[client].discard(number)
            if not self._numbers[client]:
                del self._numbers[client]

    def propose(self, key: Key, now_ms: int) -> None:
        """It is in a slot of the current view."""
        if key in self._ready:
            waited_ms = now_ms - max(self._waiting[key].since_ms, self._begun_ms)
            self.usual_ms += (waited_ms - self.usual_ms) // 8
            self._mark(key)

    def _mark(self, key: Key) -> None:
        self._waiting[key].proposed = True
        del self._ready[key]

    def reset(self, now_ms: int) -> None:
        """A new view: nothing is proposed in it yet."""
        for pending in self._waiting.values():
            pending.proposed = False
        self._ready = dict.fromkeys(self._waiting)
        self._begun_ms, self.usual_ms = now_ms, 0

    def find(self, client: bytes, number: int) -> Pending | None:
        return self._waiting.get((client, number))

    @property
    def oldest(self) -> Pending | None:
        """The request that waits longest."""
        return next(iter(self._waiting.values()), None)

    @property
    def left_lying(self) -> Pending | None:
        """The one that waits longest without being proposed."""
        return self._waiting[next(iter(self._ready))] if self._ready else None

    def ready(self) -> int:
        """How many are not proposed."""
        return len(self._ready)

    def take(self, requests_max: int, bytes_max: int) -> list[bytes]:
        """The next batch, first come first served; a client's own requests by ascending number."""
        taken: list[Pending] = []
        size = 0
        for key in self._ready:
            pending = self._waiting[key]
            if len(taken) >= requests_max or (taken and size + len(pending.data) > bytes_max):
                break
            size += len(pending.data)
            taken.append(pending)
        for pending in taken:
            self._mark((pending.client, pending.number))
        return [pending.data for pending in sorted(taken, key=lambda one: one.number)]

    def unproposed(self, now_ms: int, after_ms: int, count_max: int) -> list[Pending]:
        """Requests that nobody proposed for `after_ms`; each is returned again after that time, then ever later."""
        overdue: list[Pending] = []
        for key in self._ready:
            pending = self._waiting[key]
            if len(overdue) < count_max and now_ms - pending.relayed_ms >= after_ms * max(1, pending.relays):
                pending.relayed_ms = now_ms
                pending.relays += 1
                if pending.relays == 1:
                    pending.told_ms = now_ms
                overdue.append(pending)
        return overdue
