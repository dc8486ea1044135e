"""Where the seconds of each round went: the parties' data/rounds.jsonl merged with the committee's records.

Nodes work side by side, so a phase takes as long as its slowest node. `consensus` is everything that waits for the
committee to order, receive or certify; `chain` is the anchoring of the certificate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koinon.rounds.state import Round, Task

PHASES = ("train", "protect", "consensus", "open", "chain")

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class RoundTimes:
    """One certified round; seconds. `seconds` is from its opening to the next one's (the last: until anchored)."""

    number: int
    accepted: int
    accuracy: float | None
    seconds: float
    phases: dict[str, float]


def read_lines(homes: Iterable[Path]) -> Lines:
    """The lines of the parties' rounds.jsonl; a line that a crash tore is left out."""
    lines: Lines = []
    for home in homes:
        path = home / "data" / "rounds.jsonl"
        for text in path.read_text().splitlines() if path.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def merge(identity: bytes, task: Task, nodes: Lines, aggregator: Lines) -> list[RoundTimes]:
    """One row a certified round of `task`, ascending."""
    certified = [each for each in task.rounds if each.certificate is not None]
    rows = []
    for round_ in certified:
        trained = _of(nodes, identity, round_.number)
        steered = _of(aggregator, identity, round_.number)
        phases = {
            "train": _slowest(trained, "train"),
            "protect": _slowest(trained, "protect"),
            "consensus": _slowest(trained, "deliver", "submit") + _slowest(steered, "open_round", "complete"),
            "open": _slowest(steered, "open", "certify"),
            "chain": _slowest(steered, "chain"),
        }
        following = next((each for each in task.rounds if each.number == round_.number + 1), None)
        rows.append(
            RoundTimes(
                number=round_.number,
                accepted=len(round_.submissions),
                accuracy=round_.accuracy(),
                seconds=_seconds(round_, following, phases["chain"]),
                phases=phases,
            )
        )
    return rows


def _of(lines: Lines, identity: bytes, number: int) -> Lines:
    return [
        line
        for line in lines
        if str(line.get("task", "")).removeprefix("0x") == identity.hex() and line.get("round") == number
    ]


def _slowest(lines: Lines, *phases: str) -> float:
    return max((sum(float(line.get(phase, 0.0)) for phase in phases) for line in lines), default=0.0)


def _seconds(round_: Round, following: Round | None, chain: float) -> float:
    if following is not None:
        return (following.opened_ms - round_.opened_ms) / 1000
    return (round_.certified_ms - round_.opened_ms) / 1000 + chain


def mean_seconds(rows: list[RoundTimes]) -> float:
    """Mean wall-clock seconds of a round; 0 without rounds."""
    return sum(row.seconds for row in rows) / len(rows) if rows else 0.0
