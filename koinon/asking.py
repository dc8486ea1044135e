"""One question to many replicas: who is believed, and how the asker follows the committee to its next epoch.

Each answer carries the epoch of who gave it (`EPOCH_HEADER`, a hint and no more). When it is a later one, or when no
f+1 agree, the asker asks for the handovers that lead there and verifies them. `koinon.client` is built on this.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

import aiohttp

from koinon.committees import HANDOVERS_PAGE, Committees
from koinon.config import FederationFile
from koinon.encoding import decode
from koinon.epochs import Handover, Seat
from koinon.errors import KoinonError, Missing, Unavailable, UnknownSigner, WrongEpoch
from koinon.observe import EPOCH
from koinon.service import (
    BODY_BYTES_MAX,
    CONTENT_TYPE,
    EPOCH_HEADER,
    client_tls,
    distrusted,
    raise_refusal,
    read_answer,
)
from koinon.signing import authenticate

REQUEST_TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 3.0
BLOB_TIMEOUT_SECONDS = 300.0
DISAGREEMENT_RETRIES_MAX = 20
DISAGREEMENT_PAUSE_SECONDS = 0.1
REFRESH_TIMEOUT_SECONDS = 5.0
REFRESH_PAUSE_SECONDS = 1.0
"""A hint that leads nowhere (a replica may lie) costs one question in so many seconds."""
LATE_MAX = 8
LATE_SECONDS = 1.0
HANDOVERS_PAGE_BYTES_MAX = HANDOVERS_PAGE * (32 << 10)

T = TypeVar("T")


class Asker:
    """A connection pool to all replicas of the present committee. Use as an async context manager.

    Given `Committees`, it keeps there what it learns of later epochs; given a file, it remembers it for its own life.
    """

    def __init__(self, federation: FederationFile | Committees) -> None:
        self.committees = federation if isinstance(federation, Committees) else Committees(federation)
        federation = self.committees.federation
        self._domain = federation.domain
        self._tls = client_tls(federation.tls_ca)
        self._session: aiohttp.ClientSession | None = None
        self._later = False
        self._refreshed = float("-inf")
        self._refreshing = asyncio.Lock()
        self._late: set[asyncio.Future[bytes]] = set()

    @property
    def federation(self) -> FederationFile:
        """The federation with the last committee that is known here."""
        return self.committees.federation

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS + 5, sock_connect=CONNECT_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(ssl=self._tls or False, limit=0)
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, trace_configs=[trace])
        EPOCH.set(self.federation.epoch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    # --- epochs of the committee -----------------------------------------------------------------------------

    async def refresh(self) -> bool:
        """Follow the committee to its present epoch, as far as any replica that answers can prove it.

        Whether there was a later one. Nobody who answers is no error: the caller's own question will tell.
        """
        moved = False
        async with self._refreshing:
            while await self._refresh_once():
                moved = True
            self._later, self._refreshed = False, time.monotonic()
            EPOCH.set(self.federation.epoch)
        return moved

    async def _refresh_once(self) -> bool:
        """One question to all; the first proof of a later epoch counts, a quorum that knows none ends the waiting.

        Fewer would not do: f of them may lie, one may be a replica that asks itself, and both are quick.
        """
        epoch, enough = self.federation.epoch, self.federation.quorum
        running = [
            asyncio.ensure_future(self.handovers(index, first=epoch)) for index in range(len(self.federation.replicas))
        ]
        silent = 0
        try:
            for future in asyncio.as_completed(running, timeout=REFRESH_TIMEOUT_SECONDS):
                try:
                    found = await future
                    if self.committees.add(found):
                        return True
                except KoinonError:  # whatever it refuses with: the others may know
                    continue
                silent += 1
                if silent >= enough:
                    return False
        except TimeoutError:
            pass
        finally:
            for task in running:
                task.cancel()
        return False

    def _hear_of(self, epoch: int) -> None:
        """A replica says that it is in `epoch`."""
        self._later |= epoch > self.federation.epoch

    async def _follow_hint(self) -> None:
        if self._later and time.monotonic() - self._refreshed > REFRESH_PAUSE_SECONDS:
            await self.refresh()

    async def federation_of(self, epoch: int) -> FederationFile:
        """The federation in `epoch`, followed there if need be; WrongEpoch when nobody can prove that epoch."""
        if epoch > self.federation.epoch:
            await self.refresh()
        return self.committees.at(epoch)

    async def handovers(self, index: int, *, first: int) -> tuple[Handover, ...]:
        """What replica `index` shows of the handovers from epoch `first` on, at most a page; proved by themselves."""
        raw = await self._call(index, "GET", f"/v1/handovers?from={first}")
        found: tuple[Handover, ...] = decode(tuple[Handover, ...], raw, bytes_max=HANDOVERS_PAGE_BYTES_MAX)
        return found

    async def seat(self, index: int, *, epoch: int) -> Seat:
        """Replica `index`'s own word on its seat in `epoch`, with the sealing key for it."""
        said = authenticate(Seat, await self._call(index, "GET", f"/v1/seat?epoch={epoch}"), self._domain)
        self._require_replica(index, said.sender)
        if said.message.address != said.sender:
            raise UnknownSigner(f"replica {index} describes the seat of 0x{said.message.address.hex()}")
        return said.message

    # --- questions to all ------------------------------------------------------------------------------------

    async def collect(
        self, ask: Callable[[int], Awaitable[T]], *, enough: int, what: str, patience_seconds: float = 0.0
    ) -> dict[int, T]:
        """Ask all replicas at once; answers by index as soon as `enough` (then waits `patience_seconds` more).

        Raises the last error as Unavailable when fewer answer.
        """
        await self._follow_hint()
        running = {asyncio.ensure_future(ask(index)): index for index in range(len(self.federation.replicas))}
        answers: dict[int, T] = {}
        failures: list[str] = []
        pending = set(running)
        clock = asyncio.get_running_loop().time
        until: float | None = None
        while pending:
            patience = None if until is None else max(0.0, until - clock())
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                if (error := future.exception()) is None:
                    answers[running[future]] = future.result()
                elif isinstance(error, KoinonError):
                    failures.append(f"replica {running[future]}: {error.message}")
                else:
                    raise error
            if len(answers) >= enough:
                until = clock() + patience_seconds if until is None else until
                if clock() >= until:
                    break
        for future in pending:
            future.cancel()
        if len(answers) < enough:
            raise Unavailable(
                f"{len(answers)} of {len(running)} replicas {what}, {enough} are needed: {'; '.join(failures)}"
            )
        return answers

    async def _ask(self, path: str) -> bytes:
        """GET on which f+1 replicas agree; replicas that are a step apart are asked again."""
        failure: KoinonError = Unavailable("not tried")
        for _ in range(DISAGREEMENT_RETRIES_MAX):
            try:
                return await self._agreed(path)
            except Unavailable as error:
                if isinstance(error, Missing):
                    raise
                failure = error
                await asyncio.sleep(DISAGREEMENT_PAUSE_SECONDS)
        raise failure

    async def _moved_on(self) -> bool:
        """Whether the committee is in a later epoch, unless that was asked a moment ago."""
        recent = time.monotonic() - self._refreshed < REFRESH_PAUSE_SECONDS
        return not recent and await self.refresh()

    async def _agreed(self, path: str) -> bytes:
        """The first answer that f+1 replicas give alike, of the next committee when this one is gone; Missing when f+1
        say so."""
        await self._follow_hint()
        try:
            return await self._agreed_once(path)
        except Unavailable as error:
            if isinstance(error, Missing) or not await self._moved_on():
                raise
        return await self._agreed_once(path)

    async def _agreed_once(self, path: str) -> bytes:
        asked = self.federation
        enough = asked.faulty + 1
        running = [asyncio.ensure_future(self._call(index, "GET", path)) for index in range(len(asked.replicas))]
        answers: Counter[bytes] = Counter()
        missing = 0
        reasons: list[str] = []
        try:
            for future in asyncio.as_completed(running):
                try:
                    answer = await future
                except KoinonError as error:
                    reasons.append(error.message)
                    missing += isinstance(error, Missing)
                    if missing >= enough and self.federation is asked:  # else they may have spoken of another epoch
                        raise
                    continue
                answers[answer] += 1
                if answers[answer] >= enough:
                    return answer
        finally:
            for task in running:
                self._leave(task)
        raise Unavailable(
            f"no {enough} of {len(running)} replicas agree ({len(answers)} different answers)"
            + (f": {'; '.join(reasons)}" if reasons else ""),
            hint="look at: koinon replicas",
        )

    def _leave(self, task: asyncio.Future[bytes]) -> None:
        """Nobody waits for this answer. It is read all the same if it comes soon, and few are left so: to cancel it
        would cost its connection, and the next question a new one."""
        task.add_done_callback(self._read_late)
        if len(self._late) >= LATE_MAX:
            task.cancel()
        elif not task.done():
            self._late.add(task)
            asyncio.get_running_loop().call_later(LATE_SECONDS, task.cancel)

    def _read_late(self, task: asyncio.Future[bytes]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()

    async def _call(
        self,
        index: int,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: dict[str, str] | None = None,
        slow: bool = False,
    ) -> bytes:
        """One HTTP exchange with one replica; every failure becomes a RemoteError."""
        if self._session is None:
            raise RuntimeError("use CommitteeClient as an async context manager")
        where = f"replica {index}"
        extra = {"timeout": aiohttp.ClientTimeout(total=BLOB_TIMEOUT_SECONDS)} if slow else {}
        try:
            async with self._session.request(
                method,
                self._replica_url(index) + path,
                data=body,
                headers={"Content-Type": CONTENT_TYPE, **(headers or {})},
                allow_redirects=False,
                **extra,  # type: ignore[arg-type]
            ) as response:
                self._hear_of(_epoch_said(response.headers.get(EPOCH_HEADER, "")))
                content = await read_answer(response, bytes_max=BODY_BYTES_MAX)
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise silent(where, error) from None
        if status != 200:
            raise_refusal(status, content, where)
        return content

    def _replica_url(self, index: int) -> str:
        """WrongEpoch when the committee shrank while somebody counted its replicas."""
        if index >= len(self.federation.replicas):
            raise WrongEpoch(f"the committee of epoch {self.federation.epoch} has no replica {index}")
        return self.federation.replicas[index].url

    def _require_replica(self, index: int, sender: bytes) -> None:
        self._replica_url(index)
        if sender != self.federation.replica_addresses[index]:
            raise UnknownSigner(f"replica {index} signed with a key that is not the committee's")


async def _refuse_redirect(*_: object) -> None:
    """A replica must not send its askers elsewhere: WebSockets would follow."""
    raise aiohttp.ClientPayloadError("a redirection is not followed")


def silent(where: str, error: BaseException) -> Unavailable:
    """That a connection to `where` failed, with the system's reason ("Connection refused") if it gives one."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return Unavailable(f"{where}: {distrusted(error)}")
    number = getattr(getattr(error, "os_error", error), "errno", None)
    why = os.strerror(number) if isinstance(number, int) and number > 0 else type(error).__name__
    return Unavailable(f"{where} does not answer ({why})")


def _epoch_said(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 10 else -1
