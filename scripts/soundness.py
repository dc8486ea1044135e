"""The soundness table: nodes cheat in every way that we know of, and replicas refuse them, or not, as documented.

Each cheat (`_cheats`) is tried on random committees, places, claims and updates with the modes' own code. Counts say
that a check is there and works, not how unlikely luck is: one try of the norm's proof succeeds with probability 2^-128
at most (docs/validation.md, section 4). Exit code 0 when every cheat is caught in each try, or, where
docs/threat-model.md says that nothing is proved, in none; else 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ._cheats import CHEATS, Cheat, Draw

EXAMPLES = """examples:
  python -m scripts.soundness                           the table, about a minute
  python -m scripts.soundness --tries 1000              more tries of each cheat
  python -m scripts.soundness --json soundness.json     the counts, for machines
  python -m scripts.soundness --write                   into docs/validation.md
"""
TRIES = 200
SLOW_SHARE = 10
"""Cheats with slow arithmetic get a tenth of the tries."""
DOC = Path(__file__).parent.parent / "docs" / "validation.md"
BEGIN, END = "<!-- soundness: begin -->", "<!-- soundness: end -->"
HEADER = ("| mode | cheat | tried | caught | claimed |", "| --- | --- | --- | --- | --- |")
CLAIMS = {True: "always caught", False: "not caught"}


@dataclass(frozen=True)
class Count:
    cheat: Cheat
    tried: int
    caught: int

    @property
    def as_claimed(self) -> bool:
        return self.caught == (self.tried if self.cheat.caught else 0)

    @property
    def row(self) -> str:
        remark = "" if self.as_claimed else ": NOT AS CLAIMED"
        return (
            f"| `{self.cheat.mode}` | {self.cheat.what} | {self.tried} | {self.caught} "
            f"| {CLAIMS[self.cheat.caught]}{remark} |"
        )

    def as_json(self) -> dict[str, object]:
        said = {"mode": self.cheat.mode, "cheat": self.cheat.what, "claimed_caught": self.cheat.caught}
        return {**said, "tried": self.tried, "caught": self.caught, "as_claimed": self.as_claimed}


def count(cheat: Cheat, tries: int, seed: int) -> Count:
    tried = max(1, tries // SLOW_SHARE) if cheat.slow else tries
    return Count(cheat, tried, sum(cheat.is_caught(Draw(seed, number)) for number in range(tried)))


def documented() -> list[str]:
    """The rows in docs/validation.md."""
    return DOC.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()[len(HEADER) :]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soundness",
        description="Cheat in every way that we know of, and count what replicas refuse.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tries", type=int, default=TRIES, help=f"of each cheat (default {TRIES})")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="write the table into docs/validation.md")
    options = parser.parse_args(arguments)
    print("\n".join(HEADER), flush=True)
    found = []
    for cheat in CHEATS:
        found.append(count(cheat, options.tries, options.seed))
        print(found[-1].row, flush=True)
    if options.json:
        rows = {"seed": options.seed, "cheats": [each.as_json() for each in found]}
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.write:
        text = DOC.read_text()
        table = "\n".join([*HEADER, *(each.row for each in found)])
        DOC.write_text(f"{text.partition(BEGIN)[0]}{BEGIN}\n{table}\n{END}{text.partition(END)[2]}")
    wrong = [each for each in found if not each.as_claimed]
    print(f"\n{len(found) - len(wrong)} of {len(found)} cheats as claimed" + (": see above" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
