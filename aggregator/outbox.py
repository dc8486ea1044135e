"""The outbox: what the chain must still be told, kept on disk until the chain says that it knows.

One row an anchor job (task, round, kind). A job is written before anybody talks to the chain and leaves the
queue when the chain holds it, so a crash of either side at any point only repeats a call, and the calls are
idempotent (`koinon.ledger`): each round is opened and committed on chain exactly once.

    pending ──start──► sent ──confirm──► confirmed        sent ──postpone──► pending (capped backoff)

What the chain must know of the committee goes the same way: a handover, or evidence against a replica, has an epoch
in the place of the round and its own subject in the place of the task (see anchor.py).

`sent` means: a transaction may be on its way. A process that dies leaves jobs in `sent`; the next one takes them up
like `pending` ones. Jobs of one task are worked off in order; tasks do not wait for one another.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from koinon.errors import ConfigError

SCHEMA_VERSION = 2
BACKOFF_FIRST_MS = 500
BACKOFF_MAX_MS = 30_000
ERROR_CHARS_MAX = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    task BLOB NOT NULL, round INTEGER NOT NULL, kind INTEGER NOT NULL,
    payload BLOB NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    due_ms INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL,
    confirmed_ms INTEGER NOT NULL DEFAULT 0, txhash BLOB NOT NULL DEFAULT x'', error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (task, round, kind)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS openings (
    task BLOB NOT NULL, round INTEGER NOT NULL, opening BLOB NOT NULL, model BLOB NOT NULL,
    PRIMARY KEY (task, round)
) WITHOUT ROWID;
"""


class Kind(IntEnum):
    """Ascending in the order in which one round's jobs are done."""

    OPEN_ROUND = 1
    COMMIT_ROUND = 2
    HAND_OVER = 3
    REPORT = 4


class Stage(StrEnum):
    PENDING = "pending"
    SENT = "sent"
    CONFIRMED = "confirmed"


@dataclass(frozen=True)
class Job:
    """One row; `payload` is what the kind needs (see anchor.py), times are milliseconds since the epoch."""

    task: bytes
    round: int
    kind: Kind
    payload: bytes
    stage: Stage = Stage.PENDING
    attempts: int = 0
    due_ms: int = 0
    created_ms: int = 0
    confirmed_ms: int = 0
    transaction: bytes = b""
    error: str = ""


