"""A replica without a seat: a newcomer before its epoch, or a member that the committee left behind.

It orders nothing and signs nothing but its own seat. It shows the records that it has, and asks the committee every
few seconds for handovers, until one gives it a seat.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from aiohttp import web

from koinon.blobs import BlobStore
from koinon.client import CommitteeClient
from koinon.errors import WrongEpoch
from koinon.observe import EPOCH, LAG, LINKS, READY
from koinon.service import application, listen

from .engine import Disk
from .health import Health
from .home import ReplicaHome
from .records import Records
from .shelf import Shelf

POLL_SECONDS = 2.0

log = logging.getLogger("koinon.pbft.standby")


class Standby:
    """`start`, then `run` until a handover gives this key a seat, then `stop`."""

    def __init__(self, home: ReplicaHome) -> None:
        self.home = home
        self.disk = Disk(home.data)
        self.address: tuple[str, int] | None = None
        self.shelf = Shelf(self.disk.archive, home.data / "snapshots")
        self._health = Health(self.disk)
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = application("pbft", healthy=self._health.problems)
        Records(self.home, self.disk, self.shelf, BlobStore(self.home.data / "blobs")).mount(app)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/v1/status", self._status)
        app.router.add_route("*", "/v1/{other:.*}", self._refuse)
        self._runner, self.address = await listen(app, self.home.path, self.home.config)
        EPOCH.set(self.home.federation.epoch)
        for gauge in (LINKS, LAG, READY):
            gauge.set_function(lambda: 0.0)
        log.info("standing by", extra={"epoch": self.home.federation.epoch, "address": self.home.signer.address.hex()})

    async def run(self) -> None:
        """Returns when this key has a seat."""
        async with CommitteeClient(self.home.committees) as client:
            while self.home.index is None:
                await asyncio.sleep(POLL_SECONDS * random.uniform(0.75, 1.25))
                self._health.turned()
                if await client.refresh():
                    EPOCH.set(self.home.federation.epoch)
        log.info("seated", extra={"epoch": self.home.federation.epoch, "index": self.home.index})

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        self.shelf.stop()
        self.disk.close()

    def _standing(self) -> dict[str, Any]:
        return {
            "state": "standby",
            "epoch": self.home.federation.epoch,
            "address": "0x" + self.home.signer.address.hex(),
        }

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._standing())

    async def _ready(self, _: web.Request) -> web.Response:
        return web.json_response({"ready": False, "reasons": ["standby"], **self._standing()}, status=503)

    async def _refuse(self, _: web.Request) -> web.Response:
        raise WrongEpoch(f"this replica has no seat in the committee of epoch {self.home.federation.epoch}")
