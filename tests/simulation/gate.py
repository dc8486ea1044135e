"""The mutation gate: which seed or story catches each known bug, and how.

`python -m tests.simulation.gate --write` writes the table of docs/verification.md; a test compares it, row by row.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from koinon.errors import KoinonError

from . import epoch_mutations as epoch_mutations  # they register their own
from . import recovery_mutations as recovery_mutations
from .checkers import Violation
from .mutations import MUTATIONS, Mutation
from .weather import Stalled, play

SEEDS_MAX = 200
DOC = Path(__file__).parents[2] / "docs" / "verification.md"
BEGIN, END = "<!-- mutations: begin -->", "<!-- mutations: end -->"
HEADER = "| mutation | what is wrong | caught by | how |"


@dataclass(frozen=True)
class Catch:
    """Which seed or story caught it, and how: a violation, a stall, a stop (a replica refuses to go on), a crash."""

    by: str
    how: str


def hunt(one: Mutation) -> Catch | None:
    """The story that the mutation names, or the first seed that catches it; None if nothing does."""
    judges = [f"story `{one.story.partition('::test_')[2]}`"] if one.story else [f"seed {n}" for n in range(SEEDS_MAX)]
    return next((caught for by in judges if (caught := judge(one, by))), None)


def judge(one: Mutation, by: str) -> Catch | None:
    """Whether this seed or story catches the mutation."""
    kind, _, name = by.partition(" ")
    with pytest.MonkeyPatch.context() as patch:
        one.patch(patch)
        if kind == "seed":
            return _try(by, lambda: play(int(name)))
        module, _, function = (one.story or "").partition("::")
        return _try(by, getattr(importlib.import_module(f"tests.{module}"), function))


def _try(by: str, judge: Callable[[], object]) -> Catch | None:
    try:
        judge()
    except Violation as error:
        return Catch(by, f"violation: {error}")
    except Stalled as error:
        return Catch(by, f"stall: {error}")
    except KoinonError as error:
        return Catch(by, f"stop: {error}")
    except AssertionError as error:  # pytest rewrites the bare ones
        said = str(error).partition("\n")[0]
        return Catch(by, f"failed: {'an assertion' if not said or said.startswith('assert ') else said}")
    return None


def row(one: Mutation, caught: Catch | None) -> str:
    """A row of docs/verification.md: mutation, what is wrong, what caught it, how. Numbers in messages are left out:
    which replica is hit first is of no interest, and changes with every message that is added."""
    if caught is None:
        return f"| {one.name} | {one.wrong} | nothing | |"
    how = re.sub(r"<Phase\.(\w+): \d>", r"\1", caught.how)
    how = re.sub(r"\[[\d, ]*\]", "requests", how)
    how = re.sub(r"\b(0x[0-9a-f]+|\d+)\b", "…", how)
    return f"| {one.name} | {one.wrong} | {caught.by} | {how} |"


def documented() -> dict[str, tuple[str, str]]:
    """What docs/verification.md shows: by mutation, the row, and what caught it."""
    shown = DOC.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    return {(cells := line.split(" | "))[0].removeprefix("| "): (line, cells[2]) for line in shown}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/verification.md")
    chosen = parser.parse_args()
    rows = "\n".join([HEADER, "|---|---|---|---|", *(row(one, hunt(one)) for one in MUTATIONS.values())])
    if chosen.write:
        text = DOC.read_text()
        head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
        DOC.write_text(f"{head}{BEGIN}\n{rows}\n{END}{tail}")
    else:
        print(rows)
    return 1 if "| nothing |" in rows else 0


if __name__ == "__main__":
    sys.exit(main())
