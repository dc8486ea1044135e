"""Clients that keep a committee busy, and remember what it acknowledged.

Each is the client of Castro & Liskov, section 4.1: one request at a time, the same bytes to all replicas, again until
f+1 of them give the same signed answer. Its operation renews its own membership with the next serial number that the
registrar signed, so that the state does not grow, and that a request executed twice would show as a refusal.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import aiohttp

from koinon.config import FederationFile
from koinon.encoding import decode, encode
from koinon.errors import KoinonError
from koinon.rounds.operations import Enrol, Outcome
from koinon.rounds.rules import decode_outcome
from koinon.service import CONTENT_TYPE, read_answer
from koinon.signing import Signer, authenticate, seal
from koinon.wire import Admission, Refusal, Reply, Request, Role

CLIENTS = 4
PAUSE_SECONDS = 0.05
ATTEMPT_SECONDS = 4.0
AGAIN_SECONDS = 0.1
ANSWER_BYTES_MAX = 1 << 16
DONE = encode(Outcome())


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A request (its sealed bytes) that f+1 replicas answered alike, `at` (monotonic seconds)."""

    request: bytes
    at: float


@dataclass
class Member:
    """A party that the registrar admits, again and again."""

    federation: FederationFile
    registrar: Signer
    signer: Signer = field(default_factory=lambda: Signer(secrets.token_bytes(32)))
    serial: int = 0

    def request(self) -> bytes:
        """The next sealed request."""
        self.serial += 1
        admission = Admission(
            member=self.signer.address, roles=int(Role.NODE), examples_max=1, sealing_key=bytes(32), serial=self.serial
        )
        signature = self.registrar.sign(self.federation.domain, admission)
        operation = encode(Enrol(admission=admission, signature=signature))
        return seal(self.signer, self.federation.domain, Request(number=self.serial, operation=operation))


class Load:
    """`start`, then read `acknowledged` and `problems`; `stop`."""

    def __init__(self, federation: FederationFile, registrar: Signer, *, clients: int = CLIENTS) -> None:
        self.federation = federation
        self.registrar = registrar
        self.acknowledged: list[Acknowledged] = []
        self.problems: list[str] = []
        self._members = [Member(federation, registrar) for _ in range(clients)]
        self._speaking: list[asyncio.Task[None]] = []
        self._asking: set[asyncio.Task[bytes | None]] = set()
        self._progress = asyncio.Event()
        self.session: aiohttp.ClientSession

    async def start(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_SECONDS)
        self.session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        self._speaking = [asyncio.create_task(self._speak(member)) for member in self._members]

    async def stop(self) -> None:
        for task in [*self._speaking, *self._asking]:
            task.cancel()
        await asyncio.gather(*self._speaking, *self._asking, return_exceptions=True)
        if hasattr(self, "session"):
            await self.session.close()

    def member(self) -> Member:
        """One more client, of its own will."""
        return Member(self.federation, self.registrar)

    # --- what came of it ---------------------------------------------------------------------------------------

    def count(self, since: float, until: float | None = None) -> int:
        """How many were acknowledged in this time."""
        return len(self._times(since, until))

    def longest_gap(self, since: float, until: float) -> float:
        """The longest time within [since, until] in which nothing was acknowledged."""
        times = [since, *self._times(since, until), until]
        return max(later - earlier for earlier, later in pairwise(times))

    def _times(self, since: float, until: float | None) -> list[float]:
        found: list[float] = []
        for one in reversed(self.acknowledged):
            if one.at < since:
                break
            if until is None or one.at <= until:
                found.append(one.at)
        return found[::-1]

    async def progress(self, count: int, *, seconds: float) -> float:
        """Wait for `count` more acknowledgements; how long the first took. TimeoutError after `seconds`."""
        began, wanted = time.monotonic(), len(self.acknowledged) + count
        first = None
        async with asyncio.timeout(seconds):
            while len(self.acknowledged) < wanted:
                self._progress.clear()
                await self._progress.wait()
                first = time.monotonic() - began if first is None else first
        return first or 0.0

    # --- clients -----------------------------------------------------------------------------------------------

    async def _speak(self, member: Member) -> None:
        while True:
            request = member.request()
            result = await self.order(member, request)
            self.acknowledged.append(Acknowledged(request, time.monotonic()))
            self._progress.set()
            if result != DONE:
                self._say_refused(member, result)
            await asyncio.sleep(PAUSE_SECONDS)

    def _say_refused(self, member: Member, result: bytes) -> None:
        try:
            self.problems.append(f"request {member.serial} of a member had outcome {decode_outcome(result)}")
        except KoinonError as error:
            self.problems.append(f"request {member.serial} of a member was refused: {error.message}")

    async def order(self, member: Member, request: bytes) -> bytes:
        """Send `request` to all, again until f+1 answer alike; that result."""
        enough = self.federation.faulty + 1
        while True:
            asked = [self._ask(index, member, request) for index in range(len(self.federation.replicas))]
            results: Counter[bytes] = Counter()
            for future in asyncio.as_completed(asked):
                result = await future
                if result is None:
                    continue
                results[result] += 1
                if results[result] >= enough:
                    return result  # the slower answers are still read, so that connections are used again
            await asyncio.sleep(AGAIN_SECONDS)

    def _ask(self, index: int, member: Member, request: bytes) -> asyncio.Task[bytes | None]:
        task = asyncio.ensure_future(self._exchange(index, member, request))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _exchange(self, index: int, member: Member, request: bytes) -> bytes | None:
        """Replica `index`'s result, or None when it gives none that counts."""
        status, raw = await self.post(index, "/v1/requests", request)
        if status != 200:
            return None
        try:
            reply = authenticate(Reply, raw, self.federation.domain)
        except KoinonError as error:
            self.problems.append(f"replica {index} answered a request with what is no reply: {error.message}")
            return None
        said = reply.message
        if reply.sender != self.federation.replica_addresses[index] or said.client != member.signer.address:
            self.problems.append(f"replica {index} signed a reply for somebody else")
            return None
        return said.result if said.number == member.serial else None

    async def post(self, index: int, path: str, body: bytes) -> tuple[int, bytes]:
        """One exchange: status and body; 0 when there was no answer."""
        url = self.federation.replicas[index].url + path
        try:
            async with self.session.post(url, data=body, headers={"Content-Type": CONTENT_TYPE}) as response:
                return response.status, await read_answer(response, bytes_max=ANSWER_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""


def refusal_code(body: bytes) -> str:
    """The code in a refusal's body, or "?"."""
    try:
        return decode(Refusal, body, bytes_max=ANSWER_BYTES_MAX).code
    except KoinonError:
        return "?"
