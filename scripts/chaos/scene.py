"""What a fault is, and the stage on which it happens."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from .committee import Committee
from .load import Load

VIEW_TIMEOUT_SECONDS = 2.0
"""The replicas' own (pbft.events.Settings.view_timeout_ms)."""
STALL_GRACE_SECONDS = 1.0
"""What was under way when a quorum was lost may still be acknowledged so long."""

QUIET = "quiet"
"""A fault that must not be noticed: the primary and a quorum work on."""
REPLACED = "replaced"
"""A fault that costs a view change."""
REPLACED_TWICE = "replaced twice"
"""A fault that costs two view changes, one after the other: the second one waits twice as long."""
REPLACED_MINORITY = "replaced minority"
"""A fault of the primary and those after it, f in all: it costs f view changes, each of which waits twice as long."""
STOPPED = "stopped"
"""A fault without a quorum: nothing may be acknowledged until it heals."""
WEATHER = "weather"
"""A fault whose progress is measured, and not bounded."""

QUIET_SECONDS = 2.0


def gap_seconds(kind: str, faulty: int) -> float | None:
    """The longest time without an acknowledgement while a fault lasts, in a committee that bears `faulty`; None where
    it isn't bounded. Twice what the view changes wait: T + 2 T + 4 T and so on.
    """
    if kind == QUIET:
        return QUIET_SECONDS
    changes = {REPLACED: 1, REPLACED_TWICE: 2, REPLACED_MINORITY: faulty}.get(kind)
    return None if changes is None else 2 * VIEW_TIMEOUT_SECONDS * (2**changes - 1)


class Violation(Exception):
    """The committee broke a promise. Each argument is a sentence."""


@dataclass
class Scene:
    """One committee under load, and the moments of the fault that it is going through."""

    committee: Committee
    load: Load
    patience: float = 1.0
    """Every bound is multiplied by it: a busy machine isn't a broken committee."""
    began: float = 0.0
    broken: float = 0.0
    healed: float = 0.0
    notes: list[str] = field(default_factory=list)

    def breaks(self) -> None:
        """From now on a quorum is missing, or the network is bad."""
        self.broken = time.monotonic()

    def heals(self) -> None:
        """The fault is over: recovery is measured from here."""
        self.healed = time.monotonic()

    def note(self, line: str) -> None:
        """Tell something in the table."""
        self.notes.append(line)

    def require(self, holds: bool, sentence: str) -> None:
        if not holds:
            raise Violation(sentence)

    async def primary(self) -> int:
        return await self.committee.primary()

    async def backup(self) -> int:
        """The backup whose turn as primary comes last."""
        return (await self.primary() - 1) % len(self.committee.everybody)

    async def goes_on(self, count: int = 20, *, seconds: float = 60.0) -> None:
        """Wait until the committee acknowledged `count` more; Violation when it does not."""
        try:
            await self.load.progress(count, seconds=seconds)
        except TimeoutError:
            raise Violation(f"no {count} operations were acknowledged in {seconds:.0f} s") from None

    def cut(self, one: Sequence[int], other: Sequence[int], *, both_ways: bool = True) -> None:
        """Nothing that `one` sends reaches `other` any more (nor the other way)."""
        for source in one:
            for target in other:
                self.committee.network.cut(source, target)
                if both_ways:
                    self.committee.network.cut(target, source)


@dataclass(frozen=True)
class Fault:
    """`run` does it and undoes it, calling `breaks` and `heals`. Bounds are seconds on an idle machine."""

    name: str
    what: str
    kind: str
    recovery_seconds: float
    run: Callable[[Scene], Awaitable[None]]
    network: str = ""
    """The only network that can do this, or "" when any can."""
    root: bool = False

    def gap_seconds(self, faulty: int) -> float | None:
        return gap_seconds(self.kind, faulty)


@dataclass
class Verdict:
    """What became of one fault. Seconds are wall-clock; `problems` is empty when every promise was kept."""

    fault: str
    what: str
    network: str
    outcome: str
    acknowledged: int = 0
    gap_seconds: float = 0.0
    gap_seconds_max: float | None = None
    recovery_seconds: float = 0.0
    recovery_seconds_max: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    folder: str = ""


FAULTS: dict[str, Fault] = {}
"""All of them, in the order of the table."""


def fault(
    name: str, what: str, kind: str, *, recovery_seconds: float, network: str = "", root: bool = False
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[Scene], Awaitable[None]]]:
    """Enter the decorated scenario into FAULTS."""

    def enter(run: Callable[[Scene], Awaitable[None]]) -> Callable[[Scene], Awaitable[None]]:
        FAULTS[name] = Fault(name, what, kind, recovery_seconds, run, network, root)
        return run

    return enter
