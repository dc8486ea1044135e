"""One replica as a service: HTTP for members, WebSockets for peers, the core in the middle.

    POST /v1/requests      ordered operations, one       GET /v1/tasks, members, refusals    the law's state
    GET  /v1/stream        ordered operations, many      GET /v1/status                      where this replica stands
    PUT/GET /v1/blobs      public bytes by digest        GET /v1/log, checkpoint, evidence   the ordered log
    POST /v1/pieces        private pieces -> receipts    POST /v1/parts                      recovery, for replicas
    GET /v1/openings       contributions                 POST /v1/certificates               round certificates

Everything runs on one asyncio loop. Handlers read the law's state between awaits and never change it: only the
core does, in `Engine.run`. Bad input is a typed refusal, counted (`koinon.service`); a broken invariant or a
damaged disk stops the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from koinon.config import FederationFile, PartyConfig, load_federation, load_party, party_signer
from koinon.encoding import from_hex
from koinon.errors import ConfigError, Malformed, Missing, Oversized, Unavailable, WrongEpoch
from koinon.privacy import SealingKey
from koinon.privacy.sealing import key_share_context
from koinon.rounds.law import Federation
from koinon.rounds.state import Task
from koinon.service import CONTENT_TYPE, answer, application, listen, read_body
from koinon.signing import Signer
from koinon.wire import CheckpointCertificate

from .chain import ChainCheck
from .custody import PIECE_BYTES_MAX, Custody
from .custody import SMALL_BYTES_MAX as SMALL
from .engine import Disk, Engine
from .events import NeedState, Settings
from .fetching import Fetcher
from .peers import Peers
from .quorum import Committee
from .replica import Replica
from .shelf import Shelf
from .streams import Streams
from .transfer import Order, StateTransfer
from .waiting import Budget, Changes

BODIES_BYTES_MAX = 1 << 30
BODY_SECONDS_MAX = 240.0
WATCH_MS_MAX = 30_000
WATCHERS_MAX = 4096
LOG_ENTRIES_MAX = 1024
UPLOAD_HEADER = "Koinon-Upload"

log = logging.getLogger("koinon.pbft.server")


class ReplicaServer:
    """A replica that lives in `home`. `start`, then `run` until it is cancelled or must stop, then `stop`."""

    def __init__(self, home: Path, *, settings: Settings | None = None) -> None:
        self.home = home
        self.config = load_party(home)
        self.federation = load_federation(home / self.config.federation)
        signer = party_signer(home, self.config)
        _require_seat(self.federation, self.config, signer)
        index, data = self.config.index, home / self.config.data
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.law = Federation(self.federation.genesis)
        epoch, committee = self.federation.epoch, Committee(self.federation.replica_addresses)
        self.replica = Replica(index, {epoch: committee}, epoch, self.federation.domain, signer, self.law, settings)
        self.changes = Changes(waiting_max=WATCHERS_MAX)
        self.fetcher = Fetcher(self.federation, index, signer)
        self.custody = Custody(
            self.federation,
            index,
            signer,
            self.law,
            self.fetcher,
            self.changes,
            data,
            key_share=_key_share(home, self.federation, index, signer),
        )
        self.disk = Disk(data)
        self.engine = Engine(
            self.replica, self.disk, send=self._send, need=self._need, changed=self._changed, blame=self._blame
        )
        self.shelf = Shelf(self.disk.archive, data / "snapshots")
        self.transfer = StateTransfer(
            Order(committee.n, index),
            self.fetcher.ask,
            self.engine.catch_up,
            self._require_ours,
            data / "incoming",
        )
        self.peers = Peers(self.federation, index, signer, self.engine.hear)
        self.streams = Streams(self.engine.ask)
        self.chain = ChainCheck(self.federation)
        self.address: tuple[str, int] | None = None
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
        self._runner, self.address = await listen(self._application(), self.home, self.config)
        await self.peers.start()
        self._help("chain", self._ask_chain())
        self._changed()
        log.info("serving", extra={"index": self.replica.index, "address": f"{self.address[0]}:{self.address[1]}"})

    async def run(self) -> None:
        """Serve until cancelled. Raises what the replica must not survive (InvariantBroken, WrongChain, ...)."""
        if self._fatal is None:
            raise RuntimeError("start first")
        engine = asyncio.create_task(self.engine.run())
        try:
            await asyncio.wait({engine, self._fatal}, return_when=asyncio.FIRST_COMPLETED)
            for done in (engine, self._fatal):
                if done.done():
                    done.result()
        finally:
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)

    async def stop(self) -> None:
        """Take no more, finish what is being written, close."""
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
        self.changes.notify()
        if self.custody.finished():
            self._help("erase", self.custody.forget_finished())

    async def _ask_chain(self) -> None:
        """Ask again until the chain answers; one that contradicts the federation file ends this replica."""
        try:
            await self.chain.keep_checking()
        except Exception as error:
            if self._fatal is not None and not self._fatal.done():
                self._fatal.set_exception(error)

    # --- HTTP ------------------------------------------------------------------------------------------------

    def _application(self) -> web.Application:
        app = application("pbft", body_bytes_max=PIECE_BYTES_MAX + SMALL)
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
        route.add_get("/v1/log", self._log)
        route.add_get("/v1/checkpoint", self._checkpoint)
        route.add_get("/v1/snapshots/{sequence}", self._snapshot)
        route.add_get("/v1/evidence", self._evidence)
        route.add_put("/v1/blobs/{digest}", self._put_blob)
        route.add_get("/v1/blobs/{digest}", self._get_blob)
        route.add_post("/v1/pieces", self._piece)
        route.add_post("/v1/parts", self._part)
        route.add_get("/v1/openings/{task}/{round}", self._opening)
        route.add_post("/v1/certificates", self._certificate)
        return app

    async def _request(self, request: web.Request) -> web.Response:
        body = await read_body(request, bytes_max=self.replica.settings.request_bytes_max)
        return answer(await self.engine.ask(body))

    async def _tasks(self, _: web.Request) -> web.Response:
        return answer({identity: _last_rounds(task, 1) for identity, task in self.law.state.tasks.items()})

    async def _task(self, request: web.Request) -> web.Response:
        identity = _digest(request.match_info["task"])
        after, wait_ms, rounds = (
            _number(request, "after", -1, low=-1),
            _number(request, "wait_ms", 0),
            _number(request, "rounds", 0),
        )
        self._find_task(identity)
        await self.changes.until(lambda: self._find_task(identity).version > after, min(wait_ms, WATCH_MS_MAX) / 1000)
        return answer(_last_rounds(self._find_task(identity), rounds))

    def _find_task(self, identity: bytes) -> Task:
        task = self.law.state.tasks.get(identity)
        if task is None:
            raise Missing(f"no task 0x{identity.hex()}")
        return task

    async def _masks(self, request: web.Request) -> web.Response:
        board = self.law.state.boards.get(_digest(request.match_info["task"]))
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
            "index": replica.index,
            "view": replica.view,
            "active": replica.active,
            "primary": replica.primary,
            "sequence": replica.executed,
            "checkpoint": replica.stable,
            "epoch": self.federation.epoch,
            "peers": list(self.peers.connected),
            "lag": max(0, replica._claimed() - replica.executed),
            "catching_up": self.engine.catching_up,
            "chain": self.chain.state,
            "evidence": len(self.disk.evidence.kept),
            "dropped": self.peers.dropped(),
            "barred": {str(peer): seconds for peer, seconds in self.peers.conduct.barred().items()},
        }

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._standing())

    async def _ready(self, _: web.Request) -> web.Response:
        """Ready: a quorum with the connected peers, and not catching up. The chain is told, and not required."""
        enough = len(self.peers.connected) + 1 >= self.replica.committee.quorum
        ready = enough and not self.engine.catching_up
        return web.json_response({"ready": ready, **self._standing()}, status=200 if ready else 503)

    async def _log(self, request: web.Request) -> web.Response:
        first = _number(request, "from", 1)
        limit = min(_number(request, "limit", 256), LOG_ENTRIES_MAX)
        return answer(await self.shelf.page(first, limit))

    async def _checkpoint(self, _: web.Request) -> web.Response:
        return answer(await self.shelf.checkpoint())

    async def _snapshot(self, request: web.Request) -> web.Response:
        sequence = _decimal(request.match_info["sequence"], "sequence number")
        return answer(await self.shelf.chunk(sequence, _number(request, "from", 0)))

    async def _evidence(self, _: web.Request) -> web.Response:
        return answer(self.disk.evidence.kept)

    async def _put_blob(self, request: web.Request) -> web.Response:
        digest = _digest(request.match_info["digest"])
        said = self.custody.announced(request.headers.get(UPLOAD_HEADER, ""))
        sender, size = self.custody.authorise_upload(digest, said)
        async with self._budget.reserve(sender, size):
            content = await _body(request, bytes_max=size)
            await self.custody.keep_blob(sender, digest, content)
        return answer(b"")

    async def _get_blob(self, request: web.Request) -> web.StreamResponse:
        digest = _digest(request.match_info["digest"])
        if digest not in self.custody.blobs:
            raise Missing(f"no blob 0x{digest.hex()} here")
        return web.FileResponse(self.custody.blobs.path(digest), headers={"Content-Type": CONTENT_TYPE})

    async def _piece(self, request: web.Request) -> web.Response:
        said = self.custody.announced(request.headers.get(UPLOAD_HEADER, ""))
        size = said.message.size
        if size > PIECE_BYTES_MAX:
            raise Oversized(f"a piece of {size} bytes where at most {PIECE_BYTES_MAX} are allowed")
        async with self._budget.reserve(said.sender, size):
            return answer(await self.custody.receive_piece(await _body(request, bytes_max=size)))

    async def _part(self, request: web.Request) -> web.Response:
        return answer(await self.custody.part(await read_body(request, bytes_max=SMALL)))

    async def _opening(self, request: web.Request) -> web.Response:
        task, number = _digest(request.match_info["task"]), _decimal(request.match_info["round"], "round")
        return answer(await self.custody.contribution(task, number))

    async def _certificate(self, request: web.Request) -> web.Response:
        return answer(await self.custody.certificate(await read_body(request, bytes_max=SMALL)))


def _require_seat(federation: FederationFile, config: PartyConfig, signer: Signer) -> None:
    """ConfigError unless this key is the committee's at the configured index, with the sealing key announced."""
    if config.role != "replica" or not 0 <= config.index < len(federation.replicas):
        raise ConfigError(f"the home is that of {config.role} {config.index}, not of a replica of this federation")
    entry = federation.replicas[config.index]
    if from_hex(entry.address) != signer.address:
        raise ConfigError(f"the keystore is not that of replica {config.index} (0x{signer.address.hex()})")
    if from_hex(entry.sealing_key) != SealingKey.derive(signer.secret, federation.epoch).public:
        raise ConfigError(f"federation.json announces another sealing key for replica {config.index}")


