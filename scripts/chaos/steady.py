"""`--minutes`: a committee under steady load for so long, without a fault, and whether it takes ever more.

Samples are taken of every replica: resident memory and open descriptors (/proc), the files in `data/`, the last
sequence. While it lasts the logs are read and compared as after a fault, so that reading them is a part of the load.
`flatness` judges.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from koinon.errors import ConfigError

from ..federation import Say
from .checks import CHECKPOINT_INTERVAL, Examiner
from .committee import Committee
from .flatness import MB, Growth, Sample, Usage, archived_bytes, judge, judged
from .scene import Scene, Verdict, Violation

NAME = "steady"
MINUTES_MIN = 1.0
SAMPLES = 360
"""About so many, however long it takes, but no more than one a second."""
REPORTS = 30
REPORT_SECONDS_MIN = 10.0
SILENCE_SECONDS_MAX = 60.0


@dataclass
class SteadyVerdict(Verdict):
    """What became of a run without faults."""

    minutes: float = 0.0
    growth: list[Growth] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def require_measurable(minutes: float) -> None:
    """ConfigError where a steady run could not be judged."""
    if minutes < MINUTES_MIN:
        raise ConfigError(f"--minutes {minutes:g}", hint=f"{MINUTES_MIN:g} or more: half of it is warming up")
    if not Path("/proc/self/fd").is_dir():
        raise ConfigError("--minutes: this system has no /proc", hint="memory is read from there: run it on Linux")


async def endure(scene: Scene, examiner: Examiner, verdict: SteadyVerdict, say: Say) -> None:
    """Sample until the minutes are over, then judge, into the verdict. Violation when the committee breaks its word."""
    watch = _Watch(scene, examiner, verdict, say)
    await watch.run()
    watch.judge()


async def take(committee: Committee, seconds: float, operations: int) -> Sample:
    """What every replica takes now."""
    said, memory, usages = await committee.statuses(), committee.memory_mb(), []
    for index in committee.everybody:
        parts = committee.data_bytes(index)
        archive, journal, snapshots = (parts.pop(name, 0) for name in ("archive", "journal", "snapshots"))
        usages.append(
            Usage(
                memory_bytes=round(memory.get(index, 0.0) * MB),
                descriptors=committee.descriptors(index),
                archive_bytes=archive,
                journal_bytes=journal,
                snapshots_bytes=snapshots,
                other_bytes=sum(parts.values()),
                sequence=said[index]["sequence"] if index in said else 0,
            )
        )
    return Sample(seconds, operations, tuple(usages))


class _Watch:
    def __init__(self, scene: Scene, examiner: Examiner, verdict: SteadyVerdict, say: Say) -> None:
        self._scene = scene
        self._examiner = examiner
        self._verdict = verdict
        self._say = say
        self._seconds = 60 * verdict.minutes
        self._before = len(scene.load.acknowledged)

    async def run(self) -> None:
        began = time.monotonic()
        interval = max(1.0, self._seconds / SAMPLES)
        report_every = max(REPORT_SECONDS_MIN, self._seconds / REPORTS)
        reports = 1
        samples = self._verdict.samples
        self._say(f"a sample every {interval:.0f} s; the second half is judged")
        while True:
            operations = len(self._scene.load.acknowledged) - self._before
            samples.append(await take(self._scene.committee, time.monotonic() - began, operations))
            self._scene.committee.require_alive()
            self._require_progress()
            if samples[-1].seconds >= self._seconds:
                break
            if samples[-1].seconds >= reports * report_every:
                await self._examiner.examine()
                self._report()
                reports = int((time.monotonic() - began) // report_every) + 1
            await asyncio.sleep(max(0.0, samples[-1].seconds + interval - (time.monotonic() - began)))
        await self._examiner.examine()

    def _require_progress(self) -> None:
        last = self._verdict.samples[-1]
        for sample in reversed(self._verdict.samples):
            if sample.operations != last.operations:
                return
            if last.seconds - sample.seconds > SILENCE_SECONDS_MAX * self._scene.patience:
                raise Violation(f"nothing was acknowledged for {last.seconds - sample.seconds:.0f} s")

    def _report(self) -> None:
        last, usages = self._verdict.samples[-1], self._verdict.samples[-1].replicas
        memory = [usage.memory_bytes / MB for usage in usages]
        descriptors = [usage.descriptors for usage in usages]
        disk = [_disk_bytes(usage) / MB for usage in usages]
        self._say(
            f"{last.seconds / 60:.1f} of {self._verdict.minutes:g} minutes: {last.operations} operations "
            f"({last.operations / last.seconds:.0f}/s), sequence {max(usage.sequence for usage in usages)}; "
            f"memory {min(memory):.1f}-{max(memory):.1f} MB, descriptors {min(descriptors)}-{max(descriptors)}, "
            f"disk {max(disk):.1f} MB"
        )

    def judge(self) -> None:
        verdict, half = self._verdict, judged(self._verdict.samples)
        head = max(usage.sequence for usage in half[-1].replicas)
        checkpoints = head // CHECKPOINT_INTERVAL - max(u.sequence for u in half[0].replicas) // CHECKPOINT_INTERVAL
        if checkpoints < 2:
            verdict.problems.append("fewer than two checkpoints in the second half: too short, or too slow, to judge")
        new = self._scene.load.acknowledged[self._before :]
        request = max((one.request for one in new), key=len, default=b"")
        quorum = self._scene.committee.federation.quorum
        try:
            verdict.growth = judge(verdict.samples, entry_bytes=archived_bytes(request, sequence=head, quorum=quorum))
        except ValueError as error:
            verdict.problems.append(str(error))
        verdict.problems += [growth.sentence for growth in verdict.growth if not growth.flat]
        rate = (half[-1].operations - half[0].operations) / max(1e-9, half[-1].seconds - half[0].seconds)
        verdict.notes.append(f"{rate:.0f} operations a second; {checkpoints} checkpoints while it was judged")


def _disk_bytes(usage: Usage) -> int:
    return usage.archive_bytes + usage.journal_bytes + usage.snapshots_bytes + usage.other_bytes


def table(verdict: SteadyVerdict) -> Table:
    """What was judged, measure by measure."""
    minutes = verdict.growth[0].minutes if verdict.growth else 0.0
    made = Table(title=f"The last {minutes:.1f} of {verdict.minutes:g} minutes", title_justify="left")
    for name in ("what", "replica", "middle", "end", "gained", "allowed", "verdict"):
        made.add_column(name, justify="left" if name in ("what", "verdict") else "right")
    for one in by_measure(verdict.growth):
        size = "MB" if one.unit in ("MB", "B/op") else ""
        made.add_row(
            one.what, str(one.replica), f"{one.middle:.1f} {size}", f"{one.end:.1f} {size}",
            f"{one.gained:+.2f} {one.unit}", f"{one.allowed:.2f} {one.unit}", "flat" if one.flat else "GROWS",
        )  # fmt: skip
    return made


def by_measure(growth: Sequence[Growth]) -> list[Growth]:
    """All replicas' memory, then all replicas' descriptors, and so on."""
    order = list(dict.fromkeys(one.what for one in growth))
    return sorted(growth, key=lambda one: (order.index(one.what), one.replica))
