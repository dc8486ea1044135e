"""Many stories: `make soak SEEDS=1000000`, or `python -m tests.simulation.run --seeds N --first M`.

All cores work. A failure prints the one command that replays its seed, and the soak goes on; it ends with exit code 1
when anything failed. Progress names the FIRST from which an interrupted soak can be resumed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .checkers import Violation
from .weather import Story, guarded

CHUNK = 16
PROGRESS_S = 10.0


@dataclass
class Summary:
    """What a soak saw. `recovery_ms` is virtual time from the end of the weather until all was answered."""

    first: int
    seeds: int = 0
    failed: list[int] = field(default_factory=list)
    events: int = 0
    executed: int = 0
    recovery_ms_max: int = 0
    recovery_seed: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    liars: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, seed: int, story: Story | None) -> None:
        self.seeds += 1
        if story is None:
            self.failed.append(seed)
            return
        self.events += story.steps
        self.executed += story.executed
        if story.healed_ms > self.recovery_ms_max:
            self.recovery_ms_max, self.recovery_seed = story.healed_ms, seed
        self.sizes[f"n={story.n}"] += 1
        self.liars.update(story.liars)
        self.injected.update(story.injected)
        self.happened.update(story.happened)

    def as_dict(self) -> dict[str, object]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    def text(self) -> str:
        def table(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items()))

        return "\n".join(
            [
                f"{self.seeds:,} seeds from {self.first}, {len(self.failed)} failed, {self.seconds:.0f} s",
                f"events      {self.events:,}; {self.executed:,} slots executed; {table(self.sizes)}",
                f"injected    {table(self.injected)}",
                f"liars       {table(self.liars)}",
                f"happened    {table(self.happened)}",
                f"recovery    slowest {self.recovery_ms_max:,} ms of virtual time (seed {self.recovery_seed})",
            ]
        )


def _one(seed: int) -> tuple[int, Story | str]:
    try:
        return seed, guarded(seed)
    except Violation as error:
        return seed, str(error)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stories(first: int, seeds: int, jobs: int) -> Iterator[tuple[int, Story | str]]:
    """In the order of seeds, so that what came is all below what comes."""
    numbers = range(first, first + seeds)
    if jobs == 1:
        yield from map(_one, numbers)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_ignore_interrupts) as pool:
        yield from pool.imap(_one, numbers, chunksize=CHUNK)


def soak(first: int, seeds: int, *, jobs: int = 1, progress_s: float = PROGRESS_S) -> Summary:
    """Run stories; failures and progress go to standard error. An interrupt ends it with what was seen so far."""
    summary, started = Summary(first), time.perf_counter()
    told = started
    try:
        for seed, story in _stories(first, seeds, jobs):
            if isinstance(story, str):
                print(f"seed {seed} failed: {story}", file=sys.stderr, flush=True)
            summary.add(seed, None if isinstance(story, str) else story)
            now = time.perf_counter()
            if now - told >= progress_s:
                told = now
                rate = summary.seeds / (now - started)
                print(
                    f"{summary.seeds:,} of {seeds:,} seeds, {len(summary.failed)} failed, {rate:.0f}/s; "
                    f"resume with FIRST={seed + 1} SEEDS={first + seeds - seed - 1}",
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        print(f"interrupted; resume with FIRST={first + summary.seeds}", file=sys.stderr)
    summary.seconds = time.perf_counter() - started
    return summary


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay one seed and tell what happens")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--json", action="store_true", help="the summary as JSON on standard output")
    chosen = parser.parse_args(arguments)
    if chosen.seed is not None:
        print(guarded(chosen.seed, verbose=True))
        return 0
    summary = soak(chosen.first, chosen.seeds, jobs=chosen.jobs)
    print(json.dumps(summary.as_dict()) if chosen.json else summary.text())
    return 1 if summary.failed else 0


if __name__ == "__main__":
    sys.exit(main())
