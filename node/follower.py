"""Follows one task for the agent: takes part in its rounds, measures its certified models, ends when the task is over.

A failure that only concerns this node's own code (TrainingError, OutOfRange, a model that the chain does not hold)
costs it the round and nothing else. Failures of the committee or the chain go up to the agent, which waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Counter

from koinon.client import CommitteeClient
from koinon.encoding import keccak
from koinon.errors import (
    ConfigError,
    KoinonError,
    Malformed,
    PrivacyError,
    Rejected,
    RemoteError,
    TrainingError,
    Unavailable,
    UncertifiedModel,
)
from koinon.learning.parameters import from_blob
from koinon.observe import refused
from koinon.rounds.masks import MODE as MASKED
from koinon.rounds.operations import ReportEvaluation
from koinon.rounds.state import Round, Task

from .apps import App, scalar
from .home import Home
from .lifecycle import Event
from .participation import Participation, fit_config, millionths
from .submissions import Submissions
from .trust import require_certified

WATCH_MS = 10_000
NOTHING = (-1, "")
ROUNDS_WATCHED = 3
"""A node that was away measures the models of the last rounds only."""
MEASURE_TRIES_MAX = 3
PAUSE_SECONDS = 0.5
LOSS_REPORTED_MAX = 10**9
ROUNDS = Counter("koinon_node_rounds_total", "Rounds of this node by how they ended", ["result"])

log = logging.getLogger("koinon.node.follower")


class Owner(Protocol):
    """What a follower needs of its agent."""

    def fire(self, event: Event, **about: object) -> None: ...


class Follower:
    def __init__(
        self,
        home: Home,
        owner: Owner,
        committee: CommitteeClient,
        participation: Participation,
        submissions: Submissions,
        identity: bytes,
        examples_max: Callable[[], int],
    ) -> None:
        self.identity = identity
        self._home = home
        self._owner = owner
        self._committee = committee
        self._participation = participation
        self._submissions = submissions
        self._node = home.signer.address
        self._examples_max = examples_max
        self._app: App | None = None
        self._given_up: set[int] = set()
        self._masked: set[tuple[int, str]] = set()
        self._tries: dict[int, int] = {}
        self._seen = NOTHING

    async def run(self) -> None:
        """Until the task is over. RemoteError and LedgerError when the committee or the chain fails."""
        while True:
            version, stage = self._seen
            task = await self._committee.watch_task(
                self.identity, after=version, stage=stage, wait_ms=WATCH_MS, rounds=ROUNDS_WATCHED
            )
            self._owner.fire(Event.FOUND)
            current = task.current()
            unseen = task.spec.mode == MASKED and current is not None and self._next_of_masks(current)
            self._seen = task.version, "" if unseen else task.stage  # our own step changes no stage
            if current is not None:
                self._discard_before(task, current.number)
            if task.status == "active" and current is not None and await self._mask(task, current):
                self._seen = NOTHING
                continue
            if task.status == "active" and current is not None and self._is_open_to_me(current):
                await self._take_part(task, current)
                self._seen = NOTHING  # look again at once: the round may be over by now
                continue
            waiting = [round_ for round_ in task.rounds if self._is_mine_to_measure(round_)]
            for round_ in waiting:
                await self._measure(task, round_)
            if task.status != "active" and not waiting:
                self._discard_before(task, 2**32)
                return
            if waiting:
                self._seen = NOTHING
                if any(self._is_mine_to_measure(round_) for round_ in waiting):
                    await asyncio.sleep(PAUSE_SECONDS)

    def _discard_before(self, task: Task, number: int) -> None:
        if task.spec.mode == MASKED:  # first: an update that is forgotten must not be made again with the same masks
            self._participation.masking.discard_before(self.identity, number)
        self._submissions.discard_before(self.identity, number)

    async def _mask(self, task: Task, round_: Round) -> bool:
        """In mode `masked`: announce before the round, confirm and reveal after it; whether there was something to do.

        What is not proved to this node costs it the round, loudly.
        """
        step = (round_.number, self._next_of_masks(round_)) if task.spec.mode == MASKED else (0, "")
        if not step[1] or step in self._masked or round_.number in self._given_up:
            return False
        masking = self._participation.masking
        about = {"task": self.identity.hex(), "round": round_.number, "step": step[1]}
        try:
            match step[1]:
                case "announce":
                    await masking.announce(self.identity, task.spec, round_)
                case "confirm":
                    await masking.confirm(self.identity, task.spec, round_)
                case "reveal":
                    await masking.reveal(self.identity, round_)
        except PrivacyError as error:
            self._give_up(round_.number, error, about)
        except Rejected as error:  # the round may have gone on meanwhile
            refused("node", error)
            log.warning("masks not taken", extra={**about, "code": error.code, "reason": error.message})
        self._masked.add(step)
        return True

    def _next_of_masks(self, round_: Round) -> str:
        """What this round waits for from this node: announce, confirm or reveal; "" when nothing."""
        if round_.phase == "announcing" and self._node in round_.cohort and self._node not in round_.announced:
            return "announce"
        if round_.phase != "closed" or self._node not in round_.submissions or self._node in round_.revealed:
            return ""
        if self._node not in round_.confirmed:
            return "confirm"
        return "reveal" if round_.agreed else ""

    def _is_open_to_me(self, round_: Round) -> bool:
        return (
            round_.phase == "training"
            and self._node in (round_.announced or round_.cohort)
            and self._node not in round_.submissions
            and round_.number not in self._given_up
        )

    async def _build(self, task: Task) -> App:
        if self._app is None:
            settings, spec, home = self._home.config.node, task.spec, self._home.path
            config = {key: scalar(text) for key, text in spec.config}
            self._app = await self._participation.run_app(
                lambda: App.build(spec.app, settings, home, node=self._node, config=config),
                f"app {spec.app}: loading it",
                spec.round_ms / 1000,
            )
        return self._app

    async def _take_part(self, task: Task, round_: Round) -> None:
        about = {"task": self.identity.hex(), "round": round_.number}
        self._owner.fire(Event.BEGAN, **about)
        try:
            record, timing, resent = await self._participation.take_part(
                self.identity, task, round_, lambda: self._build(task), self._examples_max()
            )
        except (TrainingError, PrivacyError, ConfigError, UncertifiedModel, Rejected, Malformed) as error:
            self._give_up(round_.number, error, about)
            return
        finally:
            self._owner.fire(Event.ENDED, **about)
        line = {**about, **timing.seconds, "examples": record.examples, "resent": resent}
        line["update"] = keccak(record.update).hex()
        _append(self._home, {**line, "time_ms": time.time_ns() // 1_000_000})
        ROUNDS.labels("resent" if resent else "submitted").inc()
        log.info("update submitted", extra=line)

    def _give_up(self, number: int, error: KoinonError, about: dict[str, object]) -> None:
        """Sit this round out; the next one starts with a fresh client."""
        self._given_up.add(number)
        self._app = None
        refused("node", error)
        ROUNDS.labels("sat out").inc()
        extra = {**about, "code": error.code, "reason": error.message, "hint": error.hint or ""}
        log.error("round sat out", extra=extra, exc_info=error.__cause__)

    def _is_mine_to_measure(self, round_: Round) -> bool:
        return (
            round_.phase == "certified"
            and self._node in round_.cohort
            and self._node not in round_.evaluation.reporters
            and self._tries.get(round_.number, 0) < MEASURE_TRIES_MAX
        )

    async def _measure(self, task: Task, round_: Round) -> None:
        """Report this node's accuracy of a certified model. A failure costs the report, after some tries, not more."""
        about = {"task": self.identity.hex(), "round": round_.number}
        try:
            certificate = require_certified(await self._committee.federation_of(round_.epoch), self.identity, round_)
            model = from_blob(await self._committee.get_blob(certificate.model))
            app, config = await self._build(task), fit_config(task.spec, round_.number)
            seen = await self._participation.run_app(
                lambda: app.evaluate(model, config), f"app {app.name}: evaluate", task.spec.round_ms / 1000
            )
            await self._committee.submit(
                ReportEvaluation(
                    task=self.identity,
                    round=round_.number,
                    loss=millionths(seen.loss, low=0, high=LOSS_REPORTED_MAX),
                    accuracy=millionths(seen.accuracy, low=0, high=1_000_000),
                    examples=min(seen.examples, self._examples_max()),
                )
            )
        except (TrainingError, ConfigError, RemoteError, Rejected) as error:
            again = isinstance(error, Unavailable)
            self._tries[round_.number] = self._tries.get(round_.number, 0) + 1 if again else MEASURE_TRIES_MAX
            refused("node", error)
            log.error("model not measured", extra={**about, "code": error.code, "reason": error.message})
        else:
            self._tries[round_.number] = MEASURE_TRIES_MAX  # done, also while the report is not visible yet
            log.info("model measured", extra={**about, "accuracy": seen.accuracy, "loss": seen.loss})


def _append(home: Home, line: dict[str, object]) -> None:
    """One line of data/rounds.jsonl, written at once so that lines of several tasks don't mix."""
    home.data.mkdir(parents=True, exist_ok=True)
    with (home.data / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
