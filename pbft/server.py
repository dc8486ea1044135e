"""One replica as a service: HTTP for members, WebSockets for peers, the core in the middle.

    POST /v1/requests      ordered operations, one       GET /v1/tasks, members, refusals    the law's state
    GET  /v1/stream        ordered operations, many      GET /v1/status                      where this replica stands
    PUT /v1/blobs          public bytes by digest        POST /v1/parts                      recovery, for replicas
    POST /v1/pieces        private pieces -> receipts    GET /v1/openings                    contributions
    POST /v1/certificates  round certificates            GET /v1/faults                      whose update was false
    and what `pbft.records` shows anybody

Everything runs on one asyncio loop. Handlers read the law's state between awaits and never change it: only the
core does, in `Engine.run`. Bad input is a typed refusal, counted (`koinon.service`); a broken invariant or a
damaged disk stops the process.

It serves one epoch of the committee. `run` returns once a later one is proved and kept; who started it builds the next
one from the same home.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any

import msgspec
from aiohttp import web

from koinon.epochs import Handover
from koinon.errors import (
    ConfigError,
    InvariantBroken,
    KoinonError,
    Missing,
    Oversized,
    RemoteError,
    Unavailable,
    WrongEpoch,
)
from koinon.observe import EPOCH, LAG, LINKS, READY
from koinon.rounds.law import Federation
from koinon.rounds.state import Task
from koinon.service import answer, application, listen, read_body
from koinon.wire import CheckpointCertificate

from .chain import ChainCheck
from .custody import PIECE_BYTES_MAX, Custody
from .custody import SMALL_BYTES_MAX as SMALL
from .engine import Disk, Engine
from .events import NeedState, Settings
from .fetching import Fetcher
from .health import Health
from .home import ReplicaHome
from .messages import GENESIS
from .peers import Peers
from .quorum import Committee
from .records import Records, decimal, digest, number
from .replica import Replica
from .shelf import Shelf
from .streams import Streams
from .transfer import Order, StateTransfer
from .waiting import Budget, Changes, Shares, Shown, client_of

BODIES_BYTES_MAX = 1 << 30
BODY_SECONDS_MAX = 240.0
WATCH_MS_MAX = 30_000
WATCHERS_MAX = 4096
WATCHERS_PER_CLIENT_MAX = 512
SHOWN_ROUNDS = (1, 2, 3)
"""Of so many of a task's rounds the encoded record is kept; who wants all of them seldom asks."""
TELL_SECONDS = 0.002
"""What turns execute within it is told together."""
COLLECT_SECONDS = 600.0
EPOCH_POLL_SECONDS = 3.0
"""How often a replica without a quorum of links asks its peers whether they are in a later epoch."""
OVERTAKEN_PAUSE_SECONDS = 0.5
"""Between two such questions, whatever a peer pretends."""
FLUSH_SECONDS = 0.5
UPLOAD_HEADER = "Koinon-Upload"

log = logging.getLogger("koinon.pbft.server")


