"""What a privacy mode costs a round: the same task in each mode, in one federation, on this machine.

    python -m scripts.bench_rounds [--modes plain,shares] [--rounds 4] [--repeats 2]

Modes alternate, so that a busy machine does not favour one. The first round of each task is left out: it loads code.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from koinon.client import CommitteeClient
from koinon.errors import KoinonError, Unavailable
from koinon.privacy import MODES

from ._follow import anchored, follow, last_certified, newest_task
from ._rounds import PHASES, RoundTimes, merge, read_lines
from .demo import APP, EXAMPLE, PAILLIER_BITS, TASK_SECONDS_MAX, wide_console
from .federation import LocalFederation, exit_on_sigterm


async def one_task(federation: LocalFederation, mode: str, rounds: int) -> list[RoundTimes]:
    """Submit, follow, wait for the chain; the rounds without the first."""
    federation.submit(federation.nodes[0], EXAMPLE / "task.toml", mode=mode, rounds=rounds)
    async with CommitteeClient(federation.file) as client:
        identity = await newest_task(client)
        task = await follow(
            client, identity, lambda _: None, seconds_max=TASK_SECONDS_MAX, alive=federation.require_alive
        )
        last = last_certified(task)
        if last is None or task.status != "completed":
            raise Unavailable(f"the task is {task.status}: {task.reason}")
        await anchored(federation.file, identity, last.number)
        await asyncio.sleep(1.0)  # the aggregator writes its timings once it saw the certificate on chain
    nodes = read_lines(federation.home(node) for node in federation.nodes)
    return merge(identity, task, nodes, read_lines([federation.home("aggregator")]))[1:]


def show(console: Console, measured: dict[str, list[RoundTimes]]) -> dict[str, float]:
    """Print the table; median seconds of a round by mode."""
    medians = {mode: statistics.median(row.seconds for row in rows) for mode, rows in measured.items()}
    base = medians[next(iter(medians))]
    table = Table(title="seconds a round (median)", title_justify="left")
    for name in ("mode", "rounds", "seconds", "ratio", *PHASES):
        table.add_column(name, justify="right")
    for mode, rows in measured.items():
        phases = (statistics.median(row.phases[name] for row in rows) for name in PHASES)
        cells = (f"{value:.2f}" for value in phases)
        table.add_row(mode, str(len(rows)), f"{medians[mode]:.2f}", f"{medians[mode] / base:.2f}", *cells)
    console.print(table)
    return medians


def main(
    modes: Annotated[str, typer.Option(help="Comma-separated; ratios are to the first.")] = "plain,shares",
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each task.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Tasks of each mode.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Medians as JSON on standard output.")] = False,
) -> None:
    """Measure rounds by privacy mode."""
    names = modes.split(",")
    if unknown := [name for name in names if name not in MODES]:
        raise typer.BadParameter(f"no mode is called {unknown[0]!r}")
    exit_on_sigterm()
    console = wide_console(stderr=as_json)
    bits = PAILLIER_BITS if "paillier" in names else 0
    measured: dict[str, list[RoundTimes]] = {name: [] for name in names}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="koinon-bench-") as folder,
            LocalFederation(Path(folder), paillier_bits=bits, apps=[APP], say=console.print) as federation,
        ):
            for _ in range(repeats):
                for name in names:
                    measured[name] += asyncio.run(one_task(federation, name, rounds))
                    console.print(f"{name}: {len(measured[name])} rounds measured")
    except KoinonError as error:
        console.print(f"error: {error.message}")
        raise typer.Exit(error.exit_code) from None
    medians = show(console, measured)
    if as_json:
        sys.stdout.write(json.dumps({name: round(value, 4) for name, value in medians.items()}) + "\n")


if __name__ == "__main__":
    typer.run(main)
