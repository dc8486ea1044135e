"""The process: enrols, watches for tasks, runs them, anchors, and answers `/healthz /readyz /metrics /v1/status`.

Nothing is decided here. All that must survive a crash is with the committee, on the chain, or in `data/outbox.sqlite`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from koinon.admission import ADMISSION_FILE, load_admission
from koinon.client import CommitteeClient
from koinon.committees import HANDOVERS_FILE, Committees
from koinon.config import PartyConfig, load_federation, party_signer
from koinon.errors import ChainUnreachable, ConfigError, KoinonError, Rejected, Unavailable
from koinon.ledger import Ledger
from koinon.observe import refused
from koinon.rounds.operations import Enrol
from koinon.rounds.state import Task
from koinon.service import application, listen
from koinon.threads import in_thread

from .anchor import Anchor
from .committee import CommitteeWatch
from .outbox import Outbox
from .runner import Runner
from .timings import FILE as TIMINGS_FILE
from .timings import Timings

TASKS_CONCURRENT_MAX = 8
DISCOVER_SECONDS = 1.0
CHAIN_CHECK_SECONDS = 5.0
STALE_SECONDS = 30.0
RETRY_FIRST_SECONDS = 0.5
RETRY_MAX_SECONDS = 15.0

log = logging.getLogger("koinon.aggregator")
T = TypeVar("T")


class Aggregator:
    """One home's aggregator. `run` until cancelled."""

    def __init__(self, home: Path, config: PartyConfig, *, tasks_concurrent_max: int = TASKS_CONCURRENT_MAX) -> None:
        if config.role != "aggregator":
            raise ConfigError(f"{home} is the home of a {config.role}", hint="--home DIR/aggregator")
        self.home = home
        self.config = config
        self.federation = load_federation(home / config.federation)
        self.signer = party_signer(home, config)
        self.runners: dict[bytes, Runner] = {}
        self._tasks_concurrent_max = tasks_concurrent_max
        self._data = home / config.data
        self._committees = Committees(self.federation, self._data / HANDOVERS_FILE)
        self._outbox = Outbox(self._data / "outbox.sqlite")
        self._timings = Timings(self._data / TIMINGS_FILE)
        self._working: dict[bytes, asyncio.Task[None]] = {}
        self._settled: set[bytes] = set()
        self._committee_seen = self._chain_seen = float("-inf")
        self._enrolled = False

    async def run(self) -> None:
        """Serve and work until cancelled. Raises for what only an operator can mend (ConfigError, WrongChain ...)."""
        async with AsyncExitStack() as stack:
            stack.callback(self._outbox.close)
            served, address = await listen(self._application(), self.home, self.config)
            stack.push_async_callback(served.cleanup)
            log.info("listening", extra={"host": address[0], "port": address[1]})
            client = await stack.enter_async_context(CommitteeClient(self._committees, self.signer))
            ledger = await self._until_answered(lambda: in_thread(Ledger.connect, self.federation.network, self.signer))
            self._chain_seen = time.monotonic()
            await self._enrol(client, ledger)
            anchor = Anchor(ledger, self._outbox)
            async with asyncio.TaskGroup() as group:
                group.create_task(anchor.run())
                group.create_task(self._watch_chain(ledger))
                group.create_task(CommitteeWatch(client, ledger, anchor).run())
                group.create_task(self._discover(client, ledger, anchor, group))

    # --- beginnings ------------------------------------------------------------------------------------------

    async def _enrol(self, client: CommitteeClient, ledger: Ledger) -> None:
        """Hand the admission to the chain and to the committee, unless they have it."""
        enrol = load_admission(self.home / ADMISSION_FILE)
        if enrol.admission.member != self.signer.address:
            raise ConfigError(
                f"the admission in {self.home} is somebody else's",
                hint="put the admission that the registrar made for this key there",
            )
        await self._until_answered(lambda: in_thread(register, ledger, enrol))
        await self._until_answered(lambda: self._enrol_with_committee(client, enrol))
        self._enrolled = True
        log.info("enrolled", extra={"address": self.signer.address.hex()})

    async def _enrol_with_committee(self, client: CommitteeClient, enrol: Enrol) -> None:
        known = (await client.members()).get(self.signer.address)
        self._committee_seen = time.monotonic()
        if known is not None and known.serial >= enrol.admission.serial:
            if not known.active:
                raise ConfigError("this aggregator's membership was revoked", hint="ask the registrar for an admission")
            return
        try:
            await client.submit(enrol)
        except Rejected as error:
            known = (await client.members()).get(self.signer.address)
            if known is None or not known.active or known.serial < enrol.admission.serial:
                raise ConfigError(
                    f"the committee refuses the admission: {error.message}",
                    hint="the registrar makes a new one: koinon-provision admit ADDRESS --roles aggregator",
                ) from None

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until chain or committee answers: they may start later than this process."""
        pause = RETRY_FIRST_SECONDS
        while True:
            try:
                return await ask()
            except (ChainUnreachable, Unavailable) as error:
                log.warning("waiting", extra={"code": error.code, "reason": error.message})
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX_SECONDS)

    # --- work ------------------------------------------------------------------------------------------------

    async def _discover(
        self, client: CommitteeClient, ledger: Ledger, anchor: Anchor, group: asyncio.TaskGroup
    ) -> None:
        """Start a runner for each task that has none, oldest first, at most `tasks_concurrent_max` at once."""
        while True:
            try:
                tasks = await client.tasks()
            except KoinonError as error:
                refused("aggregator", error)
                log.warning("committee does not answer", extra={"code": error.code, "reason": error.message})
            else:
                self._committee_seen = time.monotonic()
                for identity in self._startable(tasks):
                    runner = Runner(identity, client, ledger, self._outbox, anchor, self._timings)
                    self.runners[identity] = runner
                    self._working[identity] = group.create_task(self._work(runner))
            await asyncio.sleep(DISCOVER_SECONDS)

    def _startable(self, tasks: dict[bytes, Task]) -> list[bytes]:
        waiting = [identity for identity in tasks if identity not in self._working and identity not in self._settled]
        waiting.sort(key=lambda identity: (tasks[identity].status != "active", tasks[identity].created_ms, identity))
        return waiting[: max(0, self._tasks_concurrent_max - len(self._working))]

    async def _work(self, runner: Runner) -> None:
        try:
            await runner.run()
            self._settled.add(runner.identity)
            runner.status.phase = "over"
            log.info("task over", extra={"task": runner.identity.hex(), "status": runner.status.status})
        finally:
            del self._working[runner.identity]

    async def _watch_chain(self, ledger: Ledger) -> None:
        while True:
            try:
                await in_thread(ledger.block_number)
                self._chain_seen = time.monotonic()
            except KoinonError as error:
                log.warning("chain does not answer", extra={"code": error.code, "reason": error.message})
            await asyncio.sleep(CHAIN_CHECK_SECONDS)

    # --- what operators ask ----------------------------------------------------------------------------------

    def readiness(self) -> dict[str, bool]:
        """Each part of readiness by name."""
        now = time.monotonic()
        return {
            "enrolled": self._enrolled,
            "committee": now - self._committee_seen < STALE_SECONDS,
            "chain": now - self._chain_seen < STALE_SECONDS,
        }

    def status(self) -> dict[str, object]:
        return {
            "ready": self.readiness(),
            "epoch": self._committees.federation.epoch,
            "tasks": [runner.status.as_dict() for _, runner in sorted(self.runners.items())],
            "outbox": self._outbox.counts(),
        }

    def _application(self) -> web.Application:
        app = application("aggregator", body_bytes_max=1024)

        async def ready(_: web.Request) -> web.Response:
            parts = self.readiness()
            return web.json_response(parts, status=200 if all(parts.values()) else 503)

        async def status(_: web.Request) -> web.Response:
            return web.json_response(self.status())

        app.router.add_get("/readyz", ready)
        app.router.add_get("/v1/status", status)
        return app


def register(ledger: Ledger, enrol: Enrol) -> None:
    """Have the chain know the admission; nothing when it does. Blocks."""
    known = ledger.member(enrol.admission.member)
    if known.serial < enrol.admission.serial:
        ledger.register(enrol.admission, enrol.signature)
