"""Ordered operations over one lasting connection to each replica.

A frame is a bundle (`koinon.bundle`) of asked requests (tag u32 | sealed `Request`) one way, and of `Answer`s the
other. An HTTP exchange costs both ends ten times what its signatures cost; here many share one system call. What a
replica has to say at one time it signs once (`Replies`).

A result is believed when f+1 replicas signed it (Castro & Liskov 1999, section 4.1). So who asks for many keys asks
f+1 first, the primary among them, and the others only when these fail, disagree, or take HEDGE_SECONDS: an honest
answer never depends on the first ones, and the usual one costs half the signatures. Where answers usually take longer,
the others are asked later in proportion: asking all must not be what a busy committee gets.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Annotated, Self

import aiohttp
from msgspec import Meta

from .asking import Asker, silent
from .bundle import BUNDLE_BYTES, BUNDLE_OVERHEAD_BYTES, Outbox, unbundle
from .committees import Committees
from .config import FederationFile
from .encoding import U32, Message, decode
from .epochs import faulty_max
from .errors import KoinonError, Malformed, RemoteError, Replayed, Unavailable, UnknownSigner
from .service import raise_refusal
from .signing import Signer, authenticate, seal
from .wire import REPLIES_MAX, Replies, Reply, Request

OK = 200
HEARTBEAT_SECONDS = 10.0
ASKED_BYTES = 128 << 10
"""About the most in one frame of a client: a replica keeps room for one frame of each of its streams."""
ASKED_BYTES_MAX = ASKED_BYTES + BUNDLE_OVERHEAD_BYTES
FRAME_BYTES_MAX = BUNDLE_BYTES + BUNDLE_OVERHEAD_BYTES
OUTBOX_BYTES_MAX = 64 << 20
OUTBOX_MESSAGES_MAX = 16_384
CONNECT_SECONDS = 3.0
CLOSE_SECONDS = 0.5
HEDGE_SECONDS = 0.2
HEDGE_SECONDS_MAX = 3.0
HEDGE_TIMES = 4
ORDER_SECONDS_MAX = 30.0
ORDER_ATTEMPTS_MAX = 5
ORDER_PAUSE_SECONDS = 0.2
"""Doubled each time: enough in all for a handover to the next committee."""

_TAG = struct.Struct(">I")


class Answer(Message, frozen=True):
    """A replica's answer to the requests that were asked with `tags`: sealed `Replies`, one for each tag in turn, if
    `status` is OK, else a `Refusal` of all of them. `epoch` is the replica's, a hint and no more."""

    tags: Annotated[tuple[U32, ...], Meta(min_length=1, max_length=REPLIES_MAX)]
    status: Annotated[int, Meta(ge=100, lt=600)]
    body: bytes
    epoch: U32


Said = Reply | KoinonError
Answered = Callable[[Said], None]


def read_asked(frame: bytes) -> list[tuple[int, bytes]]:
    """(tag, sealed request) of each in a client's frame; Malformed and its kinds."""
    parts = unbundle(frame, bytes_max=ASKED_BYTES_MAX)
    if any(len(part) < _TAG.size for part in parts):
        raise Malformed("a part of a frame that is too short for its tag")
    return [(_TAG.unpack_from(part)[0], part[_TAG.size :]) for part in parts]


def read_answers(frame: bytes) -> list[Answer]:
    """What is in a replica's frame, not yet verified; Malformed and its kinds."""
    return [decode(Answer, part, bytes_max=FRAME_BYTES_MAX) for part in unbundle(frame, bytes_max=FRAME_BYTES_MAX)]


