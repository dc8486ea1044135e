"""The loop around the core: events in, effects out, in order, and nothing said before it is on disk.

Rules. One task steps the core; between two steps of one turn nothing awaits. A turn drains the inbox, steps each
event, writes what must be remembered in one go (one sync for all of it), and only then sends and answers. While the
disk works, events gather for the next turn: that is what groups syncs under load. A disk that answers at once is
written from the loop itself, because handing the work to a thread and back costs more than the write; a slow one, and
checkpoints, get the thread. A broken invariant ends `run`, and with it the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter, Gauge

from koinon.config import JOURNAL_FILE
from koinon.encoding import encode
from koinon.errors import KoinonError, RemoteError, Unavailable, WrongEpoch
from koinon.observe import SEQUENCE, refused
from koinon.wire import CheckpointCertificate, CommittedBatch, Reply

from .archive import Archive
from .events import (
    ALL,
    CatchUp,
    ClientRequest,
    ClocksDiffer,
    Committed,
    Effect,
    EpochEnded,
    Evidence,
    GaveUp,
    Ignored,
    Misbehaved,
    NeedState,
    Persist,
    Received,
    Recovered,
    Refuse,
    Respond,
    Send,
    StableCheckpoint,
    SyncArchive,
    Tick,
)
from .evidence import EvidenceFile, transferable
from .inbox import CLIENTS, OWN, Inbox
from .journal import Journal, Snapshots
from .messages import Recovering
from .replica import Replica
from .replies import Replies
from .reports import Reports

TURN_EVENTS_MAX = 512
CATCHING_UP_MS = 1500
AT_ONCE_SECONDS = 0.0005
STOPPED_MS_MIN = 500
"""A gap between two ticks beyond this is the machine's doing, not the committee's. What is below it always counts, so
that replicas that are short of breath for ever still replace a primary that is gone."""

IGNORED = Counter("koinon_ignored_total", "Correct messages of replicas that came too early, late or often", ["reason"])
EXECUTED = Counter("koinon_executed_total", "Requests that this replica executed")
EVIDENCE = Counter("koinon_equivocations_total", "Replicas caught signing two words for one slot")
CHECKPOINT = Gauge("koinon_checkpoint", "The last stable checkpoint's sequence number")

log = logging.getLogger("koinon.pbft")
T = TypeVar("T")
Written = Persist | Committed | SyncArchive | StableCheckpoint | Evidence


class Disk:
    """The replica's four files: journal, archive, snapshots, evidence. One `perform` at a time; readers use `run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / JOURNAL_FILE)
        self.snapshots = Snapshots(folder / "snapshots")
        self.archive = Archive(folder / "archive", settled=self.snapshots.newest() or 0)
        self.evidence = EvidenceFile(folder / "evidence")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._usual_s = 1.0

    def recovered(self, now_ms: int) -> Recovered:
        """What a restart starts from."""
        certificate, snapshot = self.snapshots.latest() or (None, None)
        entries: list[CommittedBatch] = []
        start = certificate.checkpoint.sequence + 1 if certificate else 1
        while page := self.archive.read(start + len(entries), 1024):
            entries += page
        return Recovered(now_ms, self.journal.records, tuple(entries), certificate, snapshot)

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def perform(self, effects: Sequence[Written]) -> None:
        """`write`, from where it costs least."""
        if any(isinstance(effect, SyncArchive | StableCheckpoint | Evidence) for effect in effects):
            await self.run(lambda: self.write(effects))
        elif not any(isinstance(effect, Persist) for effect in effects):
            self.write(effects)
        else:
            at_once = self._usual_s < AT_ONCE_SECONDS
            took = self._timed(effects) if at_once else await self.run(lambda: self._timed(effects))
            self._usual_s += (took - self._usual_s) / 8

    def _timed(self, effects: Sequence[Written]) -> float:
        begun = time.perf_counter()
        self.write(effects)
        return time.perf_counter() - begun

    def write(self, effects: Sequence[Written]) -> None:
        """Perform the effects in order; all are durable when this returns (see `Archive` on entries)."""
        for effect in effects:
            match effect:
                case Persist():
                    self.journal.append(effect.record)
                case Committed():
                    self.archive.append(effect.entry)
                case SyncArchive():
                    self.archive.sync()
                case StableCheckpoint():
                    self.archive.sync()
                    self.snapshots.save(effect.certificate, effect.snapshot)
                    self.journal.rewrite(effect.retained)
                case Evidence():
                    self.evidence.keep(transferable(effect))
        self.journal.sync()

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self.journal.close()
        self.archive.close()