def _key_share(home: Path, federation: FederationFile, index: int, signer: Signer) -> bytes:
    """This replica's share of the Paillier key, unsealed; b"" in a federation without one."""
    if federation.paillier is None:
        return b""
    path = home / "paillier-share"
    try:
        box = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the share of the Paillier key cannot be read: {error}") from None
    context = key_share_context(from_hex(federation.paillier.public_key), index)
    return SealingKey.derive(signer.secret, federation.epoch).open(box, context)


def _last_rounds(task: Task, count: int) -> Task:
    """The task with its last `count` rounds (all for 0)."""
    return msgspec.structs.replace(task, rounds=task.rounds[-count:]) if count else task


def _digest(text: str) -> bytes:
    raw = from_hex(text) if len(text) <= 66 else b""
    if len(raw) != 32:
        raise Malformed(f"not 32 bytes in hexadecimal: {text[:80]!r}")
    return raw


def _decimal(text: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise Malformed(f"not a {what}: {text[:20]!r}")
    return int(text)


async def _body(request: web.Request, *, bytes_max: int) -> bytes:
    """A large body, as long as it comes in time: who sends slowly must not hold the budget of others."""
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            return await read_body(request, bytes_max=bytes_max)
    except TimeoutError:
        raise Unavailable("the body came too slowly") from None


def _number(request: web.Request, name: str, default: int, *, low: int = 0) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = int(text[:20])
    except ValueError:
        value = low - 1
    if value < low:
        raise Malformed(f"{name} is not a number from {low} on: {text[:20]!r}")
    return value