class Stream:
    """A connection to one replica, made when it is needed and again when it broke.

    `verify(body)` gives the replies in what should be sealed `Replies` of that replica, or raises a KoinonError;
    `hint(epoch)` is told which epoch the replica says it is in.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        name: str,
        url: str,
        verify: Callable[[bytes], Sequence[Reply]],
        hint: Callable[[int], None],
    ) -> None:
        self._session = session
        self._name = name
        self._url = url + "/v1/stream"
        self._verify = verify
        self._hint = hint
        self._outbox = _outbox()
        self._asked: dict[int, Answered] = {}
        self._tag = 0
        self._task: asyncio.Task[None] | None = None

    def ask(self, request: bytes, answered: Answered) -> Callable[[], None]:
        """Send a sealed request; `answered` is called once, with the reply or with what came instead of one.

        What this returns is to be called by who does not wait any longer.
        """
        self._tag = (self._tag + 1) % 2**32
        self._asked[self._tag] = answered
        self._outbox.put(_TAG.pack(self._tag) + request)
        if self._task is None:
            self._task = asyncio.create_task(self._carry())
        return partial(self._forget, self._tag, answered)

    def _forget(self, tag: int, answered: Answered) -> None:
        if self._asked.get(tag) == answered:
            del self._asked[tag]

    async def close(self) -> None:
        """Whoever still waits for an answer is told that it failed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end(Unavailable(f"the stream to {self._name} was given up"))

    def _end(self, failure: Unavailable) -> None:
        self._task, self._outbox = None, _outbox()
        asked, self._asked = self._asked, {}
        for answered in asked.values():
            answered(failure)

    async def _carry(self) -> None:
        """One connection from beginning to end."""
        failure = Unavailable(f"{self._name} closed the stream")
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                socket = await self._session.ws_connect(
                    self._url, max_msg_size=FRAME_BYTES_MAX, heartbeat=HEARTBEAT_SECONDS, compress=0
                )
            writer = asyncio.create_task(self._write(socket))
            try:
                await self._read(socket)
            finally:
                writer.cancel()
                async with asyncio.timeout(CLOSE_SECONDS):
                    await socket.close()
        except aiohttp.WSServerHandshakeError as error:
            failure = Unavailable(f"{self._name} refuses the stream (HTTP {error.status})")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failure = silent(self._name, error)
        except RemoteError as error:
            failure = Unavailable(f"{self._name}: {error.message}")
        finally:
            self._end(failure)

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            while True:
                await socket.send_bytes(await self._outbox.take())
        except (ConnectionError, RuntimeError, aiohttp.ClientError):  # closed meanwhile: the reader ends too
            await socket.close()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while (message := await socket.receive()).type == aiohttp.WSMsgType.BINARY:
            for answer in read_answers(message.data):
                self._hint(answer.epoch)
                for tag, said in zip(answer.tags, self._said(answer), strict=True):
                    answered = self._asked.pop(tag, None)
                    if answered is not None:
                        answered(said)

    def _said(self, answer: Answer) -> Sequence[Said]:
        """What it says about each of its tags."""
        try:
            if answer.status != OK:
                raise_refusal(answer.status, answer.body, self._name)
            replies = self._verify(answer.body)
            if len(replies) != len(answer.tags):
                raise Malformed(f"{self._name} gave {len(replies)} replies to {len(answer.tags)} requests")
            return replies
        except KoinonError as error:
            return [error.with_traceback(None)] * len(answer.tags)


def _outbox() -> Outbox:
    return Outbox(messages_max=OUTBOX_MESSAGES_MAX, bytes_max=OUTBOX_BYTES_MAX, bundle_bytes=ASKED_BYTES)


