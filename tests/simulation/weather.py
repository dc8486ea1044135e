"""One committee in bad weather: one seed, one story.

A seed decides everything: how many replicas, which of them lie and how, whose clock is wrong, when they crash, freeze
or lose their disks, which links are cut, what the network loses. Then the weather clears, and every request must be
answered and all honest replicas must stand equal within `HEALED_MS` of virtual time.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace

from .byzantine import LIARS
from .checkers import Violation
from .world import SMALL, World

CHAOS_MS = 10_000
HEALED_MS = 120_000
MISFORTUNES = (
    "crash", "crash", "start", "start", "start", "wipe", "freeze", "outage",
    "partition", "one-way partition", "cut", "mend", "mend", "calm",
)  # fmt: skip
SPARES = 3
"""So many more replicas wait for a seat where the committee changes."""


@dataclass(frozen=True)
class Story:
    """How a seed ended: virtual milliseconds until everything was answered, and what happened on the way."""

    seed: int
    n: int
    liars: tuple[str, ...]
    steps: int
    executed: int
    healed_ms: int
    injected: Counter[str]
    happened: Counter[str]


class Stalled(AssertionError):
    """Liveness is broken: the weather is fine again and requests still wait."""


def play(seed: int, *, verbose: bool = False) -> Story:
    """Run one seed: chaos, then fair weather, then every request must be answered and all replicas equal."""
    generator = random.Random(seed)
    changing, n = seed % 4 == 3, generator.choice([4, 4, 4, 4, 5, 7])
    if changing or seed % 16 == 10:
        n = generator.choice([4, 5, 6, 7, 10, 13])
    slots, requests = generator.choice([1, 2, 3]), generator.choice([1, 4])
    settings = replace(SMALL, tick_ms=100, pipeline_slots_max=slots, batch_requests_max=requests)
    world = World(n, seed, settings=settings, spares=SPARES if changing else 0)
    liars = _appoint(world, generator)
    world.thinking_ms_max = generator.choice([1, 200, 1_000])
    for client in range(generator.randint(1, 4)):
        world.script(client, generator.randint(5, 16))
    world.network.drop = generator.choice([0.0, 0.02, 0.1, 0.3])
    world.network.duplicate = generator.choice([0.0, 0.1])
    world.network.delay_ms_max = generator.choice([5, 20, 200, 900])
    if generator.random() < 0.3:
        world.skew_ms = [generator.randint(-8_000, 8_000) for _ in range(world.instances)]
    world.archive_kept = generator.choice([0, 4, 1 << 62])
    end = world.now_ms + generator.randint(2_000, CHAOS_MS)
    while world.now_ms < end and world.current:
        world.run(generator.randint(50, 2_000))
        event = _disturb(world, generator, (*MISFORTUNES, *["change"] * 4) if changing else MISFORTUNES)
        if verbose:
            print(f"{world.now_ms % 10**7:>8} {event}")
    healed = _heal(world)
    if verbose:
        for replica in world.live():
            print(replica.epoch, replica.index, replica.view, replica.active, replica.stable, replica.executed)
    return Story(
        seed=seed,
        n=n,
        liars=liars,
        steps=world.steps,
        executed=max(replica.executed for replica in world.honest()),
        healed_ms=healed,
        injected=world.injected,
        happened=world.happened + Counter({"view changes": len(world.views), "evidence": len(world.evidence)}),
    )


def _appoint(world: World, generator: random.Random) -> tuple[str, ...]:
    names = [generator.choice(sorted(LIARS)) for _ in range(generator.randint(0, world.committee.f))]
    for index, name in zip(generator.sample(range(world.n), len(names)), names, strict=True):
        world.byzantine[index] = LIARS[name]
    return tuple(names)


def _disturb(world: World, generator: random.Random, misfortunes: tuple[str, ...]) -> str:
    """One misfortune, or one repair."""
    index = generator.randrange(world.instances)
    honest = index not in world.byzantine
    match generator.choice(misfortunes):
        case "crash" if honest:
            world.crash(index)
            return f"crash {index}"
        case "wipe" if honest and len(world.recovering() | world.byzantine.keys() | {index}) <= world.epochs.tolerated:
            world.crash(index)
            world.start(index, wiped=True)
            return f"wipe {index}"
        case "freeze" if honest:
            world.frozen_until_ms[index] = world.now_ms + generator.randint(100, 5_000)
            world.injected["freeze"] += 1
            return f"freeze {index}"
        case "outage":
            for one in range(world.instances):
                if one not in world.byzantine:
                    world.crash(one)
                    world.start(one)
            return "power outage"
        case "start":
            for down in [one for one in range(world.instances) if world.replicas[one] is None]:
                world.start(down)
            return "start all"
        case "partition" | "one-way partition" as kind:
            return _partition(world, generator, kind)
        case "cut":
            other = generator.randrange(world.instances)
            world.network.cut.add((index, other))
            world.injected["cut link"] += 1
            return f"cut {index} -> {other}"
        case "change":
            return world.epochs.change_somehow(generator)
        case "mend":
            world.network.cut = set()
            return "mend"
        case _:
            return "calm"


def _partition(world: World, generator: random.Random, kind: str) -> str:
    """Two sides that do not hear each other, or of which one does not hear the other."""
    everybody = range(world.instances)
    side = set(generator.sample(everybody, generator.randint(1, world.instances // 2)))
    pairs = [(a, b) for a in everybody for b in everybody]
    if kind == "partition":
        world.network.cut = {(a, b) for a, b in pairs if (a in side) != (b in side)}
    else:
        world.network.cut = {(a, b) for a, b in pairs if a in side and b not in side}
    world.injected[kind] += 1
    return f"{kind} {sorted(side)}"


def _heal(world: World) -> int:
    """Fair weather. Returns the virtual time until all is answered and all honest replicas agree."""
    world.network.cut = set()
    world.network.drop = world.network.duplicate = 0.0
    world.network.delay_ms_max = 10
    world.frozen_until_ms.clear()
    world.epochs.crash_at_handover = 0.0
    for index in range(world.instances):
        if world.replicas[index] is None:
            world.start(index)
    start = world.now_ms

    def settled() -> bool:
        if world.current:
            return False
        return world.epochs.settled()

    if not world.run_until(settled, HEALED_MS):
        raise Stalled(f"{sorted(world.current)} still wait {HEALED_MS} ms after everything was repaired")
    if not world.run_until(world.together, HEALED_MS):
        views = [(one.index, one.view, one.active) for one in world.honest()]
        raise Stalled(f"{HEALED_MS} ms after everything was repaired members still stand in other views: {views}")
    if world.checkers is not None:
        world.checkers.finish()
    return world.now_ms - start


def guarded(seed: int, *, verbose: bool = False) -> Story:
    """`play`, with the command that replays a failure in its message."""
    try:
        return play(seed, verbose=verbose)
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}\nreplay: make soak SEED={seed}") from error
