"""What a replica fetches from its peers: blobs, parts of pieces, and state.

A peer that is silent costs a bounded time, and never the answer of another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import aiohttp

from koinon.client import CommitteeClient
from koinon.config import FederationFile
from koinon.encoding import encode
from koinon.epochs import Handover
from koinon.errors import KoinonError, RemoteError, Unavailable
from koinon.privacy import SealingKey
from koinon.service import CONTENT_TYPE, client_tls, read_answer
from koinon.signing import Signer, seal
from koinon.wire import PartRequest

PART_TIMEOUT_SECONDS = 10.0
PART_BYTES_MAX = 256 << 20
GATHER_CONCURRENT_MAX = 8

log = logging.getLogger("koinon.pbft.fetching")
T = TypeVar("T")


def part_context(task: bytes, round: int, node: bytes, holder: int, asker: int) -> bytes:
    """What a sealed part is bound to: it opens for this task, round, node, holder and asker only."""
    return encode(("koinon/part", task, round, node, holder, asker))


async def gather(work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results in order, a few at a time; the first failure ends all."""
    gate = asyncio.Semaphore(GATHER_CONCURRENT_MAX)

    async def one(each: Callable[[], Awaitable[T]]) -> T:
        async with gate:
            return await each()

    tasks = [asyncio.ensure_future(one(each)) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


class Fetcher:
    """A replica's client side. Use `start` and `stop`."""

    def __init__(self, federation: FederationFile, index: int, signer: Signer) -> None:
        self._federation = federation
        self._index = index
        self._signer = signer
        self._client = CommitteeClient(federation, signer)
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        await self._client.__aenter__()
        tls = client_tls(self._federation.tls_ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls or False, limit=0),
            timeout=aiohttp.ClientTimeout(total=PART_TIMEOUT_SECONDS),
        )

    async def stop(self) -> None:
        await self._client.__aexit__(None, None, None)
        if self._session is not None:
            await self._session.close()

    async def blob(self, digest: bytes) -> bytes:
        """From any peer, checked; Unavailable when none has it."""
        try:
            return await self._client.get_blob(digest, besides=self._index)
        except RemoteError as error:
            raise Unavailable(f"blob 0x{digest.hex()} is neither here nor at a peer: {error.message}") from None

    async def parts(self, asked: PartRequest, sealing: SealingKey, *, first: Iterable[int]) -> AsyncIterator[bytes]:
        """The parts that peers show, as they arrive; a wrong box or a refusal is skipped."""
        holders = [*first, *(index for index in range(len(self._federation.replicas)) if index not in set(first))]
        body = seal(self._signer, self._federation.domain, asked)
        running = [
            asyncio.ensure_future(self._part(peer, asked, body, sealing)) for peer in holders if peer != self._index
        ]
        try:
            for future in asyncio.as_completed(running):
                try:
                    yield await future
                except (KoinonError, aiohttp.ClientError, TimeoutError, OSError) as error:
                    log.info("no part", extra={"reason": str(error) or type(error).__name__})
        finally:
            for task in running:
                task.cancel()

    async def _part(self, peer: int, asked: PartRequest, body: bytes, sealing: SealingKey) -> bytes:
        box = await self._exchange(peer, "POST", "/v1/parts", body, bytes_max=PART_BYTES_MAX)
        return sealing.open(box, part_context(asked.task, asked.round, asked.node, peer, self._index))

    async def ask(self, peer: int, path: str, *, bytes_max: int) -> bytes:
        """`GET path` from one peer (`pbft.transfer`)."""
        return await self._exchange(peer, "GET", path, None, bytes_max=bytes_max)

    # --- handovers -------------------------------------------------------------------------------------------

    async def handovers(self) -> tuple[Handover, ...]:
        """What any peer proves to have come after this epoch; nothing when nobody can."""
        await self._client.refresh()
        return self._client.committees.since(self._federation.epoch)

    async def _exchange(self, peer: int, method: str, path: str, body: bytes | None, *, bytes_max: int) -> bytes:
        if self._session is None:
            raise RuntimeError("start the fetcher first")
        url = self._federation.replicas[peer].url + path
        headers = {"Content-Type": CONTENT_TYPE}
        async with self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise Unavailable(f"replica {peer} answered with status {response.status}")
            return await read_answer(response, bytes_max=bytes_max)
