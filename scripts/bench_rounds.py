"""What privacy costs a whole round: LeNet-5 on CIFAR-10 in each mode, in one federation, beside Flower's own.

    python -m scripts.bench_rounds [--data-dir DIR] [--modes plain,shares] [--nodes 10] [--repeats 3] [--json FILE]

One federation of real processes (chain, replicas, aggregator, nodes) trains the same task once a mode, again and again
in turning order, so that a machine that slows down slows all modes. The first round of each task is left out: it loads
code and data. `seconds` is the median from a round's opening to the next one's, `cpu s` the processor seconds that all
processes of the federation spent on a round, which a busy machine changes less.

`--flower PYTHON` names a Python with flwr and torch (`make bench-rounds` makes one): scripts/_flower_rounds.py
then trains the same net on the same parts with Flower's simulation, rounds with and without SecAgg+ by turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import typer
from rich.console import Console
from rich.table import Table

from koinon.client import CommitteeClient
from koinon.errors import ConfigError, KoinonError, Unavailable
from koinon.rounds.state import Task

from ._follow import anchored, follow, last_certified, newest_task
from ._rounds import PHASES, RoundTimes, merge, read_lines
from .demo import PAILLIER_BITS, TASK_SECONDS_MAX, wide_console
from .federation import ROOT, LocalFederation, descendants, environment, exit_on_sigterm, module

EXAMPLE = ROOT / "examples" / "cifar10"
APP = f"cifar10={EXAMPLE / 'client.py'}:client_fn"
FLOWER = Path(__file__).with_name("_flower_rounds.py")
SAMPLES = 50_000
BATCHES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
UNVALIDATED = "shares-unvalidated"
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"mode": "plain"},
    "shares": {"mode": "shares"},
    UNVALIDATED: {"mode": "shares", "validate": False},
    "masked": {"mode": "masked"},
    "paillier": {"mode": "paillier"},
}
SETTLE_SECONDS = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Measured:
    """One variant's rounds so far, and the processor seconds of each of its tasks by role, a round."""

    rounds: list[RoundTimes] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)


