"""The outbox on a real sqlite file: order, backoff, and every moment at which a process may die."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from aggregator.outbox import BACKOFF_MAX_MS, Kind, Outbox, Stage, backoff_ms
from koinon.errors import ConfigError

A, B = b"\x0a" * 32, b"\x0b" * 32
OPEN, COMMIT = Kind.OPEN_ROUND, Kind.COMMIT_ROUND


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.sqlite")


def heads(outbox: Outbox) -> list[tuple[bytes, int, Kind]]:
    return [(job.task, job.round, job.kind) for job in outbox.heads()]


def test_each_task_shows_its_oldest_unconfirmed_job_only(outbox: Outbox) -> None:
    for task, number, kind in [(A, 2, OPEN), (A, 1, COMMIT), (A, 1, OPEN), (B, 7, COMMIT)]:
        assert outbox.ensure(task, number, kind, b"", now_ms=0)
    assert heads(outbox) == [(A, 1, OPEN), (B, 7, COMMIT)]
    outbox.confirm(outbox.heads()[0], b"\x01" * 32, now_ms=5)
    assert heads(outbox) == [(A, 1, COMMIT), (B, 7, COMMIT)]


def test_a_job_is_queued_once(outbox: Outbox) -> None:
    assert outbox.ensure(A, 1, OPEN, b"first", now_ms=1)
    assert not outbox.ensure(A, 1, OPEN, b"second", now_ms=2)
    assert [job.payload for job in outbox.heads()] == [b"first"]


def test_a_confirmed_job_that_the_chain_lost_is_queued_again_and_keeps_its_place(outbox: Outbox) -> None:
    outbox.ensure(A, 1, OPEN, b"", now_ms=0)
    outbox.ensure(A, 2, OPEN, b"", now_ms=0)
    outbox.confirm(outbox.heads()[0], b"\x01" * 32, now_ms=1)
    assert outbox.ensure(A, 1, OPEN, b"", now_ms=2)
    assert heads(outbox) == [(A, 1, OPEN)]


def test_postponed_jobs_wait_longer_each_time_up_to_a_cap_and_keep_the_reason(outbox: Outbox) -> None:
    outbox.ensure(A, 1, OPEN, b"", now_ms=0)
    pauses = []
    for _ in range(12):
        outbox.start(outbox.heads()[0])
        pauses.append(outbox.postpone(outbox.heads()[0], "the chain is down" * 100, now_ms=1_000))
    assert pauses == sorted(pauses)
    assert pauses[-1] == BACKOFF_MAX_MS == backoff_ms(10**9)
    (job,) = outbox.heads()
    assert (job.stage, job.attempts, job.due_ms) == (Stage.PENDING, 12, 1_000 + BACKOFF_MAX_MS)
    assert job.error.startswith("the chain is down")
    assert len(job.error) <= 500


def test_confirming_without_a_transaction_keeps_the_known_one(outbox: Outbox) -> None:
    outbox.ensure(A, 1, OPEN, b"", now_ms=0)
    job = outbox.heads()[0]
    outbox.confirm(job, b"\x01" * 32, now_ms=1)
    outbox.ensure(A, 1, OPEN, b"", now_ms=2)
    outbox.confirm(job, b"", now_ms=3)
    kept = outbox.get(A, 1, OPEN)
    assert kept is not None
    assert (kept.transaction, kept.confirmed_ms) == (b"\x01" * 32, 3)


def test_withdrawing_forgets_what_is_pointless_but_never_what_is_confirmed(outbox: Outbox) -> None:
    outbox.ensure(A, 1, OPEN, b"", now_ms=0)
    outbox.confirm(outbox.heads()[0], b"", now_ms=0)
    outbox.ensure(A, 2, OPEN, b"", now_ms=0)
    outbox.withdraw(A, 1, OPEN)
    outbox.withdraw(A, 2, OPEN)
    assert outbox.counts() == {"pending": 0, "sent": 0, "confirmed": 1}


def test_an_opening_is_remembered_until_it_is_dropped(outbox: Outbox) -> None:
    assert outbox.opening(A, 1) is None
    outbox.keep_opening(A, 1, b"\x01" * 32, b"\x02" * 32)
    assert outbox.opening(A, 1) == (b"\x01" * 32, b"\x02" * 32)
    outbox.drop_opening(A, 1)
    assert outbox.opening(A, 1) is None


def test_a_file_of_another_version_or_no_database_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigError, match="another version"):
        Outbox(other)
    (tmp_path / "text.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(ConfigError, match="cannot be opened"):
        Outbox(tmp_path / "text.sqlite")


def test_every_change_survives_the_death_of_the_process(tmp_path: Path) -> None:
    """Another process makes one change more each time and kills itself right after; nothing that returned is lost."""
    path = tmp_path / "outbox.sqlite"
    steps = [
        "o.ensure(T, 1, Kind.OPEN_ROUND, b'p', now_ms=1)",
        "o.start(o.heads()[0])",
        "o.postpone(o.heads()[0], 'no answer', now_ms=1)",
        "o.start(o.heads()[0])",
        "o.confirm(o.heads()[0], bytes(32), now_ms=2)",
        "o.keep_opening(T, 1, bytes(32), bytes(32))",
    ]
    seen = []
    for step in steps:
        script = (
            "import os, signal; from pathlib import Path; from aggregator.outbox import Kind, Outbox\n"
            f"T = {A!r}; o = Outbox(Path({str(path)!r})); {step}; os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
        assert done.returncode == -9
        outbox = Outbox(path)
        job = outbox.get(A, 1, OPEN)
        assert job is not None
        seen.append((str(job.stage), job.attempts))
        kept = outbox.opening(A, 1)
        outbox.close()
    assert seen == [
        ("pending", 0), ("sent", 1), ("pending", 1), ("sent", 2), ("confirmed", 2), ("confirmed", 2)
    ]  # fmt: skip
    assert kept == (bytes(32), bytes(32))
