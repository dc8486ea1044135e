"""Do the privacy modes keep what they promise? Attacks on what each adversary really sees.

Every mode's own code makes the traffic of rounds of ten clients (a digit classifier); aggregator, edge server,
outsider, replicas and nodes in collusion get the bytes that they would have, and try to invert updates and to find out
whose an image was (`_adversaries`, `_inference`, `_games`). Tables on standard output, progress on standard error.

Exit code 0 when every mode keeps what docs/threat-model.md claims AND the attacks work where it says that they do: an
attack that fails on `plain`, or on more colluders than a mode tolerates, would prove nothing. Else 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ._games import (
    CLIENTS,
    DELTA,
    IMAGES,
    LEAKS,
    MULTIPLIERS,
    SCENARIOS,
    Exposure,
    Finding,
    attack,
    models,
    sums,
)
from ._inference import SIGMAS, Rate
from ._victims import Floats, Scenario

EXAMPLES = """examples:
  python -m scripts.attacks                             everything, some minutes
  python -m scripts.attacks --quick                     fewer victims, under a minute on an idle machine
  python -m scripts.attacks --only shares,masked        the modes whose names begin so
  python -m scripts.attacks --json attacks.json         the findings, for machines
  python -m scripts.attacks --seed 7                    other images, other keys
"""
COHORTS = (3, 5, 10)
RAMP = " .:-=+*#%@"
REMARKS = {True: "as claimed", False: "NOT AS CLAIMED"}


def scenarios(only: Sequence[str]) -> list[Scenario]:
    noisy = [Scenario(f"plain, noise {each:g}", "plain", multiplier=each) for each in MULTIPLIERS]
    return [each for each in (*SCENARIOS, *noisy) if not only or each.label.startswith(tuple(only))]


def show_finding(found: Finding) -> str:
    spent = "" if found.epsilon is None else f"eps {found.epsilon:.3g}"
    verdict = spent if found.epsilon is not None else f"{found.expected}: {REMARKS[found.kept]}"
    cells = f"{found.hits.count:>7}{percent(found.hits):>17}{found.psnr:>7.1f}{area(found.auc):>16}"
    return f"{found.mode:25}{found.adversary:21}{cells}  {verdict}"


def percent(rate: Rate) -> str:
    return f"{100 * rate.value:.0f} ({100 * rate.chance:.0f} ± {100 * rate.band:.0f})"


def area(rate: Rate) -> str:
    return f"{rate.value:.3f} ± {rate.band:.3f}"


def show_exposure(found: Exposure) -> str:
    spent = "-" if found.epsilon is None else f"{found.epsilon:.3g}"
    best = max(found.auc.values(), key=lambda rate: rate.value)
    accurate = "" if found.accuracy is None else f"{100 * found.accuracy:.1f} %"
    weak = found.auc.get("alignment")
    cells = f"{area(weak) if weak else '':>18}{area(best):>18}{accurate:>12}"
    return f"{found.seen:25}{found.clients:>8}{found.multiplier or '-':>7}{spent:>9}{cells}"


def pictures(named: Sequence[tuple[str, str, Floats]]) -> list[str]:
    """8 x 8 images side by side, two characters a pixel; each is stretched to the whole ramp."""
    drawn = []
    for *_, image in named:
        spread = np.ptp(image) or 1.0
        levels = np.rint((image - image.min()) / spread * (len(RAMP) - 1)).astype(int).reshape(8, 8)
        drawn.append(["".join(2 * RAMP[level] for level in row) for row in levels])
    heads = ["   ".join(f"{each[part][:22]:22}" for each in named) for part in (0, 1)]
    return heads + ["   ".join(f"{row:22}" for row in rows) for rows in zip(*drawn, strict=True)]


def as_json(found: Finding | Exposure) -> dict[str, Any]:
    row = asdict(found)
    if row["epsilon"] == float("inf"):
        row["epsilon"] = "inf"  # JSON has no infinity
    if isinstance(found, Finding):
        row |= {"sketch": found.sketch.tolist(), "truth": found.truth.tolist(), "as_claimed": found.kept}
    return row


def run_updates(chosen: Sequence[Scenario], rounds: int, seed: int) -> list[Finding]:
    print(f"One update: whose image is it? {CLIENTS} clients; bands are {SIGMAS:g} standard errors around chance\n")
    head = f"{'victims':>7}{'inversion %':>17}{'PSNR':>7}{'AUC':>16}"
    print(f"{'mode':25}{'adversary':21}{head}  claim", flush=True)
    found: list[Finding] = []
    for scenario in chosen:
        began = time.perf_counter()
        for each in attack(scenario, rounds, seed):
            print(show_finding(each), flush=True)
            found.append(each)
        progress(f"{scenario.label}: {time.perf_counter() - began:.0f} s")
    return found


def run_exposures(rounds: int, federations: int, seed: int) -> list[Exposure]:
    print(f"\nWhat everybody sees: was the image in the training? eps at delta = {DELTA:g}; no mode hides this\n")
    head = f"{'clients':>8}{'noise':>7}{'eps':>9}{'AUC alignment':>18}{'AUC strongest':>18}{'accuracy':>12}"
    print(f"{'seen':25}{head}", flush=True)
    found: list[Exposure] = []
    for clients in COHORTS:
        for multiplier in (0.0, *MULTIPLIERS):
            found.append(sums(rounds, seed, clients, multiplier))
            print(show_exposure(found[-1]), flush=True)
        progress(f"sums of {clients}")
    for multiplier in (0.0, *MULTIPLIERS):
        found.append(models(federations, seed, multiplier))
        print(show_exposure(found[-1]), flush=True)
    progress("models")
    return found


def progress(line: str) -> None:
    print(f"  .. {line}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.attacks",
        description="Attack every privacy mode with what each adversary sees.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 12 a mode, fewer sums and models")
    parser.add_argument("--only", default="", metavar="MODES", help="names, or beginnings of names, with commas")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    only = [each for each in options.only.split(",") if each]
    chosen = scenarios(only)
    if not chosen:
        parser.error(f"no mode begins with {options.only!r}; there are: {', '.join(s.label for s in scenarios([]))}")
    found = run_updates(chosen, 3 if options.quick else 12, options.seed)
    show_pictures(found)
    exposed = [] if only else run_exposures(*((5, 1) if options.quick else (12, 4)), options.seed)
    if options.json:
        rows = {"updates": [as_json(each) for each in found], "exposures": [as_json(each) for each in exposed]}
        options.json.write_text(json.dumps({"seed": options.seed, "images": IMAGES, **rows}, indent=1) + "\n")
    return conclude(found)


def show_pictures(found: Sequence[Finding]) -> None:
    """The first victim's image beside what the inversion gave, for some cases of either kind."""
    print("\nReconstructions of a victim's image\n")
    first_of = {each.mode: each for each in reversed(found) if "replica" in each.adversary}
    for each in first_of.values():
        row = [("the image", "", each.truth), (each.mode, each.adversary, each.sketch)]
        more = [other for other in found if other.mode == each.mode and other.expected == LEAKS and other is not each]
        row += [(other.mode, other.adversary, other.sketch) for other in more[:1]]
        print("\n".join(line.rstrip() for line in pictures(row)) + "\n")


def conclude(found: Sequence[Finding]) -> int:
    wrong = [f"{each.mode}, {each.adversary}: claimed {each.expected}" for each in found if not each.kept]
    if wrong:
        print("\nNOT as claimed:\n  " + "\n  ".join(wrong))
        return 1
    hidden = sum(each.expected == "secret" for each in found)
    shown = sum(each.expected == LEAKS for each in found)
    print(
        f"\nAs claimed: in {hidden} cases no attack learnt anything of one update; where one should ({shown}), it did."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
