"""Watching a task through the committee: what f+1 replicas agree on, as it changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from koinon.client import CommitteeClient
from koinon.config import FederationFile
from koinon.errors import Unavailable
from koinon.rounds.state import Round, Task

FOLLOW_WAIT_MS = 2_000
EVALUATION_SECONDS = 30.0
ANCHOR_SECONDS = 60.0
POLL_SECONDS = 0.2

Hear = Callable[[Task], None]


async def newest_task(client: CommitteeClient) -> bytes:
    """The identity of the task that was created last; Unavailable when there is none."""
    tasks = await client.tasks()
    if not tasks:
        raise Unavailable("the committee knows no task")
    return max(tasks, key=lambda identity: tasks[identity].created_ms)


async def follow(
    client: CommitteeClient,
    identity: bytes,
    hear: Hear,
    *,
    seconds_max: float,
    alive: Callable[[], None] = lambda: None,
) -> Task:
    """Call `hear` at each change until the task is over; the task with all rounds. Unavailable when it takes longer.

    `alive` is called every FOLLOW_WAIT_MS; what it raises ends the watch.
    """
    deadline = time.monotonic() + seconds_max
    version = -1
    while time.monotonic() < deadline:
        alive()
        task = await client.watch_task(identity, after=version, wait_ms=FOLLOW_WAIT_MS, rounds=0)
        if task.version > version:
            version = task.version
            hear(task)
        if task.status != "active":
            return task
    raise Unavailable(f"the task is still active after {seconds_max:.0f} s")


async def settled(client: CommitteeClient, identity: bytes) -> Task:
    """The task once every accepted node of its last certified round measured the model, or EVALUATION_SECONDS later."""
    deadline = time.monotonic() + EVALUATION_SECONDS
    while True:
        task = await client.task(identity, rounds=0)
        last = last_certified(task)
        if last is None or len(last.evaluation.reporters) >= len(last.submissions) or time.monotonic() > deadline:
            return task
        await asyncio.sleep(POLL_SECONDS)


async def anchored(federation: FederationFile, identity: bytes, number: int) -> None:
    """Wait until the chain holds the certificate of round `number`; Unavailable after ANCHOR_SECONDS."""
    from koinon.ledger import Ledger  # on demand: web3 takes two seconds to import

    ledger = Ledger(federation.network)
    deadline = time.monotonic() + ANCHOR_SECONDS
    while time.monotonic() < deadline:
        record = await asyncio.to_thread(ledger.task, identity)
        if record is not None and record.last_committed >= number:
            return
        await asyncio.sleep(POLL_SECONDS)
    raise Unavailable(f"round {number} is not on chain after {ANCHOR_SECONDS:.0f} s")


def last_certified(task: Task) -> Round | None:
    return next((each for each in reversed(task.rounds) if each.certificate is not None), None)
