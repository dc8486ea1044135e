"""The containers under faults: build, start, train, kill a replica and restart the chain mid-round, audit, remove.

Standard library only, so that it runs on any machine with a Docker engine (`make test-compose`). It works in a
compose project of its own with a random name, and removes that project and nothing else. The host's choice of
package registries, trust store aside, goes along as build arguments; wheels of torch that the host's pip would find
in a local folder go along in wheels/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BASE_OFFICIAL = "python:3.11-slim"
BASE_LOCAL = "local/python:3.11"
ROUNDS = 3
REPLICA = "replica-3"
FROZEN_FIRST, FROZEN_SECOND = "node-4", "node-3"
"""A round waits for its whole cohort, so a frozen node keeps it open until the fault has happened."""
PARTIES = ["aggregator", *(f"replica-{i}" for i in range(4)), *(f"node-{i}" for i in range(5))]
BUILD_SECONDS_MAX = 1800
HEALTHY_SECONDS_MAX = 300
ROUND_SECONDS_MAX = 300
COMMAND_SECONDS_MAX = 120


class Failed(Exception):
    """A step that did not end as it must; the message is the table's last column."""


def run(command: list[str], *, seconds_max: float = COMMAND_SECONDS_MAX, env: dict[str, str] | None = None) -> str:
    """Standard output of `command`; Failed with its last lines when it exits otherwise than 0, or takes too long."""
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds_max
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:6])} took more than {seconds_max:.0f} s") from None
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).strip().splitlines()[-15:]
        raise Failed(f"{' '.join(command[:6])} ended with {done.returncode}: " + "\n    ".join(tail))
    return done.stdout


def answers(command: list[str]) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- what the build needs from the host --------------------------------------------------------------------------