class ReplicaServer:
    """A replica with a seat. `start`, then `run` until the epoch ends, it is cancelled or it must stop, then `stop`."""

    def __init__(self, home: ReplicaHome, *, settings: Settings | None = None) -> None:
        if home.index is None:
            raise ConfigError(
                "this key has no seat in the committee",
                hint="koinon-committee seat, then the registrar's add or replace",
            )
        self.home = home
        self.federation = home.federation
        index, signer, known = home.index, home.signer, home.committees
        self.law = Federation(known.given.genesis)
        committees = {each.epoch: Committee(each.replica_addresses) for each in known.epochs}
        base = known.last.certificate if known.last else GENESIS
        epoch, domain = self.federation.epoch, self.federation.domain
        self.replica = Replica(index, committees, epoch, domain, signer, self.law, settings, base)
        self.changes = Changes(waiting_max=WATCHERS_MAX)
        self.fetcher = Fetcher(self.federation, index, signer)
        self.custody = Custody(
            self.federation,
            index,
            signer,
            self.law,
            self.fetcher,
            self.changes,
            home.data,
            sealing=home.sealing(),
            key_share=home.key_share(),
        )
        self.disk = Disk(home.data)
        self.health = Health(self.disk)
        self.engine = Engine(
            self.replica,
            self.disk,
            send=self._send,
            need=self._need,
            changed=self._changed,
            turned=self.health.turned,
            blame=self._blame,
        )
        self.shelf = Shelf(self.disk.archive, home.data / "snapshots")
        self.transfer = StateTransfer(
            Order(self.replica.committee.n, index),
            self.fetcher.ask,
            self.engine.catch_up,
            self._require_ours,
            home.data / "incoming",
            weak=self.replica.committee.weak,
        )
        self._overtaken = asyncio.Event()
        self.peers = Peers(self.federation, index, signer, self.engine.hear, self._overtaken.set)
        self.streams = Streams(epoch, self.engine.ask, self.replica.seal)
        self.chain = ChainCheck(known.given)
        self.address: tuple[str, int] | None = None
        self._watchers = Shares("long polls", all_max=WATCHERS_MAX, each_max=WATCHERS_PER_CLIENT_MAX)
        self._shown = Shown()
        self._telling = False
        self._budget = Budget(BODIES_BYTES_MAX, sender_bytes_max=BODIES_BYTES_MAX // 4)
        self._runner: web.AppRunner | None = None
        self._helpers: dict[str, asyncio.Task[None]] = {}
        self._fatal: asyncio.Future[None] | None = None

    # --- life ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Recover, listen, dial, ask the chain. Raises what makes this replica unfit to serve."""
        self._fatal = asyncio.get_running_loop().create_future()
        self.engine.recover()
        await self.fetcher.start()
        self._runner, self.address = await listen(self._application(), self.home.path, self.home.config)
        await self.peers.start()
        self._help("chain", self._ask_chain())
        self._help("collector", self._collect())
        self._changed()
        EPOCH.set(self.federation.epoch)
        LINKS.set_function(lambda: len(self.peers.connected))
        LAG.set_function(self._lag)
        READY.set_function(lambda: float(not self._reasons()))
        about = {"index": self.replica.index, "epoch": self.federation.epoch}
        log.info("serving", extra={**about, "address": f"{self.address[0]}:{self.address[1]}"})

    async def run(self) -> None:
        """Serve until a later epoch is proved and kept. Raises what the replica must not survive (InvariantBroken,
        WrongChain, ...)."""
        if self._fatal is None:
            raise RuntimeError("start first")
        engine, later = asyncio.create_task(self.engine.run()), asyncio.create_task(self._hear_of_later_epoch())
        try:
            await asyncio.wait({engine, later, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
            for done in (engine, later, self._fatal):
                if done.done():
                    done.result()
        finally:
            for task in (engine, later):
                task.cancel()
            await asyncio.gather(engine, later, return_exceptions=True)
        if self.engine.ended is not None:
            await self._hand_over(self.engine.ended)
        log.info("epoch over", extra={"epoch": self.federation.epoch, "next": self.home.federation.epoch})
        self.engine.refuse_all(Unavailable("the committee hands over to its next epoch", hint="send it again"))
        await self.peers.flush(FLUSH_SECONDS)

    async def _hand_over(self, certificate: CheckpointCertificate) -> None:
        """Keep the proof of this epoch's end: from then on this home is in the next one."""
        handover = Handover(certificate=certificate, seats=self.law.seats)
        try:
            await self.disk.run(lambda: self.home.committees.add([handover]))
        except RemoteError as error:
            raise InvariantBroken(f"our own handover does not verify: {error.message}") from error

    async def _hear_of_later_epoch(self) -> None:
        """Until a peer proves that the committee handed over without us."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EPOCH_POLL_SECONDS):
                    await self._overtaken.wait()
            alone = len(self.peers.connected) + 1 < self.replica.committee.quorum
            if self._overtaken.is_set() or alone:
                self._overtaken.clear()
                if found := await self.fetcher.handovers():
                    await self.disk.run(lambda: self.home.committees.add(found))
                    return
                await asyncio.sleep(OVERTAKEN_PAUSE_SECONDS)

    async def stop(self) -> None:
        """Take no more, finish what is being written, close."""
        self.engine.refuse_all(Unavailable("this replica stops", hint="send it again"))
        for task in self._helpers.values():
            task.cancel()
        await asyncio.gather(*self._helpers.values(), return_exceptions=True)
        await self.peers.stop()
        await self.streams.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.custody.stop()
        await self.fetcher.stop()
        self.shelf.stop()
        self.disk.close()

    def _help(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the loop, once at a time for each name."""
        if name in self._helpers:
            work.close()
            return
        task = asyncio.create_task(work, name=name)
        self._helpers[name] = task

        def finished(done: asyncio.Task[None]) -> None:
            self._helpers.pop(name, None)
            if not done.cancelled() and (error := done.exception()) is not None:
                log.error("helper failed", extra={"helper": name, "reason": repr(error)})

        task.add_done_callback(finished)

    # --- what the engine asks for ----------------------------------------------------------------------------

    def _send(self, peers: Any, data: bytes) -> None:
        self.peers.send(peers, data)

    def _blame(self, peer: int) -> None:
        self.peers.blame(peer)

    def _need(self, wanted: NeedState) -> None:
        self._help("state", self.transfer.bring(wanted.from_sequence))

    def _require_ours(self, certificate: CheckpointCertificate) -> None:
        """A KoinonError unless our committee certified it, or our epoch begins with it."""
        checkpoint, replica = certificate.checkpoint, self.replica
        if checkpoint.epoch != replica.epoch and checkpoint != replica.base.checkpoint:
            raise WrongEpoch(f"a checkpoint of epoch {checkpoint.epoch} in epoch {replica.epoch}")
        replica.verifier.checkpoint(certificate)

    def _changed(self) -> None:
        """Something was executed: tell who waits for that, after those whose request it was."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self.changes.notify()
        if self.custody.finished():
            self._help("erase", self.custody.forget_finished())

    async def _collect(self) -> None:
        while True:
            await asyncio.sleep(COLLECT_SECONDS)
            try:
                await self.custody.collect(self.disk.archive)
            except KoinonError as error:
                log.error("no blobs collected", extra={"reason": error.message})

    async def _ask_chain(self) -> None:
        """Ask again until the chain answers; one that contradicts the federation file ends this replica."""
        try:
            await self.chain.keep_checking()
        except Exception as error:
            if self._fatal is not None and not self._fatal.done():
                self._fatal.set_exception(error)

    # --- HTTP ------------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = application("pbft", body_bytes_max=PIECE_BYTES_MAX + SMALL, healthy=self.health.problems)
        Records(self.home, self.disk, self.shelf, self.custody.blobs).mount(app)
        route = app.router
        route.add_get("/readyz", self._ready)
        route.add_get("/v1/peer", self.peers.accept)
        route.add_post("/v1/requests", self._request)
        route.add_get("/v1/stream", self.streams.accept)
        route.add_get("/v1/tasks", self._tasks)
        route.add_get("/v1/tasks/{task}", self._task)
        route.add_get("/v1/masks/{task}", self._masks)
        route.add_get("/v1/members", self._members)
        route.add_get("/v1/refusals", self._refusals)
        route.add_get("/v1/status", self._status)
        route.add_put("/v1/blobs/{digest}", self._put_blob)
        route.add_post("/v1/pieces", self._piece)
        route.add_post("/v1/parts", self._part)
        route.add_get("/v1/faults/{task}/{round}", self._faults)
        route.add_get("/v1/openings/{task}/{round}", self._opening)
        route.add_post("/v1/certificates", self._certificate)
        return app

    async def _request(self, request: web.Request) -> web.Response:
        body = await read_body(request, bytes_max=self.replica.settings.request_bytes_max)
        return answer(self.replica.seal(await self.engine.ask(body)))

    async def _tasks(self, _: web.Request) -> web.Response:
        tasks = self.law.state.tasks
        return self._show("tasks", lambda: {identity: _last_rounds(task, 1) for identity, task in tasks.items()})

    def _show(self, what: Hashable, make: Callable[[], object]) -> web.Response:
        return answer(self._shown.get(self.replica.executed, what, make))

    async def _task(self, request: web.Request) -> web.Response:
        identity = digest(request.match_info["task"])
        after, wait_ms, rounds = (
            number(request, "after", -1, low=-1),
            number(request, "wait_ms", 0),
            number(request, "rounds", 0),
        )
        stage = request.query.get("stage", "")
        seconds = min(wait_ms, WATCH_MS_MAX) / 1000

        def moved() -> bool:
            task = self._find_task(identity)
            return task.version > after and task.stage != stage

        if seconds and not moved():
            with self._watchers.hold(client_of(request.remote)):
                await self.changes.until(moved, seconds)
        if rounds not in SHOWN_ROUNDS:
            return answer(_last_rounds(self._find_task(identity), rounds))
        return self._show((identity, rounds), lambda: _last_rounds(self._find_task(identity), rounds))

    def _find_task(self, identity: bytes) -> Task:
        task = self.law.state.tasks.get(identity)
        if task is None:
            raise Missing(f"no task 0x{identity.hex()}")
        return task

    async def _masks(self, request: web.Request) -> web.Response:
        board = self.law.state.boards.get(digest(request.match_info["task"]))
        if board is None:
            raise Missing("no masks are announced: the task has no open round of mode masked")
        return answer(board)

    async def _members(self, _: web.Request) -> web.Response:
        return answer(self.law.state.members)

    async def _refusals(self, _: web.Request) -> web.Response:
        return answer(self.law.state.refusals)

    def _standing(self) -> dict[str, Any]:
        replica = self.replica
        return {
            "state": self._state(),
            "index": replica.index,
            "view": replica.view,
            "active": replica.active,
            "primary": replica.primary,
            "sequence": replica.executed,
            "checkpoint": replica.stable,
            "epoch": self.federation.epoch,
            "changing": self.law.pending_change(),
            "peers": list(self.peers.connected),
            "lag": self._lag(),
            "catching_up": self.engine.catching_up,
            "clock_ahead_seconds": self.engine.reports.clock_ahead_ms / 1000,
            "recovering": replica.waits_for,
            "chain": self.chain.state,
            "evidence": len(self.disk.evidence.kept),
            "dropped": self.peers.dropped(),
            "barred": {str(peer): seconds for peer, seconds in self.peers.conduct.barred().items()},
        }

    def _lag(self) -> int:
        return max(0, self.replica.claimed - self.replica.executed)

    def _reasons(self) -> list[str]:
        """Why this replica cannot do its part now; the chain is not required for it."""
        found = []
        if len(self.peers.connected) + 1 < self.replica.committee.quorum:
            found.append("no quorum of links")
        if self.engine.reports.clock_ahead_ms:
            found.append("clock is wrong")
        if self.engine.catching_up:
            found.append("catching up")
        if not self.replica.active:
            found.append("view change in progress")
        if self.replica.recovering:
            found.append(f"recovering: waits for {self.replica.waits_for}")
        return found

    def _state(self) -> str:
        return (self._reasons() or ["active"])[0]

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._standing())

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._reasons()
        body = {"ready": not reasons, "reasons": reasons, **self._standing()}
        return web.json_response(body, status=503 if reasons else 200)

    async def _put_blob(self, request: web.Request) -> web.Response:
        name = digest(request.match_info["digest"])
        said = self.custody.announced(request.headers.get(UPLOAD_HEADER, ""))
        sender, size = self.custody.authorise_upload(name, said)
        async with self._budget.reserve(sender, size):
            content = await read_body(request, bytes_max=size, seconds=BODY_SECONDS_MAX)
            await self.custody.keep_blob(sender, name, content)
        return answer(b"")

    async def _piece(self, request: web.Request) -> web.Response:
        said = self.custody.announced(request.headers.get(UPLOAD_HEADER, ""))
        size = said.message.size
        if size > PIECE_BYTES_MAX:
            raise Oversized(f"a piece of {size} bytes where at most {PIECE_BYTES_MAX} are allowed")
        async with self._budget.reserve(said.sender, size):
            body = await read_body(request, bytes_max=size, seconds=BODY_SECONDS_MAX)
            return answer(await self.custody.receive_piece(body))

    async def _part(self, request: web.Request) -> web.Response:
        return answer(await self.custody.part(await read_body(request, bytes_max=SMALL)))

    async def _faults(self, request: web.Request) -> web.Response:
        task, number = digest(request.match_info["task"]), decimal(request.match_info["round"], "round")
        return answer(self.custody.faults(task, number))

    async def _opening(self, request: web.Request) -> web.Response:
        task, number = digest(request.match_info["task"]), decimal(request.match_info["round"], "round")
        return answer(await self.custody.contribution(task, number))

    async def _certificate(self, request: web.Request) -> web.Response:
        return answer(await self.custody.certificate(await read_body(request, bytes_max=SMALL)))


def _last_rounds(task: Task, count: int) -> Task:
    """The task with its last `count` rounds (all for 0)."""
    return msgspec.structs.replace(task, rounds=task.rounds[-count:]) if count else task
