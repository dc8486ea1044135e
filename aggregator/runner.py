"""Carries one task from round to round until it is over and the chain holds all of it.

Each turn asks the committee (f+1 replicas) and the chain, decides (`scheduler.next_step`), and does one step. What
fails is logged, counted and tried again with capped backoff; a closed round that cannot be opened is tried until the
law lets it be ended (`Task.opening_deadline_ms`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from koinon.client import CommitteeClient
from koinon.errors import InvariantBroken, KoinonError, Rejected
from koinon.ledger import Ledger
from koinon.observe import refused
from koinon.opening import committee_key
from koinon.rounds.law import ABORTED_ROUNDS_MAX
from koinon.rounds.operations import CloseRound, CompleteRound, OpenRound
from koinon.rounds.state import Round, Task
from koinon.threads import in_thread

from . import scheduler
from .anchor import Anchor, now_ms
from .outbox import Kind, Outbox, Stage
from .steps import Result, certify, name_contradictions, open_closed, report_faults
from .timings import Timings

ROUNDS_ASKED = ABORTED_ROUNDS_MAX + 2
"""Enough to see the last certified round behind the most aborted ones."""
WATCH_MS_MAX = 10_000
IDLE_SECONDS = 1.0
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_MAX_SECONDS = 30.0
REOPEN_AFTER_FAILURES = 4
"""After so many failures in a row the kept opening is dropped and the round is opened afresh."""

log = logging.getLogger("koinon.aggregator.runner")


@dataclass
class Status:
    """What `GET /v1/status` shows of one task."""

    task: str
    name: str = ""
    status: str = "active"
    round: int = 0
    phase: str = "starting"
    certified: int = 0
    rounds: int = 0
    detail: str = ""
    failures: int = 0

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Runner:
    """One a task and process."""

    def __init__(
        self, identity: bytes, client: CommitteeClient, ledger: Ledger, outbox: Outbox, anchor: Anchor, timings: Timings
    ) -> None:
        self.identity = identity
        self.status = Status(task=identity.hex())
        self._client = client
        self._ledger = ledger
        self._outbox = outbox
        self._anchor = anchor
        self._timings = timings
        self._opened_on_chain = 0

    async def run(self) -> None:
        """Returns when the task is over and anchored."""
        while True:
            try:
                if await self._turn():
                    return
                self.status.failures = 0
            except (asyncio.CancelledError, InvariantBroken):
                raise
            except Exception as error:
                await self._failed(error)

    async def _failed(self, error: Exception) -> None:
        self.status.failures += 1
        self.status.detail = str(error)[:500]
        about = {"task": self.identity.hex(), "round": self.status.round, "phase": self.status.phase}
        if isinstance(error, KoinonError):
            refused("aggregator", error)
            log.warning("retry", extra={**about, "code": error.code, "reason": error.message})
        else:
            log.error("retry after our own bug", exc_info=error, extra=about)
        if self.status.phase == "opening" and self.status.failures % REOPEN_AFTER_FAILURES == 0:
            self._outbox.drop_opening(self.identity, self.status.round)
        pause = BACKOFF_FIRST_SECONDS * 2 ** min(self.status.failures - 1, 16)
        await asyncio.sleep(min(pause, BACKOFF_MAX_SECONDS))

    async def _turn(self) -> bool:
        """One step; whether the task is over."""
        task = await self._client.task(self.identity, rounds=ROUNDS_ASKED)
        step = scheduler.next_step(task, now_ms())
        self._show(task, step)
        match step:
            case scheduler.Over():
                return await self._wind_up(task)
            case scheduler.OpenNext():
                await self._open_next(task, step)
            case scheduler.Wait():
                await self._ensure_open(self._current(task))
                if len(self._current(task).submissions) >= task.spec.cohort_min:
                    await report_faults(self._client, self.identity, task, self._current(task))
                wait_ms = min(WATCH_MS_MAX, max(0, step.deadline_ms - now_ms()) + 1)
                await self._client.watch_task(self.identity, after=task.version, wait_ms=wait_ms, rounds=1)
            case scheduler.Close():
                await report_faults(self._client, self.identity, task, self._current(task))
                await self._close(step.number)
            case scheduler.Aggregate():
                await self._ensure_open(self._current(task))
                await self._aggregate_or_end(task, self._current(task))
        return False

    # --- steps -----------------------------------------------------------------------------------------------

    async def _open_next(self, task: Task, step: scheduler.OpenNext) -> None:
        if not await self._anchored(task):
            return
        if task.spec.mode == "paillier":
            committee_key(self._client.federation)  # KeyOutdated: nobody could open what nodes would encrypt
        members = await self._client.members()
        cohort = scheduler.select_cohort(self.identity, step.number, task.spec, members, task.barred)
        if not cohort:
            there = len(set(scheduler.eligible(members)) - set(task.barred))
            await self._idle(f"{there} nodes may be invited, the task wants {task.spec.cohort_min}")
            return
        operation = OpenRound(task=self.identity, round=step.number, parent_model=task.model, cohort=cohort)
        with self._measuring(step.number, "open_round"):
            await self._client.submit(operation)
        self._log("round opened", step.number, cohort=len(cohort))

    async def _ensure_open(self, round_: Round) -> None:
        """Queue the round's opening on chain: once a process, and not when an earlier one saw to it."""
        if self._opened_on_chain == round_.number:
            return
        job = self._outbox.get(self.identity, round_.number, Kind.OPEN_ROUND)
        if job is None or await in_thread(self._ledger.round, self.identity, round_.number) is None:
            self._anchor.ensure(self.identity, round_, Kind.OPEN_ROUND)
        self._opened_on_chain = round_.number

    async def _close(self, number: int) -> None:
        try:
            await self._client.submit(CloseRound(task=self.identity, round=number))
        except Rejected as error:
            if error.rule != "too-early":  # the committee's clock may be behind this one
                raise
            await asyncio.sleep(BACKOFF_FIRST_SECONDS)
            return
        self._log("closed at the deadline", number)

    async def _aggregate_or_end(self, task: Task, round_: Round) -> None:
        """What fails before the deadline of openings is tried again; what fails after it ends the round."""
        try:
            await self._aggregate(task, round_)
        except KoinonError as error:
            if now_ms() <= task.opening_deadline_ms(round_):
                raise
            log.warning("round given up", extra={"round": round_.number, "reason": error.message})
            await self._close(round_.number)

    async def _aggregate(self, task: Task, round_: Round) -> None:
        """Open (or take the opening that was kept), have it certified, and have the certificate ordered."""
        kept = self._outbox.opening(self.identity, round_.number)
        if kept is None:
            with self._measuring(round_.number, "open"):
                result, _ = await asyncio.gather(
                    open_closed(self._client, self.identity, task, round_),
                    name_contradictions(self._client, self.identity, round_),
                )
            self._outbox.keep_opening(self.identity, round_.number, result.opening, result.model)
        else:
            result = Result(*kept)
        with self._measuring(round_.number, "certify"):
            certificate, signatures = await certify(self._client, self.identity, task, round_.number, result)
        with self._measuring(round_.number, "complete"):
            await self._client.submit(CompleteRound(certificate=certificate, signatures=signatures))
        self._log("certified", round_.number, participants=certificate.participants, signatures=len(signatures))

    async def _wind_up(self, task: Task) -> bool:
        """Over: whether the chain holds everything that was certified."""
        last = task.current()
        if last is not None and last.phase == "aborted":
            self._outbox.withdraw(self.identity, last.number, Kind.OPEN_ROUND)
        if task.certified == 0:
            return True
        return await self._anchored(task)

    # --- the chain -------------------------------------------------------------------------------------------

    async def _anchored(self, task: Task) -> bool:
        """Whether the chain holds the last certificate and takes more; queues what it lacks, and waits a little."""
        record = await in_thread(self._ledger.task, self.identity)
        if record is None:
            await self._idle("the chain does not know the task: its submitter has not escrowed the budget")
            return False
        last = scheduler.last_certified(task)
        if record.last_committed < last:
            await self._catch_up(task, record.last_committed)
            return False
        if record.model != task.model:
            await self._idle("the chain holds another model than the committee: waiting for replicas that lag")
            return False
        self._write_timings(task)
        if record.closable_at and task.status == "active":
            await self._idle("the task was stopped on chain")
            return False
        return True

    async def _catch_up(self, task: Task, committed: int) -> None:
        """Queue every certified round that the chain lacks, in order."""
        seen = task.rounds[0].number <= committed + 1 if task.rounds else False
        full = task if seen else await self._client.task(self.identity, rounds=0)
        for round_ in scheduler.certified_after(full, committed):
            if await in_thread(self._ledger.round, self.identity, round_.number) is None:
                self._anchor.ensure(self.identity, round_, Kind.OPEN_ROUND)
            self._anchor.ensure(self.identity, round_, Kind.COMMIT_ROUND)
        self.status.detail = f"the chain holds rounds up to {committed}"
        await self._anchor.changed(self.identity, IDLE_SECONDS)

    def _write_timings(self, task: Task) -> None:
        for round_ in task.rounds:
            job = self._outbox.get(self.identity, round_.number, Kind.COMMIT_ROUND)
            if round_.phase == "certified" and job is not None and job.stage is Stage.CONFIRMED:
                self._timings.write(self.identity, round_, max(0, job.confirmed_ms - job.created_ms) / 1000)

    # --- helpers ---------------------------------------------------------------------------------------------

    def _current(self, task: Task) -> Round:
        last = task.current()
        if last is None:
            raise InvariantBroken("a step of a round that does not exist")
        return last

    async def _idle(self, why: str) -> None:
        if self.status.detail != why:
            self._log("waiting", self.status.round, reason=why)
        self.status.detail = why
        await asyncio.sleep(IDLE_SECONDS)

    @contextmanager
    def _measuring(self, number: int, phase: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._timings.note(self.identity, number, phase, time.monotonic() - started)

    def _show(self, task: Task, step: scheduler.Step) -> None:
        shown = self.status
        shown.name, shown.status = task.spec.name, task.status
        shown.certified, shown.rounds = task.certified, task.spec.rounds
        number = getattr(step, "number", shown.round)
        if number != shown.round or not isinstance(step, scheduler.OpenNext | scheduler.Over):
            shown.detail = ""
        shown.round = number
        shown.phase = {
            scheduler.OpenNext: "between rounds",
            scheduler.Wait: "training",
            scheduler.Close: "closing",
            scheduler.Aggregate: "opening",
            scheduler.Over: "anchoring",
        }[type(step)]

    def _log(self, event: str, number: int, **more: object) -> None:
        log.info(event, extra={"task": self.identity.hex(), "round": number, **more})
