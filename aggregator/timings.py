"""`data/rounds.jsonl`: where the seconds of each round went, one line a round, written once the chain holds it.

`wait` comes from the committee's records and `chain` from the outbox, so both survive a restart; what another process
of this aggregator measured is lost with it and is 0.
"""

from __future__ import annotations

import json
from pathlib import Path

from koinon.observe import PHASE_SECONDS
from koinon.rounds.state import Round

FILE = "rounds.jsonl"
PHASES = ("open_round", "wait", "open", "certify", "complete", "chain")


class Timings:
    """One a process; `measured[task, round][phase]` in seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._measured: dict[tuple[str, int], dict[str, float]] = {}
        self._written = set(self._read())

    def note(self, task: bytes, number: int, phase: str, seconds: float) -> None:
        """Seconds that a phase took; a repeated phase adds up."""
        kept = self._measured.setdefault((task.hex(), number), {})
        kept[phase] = kept.get(phase, 0.0) + seconds

    def write(self, task: bytes, round_: Round, chain_seconds: float) -> None:
        """Append the round's line, unless there is one."""
        key = (task.hex(), round_.number)
        if key in self._written:
            return
        measured = self._measured.pop(key, {})
        measured["wait"] = max(0, round_.closed_ms - round_.opened_ms) / 1000
        measured["chain"] = chain_seconds
        seconds = {phase: round(measured.get(phase, 0.0), 4) for phase in PHASES}
        for phase, value in seconds.items():
            PHASE_SECONDS.labels(phase).observe(value)
        with self._path.open("a") as file:
            file.write(json.dumps({"task": key[0], "round": key[1], **seconds}) + "\n")
        self._written.add(key)

    def _read(self) -> list[tuple[str, int]]:
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return []
        found = []
        for line in self._path.read_text().splitlines():
            try:
                said = json.loads(line)
                found.append((str(said["task"]), int(said["round"])))
            except (ValueError, KeyError, TypeError):
                continue  # a line that a crash tore
        return found
