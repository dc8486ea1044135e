"""What a replica shows anybody, with a seat or without one: handovers, its seat, the ordered log, blobs.

    GET /v1/handovers?from=E   the handovers from epoch E on      GET /v1/log?from=S&limit=N   entries of the log
    GET /v1/seat?epoch=E       this key's seat, signed            GET /v1/checkpoint           the newest stable one
    GET /v1/evidence           of equivocation, if there is any
    GET /v1/blobs/{digest}     public bytes                       GET /v1/snapshots/{S}?from=B bytes of a snapshot

All of it is proved by signatures or digests. Every answer names the epoch that this replica knows (`EPOCH_HEADER`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from koinon.blobs import BlobStore
from koinon.encoding import encode, from_hex
from koinon.errors import Malformed, Missing
from koinon.service import CONTENT_TYPE, EPOCH_HEADER, answer
from koinon.signing import seal

from .engine import Disk
from .home import ReplicaHome
from .shelf import Shelf
from .waiting import Shares, client_of

LOG_ENTRIES_MAX = 1024
READERS_MAX = 64
READERS_PER_CLIENT_MAX = 16
SHOW_SECONDS_MAX = 60.0
"""So long a client may take to read one page of the log or chunk of a snapshot."""
EPOCH_MAX = 2**32 - 1
NUMBER_MAX = 2**62
"""Of a query; with an offset added to it, still one of a file."""


class Records:
    """The routes of one home; `mount` adds them to a service."""

    def __init__(self, home: ReplicaHome, disk: Disk, shelf: Shelf, blobs: BlobStore) -> None:
        self._home = home
        self._disk = disk
        self._shelf = shelf
        self._blobs = blobs
        self._readers = Shares("reads of the log", all_max=READERS_MAX, each_max=READERS_PER_CLIENT_MAX)

    def mount(self, app: web.Application) -> None:
        route = app.router
        route.add_get("/v1/handovers", self._handovers)
        route.add_get("/v1/seat", self._seat)
        route.add_get("/v1/log", self._log)
        route.add_get("/v1/checkpoint", self._checkpoint)
        route.add_get("/v1/snapshots/{sequence}", self._snapshot)
        route.add_get("/v1/evidence", self._evidence)
        route.add_get("/v1/blobs/{digest}", self._blob)
        app.on_response_prepare.append(self._say_epoch)

    async def _say_epoch(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers[EPOCH_HEADER] = str(self._home.federation.epoch)

    async def _handovers(self, request: web.Request) -> web.Response:
        return answer(encode(self._home.committees.since(number(request, "from", 0))))

    async def _seat(self, request: web.Request) -> web.Response:
        epoch = number(request, "epoch", self._home.federation.epoch + 1)
        if epoch > EPOCH_MAX:
            raise Malformed(f"no epoch is above {EPOCH_MAX}")
        return answer(seal(self._home.signer, self._home.federation.domain, self._home.own_seat(epoch)))

    async def _log(self, request: web.Request) -> web.Response:
        first = number(request, "from", 1)
        limit = min(number(request, "limit", 256), LOG_ENTRIES_MAX)
        return await self._show(request, self._shelf.page(first, limit))

    async def _checkpoint(self, request: web.Request) -> web.Response:
        return await self._show(request, self._shelf.checkpoint())

    async def _snapshot(self, request: web.Request) -> web.Response:
        sequence = decimal(request.match_info["sequence"], "sequence number")
        return await self._show(request, self._shelf.chunk(sequence, number(request, "from", 0)))

    async def _show(self, request: web.Request, content: Coroutine[Any, Any, bytes]) -> web.Response:
        """A large answer: its client holds one of its places until it has read it, and has a limited time to."""
        try:
            with self._readers.hold(client_of(request.remote)):
                response = answer(await content)
                try:
                    async with asyncio.timeout(SHOW_SECONDS_MAX):
                        await response.prepare(request)
                        await response.write_eof()
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()
                return response
        finally:
            content.close()

    async def _evidence(self, _: web.Request) -> web.Response:
        return answer(self._disk.evidence.kept)

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name = digest(request.match_info["digest"])
        if name not in self._blobs:
            raise Missing(f"no blob 0x{name.hex()} here")
        return web.FileResponse(self._blobs.path(name), headers={"Content-Type": CONTENT_TYPE})


def digest(text: str) -> bytes:
    """32 bytes in hexadecimal; Malformed otherwise."""
    raw = from_hex(text) if len(text) <= 66 else b""
    if len(raw) != 32:
        raise Malformed(f"not 32 bytes in hexadecimal: {text[:80]!r}")
    return raw


def decimal(text: str, what: str) -> int:
    """A whole number in a path; Malformed otherwise."""
    if not text.isdecimal() or len(text) > 18:
        raise Malformed(f"not a {what}: {text[:20]!r}")
    return int(text)


def number(request: web.Request, name: str, default: int, *, low: int = 0) -> int:
    """A whole number of the query from `low` to NUMBER_MAX; Malformed otherwise."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text[:20])
    except ValueError:
        value = low - 1
    if not low <= value <= NUMBER_MAX:
        raise Malformed(f"{name} is not a number from {low} on: {text[:20]!r}")
    return value
