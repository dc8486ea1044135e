"""Twins (Bano et al., arXiv 2004.10617): a replica runs twice with one key, and partitions decide who hears whom.

Both instances run the real code, so together they say what an equivocating, forgetful or double-voting replica says;
each has its own disk. A scenario names the replicas that have a twin and, for each of its views, a partition of the
instances. PBFT elects nobody: view v is led by replica v mod n, so instead of leaders we enumerate whose twin it is.
In view v every instance that has not gone further leaves for v (a timer may fire at any moment), two clients ask, and
messages pass only within a group. Then all is connected, and everything must be answered.

Families of scenarios, each an enumeration that `scenario(number)` can enter anywhere:
- `views`: n = 4, each replica as the twin, four views, every partition into at most two groups in each view;
- `groups`: the same with three views and at most three groups (among more there is no quorum);
- `phases`: the same, but three of the partitions are those of the phases of the first view (pre-prepare, prepare,
  commit), and the fourth is that of the second view;
- `sampled`: n = 7 with two twins, four views, any number of groups, one partition for each phase; drawn by number.

Swapping the two instances of a twin is a symmetry; of each such pair of scenarios one is left out.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from koinon.wire import Phase
from pbft.events import Tick
from pbft.messages import Ballot, PrePrepare

from .checkers import Violation
from .weather import Stalled
from .world import SMALL, Word, World

SETTINGS = replace(SMALL, tick_ms=50, status_ms=100, view_timeout_ms=300, view_timeout_ms_max=600, catch_up_ms=100)
FAMILIES = ["views", "groups", "phases", "sampled"]
VIEW_MS = 110
HEALED_MS = 20_000
PHASES = 4

Partition = tuple[int, ...]
"""The group of each instance; group 0 is that of instance 0, and so on in order of appearance."""
View = tuple[Partition, ...]
"""A partition for pre-prepares, prepares, commits, and everything else."""


@dataclass(frozen=True)
class Scenario:
    """`twins` are the replicas that run twice: the second instances are numbered n, n+1, ..."""

    family: str
    number: int
    n: int
    twins: tuple[int, ...]
    views: tuple[View, ...]

    def __str__(self) -> str:
        views = "; ".join(" | ".join("".join(map(str, one)) for one in dict.fromkeys(view)) for view in self.views)
        return f"{self.family} {self.number}: n={self.n}, twins of {self.twins}, groups {views}"


def partitions(instances: int, groups_max: int) -> list[Partition]:
    """All ways to split the instances into at most so many groups."""
    found: list[Partition] = [(0,)]
    for _ in range(instances - 1):
        found = [(*one, group) for one in found for group in range(min(max(one) + 2, groups_max))]
    return found


def _swapped(partition: Partition, twin: int, other: int) -> Partition:
    """The partition with the two instances of a twin in each other's place."""
    groups = list(partition)
    groups[twin], groups[other] = groups[other], groups[twin]
    names: dict[int, int] = {}
    return tuple(names.setdefault(group, len(names)) for group in groups)


@cache
def _exhaustive(twin: int, groups_max: int, count: int) -> list[tuple[Partition, ...]]:
    """So many partitions of four replicas and a twin, up to the twin's symmetry."""
    ways = partitions(5, groups_max)
    mirror = {one: _swapped(one, twin, 4) for one in ways}
    return [some for some in itertools.product(ways, repeat=count) if some <= tuple(mirror[one] for one in some)]


def _of(family: str, twin: int) -> list[tuple[Partition, ...]]:
    return _exhaustive(twin, 3, 3) if family == "groups" else _exhaustive(twin, 2, 4)


def size(family: str) -> int:
    """How many scenarios a family has; the samples of n = 7 have no end."""
    return sys.maxsize if family == "sampled" else 4 * len(_of(family, 0))


