"""The agent: a long-running process that takes part in every active task whose app this node offers.

It enrols the node when an admission is there, finds tasks, and gives each a `Follower`. When the committee or the chain
does not answer it goes Offline and tries again with capped backoff; what was in flight is resumed from disk. Its state
(`lifecycle.py`) is kept in data/lifecycle.json and shown at /readyz.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aiohttp import web

from koinon.client import CommitteeClient
from koinon.config import NodeSettings, write_atomically
from koinon.errors import ConfigError, KoinonError, LedgerError, RemoteError, TrainingError, Unavailable
from koinon.ledger import Ledger
from koinon.observe import configure_logging, refused
from koinon.privacy import MODES
from koinon.rounds.operations import TaskSpec
from koinon.rounds.state import Member
from koinon.service import application, listen
from koinon.wire import Role

from .apps import load
from .follower import Follower
from .home import Home, register
from .lifecycle import Event, State, advance
from .masking import Masking
from .participation import Participation
from .submissions import Submissions

SCAN_SECONDS = 1.0
MEMBERSHIP_SECONDS = 10.0
"""How long the node's membership is taken for granted before it is looked up again."""
BACKOFF_FIRST_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 10.0
ANSWER_SECONDS = 15.0
LOAD_SECONDS = 300.0
OVERRUNS_MAX = 4
"""So many calls of the user's code that never ended are borne; then the process ends, to be started afresh."""

log = logging.getLogger("koinon.node.agent")
T = TypeVar("T")