class Outbox:
    """A sqlite file, every change synced to disk before it returns. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise ConfigError(
                    f"{path} was written by another version of Koinon (schema {version})",
                    hint="move it away: the outbox is rebuilt from the committee and the chain",
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.DatabaseError as error:
            raise ConfigError(
                f"the outbox {path} cannot be opened: {error}",
                hint="move it away: it is rebuilt from the committee and the chain",
            ) from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # --- anchor jobs -----------------------------------------------------------------------------------------

    def ensure(self, task: bytes, round_: int, kind: Kind, payload: bytes, *, now_ms: int) -> bool:
        """Queue a job unless it is queued; whether that changed anything.

        Call it for what the chain was just seen to lack: a job that was confirmed is queued again then (a
        development chain that is killed loses its last blocks).
        """
        with self._transaction() as db:
            found = db.execute(
                "SELECT state FROM jobs WHERE task = ? AND round = ? AND kind = ?", (task, round_, int(kind))
            ).fetchone()
            if found is None:
                db.execute(
                    "INSERT INTO jobs (task, round, kind, payload, state, created_ms) VALUES (?, ?, ?, ?, ?, ?)",
                    (task, round_, int(kind), payload, Stage.PENDING, now_ms),
                )
                return True
            if found[0] != Stage.CONFIRMED:
                return False
            db.execute(
                "UPDATE jobs SET state = ?, due_ms = 0, payload = ? WHERE task = ? AND round = ? AND kind = ?",
                (Stage.PENDING, payload, task, round_, int(kind)),
            )
            return True

    def heads(self) -> list[Job]:
        """The oldest unconfirmed job of each task."""
        rows = self._rows("WHERE state != ? ORDER BY task, round, kind", (Stage.CONFIRMED,))
        first: dict[bytes, Job] = {}
        for job in rows:
            first.setdefault(job.task, job)
        return list(first.values())

    def start(self, job: Job) -> None:
        """On disk before the chain is called: a transaction may exist from now on."""
        self._update(job, "state = ?, attempts = attempts + 1", (Stage.SENT,))

    def confirm(self, job: Job, transaction: bytes, *, now_ms: int) -> None:
        """The chain holds it; `transaction` is b"" when somebody else's transaction, or a lost one of ours, did it."""
        self._update(
            job,
            "state = ?, txhash = COALESCE(NULLIF(?, x''), txhash), confirmed_ms = ?, error = ''",
            (Stage.CONFIRMED, transaction, now_ms),
        )

    def postpone(self, job: Job, error: str, *, now_ms: int) -> int:
        """Back to pending with capped exponential backoff; the milliseconds to wait."""
        kept = self.get(job.task, job.round, job.kind)
        pause = backoff_ms(kept.attempts if kept else job.attempts)
        self._update(job, "state = ?, due_ms = ?, error = ?", (Stage.PENDING, now_ms + pause, error[:ERROR_CHARS_MAX]))
        return pause

    def withdraw(self, task: bytes, round_: int, kind: Kind) -> None:
        """Forget a job that has become pointless, unless it is confirmed."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM jobs WHERE task = ? AND round = ? AND kind = ? AND state != ?",
                (task, round_, int(kind), Stage.CONFIRMED),
            )

    def get(self, task: bytes, round_: int, kind: Kind) -> Job | None:
        rows = self._rows("WHERE task = ? AND round = ? AND kind = ?", (task, round_, int(kind)))
        return rows[0] if rows else None

    def counts(self) -> dict[str, int]:
        """Jobs by stage."""
        with self._lock:
            rows = self._db.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state").fetchall()
        return {stage.value: dict(rows).get(stage.value, 0) for stage in Stage}

    # --- openings --------------------------------------------------------------------------------------------

    def keep_opening(self, task: bytes, round_: int, opening: bytes, model: bytes) -> None:
        """Remember which opening replicas are asked to certify, before the first is asked.

        After a crash the same one is handed in again: two openings of one round never compete for signatures.
        """
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO openings VALUES (?, ?, ?, ?)", (task, round_, opening, model))

    def opening(self, task: bytes, round_: int) -> tuple[bytes, bytes] | None:
        """(opening, model) digests of `keep_opening`."""
        with self._lock:
            row = self._db.execute(
                "SELECT opening, model FROM openings WHERE task = ? AND round = ?", (task, round_)
            ).fetchone()
        return (row[0], row[1]) if row else None

    def drop_opening(self, task: bytes, round_: int) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM openings WHERE task = ? AND round = ?", (task, round_))

    # --- inside ----------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _update(self, job: Job, assignments: str, values: tuple[object, ...]) -> None:
        with self._transaction() as db:
            db.execute(
                f"UPDATE jobs SET {assignments} WHERE task = ? AND round = ? AND kind = ?",
                (*values, job.task, job.round, int(job.kind)),
            )

    def _rows(self, where: str, values: tuple[object, ...]) -> list[Job]:
        columns = "task, round, kind, payload, state, attempts, due_ms, created_ms, confirmed_ms, txhash, error"
        with self._lock:
            rows = self._db.execute(f"SELECT {columns} FROM jobs {where}", values).fetchall()
        return [Job(row[0], row[1], Kind(row[2]), row[3], Stage(row[4]), *row[5:]) for row in rows]


def backoff_ms(attempts: int) -> int:
    """The pause after `attempts` tries: doubling from BACKOFF_FIRST_MS to BACKOFF_MAX_MS."""
    return int(min(BACKOFF_FIRST_MS << min(max(attempts - 1, 0), 16), BACKOFF_MAX_MS))
