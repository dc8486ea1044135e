"""What the end-to-end tests share: a federation of real processes, and patience with bounds."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from koinon.client import CommitteeClient
from koinon.rounds.state import Round, Task
from scripts._follow import anchored, follow, last_certified, newest_task, settled
from scripts.demo import APP
from scripts.federation import LocalFederation

TASK_SECONDS = 240.0
TASK = """
name = "{name}"
app = "digits"
strategy = "fedavg"
mode = "shares"
rounds = 2
clip = 2.0
round_seconds = {round_seconds}
reward = 3

[config]
epochs = {epochs}
batch_size = 32
learning_rate = 0.03
"""


def small_federation(folder: Path, *, tls: bool = False) -> LocalFederation:
    return LocalFederation(folder, replicas=4, nodes=3, apps=[APP], tls=tls)


def submit(
    federation: LocalFederation,
    name: str,
    *,
    mode: str = "shares",
    rounds: int = 2,
    epochs: int = 1,
    round_seconds: int = 120,
) -> bytes:
    """Submit a digits task; its identity."""
    path = federation.folder / f"{name}.toml"
    path.write_text(TASK.format(name=name, epochs=epochs, round_seconds=round_seconds))
    return submit_file(federation, path, mode=mode, rounds=rounds)


def submit_file(federation: LocalFederation, path: Path, *, mode: str = "shares", rounds: int = 2) -> bytes:
    """Submit a task file; the task's identity."""
    federation.submit("node-0", path, mode=mode, rounds=rounds)

    async def ask() -> bytes:
        async with CommitteeClient(federation.file) as client:
            return await newest_task(client)

    return asyncio.run(ask())


def complete(federation: LocalFederation, identity: bytes) -> Task:
    """Wait until the task is over, on chain and measured."""

    async def wait() -> Task:
        async with CommitteeClient(federation.file) as client:
            task = await follow(
                client, identity, lambda _: None, seconds_max=TASK_SECONDS, alive=federation.require_alive
            )
            last = last_certified(task)
            assert last is not None, task.reason
            await anchored(federation.file, identity, last.number)
            return await settled(client, identity)

    return asyncio.run(wait())


def wait_for_training(federation: LocalFederation, identity: bytes) -> Round:
    """A round of the task that is in training right now; the first one may be over before anybody looks."""

    async def wait() -> Round:
        deadline = time.monotonic() + TASK_SECONDS
        async with CommitteeClient(federation.file) as client:
            while time.monotonic() < deadline:
                task = await client.task(identity, rounds=1)
                assert task.status == "active", "the task was over before a round was seen in training"
                found = task.current()
                if found is not None and found.phase == "training" and not found.submissions:
                    return found
                await asyncio.sleep(0.02)
        raise TimeoutError(f"no round is in training after {TASK_SECONDS:.0f} s")

    return asyncio.run(wait())


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def processes_naming(text: str) -> list[int]:
    """Processes, other than this one, whose command line contains `text`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command and int(entry.name) != os.getpid() and alive(int(entry.name)):
            found.append(int(entry.name))
    return found