class Agent:
    """`run` until SIGTERM or SIGINT. One a home."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._node = home.signer.address
        self.state = State.NOT_READY
        self._ledger: Ledger | None = None
        self._member: Member | None = None
        self._member_seen = 0.0
        self._followers: dict[bytes, asyncio.Task[None]] = {}
        self._refused_tasks: set[bytes] = set()
        self._over: set[bytes] = set()
        self._stop = asyncio.Event()

    # --- life cycle ------------------------------------------------------------------------------------------

    def fire(self, event: Event, **about: object) -> None:
        """Advance the life cycle; a change of state is kept on disk and logged."""
        before, self.state = self.state, advance(self.state, event)
        if before is self.state and event is not Event.STARTED:
            return
        kept = {"state": self.state.value, "since_ms": time.time_ns() // 1_000_000, **about}
        write_atomically(self._home.data / "lifecycle.json", json.dumps(kept).encode() + b"\n")
        log.info("state", extra={"was": before.value, "state": self.state.value, "because": event.value, **about})

    def _last_state(self) -> str:
        try:
            return str(json.loads((self._home.data / "lifecycle.json").read_text())["state"])
        except (OSError, ValueError, KeyError, TypeError):
            return "never started"

    # --- running ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        log.info("agent starts", extra={"address": "0x" + self._node.hex(), "last_state": self._last_state()})
        self.fire(Event.STARTED)
        service = application("node")
        service.router.add_get("/readyz", self._ready)
        runner, (host, port) = await listen(service, self._home.path, self._home.config)
        log.info("listening", extra={"host": host, "port": port})
        try:
            async with self._home.committee(signing=True) as committee:
                work = asyncio.create_task(self._work(committee))
                stopped = asyncio.create_task(self._stop.wait())
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if not work.done():
                    work.cancel()
                for follower in self._followers.values():
                    follower.cancel()
                await asyncio.gather(work, *self._followers.values(), return_exceptions=True)
                if not work.cancelled() and (error := work.exception()) is not None:
                    raise error
        finally:
            await runner.cleanup()
            log.info("agent ends")

    async def _ready(self, _: web.Request) -> web.Response:
        ready = self.state in (State.ONLINE, State.READY, State.RUNNING)
        body = {
            "ready": ready,
            "state": self.state.value,
            "tasks": len(self._followers),
            "epoch": self._home.committees.federation.epoch,
        }
        return web.json_response(body, status=200 if ready else 503)

    async def _work(self, committee: CommitteeClient) -> None:
        submissions = Submissions(self._home.data / "submissions")
        masking = Masking(committee, self._connect, self._home.data / "masks", self._home.signer)
        participation = Participation(committee, self._connect, submissions, masking, self._node)
        await self._preload(participation)
        pause = BACKOFF_FIRST_SECONDS
        while True:
            try:
                if await self._enrolled(committee):
                    await self._scan(committee, participation, submissions)
                pause = BACKOFF_FIRST_SECONDS
                await asyncio.sleep(SCAN_SECONDS)
            except (RemoteError, LedgerError) as error:
                refused("node", error)
                self.fire(Event.LOST)
                log.warning("offline", extra={"code": error.code, "reason": error.message, "again_in": pause})
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACKOFF_MAX_SECONDS)
            if participation.overruns >= OVERRUNS_MAX:
                raise TrainingError(
                    f"{participation.overruns} calls of the app never ended", hint="start the agent again"
                )

    async def _preload(self, participation: Participation) -> None:
        """Import the configured apps now: a broken one is told before a task needs it, and round 1 does not wait."""
        for name in self._home.config.node.apps:
            begun = time.monotonic()
            try:
                await participation.run_app(
                    partial(load, self._home.config.node, name, self._home.path), name, LOAD_SECONDS
                )
            except (ConfigError, TrainingError) as error:
                refused("node", error)
                extra = {"app": name, "reason": error.message, "hint": error.hint or ""}
                log.error("app does not load", extra=extra, exc_info=error.__cause__)
            else:
                log.info("app loaded", extra={"app": name, "seconds": round(time.monotonic() - begun, 2)})

    def _connect(self) -> Ledger:
        """The chain, connected once and checked to be the federation's. Blocks."""
        if self._ledger is None:
            self._ledger = self._home.ledger()
        return self._ledger

    async def _enrolled(self, committee: CommitteeClient) -> bool:
        """Whether the committee knows this node; hands in the home's admission when it does not, or has a newer one."""
        if self._member is not None and time.monotonic() - self._member_seen < MEMBERSHIP_SECONDS:
            return True
        member = (await _soon(committee.members())).get(self._node)
        if member is None or not member.active or not member.roles & Role.NODE:
            if self._member is not None:
                log.warning("membership ended")
                self.fire(Event.REVOKED)
                for follower in self._followers.values():
                    follower.cancel()
            self._member = None
            if not await self._hand_in(member):
                return False
            member = (await _soon(committee.members())).get(self._node)
        if member is None or not member.active or not member.roles & Role.NODE:
            return False
        known, self._member, self._member_seen = self._member, member, time.monotonic()
        if known is None or self.state is State.NOT_READY:
            self.fire(Event.ENROLLED)
        return True

    async def _hand_in(self, member: Member | None) -> bool:
        from koinon.admission import load_admission

        try:
            serial = load_admission(self._home.admission).admission.serial
            if member is not None and serial <= member.serial:
                return False
            done = await register(self._home)
        except (RemoteError, LedgerError):
            raise
        except KoinonError as error:
            log.warning("not a member", extra={"reason": error.message, "hint": error.hint or ""})
            return False
        log.info("registered", extra=done)
        return True

    # --- tasks -----------------------------------------------------------------------------------------------

    async def _scan(self, committee: CommitteeClient, participation: Participation, submissions: Submissions) -> None:
        """Start a follower for each active task of an app that is offered here; pass on why one ended."""
        for identity, done in list(self._followers.items()):
            if done.done():
                del self._followers[identity]
                if done.cancelled():
                    continue
                if (error := done.exception()) is None:
                    self._over.add(identity)
                elif isinstance(error, RemoteError | LedgerError):
                    raise error
                else:
                    log.error("follower failed", exc_info=error, extra={"task": identity.hex()})
        tasks = await _soon(committee.tasks())
        self.fire(Event.FOUND)
        for identity, task in tasks.items():
            last = task.current()
            unmeasured = (
                last is not None
                and last.phase == "certified"
                and self._node in last.cohort
                and self._node not in last.evaluation.reporters
            )
            if identity in self._followers or identity in self._over or not (task.status == "active" or unmeasured):
                continue
            if not self._offers(identity, task.spec):
                continue
            follower = Follower(self._home, self, committee, participation, submissions, identity, self._examples_max)
            self._followers[identity] = asyncio.create_task(follower.run())
            log.info("following", extra={"task": identity.hex(), "title": task.spec.name})
        self.fire(Event.INVITED if self._followers else Event.RELEASED)

    def _offers(self, identity: bytes, spec: TaskSpec) -> bool:
        """Only apps, privacy modes and cohorts of this node's own configuration are ever served."""
        why = unwelcome(self._home.config.node, spec)
        if why and identity not in self._refused_tasks:
            self._refused_tasks.add(identity)
            error = ConfigError(why)
            refused("node", error)
            log.warning("task refused", extra={"task": identity.hex(), "reason": error.message})
        return not why

    def _examples_max(self) -> int:
        return self._member.examples_max if self._member else 1


def unwelcome(settings: NodeSettings, spec: TaskSpec) -> str:
    """Why a node with these settings does not serve the task; "" when it does."""
    if spec.app not in settings.apps:
        return f"a task asks for the app {spec.app!r}, which this node does not offer"
    if settings.modes and spec.mode not in settings.modes:
        return f"a task asks for the mode {spec.mode!r}; this node's config.toml allows {', '.join(settings.modes)}"
    if spec.cohort_min < settings.cohort_min:
        return f"a task opens sums of {spec.cohort_min} updates; this node's cohort_min is {settings.cohort_min}"
    return ""


async def _soon(answer: Coroutine[Any, Any, T]) -> T:
    """An answer of the committee; Unavailable when replicas hang instead of refusing."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError:
        raise Unavailable(f"the committee gave no answer within {ANSWER_SECONDS:g} s") from None


def run_agent(home: Home) -> None:
    """Run the agent of `home` until it is told to stop. ConfigError for a home that is no node's."""
    home.require_node()
    if unknown := set(home.config.node.modes) - set(MODES):
        raise ConfigError(
            f"[node] modes: no such mode: {', '.join(sorted(unknown))}", hint=f"known: {', '.join(MODES)}"
        )
    configure_logging(home.config.log_level)
    threads = str(max(1, home.config.node.threads))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = threads  # read when torch is imported, which only an app does
    asyncio.run(_main(home))


async def _main(home: Home) -> None:
    await Agent(home).run()