class Engine:
    """Feeds the core and performs its effects.

    `send(peers, data)` hands bytes to the links, `need(wanted)` begins a state transfer (and returns at once),
    `changed()` is called after something was executed, `turned()` at each turn, `blame(peer)` for each message that no
    correct replica sends. `ended` is the certificate of the handover once this epoch is over; `run` returns then.
    """

    def __init__(
        self,
        replica: Replica,
        disk: Disk,
        *,
        send: Callable[[Iterable[int], bytes], None],
        need: Callable[[NeedState], None],
        changed: Callable[[], None],
        turned: Callable[[], None],
        blame: Callable[[int], None] = lambda peer: None,
    ) -> None:
        self.replica = replica
        self.disk = disk
        self._send = send
        self._need = need
        self._changed = changed
        self._turned = turned
        self._blame = blame
        self.ended: CheckpointCertificate | None = None
        self._inbox = Inbox()
        self._catching: dict[int, asyncio.Future[None]] = {}
        self.reports = Reports()
        self._replies = Replies()
        self._others = [index for index in range(replica.committee.n) if index != replica.index]
        self._needed_ms = -CATCHING_UP_MS

    @property
    def catching_up(self) -> bool:
        """Whether this replica asked for others' state a moment ago."""
        return now_ms() - self._needed_ms < CATCHING_UP_MS

    def recover(self) -> None:
        """Become what the disk says, before anything else happens. StorageDamaged when it cannot be believed."""
        event = self.disk.recovered(now_ms())
        effects = self.replica.step(event)
        self.disk.write([effect for effect in effects if isinstance(effect, Written)])
        self.reports.view(self.replica.view, self.replica.active, self.replica.primary)
        self._gauge()
        saved = event.certificate
        if saved is not None and saved.checkpoint.epoch == self.replica.epoch and any(saved.checkpoint.next):
            self.ended = saved  # the epoch's end was on disk, what came after it was not
        log.info(
            "recovered",
            extra={"view": self.replica.view, "sequence": self.replica.executed, "records": len(event.records)},
        )

    # --- events ----------------------------------------------------------------------------------------------

    async def hear(self, peer: int, data: bytes) -> None:
        """A message of an authenticated peer; waits while that peer's share of the inbox is full, so that it has to."""
        await self._inbox.put(peer, Received(now_ms(), peer, data), len(data))

    async def catch_up(
        self,
        peer: int,
        entries: tuple[CommittedBatch, ...],
        certificate: CheckpointCertificate | None = None,
        snapshot: bytes | None = None,
    ) -> int:
        """Hand in state of a peer; the last sequence number that is executed once the core took or refused it."""
        event = CatchUp(now_ms(), peer, entries, certificate, snapshot)
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._catching[id(event)] = taken
        try:
            await self._inbox.put(OWN, event)
            await taken
        finally:
            del self._catching[id(event)]
        return self.replica.executed

    def ask(self, data: bytes) -> asyncio.Future[Reply]:
        """Have a sealed request ordered: a future of the reply, not yet signed (cancel it to wait no longer).

        What cannot be authenticated, or comes from a stranger, never reaches the core: Malformed, BadSignature,
        UnknownSigner. Unavailable when too many requests wait, or, from the future, this one did for too long;
        Overtaken when a later request of its key was executed instead, Replayed when what became of it is not known.
        """
        sender, asked = self.replica.verifier.request(data)
        self.replica.execution.application.admits(sender, asked.operation)
        if self._inbox.full(CLIENTS, len(data)):
            raise Unavailable("too many requests wait", hint="wait for earlier requests to be answered")
        last = self.replica.execution.last(sender)
        future = self._replies.wait(sender, asked.number, fresh=last is None or last.number < asked.number)
        self._inbox.put_nowait(CLIENTS, ClientRequest(now_ms(), data), len(data))
        return future

    # --- turns -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Turn after turn, until the epoch ends. Raises InvariantBroken, StorageDamaged or OSError: the replica must
        stop."""
        ticking = asyncio.create_task(self._tick())
        try:
            while self.ended is None:
                self._turned()
                events = await self._inbox.get(TURN_EVENTS_MAX)
                effects = [effect for event in events for effect in self.replica.step(event)]
                if any(isinstance(event, CatchUp) and event.snapshot is not None for event in events):
                    self._replies.doubt()
                await self._perform(effects)
                for event in events:
                    if (taken := self._catching.get(id(event))) is not None and not taken.done():
                        taken.set_result(None)
        finally:
            ticking.cancel()

    def refuse_all(self, error: KoinonError) -> None:
        """Answer everybody who waits for a request with `error`: this replica will not."""
        self._replies.refuse_all(error)

    async def _tick(self) -> None:
        last_ms = now_ms()
        while True:
            now = now_ms()
            await self._inbox.put(OWN, Tick(now, stopped_ms=max(0, now - last_ms - STOPPED_MS_MIN)))
            last_ms = now
            self._replies.sweep()
            await asyncio.sleep(self.replica.settings.tick_ms / 1000)

    async def _perform(self, effects: list[Effect]) -> None:
        written = [effect for effect in effects if isinstance(effect, Written)]
        promised = any(isinstance(effect, Persist | SyncArchive | StableCheckpoint) for effect in written)
        if promised:
            await self.disk.perform(written)
        for effect in effects:
            self._speak(effect)
        self.reports.view(self.replica.view, self.replica.active, self.replica.primary)
        if any(isinstance(effect, Committed | StableCheckpoint) for effect in written):
            self._gauge()
            self._changed()
        if written and not promised:  # the archive alone: no answer has to wait for it
            await self.disk.perform(written)

    def _speak(self, effect: Effect) -> None:
        match effect:
            case Persist(record=Recovering(view=view, over=over)):
                log.info("recovered from a lost journal" if over else "speaks again", extra={"view": view})
            case Send(to=to, message=message):
                self._send(self._others if to == ALL else (to,), encode(message))
            case Respond(reply=reply):
                for future in self._replies.asking(reply.client, reply.number):
                    future.set_result(reply)
            case Refuse(client=client, number=number, error=error):
                for future in self._replies.asking(client, number):
                    future.set_exception(error)
            case Committed(results=results):
                self.reports.committed(effect)
                EXECUTED.inc(len(results))
                self._replies.refuse_overtaken(results)
            case NeedState():
                self._needed_ms = now_ms()
                self._need(effect)
            case Evidence(culprit=culprit):
                EVIDENCE.inc()
                proof = encode(transferable(effect)).hex()
                log.error("equivocation", extra={"culprit": culprit, "proof": proof})
            case EpochEnded(certificate=certificate):
                self.ended = certificate
            case GaveUp():
                self.reports.gave_up(effect)
            case ClocksDiffer():
                self.reports.clocks_differ(effect)
            case Misbehaved(sender=sender, error=error):
                refused("pbft", error)
                self.reports.misbehaved(effect)
                if isinstance(error, RemoteError) and not isinstance(error, WrongEpoch):  # we may be the ones behind
                    self._blame(sender)
            case Ignored(reason=reason):
                IGNORED.labels(reason).inc()

    def _gauge(self) -> None:
        SEQUENCE.set(self.replica.executed)
        CHECKPOINT.set(self.replica.stable)


def now_ms() -> int:
    """The wall clock: batches carry the primary's, and backups accept it within `clock_skew_ms_max`."""
    return time.time_ns() // 1_000_000
