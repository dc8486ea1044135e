"""Watching a task: snapshots of its records become events, lines, and a live table. Nothing here is trusted input:
every snapshot is what f+1 replicas agree on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from rich.live import Live
from rich.table import Table

from koinon.client import CommitteeClient
from koinon.errors import Missing, RemoteError
from koinon.rounds.state import Round, Task

from .console import TASK_ENDED_BADLY, emit, err, out, percent, say, short

WATCH_MS = 5_000
ROUNDS_WATCHED = 6
EVALUATION_PATIENCE_SECONDS = 15.0
"""How long after the last round's certificate its accuracy is waited for."""
SILENCE_SECONDS_MAX = 120.0
UNKNOWN_SECONDS_MAX = 10.0
"""Replicas that lag may not know a task that was just created; after that it does not exist."""
PAUSE_SECONDS = 1.0

Event = dict[str, Any]


def describe(round_: Round) -> Event:
    """A round as one record, for `status --json` and the events of `log`."""
    seen = round_.evaluation
    certificate = round_.certificate
    return {
        "round": round_.number,
        "phase": round_.phase,
        "cohort": len(round_.cohort),
        "updates": len(round_.submissions),
        "examples": sum(kept.examples for kept in round_.submissions.values()),
        "opened_ms": round_.opened_ms,
        "deadline_ms": round_.deadline_ms,
        "seconds": round((round_.certified_ms - round_.opened_ms) / 1000, 3) if round_.certified_ms else None,
        "model": certificate.model if certificate else None,
        "accuracy": round_.accuracy(),
        "loss": seen.loss_sum / seen.examples / 1e6 if seen.examples else None,
        "reporters": len(seen.reporters),
    }


def describe_task(identity: bytes, task: Task) -> Event:
    """A task as one record, without its rounds."""
    spec = task.spec
    return {
        "task": identity,
        "name": spec.name,
        "app": spec.app,
        "status": task.status,
        "reason": task.reason,
        "certified": task.certified,
        "rounds": spec.rounds,
        "mode": spec.mode,
        "strategy": spec.strategy,
        "dimension": spec.dimension,
        "submitter": task.submitter,
        "created_ms": task.created_ms,
        "reward": spec.reward,
        "model": task.model,
        "config": dict(spec.config),
    }


class History:
    """Turns successive snapshots of one task into events, each told once."""

    def __init__(self, identity: bytes) -> None:
        self.identity = identity
        self._told: set[tuple[str, int, int]] = set()

    def events(self, task: Task) -> Iterator[Event]:
        for round_ in task.rounds:
            yield from self._of_round(round_)
        if task.status != "active" and self._first("ended", 0, 0):
            yield self._event("ended", status=task.status, reason=task.reason, certified=task.certified)

    def _of_round(self, round_: Round) -> Iterator[Event]:
        number, about = round_.number, describe(round_)
        if self._first("opened", number, 0):
            yield self._event("opened", round=number, time_ms=round_.opened_ms, cohort=len(round_.cohort))
        arrived = sorted(round_.submissions.items(), key=lambda item: (item[1].time_ms, item[0]))
        for count, (node, kept) in enumerate(arrived, start=1):
            if self._first("update", number, int.from_bytes(node, "big")):
                yield self._event(
                    "update",
                    round=number,
                    time_ms=kept.time_ms,
                    node=node,
                    examples=kept.examples,
                    updates=count,
                    cohort=len(round_.cohort),
                )
        if round_.closed_ms and round_.phase != "aborted" and self._first("closed", number, 0):
            yield self._event("closed", round=number, time_ms=round_.closed_ms, updates=len(round_.submissions))
        if round_.phase == "certified" and self._first("certified", number, 0):
            yield self._event(
                "certified",
                round=number,
                time_ms=round_.certified_ms,
                model=about["model"],
                signatures=len(round_.signatures),
                seconds=about["seconds"],
            )
        if round_.phase == "aborted" and self._first("aborted", number, 0):
            yield self._event("aborted", round=number, updates=len(round_.submissions), cohort=len(round_.cohort))
        if about["accuracy"] is not None and self._first("evaluated", number, about["reporters"]):
            measured = {key: about[key] for key in ("accuracy", "loss", "reporters")}
            yield self._event("evaluated", round=number, **measured)

    def _first(self, *key: Any) -> bool:
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def _event(self, name: str, **about: object) -> Event:
        return {"task": self.identity, "event": name, **about}


