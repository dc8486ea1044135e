"""The audit's report: one line a check, in the order in which the checks were made, and a hash over it all.

A line is PASS, FAIL or SKIP. A check that meets corrupt input is a FAIL with the reason; it never stops the audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

import koinon
from koinon.encoding import keccak, to_hex
from koinon.errors import KoinonError

SCHEMA_VERSION = 1
DETAIL_CHARACTERS_MAX = 400

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One check. `task`, `block` and `transaction` say where in the records to look; empty or None when nowhere."""

    check: str
    verdict: str
    detail: str
    task: str = ""
    round: int | None = None
    block: int | None = None
    transaction: str = ""


class Skipped(Exception):
    """Raised inside a check that cannot be made with the evidence at hand."""


@dataclass
class Place:
    """What a check may add to its line while it runs."""

    detail: str = ""
    block: int | None = None
    transaction: bytes = b""

    def say(self, detail: str) -> None:
        self.detail = detail


@dataclass
class Report:
    """Lines so far, and what was audited. `chain_head` and `log_head` are (number, hash)."""

    federation: str
    chain_id: int
    chain_head: tuple[int, bytes] | None = None
    log_head: tuple[int, bytes] | None = None
    lines: list[Line] = field(default_factory=list)
    watch: Callable[[Line], None] | None = None

    @contextmanager
    def check(self, name: str, *, task: bytes = b"", round: int | None = None) -> Iterator[Place]:
        """Run the body as one check: whatever it raises is the FAIL, its `say` the detail of the PASS."""
        place = Place()
        verdict = PASS
        try:
            yield place
        except Skipped as reason:
            verdict, place.detail = SKIP, str(reason)
        except KoinonError as error:
            verdict, place.detail = FAIL, error.message
        except Exception as error:  # corrupt evidence may break anything: that is a finding, not a crash
            verdict, place.detail = FAIL, f"unreadable evidence ({type(error).__name__}: {error})"
        line = Line(
            check=name,
            verdict=verdict,
            detail=place.detail[:DETAIL_CHARACTERS_MAX],
            task=to_hex(task) if task else "",
            round=round,
            block=place.block,
            transaction=to_hex(place.transaction) if place.transaction else "",
        )
        self.lines.append(line)
        if self.watch:
            self.watch(line)

    @property
    def passed(self) -> bool:
        """At least one check was made and none failed."""
        return any(line.verdict == PASS for line in self.lines) and self.first_lie is None

    @property
    def first_lie(self) -> Line | None:
        return next((line for line in self.lines if line.verdict == FAIL), None)

    def summary(self) -> str:
        """One sentence: the verdict, or the first lie with its place."""
        lie = self.first_lie
        if lie is None:
            made = sum(line.verdict == PASS for line in self.lines)
            left = sum(line.verdict == SKIP for line in self.lines)
            return f"{made} checks passed" + (f", {left} could not be made" if left else "")
        where = f" of round {lie.round}" if lie.round is not None else ""
        return f"first lie: {lie.check}{where}: {lie.detail}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; `report_hash` is Keccak-256 over the canonical JSON of everything else."""
        body: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "tool": f"koinon-audit {koinon.__version__}",
            "federation": self.federation,
            "chain_id": self.chain_id,
            "chain_head": _head(self.chain_head),
            "log_head": _head(self.log_head),
            "verdict": PASS if self.passed else FAIL,
            "summary": self.summary(),
            "lines": [msgspec.to_builtins(line) for line in self.lines],
        }
        body["report_hash"] = to_hex(keccak(canonical_json(body)))
        return body


def _head(head: tuple[int, bytes] | None) -> dict[str, Any] | None:
    return {"number": head[0], "hash": to_hex(head[1])} if head else None


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
