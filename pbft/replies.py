"""Who waits for the reply to a request. A reply is signed only when somebody does, by whoever brings it there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from koinon.errors import KoinonError, Overtaken, Replayed, Unavailable
from koinon.wire import Reply

from .events import Executed

REQUEST_WAIT_SECONDS = 25.0
SWEEP_SECONDS = 1.0
WAITING_PER_CLIENT_MAX = 64

Future = asyncio.Future[Reply]


class Replies:
    """Futures of replies by client and number; each ends within REQUEST_WAIT_SECONDS (and SWEEP_SECONDS)."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, dict[int, list[Future]]] = {}
        self._since: dict[Future, float] = {}
        self._fresh: set[Future] = set()
        self._swept = 0.0
        self._over: KoinonError | None = None

    def wait(self, client: bytes, number: int, *, fresh: bool) -> Future:
        """A new future; Unavailable when this client has too many, or the error of `refuse_all` after it.

        `fresh`: no request of this number, nor a later one of the client, was executed so far. Cancel the future to
        wait no longer.
        """
        if self._over is not None:
            raise self._over
        numbers = self._waiting.setdefault(client, {})
        if sum(map(len, numbers.values())) >= WAITING_PER_CLIENT_MAX:
            raise Unavailable("too many requests wait", hint="wait for earlier requests to be answered")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        numbers.setdefault(number, []).append(future)
        self._since[future] = loop.time()
        if fresh:
            self._fresh.add(future)
        future.add_done_callback(lambda done: self._forget(client, number, done))
        return future

    def _forget(self, client: bytes, number: int, future: Future) -> None:
        del self._since[future]
        self._fresh.discard(future)
        numbers = self._waiting[client]
        numbers[number].remove(future)
        if not numbers[number]:
            del numbers[number]
            if not numbers:
                del self._waiting[client]

    def asking(self, client: bytes, number: int) -> Sequence[Future]:
        """Who waits for this request and has not been answered."""
        numbers = self._waiting.get(client)
        return [future for future in numbers.get(number, ()) if not future.done()] if numbers else ()

    def refuse_overtaken(self, results: Sequence[Executed]) -> None:
        """A request that waits while a later one of its client was executed can never be executed any more.

        Overtaken when it never was, Replayed where that is not known.
        """
        executed = {(one.client, one.number) for one in results if one.client in self._waiting}
        for client, number in executed:
            for other in [one for one in self._waiting[client] if one < number]:
                if (client, other) not in executed:
                    for future in self.asking(client, other):
                        kind = Overtaken if future in self._fresh else Replayed
                        future.set_exception(kind(f"request {other} was overtaken by {number}"))

    def doubt(self) -> None:
        """The state came as a whole: what of those who wait was executed on the way is not known."""
        self._fresh.clear()

    def refuse_all(self, error: KoinonError) -> None:
        """Nobody here is answered any more, nor whoever asks from now on."""
        self._over = error
        for future in list(self._since):
            if not future.done():
                future.set_exception(error)

    def sweep(self) -> None:
        """Refuse what waited too long; cheap when called often."""
        now = asyncio.get_running_loop().time()
        if now - self._swept < SWEEP_SECONDS:
            return
        self._swept = now
        for future in [future for future, since in self._since.items() if now - since > REQUEST_WAIT_SECONDS]:
            if not future.done():
                hint = "send it again"
                future.set_exception(Unavailable("the committee did not order the request in time", hint=hint))
