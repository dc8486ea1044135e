"""The judgement of a steady run: leaks are found and named; noise, and what must grow, are not."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from koinon.errors import ConfigError
from koinon.wire import Batch, CommittedBatch
from pbft.archive import Archive
from scripts.chaos.__main__ import parser
from scripts.chaos.flatness import (
    INDEX_BYTES_PER_ENTRY,
    MB,
    Growth,
    Sample,
    Usage,
    archived_bytes,
    judge,
    known_bytes,
    slope,
)
from scripts.chaos.proxies import Proxies
from scripts.chaos.steady import SteadyVerdict, by_measure, require_measurable, table

Change = Callable[[Usage, float], Usage]
"""What a fault adds to a replica's usage after so many minutes."""
MINUTES = 20
OPERATIONS_A_SECOND = 50
ENTRY_BYTES = 600


def sampled(
    change: Change = lambda usage, minutes: usage, *, guilty: int = 2, minutes: float = MINUTES
) -> list[Sample]:
    """Four replicas with everything that healthy ones show: warming up, noise, checkpoints' teeth, a growing log."""
    dice, samples = random.Random(7), []
    for step in range(241):
        at = minutes * step / 240
        operations = int(60 * at * OPERATIONS_A_SECOND)
        usages = []
        for index in range(4):
            warm = 20 * MB * min(1.0, at / (minutes / 4))
            usage = Usage(
                memory_bytes=round(70 * MB + warm + dice.gauss(0, 0.7 * MB) + (9 * MB if step % 50 == 13 else 0)),
                descriptors=28 + dice.randrange(3),
                archive_bytes=operations * ENTRY_BYTES * 9 // 10,
                journal_bytes=256 * 1024 + 9_000 * (step * 7 % 64),
                snapshots_bytes=8_000 + dice.randrange(400),
                other_bytes=1_000,
                sequence=operations * 9 // 10,
            )
            usages.append(change(usage, at) if index == guilty else usage)
        samples.append(Sample(60 * at, operations, tuple(usages)))
    return samples


def grows(samples: list[Sample]) -> list[Growth]:
    return [growth for growth in judge(samples, entry_bytes=ENTRY_BYTES) if not growth.flat]


def test_noise_teeth_warming_up_and_a_log_of_operations_are_flat() -> None:
    assert grows(sampled()) == []


def test_a_leak_of_a_megabyte_a_minute_is_found_and_named() -> None:
    (found,) = grows(sampled(lambda usage, at: replace(usage, memory_bytes=round(usage.memory_bytes + at * MB))))
    assert (found.replica, found.what) == (2, "memory")
    assert found.gained == pytest.approx(MINUTES / 2, abs=1.0)
    assert "replica 2: memory grew by" in found.sentence


def test_the_longer_the_run_the_smaller_the_leak_that_is_found() -> None:
    def leaking(usage: Usage, at: float) -> Usage:
        return replace(usage, memory_bytes=round(usage.memory_bytes + at * MB / 4))

    assert grows(sampled(leaking)) == []
    assert [found.what for found in grows(sampled(leaking, minutes=3 * MINUTES))] == ["memory"]


def test_caches_may_fill_while_the_log_is_short_and_not_later() -> None:
    def filling(usage: Usage, at: float) -> Usage:
        return replace(usage, memory_bytes=usage.memory_bytes + 4_000 * usage.sequence)

    assert grows(sampled(filling, minutes=3)) == []
    assert [found.what for found in grows(sampled(filling))] == ["memory"]
    assert known_bytes(sampled(), 0) == pytest.approx(
        INDEX_BYTES_PER_ENTRY * OPERATIONS_A_SECOND * 60 * MINUTES / 2 * 9 / 10, rel=0.05
    )


def test_a_descriptor_lost_every_minute_is_found() -> None:
    (found,) = grows(sampled(lambda usage, at: replace(usage, descriptors=usage.descriptors + int(at))))
    assert (found.replica, found.what) == (2, "descriptors")


@pytest.mark.parametrize(
    ("name", "what"),
    [("journal_bytes", "journal"), ("snapshots_bytes", "snapshots"), ("other_bytes", "other files")],
)
def test_a_file_that_grows_by_a_hundred_kilobytes_a_minute_is_found(name: str, what: str) -> None:
    def growing(usage: Usage, at: float) -> Usage:
        size: int = getattr(usage, name)
        return replace(usage, **{name: size + round(at * 100_000)})

    (found,) = grows(sampled(growing))
    assert (found.replica, found.what) == (2, what)


def test_an_archive_that_takes_more_than_its_operations_is_found() -> None:
    (found,) = grows(sampled(lambda usage, at: replace(usage, archive_bytes=usage.archive_bytes * 5 // 4)))
    assert (found.replica, found.what) == (2, "archive")
    assert found.gained == pytest.approx(ENTRY_BYTES * 9 / 10 * 5 / 4, rel=0.01)
    assert "bytes an operation" in found.sentence


def test_growth_that_ended_before_the_middle_is_warming_up() -> None:
    assert grows(sampled(lambda usage, at: replace(usage, other_bytes=min(5 * MB, round(at * MB))))) == []


def test_too_few_samples_are_not_judged() -> None:
    for samples in ([], sampled()[:30]):
        with pytest.raises(ValueError, match="samples in the second half"):
            judge(samples, entry_bytes=ENTRY_BYTES)


def test_the_slope_ignores_outliers_and_needs_two_places() -> None:
    points = [(float(x), 3.0 * x) for x in range(21)]
    points[4], points[15] = (4.0, 900.0), (15.0, -900.0)
    assert slope(points) == pytest.approx(3.0)
    assert slope([(1.0, 2.0), (1.0, 5.0)]) == slope([]) == 0.0


def test_an_archived_entry_takes_what_was_reckoned(tmp_path: Path) -> None:
    request, sequence = b"r" * 300, 2**40
    archive = Archive(tmp_path / "archive")
    batch = Batch(time_ms=2**62, requests=(request,))
    archive.append(CommittedBatch(epoch=0, view=sequence, sequence=sequence, batch=batch, signatures=(bytes(64),) * 3))
    archive.close()
    assert (tmp_path / "archive").stat().st_size == archived_bytes(request, sequence=sequence, quorum=3)


def test_the_table_has_each_measure_of_each_replica_and_says_what_grows() -> None:
    leaking = sampled(lambda usage, at: replace(usage, journal_bytes=round(at * MB)))
    verdict = SteadyVerdict("steady", "", Proxies.name, "FAILED", minutes=MINUTES)
    verdict.growth = judge(leaking, entry_bytes=ENTRY_BYTES)
    made = table(verdict)
    assert made.row_count == 4 * 6
    assert list(made.columns[-1].cells).count("GROWS") == 1
    assert [one.replica for one in by_measure(verdict.growth)[:5]] == [0, 1, 2, 3, 0]


def test_a_run_that_is_too_short_to_judge_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--minutes 0\.5"):
        require_measurable(parser().parse_args(["--minutes", "0.5"]).minutes)
