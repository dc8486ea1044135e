"""`make demo`: a whole federation on this machine, from keys to an audited model, in one command.

Real processes (chain, four replicas, an aggregator, five nodes) train the digits example on data that never leaves its
node. The run's folder, runs/<time> (runs/latest), keeps logs, ledger, blobs, models, audit.json and summary.json.
Exit code 0 only when the audit passes; whatever happens, every process is stopped.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from koinon.client import CommitteeClient
from koinon.config import write_atomically
from koinon.encoding import to_hex
from koinon.errors import KoinonError, Unavailable
from koinon.learning.parameters import from_blob
from koinon.privacy import MODES
from koinon.rounds.state import Task

from ._follow import anchored, follow, last_certified, newest_task, settled
from ._rounds import PHASES, RoundTimes, mean_seconds, merge, read_lines
from .federation import ROOT, LocalFederation, environment, exit_on_sigterm, module, new_run, tail

EXAMPLE = ROOT / "examples" / "digits"
APP = f"digits={EXAMPLE / 'client.py'}:client_fn"
PAILLIER_BITS = 3072
"""The advised size, which provisioning takes by default, too."""
BASELINE_SECONDS = 300
AUDIT_SECONDS = 300
TASK_SECONDS_MAX = 1800.0
CORES_FOR_PARALLEL_BASELINE = 4
LOG_COLUMNS = 160


@dataclass
class Demo:
    """One run: what was asked for, and what came out."""

    folder: Path
    mode: str
    rounds: int
    console: Console
    identity: bytes = b""
    baseline: dict[str, Any] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _seen: dict[tuple[int, str], bool] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """One line of progress, with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {line}", soft_wrap=True)

    async def run(self, federation: LocalFederation) -> tuple[Task, list[RoundTimes]]:
        """Submit the task, watch it to its end, and wait until the chain holds it."""
        federation.submit(federation.nodes[0], EXAMPLE / "task.toml", mode=self.mode, rounds=self.rounds)
        async with CommitteeClient(federation.file) as client:
            self.identity = await newest_task(client)
            self.say(f"task {to_hex(self.identity)[:18]} is ordered; its budget is in escrow")
            over = await follow(
                client, self.identity, self.hear, seconds_max=TASK_SECONDS_MAX, alive=federation.require_alive
            )
            certified = last_certified(over)
            if over.status != "completed" or certified is None:
                raise Unavailable(f"the task is {over.status}: {over.reason}")
            await anchored(federation.file, self.identity, certified.number)
            task = await settled(client, self.identity)
            self.hear(task)
            self.save_model(await client.get_blob(task.model))
        nodes = read_lines(federation.home(node) for node in federation.nodes)
        return task, merge(self.identity, task, nodes, await self.aggregator_lines(federation, task))

    def hear(self, task: Task) -> None:
        """Say each change of a round once."""
        for round_ in task.rounds:
            measured = round_.accuracy() is not None and len(round_.evaluation.reporters) >= len(round_.submissions)
            said = {
                f"training by {len(round_.cohort)} nodes": True,
                f"closed with {len(round_.submissions)} updates; opening their sum": bool(round_.closed_ms)
                and round_.phase != "aborted",
                f"certified by {len(round_.signatures)} replicas": round_.phase == "certified",
                f"aborted with {len(round_.submissions)} updates": round_.phase == "aborted",
                f"accuracy {100 * (round_.accuracy() or 0):.1f} % on the nodes' held-out data": measured,
            }
            for line, true in said.items():
                if true and not self._seen.get((round_.number, line)):
                    self._seen[round_.number, line] = True
                    self.say(f"round {round_.number}/{self.rounds}  {line}")

    async def aggregator_lines(self, federation: LocalFederation, task: Task) -> list[dict[str, Any]]:
        """The aggregator's timings; it writes a round's line once it saw the certificate on chain."""
        for _ in range(50):
            lines = read_lines([federation.home("aggregator")])
            if len(lines) >= task.certified:
                break
            await asyncio.sleep(0.1)
        return lines

    def save_model(self, blob: bytes) -> None:
        """models/final.blob (what the certificate names) and models/final.safetensors (what everybody can load)."""
        from safetensors.numpy import save_file

        models = self.folder / "models"
        models.mkdir(exist_ok=True)
        write_atomically(models / "final.blob", blob)
        parameters = from_blob(blob)
        named = {tensor.name: tensor.array().copy() for tensor in parameters.tensors}
        save_file(named, models / "final.safetensors")
        self.say(f"models/final.safetensors: {parameters.dimension} parameters")

    def start_baseline(self) -> subprocess.Popen[str]:
        """The same net on pooled data, as long as the federation trains."""
        command = [sys.executable, str(EXAMPLE / "centralised.py"), "--json", "--epochs", str(self.rounds * _epochs())]
        with (self.folder / "logs" / "baseline.log").open("a") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def finish_baseline(self, process: subprocess.Popen[str]) -> None:
        out, _ = process.communicate(timeout=BASELINE_SECONDS)
        if process.returncode != 0:
            raise Unavailable(f"the centralised baseline failed:\n{tail(self.folder / 'logs' / 'baseline.log')}")
        self.baseline = json.loads(out)

    def audit(self, federation: LocalFederation) -> bool:
        """`koinon-audit` as anybody would run it; its lines go to the console."""
        command = [
            *module("scripts.audit"), "--home", str(federation.home(federation.nodes[0])),
            "--output", str(self.folder / "audit.json"), "--keep-chain", str(self.folder / "chain.json"),
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=AUDIT_SECONDS, stdin=subprocess.DEVNULL
        )
        self.console.out(done.stdout.rstrip(), highlight=False)
        if done.stderr.strip():
            self.console.out(done.stderr.rstrip(), highlight=False)
        return done.returncode == 0

    def summary(self, task: Task, rows: list[RoundTimes], passed: bool) -> dict[str, Any]:
        """What summary.json holds."""
        last = rows[-1] if rows else None
        return {
            "mode": self.mode,
            "task": to_hex(self.identity),
            "rounds": task.certified,
            "accuracy": last.accuracy if last else None,
            "accuracy_centralised": self.baseline.get("accuracy"),
            "seconds_per_round": round(mean_seconds(rows), 3),
            "phases": {name: round(sum(row.phases[name] for row in rows) / max(1, len(rows)), 4) for name in PHASES},
            "seconds": round(time.monotonic() - self._began, 1),
            "audit": "PASS" if passed else "FAIL",
            "rounds_detail": [asdict(row) for row in rows],
            "folder": str(self.folder),
        }


