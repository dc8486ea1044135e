"""A real federation on this machine (chain, four replicas, aggregator, four nodes) and `koinon` run against it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.federation import LocalFederation

ROOT = Path(__file__).resolve().parents[3]
NODES = 4
WAIT_SECONDS = 60.0


def until(done: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer; AssertionError, naming `what`, when the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := done():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:g} s")


@dataclass
class World:
    federation: LocalFederation
    app: Path

    def command(self, *arguments: str, node: int = 0) -> list[str]:
        home = self.federation.home(f"node-{node}")
        return [sys.executable, "-m", "node", *arguments, "--home", str(home)]

    def koinon(self, *arguments: str, node: int = 0, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must have exit code `code`."""
        done = subprocess.run(
            self.command(*arguments, node=node), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, node: int = 0, code: int = 0) -> list[dict[str, Any]]:
        done = self.koinon(*arguments, "--json", node=node, code=code)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def task(self, name: str, *, rounds: int, seconds: float = 60, mode: str = "plain", reward: int = 0) -> Path:
        """A task file of the numbers app; fits of it are told apart by `name`."""
        path = self.app.parent / f"{name}.toml"
        path.write_text(
            f'app = "numbers"\nname = "{name}"\nrounds = {rounds}\nround_seconds = {seconds}\nmode = "{mode}"\n'
            f'reward = {reward}\ncohort_min = 3\nclip = 4.0\nbits = 24\n[config]\nrun = "{name}"\n'
        )
        return path

    def status(self, name: str) -> dict[str, Any]:
        return self.json("status", name)[0]

    def fault(self, node: int, kind: str) -> None:
        """What `node`'s fit does wrongly from now on; "" for nothing."""
        path = self.app.parent / f"fault-{node}"
        if kind:
            path.write_text(kind)
        else:
            path.unlink(missing_ok=True)

    def fits(self, node: int, name: str) -> list[int]:
        """The rounds of task `name` for which `node` trained, as often as it did."""
        path = self.app.parent / f"fits-{node}"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[1]) for line in lines if line.split()[0] == name]

    def lines(self, node: int) -> list[dict[str, Any]]:
        path = self.federation.home(f"node-{node}") / "data" / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self, node: int) -> list[dict[str, Any]]:
        text = (self.federation.logs / f"node-{node}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def signal(self, party: str, number: signal.Signals) -> None:
        os.kill(self.federation.pids[party], number)

    def kill(self, party: str) -> None:
        """As the kernel does when memory is short: no chance to say goodbye."""
        process = self.federation.processes[party]
        process.kill()
        process.wait()

    def restart(self, *parties: str) -> None:
        for party in parties:
            self.federation.spawn(party)
        self.federation.wait_ready(parties)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("node")
    app = folder / "numbers_app.py"
    shutil.copyfile(Path(__file__).with_name("numbers_app.py"), app)
    with LocalFederation(folder / "it", nodes=NODES, apps=[f"numbers={app}:client_fn"]) as federation:
        yield World(federation, app)


@pytest.fixture(autouse=True)
def _no_faults_left(world: World) -> Iterator[None]:
    yield
    for node in range(NODES):
        world.fault(node, "")