class Bench:
    """Runs tasks in one federation."""

    def __init__(self, federation: LocalFederation, folder: Path, rounds: int, epochs: int) -> None:
        self._federation = federation
        self._folder = folder
        self._rounds = rounds
        self._epochs = epochs

    def task_file(self, variant: str) -> Path:
        """The example's task with the variant's settings."""
        table = tomllib.loads((EXAMPLE / "task.toml").read_text())
        table |= VARIANTS[variant]
        table["cohort_min"] = max(table["cohort_min"], len(self._federation.nodes))
        table["config"]["epochs"] = self._epochs
        path = self._folder / f"{variant}.toml"
        path.write_text(tomli_w.dumps(table))
        return path

    async def run(self, variant: str, into: Measured) -> None:
        """Submit, follow, wait for the chain; keep the rounds without the first."""
        federation = self._federation
        spent: list[dict[str, float]] = []
        mode = VARIANTS[variant]["mode"]
        federation.submit(federation.nodes[0], self.task_file(variant), mode=mode, rounds=self._rounds)
        async with CommitteeClient(federation.file) as client:
            identity = await newest_task(client)

            def hear(task: Task) -> None:
                if task.certified and not spent:  # the first round is over
                    spent.append(self._cpu())

            alive = federation.require_alive
            task = await follow(client, identity, hear, seconds_max=TASK_SECONDS_MAX, alive=alive)
            last = last_certified(task)
            if last is None or task.status != "completed":
                raise Unavailable(f"the task is {task.status}: {task.reason}")
            await anchored(federation.file, identity, last.number)
            await asyncio.sleep(
                SETTLE_SECONDS
            )  # the aggregator writes its timings once it saw the certificate on chain
        after = self._cpu()
        into.cpu.append({role: (after[role] - spent[0][role]) / (self._rounds - 1) for role in after})
        nodes = read_lines(federation.home(node) for node in federation.nodes)
        into.rounds += merge(identity, task, nodes, read_lines([federation.home("aggregator")]))[1:]

    def _cpu(self) -> dict[str, float]:
        """Processor seconds that the federation's processes have spent, by role; zeros where /proc does not tell."""
        spent: dict[str, float] = {}
        for name, pid in self._federation.pids.items():
            role = name.partition("-")[0]
            spent[role] = spent.get(role, 0.0) + sum(map(cpu_seconds, [pid, *descendants(pid)]))
        return spent


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process (Linux; 0 elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def in_turns(names: list[str], repeats: int) -> Iterator[str]:
    """Each name `repeats` times, begun with another one each time."""
    for turn in range(repeats):
        at = turn % len(names)
        yield from names[at:] + names[:at]


def require_data(folder: Path, console: Console) -> None:
    """ConfigError or Unavailable, saying what to do, unless CIFAR-10 lies in `folder` or can be downloaded into it."""
    for place in (folder, folder / "cifar-10-batches-bin"):
        if all((place / name).is_file() for name in BATCHES):
            return
    console.print(f"no CIFAR-10 in {folder}: downloading it (170 MB)")
    command = [*module("node.data"), str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise ConfigError(
            f"CIFAR-10 is not in {folder}, and {done.stderr.strip()}",
            hint="name a folder that has data_batch_1.bin to data_batch_5.bin and test_batch.bin with --data-dir",
        )


def row(name: str, measured: Measured, base: float) -> dict[str, Any]:
    """The figures of one variant; `base` is the plain round's median."""
    seconds = [each.seconds for each in measured.rounds]
    median, phases = statistics.median(seconds), {}
    for phase in PHASES:
        phases[phase] = round(statistics.median(each.phases[phase] for each in measured.rounds), 4)
    ordering = statistics.median(each.phases["order"] / each.seconds for each in measured.rounds)
    cpu = {role: round(statistics.median(each[role] for each in measured.cpu), 3) for role in measured.cpu[0]}
    return {
        "name": name,
        "rounds": len(seconds),
        "seconds": round(median, 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "ratio": round(median / (base or median), 4),
        **phases,
        "order_percent": round(100 * ordering, 3),
        "cpu_s": round(sum(cpu.values()), 3),
        "cpu_by_role": cpu,
    }


def rows_of(measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """A row a variant; ratios are to the first."""
    found: list[dict[str, Any]] = []
    for name, each in measured.items():
        found.append(row(name, each, found[0]["seconds"] if found else 0.0))
    return found


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title="seconds of a round (medians)", title_justify="left")
    for name in ("mode", "rounds", "seconds", "min-max", "ratio", *PHASES, "order %", "cpu s", "cpu ratio"):
        table.add_column(name, justify="right")
    for each in rows:
        spread = f"{each['seconds_min']:.2f}-{each['seconds_max']:.2f}"
        phases = (f"{each[name]:.3f}" if name in each else "-" for name in PHASES)
        base = next(other for other in rows if other["name"].partition(" ")[0] == each["name"].partition(" ")[0])
        base = base if each["name"].startswith("flower") else rows[0]
        order = f"{each['order_percent']:.2f}" if "order_percent" in each else "-"
        table.add_row(
            each["name"], str(each["rounds"]), f"{each['seconds']:.2f}", spread, f"{each['ratio']:.2f}", *phases,
            order, f"{each['cpu_s']:.2f}", f"{each['cpu_s'] / base['cpu_s']:.2f}" if base["cpu_s"] else "-",
        )  # fmt: skip
    console.print(table)


def keep(rows: list[dict[str, Any]], console: Console, as_json: Path | None, *, nodes: int, epochs: int) -> None:
    """Show the rows, and write them down."""
    show(console, rows)
    if as_json is not None:
        about = {"nodes": nodes, "params": 62_006, "epochs": epochs, "cores": os.cpu_count()}
        as_json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def flower(python: Path, data_dir: Path, nodes: int, rounds: int, epochs: int) -> list[dict[str, Any]]:
    """The rows of scripts/_flower_rounds.py."""
    task = tomllib.loads((EXAMPLE / "task.toml").read_text())["config"]
    options = {"data-dir": data_dir, "nodes": nodes, "rounds": rounds, "epochs": epochs}
    options |= {"batch-size": task["batch_size"], "learning-rate": task["learning_rate"]}
    command = [str(python), str(FLOWER), *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Unavailable(f"{FLOWER.name} failed with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(
    console: Console, names: list[str], data_dir: Path, *, nodes: int, rounds: int, repeats: int, epochs: int
) -> dict[str, Measured]:
    """Run every variant `repeats` times in one federation."""
    measured = {name: Measured() for name in names}
    bits = PAILLIER_BITS if "paillier" in names else 0
    with (
        tempfile.TemporaryDirectory(prefix="koinon-bench-") as folder,
        LocalFederation(
            Path(folder), nodes=nodes, paillier_bits=bits, apps=[APP], data_dir=data_dir,
            examples_max=-(-SAMPLES // nodes), say=console.print,
        ) as federation,
    ):  # fmt: skip
        bench = Bench(federation, Path(folder), rounds, epochs)
        for name in in_turns(names, repeats):
            asyncio.run(bench.run(name, measured[name]))
            seconds = " ".join(f"{each.seconds:.2f}" for each in measured[name].rounds[1 - rounds :])
            console.print(f"{name}: {seconds} s")
    return measured


def main(
    data_dir: Annotated[
        Path, typer.Option(help="CIFAR-10's binary batches; downloaded there when it has none.")
    ] = Path("data/cifar10"),
    modes: Annotated[
        str, typer.Option(help=f"Comma-separated, of {', '.join(VARIANTS)}; ratios are to the first.")
    ] = "plain,shares,shares-unvalidated,masked",
    nodes: Annotated[int, typer.Option(min=3, help="Nodes; the 50,000 images are shared out equally.")] = 10,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each task; the first is left out.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Tasks of each mode.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Local epochs a round.")] = 1,
    flower_python: Annotated[
        Path | None, typer.Option("--flower", metavar="PYTHON", help="A Python with flwr and torch.")
    ] = None,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the rows to FILE.")] = None,
) -> None:
    """Measure whole rounds by privacy mode."""
    names = list(dict.fromkeys(modes.split(",")))
    if unknown := [name for name in names if name not in VARIANTS]:
        raise typer.BadParameter(f"no mode is called {unknown[0]!r}; one of {', '.join(VARIANTS)}")
    exit_on_sigterm()
    console = wide_console(stderr=False)
    try:
        folder = data_dir.expanduser().resolve()
        require_data(folder, console)
        shape = {"nodes": nodes, "rounds": rounds, "epochs": epochs}
        rows = rows_of(measure(console, names, folder, repeats=repeats, **shape))
        keep(rows, console, as_json, nodes=nodes, epochs=epochs)
        if flower_python is not None:
            rows += flower(flower_python, folder, nodes, 1 + repeats * (rounds - 1), epochs)
            keep(rows, console, as_json, nodes=nodes, epochs=epochs)
    except KoinonError as error:
        console.print(f"error: {error.message}{f' ({error.hint})' if error.hint else ''}")
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