def pip_settings() -> dict[str, str]:
    """pip's settings on this machine, environment included, by their bare names."""
    try:
        listed = run([sys.executable, "-m", "pip", "config", "list"])
    except Failed:
        listed = ""
    found = dict(re.findall(r"^(?:global|user|site|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    for name in ("index-url", "extra-index-url", "find-links"):
        value = os.environ.get(f"PIP_{name.replace('-', '_').upper()}")
        if value:
            found[name] = value
    return found


def build_environment() -> dict[str, str]:
    """The variables that docker-compose.yml hands on as build arguments."""
    env = dict(os.environ)
    settings = pip_settings()
    remote = [url for url in settings.get("extra-index-url", "").split() if not url.startswith("file:")]
    if "index-url" in settings:
        env["PIP_INDEX_URL"] = settings["index-url"]
    env["PIP_EXTRA_INDEX_URL"] = " ".join(remote)
    if shutil.which("npm"):
        env["NPM_CONFIG_REGISTRY"] = run(["npm", "config", "get", "registry"]).strip()
    env["BASE_IMAGE"] = base_image()
    gather_wheels(settings.get("find-links", "").split())
    return env


def gather_wheels(folders: list[str]) -> None:
    """Copy the pinned torch out of the host's find-links folders to where the Dockerfile looks for wheels."""
    pinned = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if pinned is None:
        raise Failed("constraints.txt pins no torch")
    for folder in folders:
        for wheel in Path(folder).glob(f"torch-{pinned[1]}*-cp311-*.whl"):
            target = ROOT / "wheels" / wheel.name
            target.parent.mkdir(exist_ok=True)
            if not target.exists():
                shutil.copy(wheel, target)


def base_image() -> str:
    """BASE_IMAGE, or the official one where it can be had, or one made of Debian packages."""
    if named := os.environ.get("BASE_IMAGE"):
        return named
    for image in (BASE_OFFICIAL, BASE_LOCAL):
        if answers(["docker", "image", "inspect", image]):
            return image
    if answers(["docker", "pull", "-q", BASE_OFFICIAL]):
        return BASE_OFFICIAL
    run(["sh", "scripts/make_base_image.sh", BASE_LOCAL], seconds_max=BUILD_SECONDS_MAX)
    return BASE_LOCAL


def compose_program() -> list[str]:
    chosen = os.environ.get("COMPOSE")
    for program in [chosen.split()] if chosen else [["docker", "compose"], ["docker-compose"]]:
        if answers([*program, "version"]):
            return program
    raise Failed(f"`{chosen}` does not answer" if chosen else "neither `docker compose` nor `docker-compose` is here")


# --- the federation -----------------------------------------------------------------------------------------------


@dataclass
class Federation:
    """One compose project and what happened in it: rows of (step, seconds, outcome)."""

    project: str
    compose: list[str] = field(default_factory=compose_program)
    env: dict[str, str] = field(default_factory=build_environment)
    rows: list[tuple[str, float, str]] = field(default_factory=list)

    def step(self, name: str, action: Callable[[Federation], str]) -> None:
        begun = time.monotonic()
        print(f"-- {name}", flush=True)
        try:
            outcome = action(self)
        except Failed as failure:
            self.rows.append((name, time.monotonic() - begun, f"FAILED: {failure}"))
            raise
        self.rows.append((name, time.monotonic() - begun, outcome))

    def __call__(self, *arguments: str, seconds_max: float = COMMAND_SECONDS_MAX) -> str:
        return run([*self.compose, "-p", self.project, *arguments], seconds_max=seconds_max, env=self.env)

    def inside(self, service: str, *command: str, seconds_max: float = COMMAND_SECONDS_MAX) -> str:
        return self("exec", "-T", service, *command, seconds_max=seconds_max)

    def health(self, service: str) -> str:
        name = self("ps", "-q", service).strip()
        if not name:
            return "absent"
        state = json.loads(run(["docker", "inspect", name]))[0]["State"]
        return str(state.get("Health", {}).get("Status", state["Status"]))

    def until(self, what: str, holds: Callable[[], bool], seconds_max: float) -> None:
        deadline = time.monotonic() + seconds_max
        while not holds():
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {seconds_max:.0f} s")
            time.sleep(1.0)

    def until_healthy(self, *services: str) -> None:
        waiting = list(services)

        def all_healthy() -> bool:
            waiting[:] = [name for name in waiting if self.health(name) != "healthy"]
            return not waiting

        try:
            self.until("healthy", all_healthy, HEALTHY_SECONDS_MAX)
        except Failed:
            raise Failed(f"not healthy within {HEALTHY_SECONDS_MAX} s: {' '.join(waiting)}") from None


def build(fed: Federation) -> str:
    fed("build", "chain", seconds_max=BUILD_SECONDS_MAX)
    return f"on {fed.env['BASE_IMAGE']}"


def start(fed: Federation) -> str:
    fed("up", "-d", "--no-build", seconds_max=HEALTHY_SECONDS_MAX)
    fed.until_healthy("chain", *PARTIES)
    return f"{len(PARTIES) + 1} services healthy"


def submit(fed: Federation) -> str:
    fed("pause", FROZEN_FIRST)
    said = fed.inside("node-0", "koinon", "submit", "--rounds", str(ROUNDS))
    fed.until("the aggregator has the task", lambda: task(fed) is not None, ROUND_SECONDS_MAX)
    return f"task {said.strip().splitlines()[-1][:12]}"


def task(fed: Federation) -> dict[str, Any] | None:
    """What the aggregator shows of the one task that was submitted."""
    shown = json.loads(fed.inside("aggregator", "python", "-m", "koinon.scripts.health", "/v1/status"))["tasks"]
    return shown[0] if shown else None


def progress(fed: Federation) -> tuple[int, int]:
    """(rounds opened, rounds certified)."""
    shown = task(fed)
    return (int(shown["round"]), int(shown["certified"])) if shown else (0, 0)


def kill_replica(fed: Federation) -> str:
    fed.until("round 1 is open", lambda: progress(fed) == (1, 0), ROUND_SECONDS_MAX)
    fed("kill", "-s", "KILL", REPLICA)
    fed.until("an update for round 1", lambda: "update submitted" in fed("logs", FROZEN_SECOND), ROUND_SECONDS_MAX)
    fed("pause", FROZEN_SECOND)
    fed("unpause", FROZEN_FIRST)
    fed.until("round 1 is certified", lambda: progress(fed)[1] == 1, ROUND_SECONDS_MAX)
    return f"{REPLICA} killed in round 1, which the other 3 certified"


def restart_chain(fed: Federation) -> str:
    fed.until("round 2 is open", lambda: progress(fed) == (2, 1), ROUND_SECONDS_MAX)
    fed("restart", "chain")
    fed("unpause", FROZEN_SECOND)
    fed.until("round 2 is certified", lambda: progress(fed)[1] >= 2, ROUND_SECONDS_MAX)
    return "restarted in round 2, which was certified"


def return_replica(fed: Federation) -> str:
    fed("start", REPLICA)
    fed.until_healthy(REPLICA)
    fed.until(f"{REPLICA} is where replica-0 is", lambda: sequence(fed, REPLICA) >= sequence(fed, "replica-0"), 120)
    return f"caught up at sequence {sequence(fed, REPLICA)}"


def sequence(fed: Federation, replica: str) -> int:
    return int(json.loads(fed.inside(replica, "python", "-m", "koinon.scripts.health", "/v1/status"))["sequence"])


def finish(fed: Federation) -> str:
    fed.until(f"{ROUNDS} rounds are certified", lambda: progress(fed)[1] >= ROUNDS, ROUND_SECONDS_MAX)
    return f"{progress(fed)[1]} of {ROUNDS} rounds certified"


def audit(fed: Federation) -> str:
    said = fed.inside("node-0", "koinon-audit")
    return said.strip().splitlines()[-1]


def start_again(fed: Federation) -> str:
    fed("down")
    fed("up", "-d", "--no-build", seconds_max=HEALTHY_SECONDS_MAX)
    fed.until_healthy("chain", *PARTIES)
    return audit(fed)


STEPS: list[tuple[str, Callable[[Federation], str]]] = [
    ("build the image", build),
    ("start", start),
    (f"submit {ROUNDS} rounds", submit),
    ("kill a replica mid-round", kill_replica),
    ("restart the chain mid-round", restart_chain),
    ("certify every round", finish),
    ("bring the replica back", return_replica),
    ("audit", audit),
    ("remove all containers, start again, audit", start_again),
]


def report(rows: list[tuple[str, float, str]]) -> str:
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{name:<{width}}  {seconds:7.1f} s  {outcome}" for name, seconds, outcome in rows]
    failed = sum(outcome.startswith("FAILED") for _, _, outcome in rows)
    return "\n".join(["", *lines, "", f"compose: {len(rows) - failed} passed, {failed} failed"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave the containers running when a step failed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not answers(["docker", "info"]):
        print("no Docker engine answers", file=sys.stderr)
        return 2
    fed = Federation(f"koinon-test-{secrets.token_hex(4)}")
    failed = True
    try:
        for name, action in STEPS:
            fed.step(name, action)
        failed = False
    except Failed:
        print(fed("logs", "--no-color", "--tail", "40"), file=sys.stderr)
    finally:
        if not (failed and options.keep):
            fed("down", "-v", "--remove-orphans")
        if fed.rows:
            print(report(fed.rows), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
