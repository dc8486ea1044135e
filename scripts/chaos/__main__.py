"""`make chaos`: real replica processes, real faults, clients all the while; a table and exit code 1 on any failure.

    python -m scripts.chaos [--replicas 4] [--only kill-9,loss-30] [--minutes 60] [--json FILE] [--list]

Each fault is done and undone; then operations must be acknowledged again within its bound, every replica must have
come back, all logs must be one log with valid signatures, every acknowledged operation must be in it and be executed
exactly once, and checkpoints must be equal. `--patience` multiplies every bound, for a machine that does something else
besides.

With `--minutes` there is load and no fault for so long, and what replicas take (memory, descriptors, disk) must stay
flat; `--only` names faults to be done before that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from koinon.config import write_atomically
from koinon.errors import ConfigError, KoinonError

from ..federation import ROOT, new_run
from . import faults, hostile, namespaces, steady
from .proxies import Proxies
from .scene import FAULTS, Fault, Verdict
from .stage import Stage

SCENARIOS = (faults, hostile)
"""Importing them fills FAULTS."""
REPLICAS_MIN = 4
EXAMPLES = """examples:
  python -m scripts.chaos                                 every fault, four replicas
  python -m scripts.chaos --only kill-9,wipe              two of them
  python -m scripts.chaos --minutes 60 --json out.json    an hour of load without a fault: does anything grow?
  python -m scripts.chaos --minutes 10 --only restart     a fault, then ten minutes of load"""


class Chaos:
    """One run: which faults, where, and what came of each."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.options = options
        self.console = console
        self.verdicts: list[Verdict] = []
        self.hindrance = "" if options.network == Proxies.name else namespaces.missing()
        """Why there are no namespaces, if there are none."""
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        self.console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {line}", soft_wrap=True)

    async def run(self, folder: Path) -> None:
        if self.options.network == namespaces.Namespaces.name and self.hindrance:
            raise ConfigError(f"no network namespaces: {self.hindrance}", hint="--network proxies")
        usual = Proxies.name if self.options.network == Proxies.name or self.hindrance else namespaces.Namespaces.name
        wanted = chosen(self.options.only) if self.options.only or not self.options.minutes else []
        for network in dict.fromkeys((usual, Proxies.name)):
            here = [fault for fault in wanted if (fault.network or usual) == network]
            minutes = self.options.minutes if network == usual else 0.0
            if here or minutes:
                await self._act(folder, network, here, minutes)
        for fault in wanted:
            if fault.network not in ("", usual, Proxies.name):
                self._record(_skipped(fault, usual, f"needs {fault.network}: {self.hindrance or 'not chosen'}"))

    async def _act(self, folder: Path, network: str, wanted: Iterable[Fault], minutes: float) -> None:
        options = self.options
        stage = Stage(folder, network, replicas=options.replicas, patience=options.patience, say=self.say)
        async with stage:
            for fault in wanted:
                if fault.root and os.geteuid() != 0:
                    self._record(_skipped(fault, network, "needs root"))
                    continue
                self.say(f"[bold]{fault.name}[/bold]: {fault.what}")
                self._record(await stage.play(fault))
            if minutes:
                self.say(f"[bold]{steady.NAME}[/bold]: {minutes:g} minutes of load without a fault")
                self._record(await stage.endure(minutes))

    def _record(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        colour = {"ok": "green", "FAILED": "red"}.get(verdict.outcome, "yellow")
        self.say(
            f"[{colour}]{verdict.outcome}[/{colour}] {verdict.fault}: {verdict.acknowledged} acknowledged, longest gap "
            f"{verdict.gap_seconds:.1f} s, recovery {verdict.recovery_seconds:.1f} s"
        )
        for problem in verdict.problems:
            self.say(f"   [red]{problem}[/red]")
        if verdict.folder:
            self.say(f"   logs: {verdict.folder}")

    def table(self) -> Table:
        table = Table(title=f"{self.options.replicas} replicas", title_justify="left")
        for name in ("fault", "network", "outcome", "ops", "gap s", "bound", "recovery s", "bound", "MB", "notes"):
            table.add_column(name, justify="left" if name in ("fault", "network", "outcome", "notes") else "right")
        for one in self.verdicts:
            bound = "" if one.gap_seconds_max is None else f"{one.gap_seconds_max:.0f}"
            table.add_row(
                one.fault, one.network, one.outcome, str(one.acknowledged), f"{one.gap_seconds:.1f}", bound,
                f"{one.recovery_seconds:.1f}", f"{one.recovery_seconds_max:.0f}" if one.recovery_seconds_max else "",
                f"{one.memory_mb:.0f}",
                "; ".join([*(line.splitlines()[0] for line in one.problems[:1]), *one.notes]),
            )  # fmt: skip
        return table

    def tables(self) -> list[Table]:
        """That of all verdicts, and what a steady run gained."""
        return [
            self.table(),
            *(steady.table(one) for one in self.verdicts if isinstance(one, steady.SteadyVerdict) and one.growth),
        ]

    @property
    def failed(self) -> bool:
        return any(verdict.outcome == "FAILED" for verdict in self.verdicts)


def chosen(only: str) -> list[Fault]:
    """The faults with these comma-separated names, or all. ConfigError on a name that is none."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in FAULTS]:
        raise ConfigError(f"no fault is called {unknown[0]!r}", hint=f"faults: {', '.join(FAULTS)}")
    return [FAULTS[name] for name in names] or list(FAULTS.values())


def require_fitting(replicas: int) -> None:
    """ConfigError for a committee that bears no fault, or that the networks have no room for."""
    if not REPLICAS_MIN <= replicas <= namespaces.REPLICAS_MAX:
        least, most = REPLICAS_MIN, namespaces.REPLICAS_MAX
        raise ConfigError(f"--replicas {replicas}", hint=f"{least} to {most}: fewer than {least} bear no fault")


def _skipped(fault: Fault, network: str, reason: str) -> Verdict:
    return Verdict(fault.name, fault.what, network, "skipped", notes=[reason])


async def perform(chaos: Chaos, folder: Path) -> None:
    """`Chaos.run`, ended once, and cleanly, by SIGINT or SIGTERM; a second one does not hurry the cleaning."""
    running = asyncio.ensure_future(chaos.run(folder))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: running.cancel() if not running.cancelling() else None)
    await running


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m scripts.chaos",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--replicas", type=int, default=4, help="committee size (default: %(default)s)")
    made.add_argument("--only", default="", metavar="NAMES", help="comma-separated faults (default: all)")
    made.add_argument(
        "--minutes", type=float, default=0.0, help="load without a fault for so long; memory and disk must stay flat"
    )
    made.add_argument("--network", choices=("auto", "namespaces", "proxies"), default="auto")
    made.add_argument("--patience", type=float, default=1.0, help="multiplies every bound (default: %(default)s)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts there")
    made.add_argument("--keep", action="store_true", help="keep the run's folder although all went well")
    made.add_argument("--list", action="store_true", help="name the faults and end")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every promise was kept, 1 when not, 130 when interrupted."""
    options = parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if options.list:
        for fault in FAULTS.values():
            console.print(f"{fault.name:20} {fault.what}", soft_wrap=True)
        return 0
    folder = new_run(ROOT / "runs" / "chaos")
    try:
        chosen(options.only)
        require_fitting(options.replicas)
        if options.minutes:
            steady.require_measurable(options.minutes)
        chaos = Chaos(options, console)
        asyncio.run(perform(chaos, folder))
    except KoinonError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except asyncio.CancelledError:
        print(f"interrupted; everything is stopped; logs: {folder}", file=sys.stderr)
        return 130
    for table in chaos.tables():
        console.print(table)
    if options.json:
        write_atomically(options.json, json.dumps([asdict(one) for one in chaos.verdicts], indent=2).encode() + b"\n")
    if chaos.failed or options.keep:
        console.print(f"logs: {folder}", soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return 1 if chaos.failed else 0


if __name__ == "__main__":
    sys.exit(main())
