"""Many committees in bad weather: one seed, one story. `python -m tests.simulation.run --seed 17` replays it.

`--seeds N` runs N of them from `--first` on and stops at the first failure. A seed decides everything: how many
replicas, which of them lie and how, when they crash, which links are cut, what the network loses.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass

from .byzantine import LIARS
from .checkers import Violation
from .world import World

CHAOS_MS = 10_000
HEALED_MS = 120_000


@dataclass(frozen=True)
class Story:
    """How a seed ended: virtual milliseconds until everything was answered, and what happened on the way."""

    seed: int
    n: int
    liars: tuple[str, ...]
    steps: int
    view: int
    executed: int
    healed_ms: int
    evidence: int


class Stalled(AssertionError):
    """Liveness is broken: the weather is fine again and requests still wait."""


def play(seed: int, *, verbose: bool = False) -> Story:
    """Run one seed: chaos, then fair weather, then every request must be answered and all replicas equal."""
    generator = random.Random(seed)
    n = generator.choice([4, 4, 4, 4, 5, 7])
    world = World(n, seed)
    liars = _appoint(world, generator)
    world.thinking_ms_max = generator.choice([1, 200, 1_000])
    for client in range(generator.randint(1, 4)):
        world.script(client, generator.randint(5, 16))
    world.network.drop = generator.choice([0.0, 0.02, 0.1, 0.3])
    world.network.duplicate = generator.choice([0.0, 0.1])
    world.network.delay_ms_max = generator.choice([5, 20, 200, 900])
    end = world.now_ms + generator.randint(2_000, CHAOS_MS)
    while world.now_ms < end:
        world.run(generator.randint(50, 2_000))
        event = _disturb(world, generator)
        if verbose:
            print(f"{world.now_ms % 10**7:>8} {event}")
    healed = _heal(world)
    if verbose:
        for replica in world.live():
            print(replica.index, replica.view, replica.active, replica.stable, replica.executed)
    return Story(
        seed=seed,
        n=n,
        liars=liars,
        steps=world.steps,
        view=max(replica.view for replica in world.honest()),
        executed=max(replica.executed for replica in world.honest()),
        healed_ms=healed,
        evidence=len(world.evidence),
    )


def _appoint(world: World, generator: random.Random) -> tuple[str, ...]:
    names = [generator.choice(sorted(LIARS)) for _ in range(generator.randint(0, world.committee.f))]
    for index, name in zip(generator.sample(range(world.n), len(names)), names, strict=True):
        world.byzantine[index] = LIARS[name]
    return tuple(names)


def _disturb(world: World, generator: random.Random) -> str:
    """One misfortune, or one repair."""
    index = generator.randrange(world.n)
    match generator.choice(["crash", "start", "start", "outage", "partition", "cut", "mend", "calm"]):
        case "crash" if index not in world.byzantine:
            world.crash(index)
            return f"crash {index}"
        case "outage":
            for one in range(world.n):
                if one not in world.byzantine:
                    world.crash(one)
                    world.start(one)
            return "power outage"
        case "start":
            for down in [one for one in range(world.n) if world.replicas[one] is None]:
                world.start(down)
            return "start all"
        case "partition":
            side = set(generator.sample(range(world.n), generator.randint(1, world.n // 2)))
            pairs = [(a, b) for a in range(world.n) for b in range(world.n) if (a in side) != (b in side)]
            world.network.cut = set(pairs)
            return f"partition {sorted(side)}"
        case "cut":
            other = generator.randrange(world.n)
            world.network.cut.add((index, other))
            return f"cut {index} -> {other}"
        case "mend":
            world.network.cut = set()
            return "mend"
        case _:
            return "calm"


def _heal(world: World) -> int:
    """Fair weather. Returns the virtual time until all is answered and all honest replicas agree."""
    world.network.cut = set()
    world.network.drop = world.network.duplicate = 0.0
    world.network.delay_ms_max = 10
    for index in range(world.n):
        if world.replicas[index] is None:
            world.start(index)
    start = world.now_ms

    def settled() -> bool:
        if world.current:
            return False
        return len({replica.executed for replica in world.honest()}) == 1

    if not world.run_until(settled, HEALED_MS):
        raise Stalled(f"{sorted(world.current)} still wait {HEALED_MS} ms after everything was repaired")
    if world.checkers is not None:
        world.checkers.finish()
    return world.now_ms - start


def guarded(seed: int, *, verbose: bool = False) -> Story:
    """`play`, with the command that replays a failure in its message."""
    try:
        return play(seed, verbose=verbose)
    except Exception as error:
        raise Violation(
            f"{type(error).__name__}: {error}\nreplay: python -m tests.simulation.run --seed {seed}"
        ) from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one seed and tell what happens")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(guarded(arguments.seed, verbose=True))
        return 0
    started, steps, views, worst = time.perf_counter(), 0, 0, 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        story = guarded(seed)
        steps, views, worst = steps + story.steps, views + story.view, max(worst, story.healed_ms)
        if (seed + 1 - arguments.first) % 100 == 0:
            print(f"{seed + 1 - arguments.first} seeds passed", flush=True)
    seconds = time.perf_counter() - started
    print(
        f"{arguments.seeds} seeds, {steps} events, {views} views, slowest recovery {worst} ms virtual, {seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
