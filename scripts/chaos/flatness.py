"""Whether what a process takes stays flat: the judgement over samples, without a clock or a process.

The first half of a run is warming up. Over the second half a straight line is laid through the samples by Theil and
Sen (the median of the slopes of all pairs), which a few samples that are off, or the teeth of a saw, do not move. What
that line gained from the middle to the end is held against an allowance that does not depend on the length of the run:
the longer it is, the smaller the leak that it finds. The archive is the exception, since the ordered log is kept: its
line runs over the operations, and its slope is held against the size of an entry with one operation. Memory may gain
what a replica's caches hold, too, as long as the log is so short that they fill: at n = 4, the first 8,192 entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from koinon.encoding import encode
from koinon.frames import frame_bytes
from koinon.wire import Batch, CommittedBatch

MB = 1_000_000
SAMPLES_MIN = 20
"""In the second half: with fewer nothing is judged."""
LEVEL_SAMPLES = 5
"""The median of so many is shown as the level at the middle and at the end."""
INDEX_BYTES_PER_ENTRY = 32
"""What memory may gain for each entry of the log: where it stands in the archive (20 bytes, and room to grow)."""
VOTES_CACHED_MAX, VOTE_CACHED_BYTES = 1 << 16, 450
"""Verified signatures that a replica remembers (pbft.certificates): for each entry those of two votes of each."""
REQUESTS_CACHED_MAX, REQUEST_CACHED_BYTES = 1 << 13, 1500
"""Requests, and the digests of votes about them."""
ARCHIVE_SLACK = 1.02
"""View changes order a few empty batches."""
SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Usage:
    """What one replica takes; `sequence` is the last one that it executed (0 when it did not say)."""

    memory_bytes: int
    descriptors: int
    archive_bytes: int
    journal_bytes: int
    snapshots_bytes: int
    other_bytes: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Sample:
    """All replicas, `seconds` after the run began; `operations` were acknowledged until then."""

    seconds: float
    operations: int
    replicas: tuple[Usage, ...]


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that must stay flat. It may gain `allowed` units, of which `scale` raw ones make one."""

    name: str
    unit: str
    scale: float
    allowed: float
    read: Callable[[Usage], int]


MEMORY = Measure("memory", "MB", MB, 4.0, lambda usage: usage.memory_bytes)
FLAT = (
    MEMORY,
    Measure("descriptors", "", 1, 4.0, lambda usage: usage.descriptors),
    Measure("journal", "MB", MB, 0.5, lambda usage: usage.journal_bytes),
    Measure("snapshots", "MB", MB, 0.5, lambda usage: usage.snapshots_bytes),
    Measure("other files", "MB", MB, 0.5, lambda usage: usage.other_bytes),
)
ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class Growth:
    """What one replica's measure gained in the second half, in `unit`; for the archive, bytes for each operation."""

    replica: int
    what: str
    unit: str
    middle: float
    end: float
    gained: float
    allowed: float
    minutes: float

    @property
    def flat(self) -> bool:
        return self.gained <= self.allowed

    @property
    def sentence(self) -> str:
        """What is wrong, for people."""
        if self.what == ARCHIVE:
            return (
                f"replica {self.replica}: the archive grows by {self.gained:.0f} bytes an operation; an entry of the "
                f"log with one takes {self.allowed:.0f}"
            )
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"replica {self.replica}: {self.what} grew by {self.gained:.1f}{unit} in the last {self.minutes:.1f} "
            f"minutes, from {self.middle:.1f} to {self.end:.1f}; allowed: {self.allowed:.1f}{unit}"
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Theil's and Sen's: the median slope of all pairs of points with different x; 0 when there is no such pair."""
    return median(_slopes(points) if len({x for x, _ in points}) > 1 else [0.0])


def _slopes(points: Sequence[tuple[float, float]]) -> Iterator[float]:
    for later, (x, y) in enumerate(points):
        for x_before, y_before in points[:later]:
            if x != x_before:
                yield (y - y_before) / (x - x_before)


def judged(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The second half, by time."""
    return [sample for sample in samples if sample.seconds >= samples[-1].seconds / 2]


def judge(samples: Sequence[Sample], *, entry_bytes: int) -> list[Growth]:
    """The gains of each replica's measures. `entry_bytes` is the size of an archived entry with one operation.

    ValueError where there is too little to judge from.
    """
    half = judged(samples) if samples else []
    if len(half) < SAMPLES_MIN:
        raise ValueError(f"{len(half)} samples in the second half of the run, {SAMPLES_MIN} are needed")
    found: list[Growth] = []
    for replica in range(len(half[0].replicas)):
        for measure in FLAT:
            extra = known_bytes(samples, replica) / MB if measure is MEMORY else 0.0
            found.append(_gained(half, replica, measure, extra))
        found.append(_archived(half, replica, entry_bytes=entry_bytes))
    return found


def known_bytes(samples: Sequence[Sample], replica: int) -> float:
    """What memory gains in the second half without a leak: the index of the log, and caches that are not full yet."""
    replicas = len(samples[0].replicas)

    def held(entries: int) -> int:
        votes = min(VOTES_CACHED_MAX, 2 * replicas * entries)
        requests = min(REQUESTS_CACHED_MAX, entries)
        return INDEX_BYTES_PER_ENTRY * entries + VOTE_CACHED_BYTES * votes + REQUEST_CACHED_BYTES * requests

    def executed(some: Sequence[Sample]) -> list[int]:
        return [sequence for sample in some if (sequence := sample.replicas[replica].sequence)] or [0]

    first, half = min(executed(samples)), executed(judged(samples))
    return held(max(half) - first) - held(min(half) - first)


def _gained(half: Sequence[Sample], replica: int, measure: Measure, extra: float) -> Growth:
    seconds = half[-1].seconds - half[0].seconds
    values = [measure.read(sample.replicas[replica]) / measure.scale for sample in half]
    gained = slope([(sample.seconds, value) for sample, value in zip(half, values, strict=True)]) * seconds
    return Growth(replica, measure.name, measure.unit, *_levels(values), gained, measure.allowed + extra, seconds / 60)


def _archived(half: Sequence[Sample], replica: int, *, entry_bytes: int) -> Growth:
    sizes = [sample.replicas[replica].archive_bytes for sample in half]
    each = slope([(sample.operations, size) for sample, size in zip(half, sizes, strict=True)])
    levels = _levels([size / MB for size in sizes])
    minutes = (half[-1].seconds - half[0].seconds) / 60
    return Growth(replica, ARCHIVE, "B/op", *levels, each, entry_bytes * ARCHIVE_SLACK, minutes)


def _levels(values: Sequence[float]) -> tuple[float, float]:
    return median(values[:LEVEL_SAMPLES]), median(values[-LEVEL_SAMPLES:])


def archived_bytes(request: bytes, *, sequence: int, quorum: int) -> int:
    """What the archive takes for a batch of one request: a batch has at least one, so that nothing has to take more."""
    entry = CommittedBatch(
        epoch=0,
        view=sequence,
        sequence=sequence,
        batch=Batch(time_ms=2**62, requests=(request,)),
        signatures=(bytes(SIGNATURE_BYTES),) * quorum,
    )
    return frame_bytes(len(encode(entry)))