def line(event: Event) -> str:
    """An event as people read it."""
    where = f"round {event['round']:>3}  " if "round" in event else ""
    match event["event"]:
        case "opened":
            return f"{where}opened for {event['cohort']} nodes"
        case "update":
            return f"{where}update {event['updates']}/{event['cohort']} ({event['examples']} examples)"
        case "closed":
            return f"{where}opening the sum of {event['updates']} updates"
        case "certified":
            model = event["model"].hex()[:12]
            return f"{where}certified by {event['signatures']} replicas in {event['seconds']:.1f} s: model {model}"
        case "aborted":
            return f"{where}aborted with {event['updates']} of {event['cohort']} updates"
        case "evaluated":
            return (
                f"{where}accuracy {percent(event['accuracy'])} (loss {event['loss']:.3f}, {event['reporters']} nodes)"
            )
    reason = f": {event['reason']}" if event["reason"] else ""
    return f"task {event['status']} after {event['certified']} certified rounds{reason}"


async def snapshots(committee: CommitteeClient, identity: bytes) -> AsyncIterator[Task]:
    """Each new version of a task until it is over and measured; RemoteError after a long silence."""
    version, heard, over_since = -1, time.monotonic(), None
    rounds = 0  # all of them at first
    while True:
        try:
            task = await committee.watch_task(identity, after=version, wait_ms=WATCH_MS, rounds=rounds)
        except RemoteError as error:
            patience = UNKNOWN_SECONDS_MAX if isinstance(error, Missing) else SILENCE_SECONDS_MAX
            if time.monotonic() - heard > patience:
                raise
            say(f"the committee does not answer ({error.message[:120]}); trying again")
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        heard = time.monotonic()
        if task.version != version:
            yield task
        version, rounds = task.version, ROUNDS_WATCHED
        if task.status != "active":
            over_since = over_since or time.monotonic()
            last = next((each for each in reversed(task.rounds) if each.phase == "certified"), None)
            measured = last is None or len(last.evaluation.reporters) >= len(last.cohort)
            if measured or task.status != "completed" or time.monotonic() - over_since > EVALUATION_PATIENCE_SECONDS:
                return


async def follow(committee: CommitteeClient, identity: bytes, *, as_json: bool) -> int:
    """Show a task until it is over; the exit code (0: completed). Leaving it with Ctrl-C leaves the task alone."""
    history, last = History(identity), None
    live = Live(console=out(), auto_refresh=False) if not as_json and out().is_terminal else None
    rounds: dict[int, Round] = {}
    try:
        if live is not None:
            live.start()
        async for task in snapshots(committee, identity):
            last = task
            rounds.update({each.number: each for each in task.rounds})
            for event in history.events(task):
                if as_json:
                    emit(event)
                elif live is None:
                    out().print(line(event), soft_wrap=True)
            if live is not None:
                live.update(_progress(identity, task, rounds), refresh=True)
    except asyncio.CancelledError:
        err().print(f"the task goes on; watch it again with: koinon log {short(identity)} --follow")
        raise
    finally:
        if live is not None:
            live.stop()
    return 0 if last is not None and last.status == "completed" else TASK_ENDED_BADLY


def _progress(identity: bytes, task: Task, rounds: dict[int, Round]) -> Table:
    spec = task.spec
    title = f"{spec.name} {short(identity)}  {spec.strategy}, {spec.mode}  {task.status} {task.certified}/{spec.rounds}"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("round", "phase", "updates", "accuracy", "loss", "seconds", "model"):
        shown.add_column(column)
    for _, round_ in sorted(rounds.items())[-20:]:
        about = describe(round_)
        phase = {"closed": "opening"}.get(round_.phase, round_.phase)
        shown.add_row(
            str(round_.number),
            phase,
            f"{about['updates']}/{about['cohort']}",
            percent(about["accuracy"]),
            "" if about["loss"] is None else f"{about['loss']:.3f}",
            "" if about["seconds"] is None else f"{about['seconds']:.1f}",
            about["model"].hex()[:12] if about["model"] else "",
        )
    return shown
