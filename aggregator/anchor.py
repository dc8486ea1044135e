"""Works the outbox off: takes each task's oldest job, tells the chain, and notes what the chain answered.

The ledger's calls block and may take a minute, so each runs in a daemon thread of its own: a process that is told to
stop does not wait for a chain that does not answer. What was under way is in the outbox and is taken up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TypeVar

import msgspec
from prometheus_client import Counter, Gauge

from koinon.encoding import decode, encode, to_hex
from koinon.epochs import Handover
from koinon.errors import KoinonError, LedgerError
from koinon.ledger import Ledger
from koinon.observe import refused
from koinon.records import TransactionRecord
from koinon.rounds.operations import CompleteRound
from koinon.rounds.state import Round
from koinon.threads import in_thread
from koinon.wire import Equivocation

from .outbox import Job, Kind, Outbox, Stage

COMMITTEE = bytes(32)
"""The subject of handovers, in the place of a task: they are recorded one after the other."""
JOBS_CONCURRENT_MAX = 8
IDLE_SECONDS_MAX = 5.0

ANCHORED = Counter("koinon_anchored_total", "Jobs that the chain holds", ["kind"])
JOBS = Gauge("koinon_outbox_jobs", "Jobs of the outbox by stage", ["stage"])

log = logging.getLogger("koinon.aggregator.anchor")
T = TypeVar("T")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def open_payload(round_: Round) -> bytes:
    """What OPEN_ROUND needs besides its key: the committee's epoch, the parent's digest and the law's deadline."""
    return encode((round_.epoch, round_.parent_model, round_.deadline_ms))


def commit_payload(round_: Round) -> bytes:
    """What COMMIT_ROUND needs: the certificate and its signatures, as the law recorded them."""
    if round_.certificate is None:
        raise LedgerError(f"round {round_.number} has no certificate yet")
    return encode(CompleteRound(certificate=round_.certificate, signatures=round_.signatures))


class Anchor:
    """One a process. `wake()` after something was queued; `changed(task)` waits for progress of that task."""

    def __init__(self, ledger: Ledger, outbox: Outbox) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._awake = asyncio.Event()
        self._running: dict[bytes, asyncio.Task[None]] = {}
        self._changes: dict[bytes, asyncio.Event] = {}

    def ensure(self, task: bytes, round_: Round, kind: Kind) -> None:
        """Queue what the chain was just seen to lack."""
        payload = open_payload(round_) if kind is Kind.OPEN_ROUND else commit_payload(round_)
        self._ensure(task, round_.number, kind, payload)

    def ensure_handover(self, handover: Handover) -> None:
        """Queue a handover, which was verified, by the epoch that it ends."""
        epoch = handover.certificate.checkpoint.epoch
        self._ensure(COMMITTEE, epoch, Kind.HAND_OVER, encode(handover))

    def ensure_report(self, culprit: bytes, evidence: Equivocation) -> None:
        """Queue evidence, which was verified, against the replica `culprit`: no other job waits for it."""
        self._ensure(culprit.rjust(len(COMMITTEE), b"\0"), evidence.first.epoch, Kind.REPORT, encode(evidence))

    def _ensure(self, subject: bytes, number: int, kind: Kind, payload: bytes) -> None:
        if self._outbox.ensure(subject, number, kind, payload, now_ms=now_ms()):
            log.info("queued", extra=_about(subject, number, kind))
            self._awake.set()

    async def changed(self, task: bytes, timeout_seconds: float) -> None:
        """Until a job of `task` was confirmed or postponed, at most `timeout_seconds`."""
        event = self._changes.setdefault(task, asyncio.Event())
        event.clear()
        await _wait(event, timeout_seconds)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._awake.clear()
                pause = self._start_due()
                await _wait(self._awake, pause)
        finally:
            for job in self._running.values():
                job.cancel()

    def _start_due(self) -> float:
        """Start what is due; seconds until something else will be."""
        for stage, count in self._outbox.counts().items():
            JOBS.labels(stage).set(count)
        pause, now = IDLE_SECONDS_MAX, now_ms()
        for job in self._outbox.heads():
            if job.task in self._running or len(self._running) >= JOBS_CONCURRENT_MAX:
                continue
            if job.due_ms > now:
                pause = min(pause, (job.due_ms - now) / 1000)
                continue
            started = asyncio.create_task(self._perform(job))
            self._running[job.task] = started
            started.add_done_callback(partial(self._finished, job.task))
        return pause

    def _finished(self, task: bytes, done: asyncio.Task[None]) -> None:
        del self._running[task]
        self._awake.set()
        if task in self._changes:
            self._changes[task].set()
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("job failed", exc_info=error, extra={"task": task.hex()})

    async def _perform(self, job: Job) -> None:
        about = _about(job.task, job.round, job.kind)
        if job.stage is Stage.SENT:
            log.info("taken up again", extra=about)
        self._outbox.start(job)
        try:
            record = await in_thread(tell, self._ledger, job)
        except KoinonError as error:
            pause = self._outbox.postpone(job, error.message, now_ms=now_ms())
            refused("aggregator", error)
            log.warning("postponed", extra={**about, "code": error.code, "reason": error.message, "pause_ms": pause})
        except Exception as error:
            self._outbox.postpone(job, repr(error), now_ms=now_ms())
            raise
        else:
            transaction = record.hash if record else b""
            self._outbox.confirm(job, transaction, now_ms=now_ms())
            ANCHORED.labels(job.kind.name.lower()).inc()
            log.info("anchored", extra={**about, "transaction": to_hex(transaction) if transaction else "held already"})


def _about(subject: bytes, number: int, kind: Kind) -> dict[str, object]:
    """What the log says of a job."""
    if kind in (Kind.OPEN_ROUND, Kind.COMMIT_ROUND):
        return {"task": subject.hex(), "round": number, "kind": kind.name.lower()}
    return {"subject": subject.hex(), "epoch": number, "kind": kind.name.lower()}


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Until `event`, at most `seconds`. Not asyncio.wait_for: before Python 3.12 it may swallow a cancellation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def tell(ledger: Ledger, job: Job) -> TransactionRecord | None:
    """Have the chain hold what `job` says; None when it held it already. Blocks; LedgerError when it refuses."""
    if job.kind is Kind.OPEN_ROUND:
        epoch, parent, deadline_ms = msgspec.msgpack.decode(job.payload, type=tuple[int, bytes, int])
        return ledger.open_round(job.task, job.round, parent, deadline_ms, epoch=epoch)
    if job.kind is Kind.HAND_OVER:
        return ledger.install_epoch_by_certificate(decode(Handover, job.payload))
    if job.kind is Kind.REPORT:
        return ledger.report_equivocation(decode(Equivocation, job.payload))
    completed = decode(CompleteRound, job.payload)
    signatures = [(each.replica, each.signature) for each in completed.signatures]
    return ledger.commit_round(completed.certificate, signatures)
