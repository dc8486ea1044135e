"""Where the seconds of each round went: the parties' data/rounds.jsonl merged with the committee's records.

Nodes work side by side and the round waits for the last of them, so its phases count:

    train     the app's fit
    protect   quantising, splitting or encrypting, proving, sealing
    deliver   until 2f + 1 replicas have the update and gave receipts for their checked pieces
    order     what waits for an operation to be ordered and answered: the round's opening, the update, the completion
    open      contributions, opening, the next model, the certificate
    chain     anchoring of the certificate
    other     the rest: noticing that there is a round, the chain's word on its parent, fetching the model
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from koinon.rounds.state import Round, Task

PHASES = ("train", "protect", "deliver", "order", "open", "chain", "other")

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
        last = max(trained, key=lambda line: int(line.get("time_ms", 0)), default={})
        phases = {
            "train": _spent([last], "train"),
            "protect": _spent([last], "protect"),
            "deliver": _spent([last], "deliver"),
            "order": _spent([last], "submit") + _spent(steered, "open_round", "complete"),
            "open": _spent(steered, "open", "certify"),
            "chain": _spent(steered, "chain"),
        }
        following = next((each for each in task.rounds if each.number == round_.number + 1), None)
        seconds = _seconds(round_, following, phases["chain"])
        phases["other"] = max(0.0, seconds - sum(phases.values()))
        rows.append(
            RoundTimes(
                number=round_.number,
                accepted=len(round_.submissions),
                accuracy=round_.accuracy(),
                seconds=seconds,
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


def _spent(lines: Lines, *phases: str) -> float:
    return max((sum(float(line.get(phase, 0.0)) for phase in phases) for line in lines), default=0.0)


def _seconds(round_: Round, following: Round | None, chain: float) -> float:
    if following is not None:
        return (following.opened_ms - round_.opened_ms) / 1000
    return (round_.certified_ms - round_.opened_ms) / 1000 + chain


def mean_seconds(rows: list[RoundTimes]) -> float:
    """Mean wall-clock seconds of a round; 0 without rounds."""
    return sum(row.seconds for row in rows) / len(rows) if rows else 0.0
