"""`koinon-audit`: check everything that can be checked, without trusting anybody, and name the first lie.

    koinon-audit                            the federation of KOINON_HOME (any party's home): all tasks, all rounds
    koinon-audit TASK --round 3             one task (its name, or the first digits of its identity), one round
    koinon-audit --federation FILE          with nothing but the public federation.json
    koinon-audit --verify-aggregate         and the sums against the nodes' own commitments (tasks with commit = true)
    koinon-audit --offline runs/latest      from the files that replicas left; chain.json stands for the chain

Exit code 0 when every check passed, 1 when one failed, 2 for wrong options, 3 when the chain does not answer.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from koinon.audit import Line, Report, Selection, examine
from koinon.audit.chain import ChainFacts, to_json
from koinon.audit.gather import gather_offline, gather_online
from koinon.audit.report import FAIL, PASS, canonical_json
from koinon.config import load_federation, load_party, write_atomically
from koinon.errors import ConfigError

from ._entry import run

STYLES = {PASS: "green", FAIL: "bold red"}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def audit(
    task: Annotated[
        str, typer.Argument(help="A task's name or the first digits of its identity; all by default.")
    ] = "",
    home: Annotated[Path | None, typer.Option(envvar="KOINON_HOME", help="Any party's home.")] = None,
    federation: Annotated[Path | None, typer.Option(help="A federation.json; needs no home.")] = None,
    offline: Annotated[Path | None, typer.Option(help="A run's folder; nothing is asked over the network.")] = None,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="Only this round.")] = None,
    first: Annotated[int, typer.Option("--from", min=1, help="The first round to report on.")] = 1,
    last: Annotated[int | None, typer.Option("--to", min=1, help="The last round to report on.")] = None,
    verify_aggregate: Annotated[
        bool, typer.Option("--verify-aggregate", help="Check sums against the nodes' commitments, trusting no replica.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as canonical JSON on standard output.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the canonical JSON report to this file.")] = None,
    keep_chain: Annotated[
        Path | None, typer.Option(help="Keep what the chain said in this file, for later audits with --offline.")
    ] = None,
) -> None:
    """Replay the ordered log and the chain, recompute every round, and print one line a check."""
    chosen = Selection(task, round_ or first, round_ or last, verify_aggregate)
    console = Console(stderr=as_json, highlight=False)
    report, chain = run_audit(home, federation, offline, chosen, console)
    body = canonical_json(report.as_json())
    if output is not None:
        write_atomically(output, body + b"\n")
    if keep_chain is not None and chain is not None:
        write_atomically(keep_chain, to_json(chain))
    if as_json:
        sys.stdout.write(body.decode() + "\n")
    verdict = PASS if report.passed else FAIL
    console.print(Text.assemble((verdict, STYLES[verdict]), f"  {report.summary()}"), soft_wrap=True)
    if not report.passed:
        raise typer.Exit(1)


def run_audit(
    home: Path | None, federation: Path | None, offline: Path | None, chosen: Selection, console: Console
) -> tuple[Report, ChainFacts | None]:
    """Gather and examine; each line is printed as it is made."""
    if offline is not None:
        evidence, history = gather_offline(offline, chosen)
    else:
        evidence, history = asyncio.run(gather_online(load_federation(_federation_path(home, federation)), chosen))
    report = examine(evidence, history, chosen, watch=lambda line: console.print(row(line), soft_wrap=True))
    return report, evidence.chain


def row(line: Line) -> Text:
    """One line for people: verdict, where, what, and the evidence."""
    where = f"round {line.round}" if line.round is not None else ""
    chain = f"  [block {line.block}" + (f", tx {line.transaction[:10]}" if line.transaction else "") + "]"
    return Text.assemble(
        (f"{line.verdict:<4}", STYLES.get(line.verdict, "yellow")),
        f"  {where:<9} ",
        (f"{line.check:<22}", "bold"),
        f" {line.detail}",
        (chain if line.block is not None else "", "dim"),
    )


def _federation_path(home: Path | None, federation: Path | None) -> Path:
    if federation is not None:
        return federation
    if home is None:
        raise ConfigError("whose federation?", hint="--home DIR, --federation FILE, --offline DIR, or set KOINON_HOME")
    if (home / "config.toml").exists():
        return home / load_party(home).federation
    return home / "federation.json"


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