def scenario(family: str, number: int) -> Scenario:
    """The scenario of a number; the order is shuffled once for all, so that any slice is a fair one."""
    if family == "sampled":
        return _sampled(number)
    place = number * 100_003 % size(family)  # prime to the size: a permutation
    twin, some = place % 4, _of(family, place % 4)[place // 4]
    if family != "phases":
        return Scenario(family, number, 4, (twin,), tuple((one,) * PHASES for one in some))
    first, second = (*some[:3], some[2]), (some[3],) * PHASES
    return Scenario(family, number, 4, (twin,), (first, second))


def _sampled(number: int) -> Scenario:
    generator = random.Random(f"twins {number}")
    twins = tuple(sorted(generator.sample(range(7), 2)))
    ways = partitions(9, 3)

    def view() -> View:
        if generator.random() < 0.5:
            return (generator.choice(ways),) * PHASES
        return tuple(generator.choice(ways) for _ in range(PHASES))

    return Scenario("sampled", number, 7, twins, tuple(view() for _ in range(4)))


class Twins(World):
    """A world in which some replicas run twice, and messages pass only within a group."""

    def __init__(self, scene: Scenario) -> None:
        super().__init__(scene.n, seed=0, settings=SETTINGS, twins=scene.twins)
        self.network.delay_ms_max = 1  # in lockstep: what differs between scenarios is who hears whom
        for place, twin in enumerate(scene.twins):
            self.byzantine[twin] = self.byzantine[scene.n + place] = as_it_is

    def separate(self, view: View | None) -> None:
        """From now on messages pass only within the groups of their phase; None connects all."""
        self.network.cut, self.blocks = set(), None
        if view is not None:
            self.blocks = lambda source, target, said: view[_phase(said)][source] != view[_phase(said)][target]
            pairs = itertools.product(range(self.instances), repeat=2)
            self.network.cut = {(a, b) for a, b in pairs if all(groups[a] != groups[b] for groups in view)}

    def leave_for(self, view: int) -> None:
        """Every timer fires, but of those who have gone further."""
        for index, replica in enumerate(self.replicas):
            if replica is not None and replica.view < view:
                replica._start_view_change(view)
                self.perform(index, replica.step(Tick(self.now_ms)))


def as_it_is(world: World, source: int, target: int, message: Word) -> list[tuple[int, Word]]:
    """A twin says what its code says."""
    return [(target, message)]


def _phase(message: Word) -> int:
    if isinstance(message, PrePrepare):
        return 0
    if isinstance(message, Ballot):
        return 1 if message.vote.phase == Phase.PREPARE else 2
    return 3


def play(scene: Scenario) -> Counter[str]:
    """Run a scenario; Violation or Stalled when the committee is unsafe or does not recover."""
    world = Twins(scene)
    for view, apart in enumerate(scene.views):
        world.separate(apart)
        if view:
            world.leave_for(view)
        for client in (2 * view, 2 * view + 1):
            world.request(client, 1, f"view {view} client {client}".encode())
        world.run(VIEW_MS)
    committed = max(replica.executed for replica in world.honest())
    world.separate(None)

    def settled() -> bool:
        if len({replica.executed for replica in world.honest()}) != 1:
            return False
        return all(world.answered(key) for key in world.pending)

    if not world.run_until(settled, HEALED_MS, resend_ms=200):
        raise Stalled(f"requests still wait {HEALED_MS} ms after all were connected")
    if world.checkers is not None:
        world.checkers.finish()
    return Counter(
        scenarios=1,
        events=world.steps,
        committed_apart=committed > 0,
        views=len(world.views),
        convictions=len(world.evidence),
        equivocations=len({(one.first.vote.view, one.first.vote.sequence) for one in world.evidence}),
        cut_off=world.injected["cut off"],
    )


def guarded(family: str, number: int) -> Counter[str]:
    """`play`, with the command that replays a failure in its message."""
    scene = scenario(family, number)
    try:
        return play(scene)
    except Exception as error:
        raise Violation(
            f"{type(error).__name__}: {error}\n{scene}\n"
            f"replay: python -m tests.simulation.twins --family {family} --first {number} --count 1"
        ) from error


def _one(task: tuple[str, int]) -> Counter[str] | str:
    try:
        return guarded(*task)
    except Violation as error:
        return str(error)


def _results(family: str, numbers: range, jobs: int) -> Iterator[Counter[str] | str]:
    tasks = ((family, number) for number in numbers)
    if jobs == 1:
        yield from map(_one, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_one, tasks, chunksize=32)


def run(family: str, first: int, count: int, *, jobs: int = 1) -> tuple[Counter[str], list[str]]:
    """The counts of a slice, and its failures."""
    total: Counter[str] = Counter()
    failures: list[str] = []
    numbers = range(first, min(first + count, size(family)))
    for number, result in zip(numbers, _results(family, numbers, jobs), strict=True):
        if isinstance(result, str):
            failures.append(result)
            print(result, file=sys.stderr, flush=True)
        else:
            total += result
        if (number + 1 - first) % 5_000 == 0:
            print(f"{family}: {number + 1 - first:,} of {len(numbers):,}; resume with --first {number + 1}", flush=True)
    return total, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, help="default: the whole family; 20,000 samples")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    failed = 0
    for family in chosen.family or FAMILIES:
        count = chosen.count or (20_000 if family == "sampled" else size(family))
        started = time.perf_counter()
        total, failures = run(family, chosen.first, count, jobs=min(chosen.jobs, max(1, count // 64)))
        failed += len(failures)
        counts = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in total.items())
        of = "" if family == "sampled" else f" of {size(family):,}"
        print(f"{family}{of}: {counts}; {len(failures)} failed; {time.perf_counter() - started:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