class Gateway(Asker):
    """Streams to all replicas of the present committee, for any number of keys. Use as an async context manager."""

    def __init__(self, federation: FederationFile | Committees) -> None:
        super().__init__(federation)
        self._usual_s = 0.0
        self.connected: FederationFile | None = None
        self._connecting = asyncio.Lock()
        self._streams: list[Stream] = []
        self._number = 0
        self.view = 0

    @property
    def count(self) -> int:
        return len(self._streams)

    @property
    def enough(self) -> int:
        return faulty_max(self.count) + 1

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close(self._streams)
        await super().__aexit__(kind, error, trace)

    async def _connect(self) -> None:
        """Streams to the replicas of the last committee that is known, in place of those to an earlier one."""
        async with self._connecting:
            asked, old = self.federation, self._streams
            if self.connected is asked or self._session is None:
                return
            self._streams = [
                Stream(
                    self._session, f"replica {index}", replica.url, partial(self._verify, asked, index), self._hear_of
                )
                for index, replica in enumerate(asked.replicas)
            ]
            self.connected, self.view = asked, 0
            await _close(old)

    async def order(self, signer: Signer, operation: bytes) -> bytes:
        """Have `operation` ordered for `signer`: the result on which f+1 replicas agree, of the next committee when
        this one is gone.

        Raises Unavailable when they don't in time, and what f+1 of them refuse it with. One at a time for each key:
        of two at once, the later number may overtake the earlier one (Overtaken).
        """
        number = self._next_number()
        failure: KoinonError = Unavailable("not tried")
        for attempt in range(ORDER_ATTEMPTS_MAX):
            try:  # with the same number: what was executed before is answered, not repeated
                return await self._order(signer, number, operation)
            except Unavailable as error:
                failure = error
                await asyncio.sleep(ORDER_PAUSE_SECONDS * 2**attempt)
        raise failure

    def _next_number(self) -> int:
        self._number = max(self._number + 1, time.time_ns() // 1000)
        return self._number

    async def _order(self, signer: Signer, number: int, operation: bytes) -> bytes:
        await self._follow_hint()
        await self._connect()
        try:
            return await _Question(self, signer, number, operation).result
        except (Unavailable, UnknownSigner):
            if not await self._moved_on() and self.federation is self.connected:
                raise
        await self._connect()
        return await _Question(self, signer, number, operation).result

    @property
    def first(self) -> int:
        """How many are asked before anybody is waited for."""
        return self.enough

    @property
    def patience_s(self) -> float:
        """How long the first ones are waited for, before the others are asked."""
        return min(max(HEDGE_SECONDS, HEDGE_TIMES * self._usual_s), HEDGE_SECONDS_MAX)

    def answered(self, view: int, took_s: float) -> None:
        """An operation was answered in `view`, after so many seconds."""
        self.view = view
        self._usual_s += (took_s - self._usual_s) / 8

    def seal(self, signer: Signer, number: int, operation: bytes) -> bytes:
        return seal(signer, self._domain, Request(number=number, operation=operation))

    def ask(self, index: int, request: bytes, answered: Answered) -> Callable[[], None]:
        return self._streams[index].ask(request, answered)

    def _verify(self, committee: FederationFile, index: int, body: bytes) -> Sequence[Reply]:
        """Replica `index`'s replies; Malformed and its kinds, BadSignature or UnknownSigner."""
        said = authenticate(Replies, body, self._domain)
        if said.sender != committee.replica_addresses[index]:
            raise UnknownSigner(f"replica {index} signed with a key that is not the committee's")
        return said.message.replies


async def _close(streams: Sequence[Stream]) -> None:
    await asyncio.gather(*(stream.close() for stream in streams))


class _Question:
    """One operation on its way: who was asked, and what was answered."""

    def __init__(self, gateway: Gateway, signer: Signer, number: int, operation: bytes) -> None:
        self._gateway = gateway
        self._committee = gateway.connected
        self._client = signer.address
        self._number = number
        self._request = gateway.seal(signer, number, operation)
        self._results: Counter[bytes] = Counter()
        self._refusals: Counter[type[KoinonError]] = Counter()
        self._reasons: list[str] = []
        self._views: list[int] = []
        self._open = 0
        self._enough = gateway.enough
        self._rest = [(gateway.view + step) % gateway.count for step in range(gateway.count)]
        loop = asyncio.get_running_loop()
        self._begun = loop.time()
        self.result: asyncio.Future[bytes] = loop.create_future()
        self._timer = loop.call_later(gateway.patience_s, self._ask_the_rest)
        self._forget: list[Callable[[], None]] = []
        self.result.add_done_callback(self._finish)
        self._ask(gateway.first)

    def _ask(self, count: int) -> None:
        if self._gateway.connected is not self._committee:
            self._give_up()
            return
        asked, self._rest = self._rest[:count], self._rest[count:]
        self._open += len(asked)
        for index in asked:
            self._forget.append(self._gateway.ask(index, self._request, partial(self._hear, index)))

    def _finish(self, _: asyncio.Future[bytes]) -> None:
        """Nobody waits for what others have to say."""
        self._timer.cancel()
        for forget in self._forget:
            forget()

    def _ask_the_rest(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(ORDER_SECONDS_MAX, self._give_up)
        self._ask(len(self._rest))

    def _give_up(self) -> None:
        if not self.result.done():
            many = f"no {self._enough} of {self._gateway.count} replicas agree ({len(self._results)} different answers)"
            reasons = "".join(f"; {reason}" for reason in self._reasons)
            self.result.set_exception(Unavailable(many + reasons, hint="look at: koinon replicas"))

    def _hear(self, index: int, said: Said) -> None:
        if self.result.done():
            return
        self._open -= 1
        if isinstance(said, KoinonError):
            self._refused(said)
        elif (said.client, said.number) != (self._client, self._number):
            self._refused(RemoteError(f"replica {index} answered another request"))
        else:
            self._replied(said)
        if not self.result.done() and self._open == 0:
            self._ask(len(self._rest)) if self._rest else self._give_up()

    def _refused(self, error: KoinonError) -> None:
        self._reasons.append(error.message)
        self._refusals[type(error)] += 1
        if self._refusals[type(error)] >= self._enough and isinstance(error, Replayed | UnknownSigner):
            self.result.set_exception(error)

    def _replied(self, reply: Reply) -> None:
        self._results[reply.result] += 1
        self._views.append(reply.view)
        if self._results[reply.result] >= self._enough:
            took = asyncio.get_running_loop().time() - self._begun
            self._gateway.answered(min(self._views), took)
            self.result.set_result(reply.result)