def table(rows: list[RoundTimes], mode: str) -> Table:
    """The closing table."""
    shown = Table(title=f"mode {mode}: seconds by phase (of the node that came last)", title_justify="left")
    for name in ("round", "accepted", "accuracy", "seconds", *PHASES):
        shown.add_column(name, justify="right")
    for row in rows:
        accuracy = f"{100 * row.accuracy:.1f} %" if row.accuracy is not None else "-"
        cells = (f"{row.phases[name]:.2f}" for name in PHASES)
        shown.add_row(str(row.number), str(row.accepted), accuracy, f"{row.seconds:.2f}", *cells)
    return shown


def _epochs() -> int:
    """Local epochs a round, as the example's task asks."""
    import tomllib

    return int(tomllib.loads((EXAMPLE / "task.toml").read_text())["config"]["epochs"])


def demonstrate(demo: Demo, *, replicas: int, nodes: int, keep: bool) -> int:
    """The whole demo; its exit code."""
    bits = PAILLIER_BITS if demo.mode == "paillier" else 0
    federation = LocalFederation(
        demo.folder, replicas=replicas, nodes=nodes, paillier_bits=bits, apps=[APP], say=demo.say
    )
    baseline: subprocess.Popen[str] | None = None
    try:
        with federation:
            if (os.cpu_count() or 1) >= CORES_FOR_PARALLEL_BASELINE:
                baseline = demo.start_baseline()
            task, rows = asyncio.run(demo.run(federation))
            baseline = baseline or demo.start_baseline()
            demo.finish_baseline(baseline)
            demo.console.print(table(rows, demo.mode))
            federated = rows[-1].accuracy if rows else None
            demo.console.print(
                f"accuracy: federated {_percent(federated)}, "
                f"centralised {_percent(demo.baseline['accuracy'])} (same net, pooled data)"
            )
            passed = demo.audit(federation)
            summary = demo.summary(task, rows, passed)
            write_atomically(demo.folder / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")
            if keep:
                _keep_running(demo, federation)
    finally:
        if baseline is not None and baseline.poll() is None:
            baseline.kill()
            baseline.wait()
    demo.say(f"everything is in {demo.folder} (again: koinon-audit --offline {demo.folder})")
    return 0 if passed else 1


def _keep_running(demo: Demo, federation: LocalFederation) -> None:
    demo.say(f"the federation keeps running (homes in {federation.home_folder}); Ctrl-C stops it")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        demo.say("stopping")


def wide_console(*, stderr: bool) -> Console:
    """A console whose tables stay whole in a log file, too."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = LOG_COLUMNS
    return console


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def main(
    mode: Annotated[str, typer.Option(help=f"Privacy mode: {', '.join(MODES)}.")] = "shares",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds to train.")] = 6,
    nodes: Annotated[int, typer.Option(min=3, help="Edge nodes.")] = 5,
    replicas: Annotated[int, typer.Option(min=4, help="Committee size n = 3f + 1.")] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", help="summary.json on standard output, progress on error.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the federation running until Ctrl-C.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs"),
) -> None:
    """Train the digits example in a federation on this machine, and audit it."""
    console = wide_console(stderr=as_json)
    if mode not in MODES:
        raise typer.BadParameter(f"no mode is called {mode!r}; one of {', '.join(MODES)}")
    exit_on_sigterm()
    demo = Demo(new_run(out.resolve()), mode, rounds, console)
    try:
        code = demonstrate(demo, replicas=replicas, nodes=nodes, keep=keep)
        if as_json:
            sys.stdout.write((demo.folder / "summary.json").read_text())
    except KeyboardInterrupt:
        demo.say("interrupted; every process is stopped")
        code = 130
    except KoinonError as error:
        console.print(f"[bold red]error[/bold red]: {error.message}", markup=True)
        demo.say(f"logs are in {demo.folder / 'logs'}")
        code = error.exit_code
    raise typer.Exit(code)


if __name__ == "__main__":
    typer.run(main)
