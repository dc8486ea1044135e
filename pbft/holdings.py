"""Whose bytes lie here, and which of them nobody needs: quotas of members, and the end of blobs that no log names.

Rules. Each blob and piece is charged to the member that stored it here, or whose update it is when it was pulled from
a peer. A blob that the ordered log names stays for ever, since an auditor needs it; it stays charged. One that the log
does not name after UNNAMED_SECONDS goes, and so does its charge; a piece's charge goes with the piece. What the log
names is read from this replica's archive. Whatever cannot be known is kept: where the archive has a gap (a snapshot was
restored), all blobs of that time count as named, and nothing is collected while an opening that the log names is not
here (after UNNAMED_SECONDS in which no peer had it either, it is a lie). A replica's own component sums and models are
charged to nobody and never collected.

The book is an SQLite file; a crash may lose its last lines, which the archive and later uploads write again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import Counter, Gauge

from koinon.blobs import BlobStore
from koinon.encoding import ZERO_DIGEST, decode
from koinon.errors import KoinonError, QuotaExceeded
from koinon.rounds.operations import CompleteRound, decode_operation
from koinon.signing import Signed
from koinon.wire import CommittedBatch, Contribution, Opening, Request

from .archive import Archive

BYTES_PER_MEMBER_MAX = 64 << 30
UNNAMED_SECONDS = 7 * 24 * 3600
OPENING_BYTES_MAX = 1 << 20
REQUEST_BYTES_MAX = 1 << 20
PAGE_ENTRIES = 256
OPENINGS_AT_ONCE = 16

CHARGED = Gauge("koinon_charged_bytes", "Bytes that members store on this replica")
COLLECTED = Counter("koinon_collected_bytes_total", "Bytes of blobs that no log named in time, and that were deleted")
OVER_QUOTA = Counter("koinon_over_quota_total", "Uploads that were refused because of their member's quota")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS held (name BLOB PRIMARY KEY, member BLOB, bytes INTEGER, at INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS held_by ON held (member);
CREATE TABLE IF NOT EXISTS named (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS openings (digest BLOB PRIMARY KEY, at INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (read INTEGER);
"""


class Holdings:
    """The book at `path`. Its methods touch the disk: call them in a thread. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        path: Path,
        blobs: BlobStore,
        *,
        clock: Callable[[], float],
        bytes_per_member_max: int = BYTES_PER_MEMBER_MAX,
    ) -> None:
        self._blobs = blobs
        self._clock = clock
        self._bytes_per_member_max = bytes_per_member_max
        self._lock = threading.Lock()
        self._book = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._book.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)
        CHARGED.set(self._one("SELECT coalesce(sum(bytes), 0) FROM held"))

    def close(self) -> None:
        with self._lock:
            self._book.close()

    # --- quotas

    def used(self, member: bytes) -> int:
        """Bytes that are charged to a member."""
        with self._lock:
            return self._one("SELECT coalesce(sum(bytes), 0) FROM held WHERE member = ?", member)

    def require_room(self, member: bytes, size: int) -> None:
        """QuotaExceeded when `size` more bytes would be more than the member may store."""
        used = self.used(member)
        if used + size > self._bytes_per_member_max:
            OVER_QUOTA.inc()
            raise QuotaExceeded(
                f"0x{member.hex()} stores {used} bytes here, and at most {self._bytes_per_member_max} are allowed",
                hint="finish or stop tasks, or ask the operator for a larger quota",
            )

    def charge(self, member: bytes, name: bytes, size: int) -> None:
        """`member` stored `name` (a blob's digest, or `piece_name`); again: it is as young as today."""
        with self._lock:
            self._book.execute(
                "INSERT INTO held VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET at = excluded.at",
                (name, member, size, int(self._clock())),
            )
            CHARGED.set(self._one("SELECT coalesce(sum(bytes), 0) FROM held"))

    def touch(self, name: bytes) -> None:
        """Stored once more: it is as young as today, and costs nobody anything new."""
        with self._lock:
            self._book.execute("UPDATE held SET at = ? WHERE name = ?", (int(self._clock()), name))

    def release_pieces(self, task: bytes, round: int) -> None:
        """The pieces of a round were erased."""
        first, last = piece_name(task, round, bytes(20)), piece_name(task, round, b"\xff" * 20)
        with self._lock:
            self._book.execute("DELETE FROM held WHERE name BETWEEN ? AND ?", (first, last))

    # --- what the log names

    def keep(self, digests: Iterable[bytes]) -> None:
        """Never collect these."""
        with self._lock:
            self._name(digests)

    def follow(self, archive: Archive) -> None:
        """Read what was archived since the last time, and note what it names."""
        with self._lock:
            place = self._one("SELECT coalesce(max(read), 0) FROM place")
            while (page := archive.read(place + 1, PAGE_ENTRIES)) or archive.after(place) is not None:
                self._book.execute("BEGIN")
                if page:
                    for entry in page:
                        self._note(entry)
                    place = page[-1].sequence
                else:
                    self._book.execute("INSERT OR IGNORE INTO named SELECT name FROM held")
                    place = (archive.after(place) or place + 1) - 1
                self._book.execute("DELETE FROM place")
                self._book.execute("INSERT INTO place VALUES (?)", (place,))
                self._book.execute("COMMIT")
            self._read_openings()

    def missing_openings(self) -> list[bytes]:
        """Openings that the log names and that are not here: pull them."""
        with self._lock:
            rows = self._book.execute("SELECT digest FROM openings LIMIT ?", (OPENINGS_AT_ONCE,)).fetchall()
            return [digest for (digest,) in rows]

    def collect(self) -> int:
        """Delete blobs that nobody named in time; how many. None while an opening that the log names is not here."""
        with self._lock:
            before = int(self._clock()) - UNNAMED_SECONDS
            self._read_openings()
            self._book.execute("DELETE FROM openings WHERE at < ?", (before,))
            if self._one("SELECT count(*) FROM openings"):
                return 0
            due = self._book.execute(
                "SELECT name, bytes FROM held WHERE at < ? AND length(name) = 32 AND name NOT IN named", (before,)
            ).fetchall()
            for name, size in due:
                self._blobs.discard(name)
                self._book.execute("DELETE FROM held WHERE name = ?", (name,))
                COLLECTED.inc(size)
            CHARGED.set(self._one("SELECT coalesce(sum(bytes), 0) FROM held"))
            return len(due)

    # --- helpers

    def _one(self, query: str, *values: object) -> int:
        return int(self._book.execute(query, values).fetchone()[0])

    def _name(self, digests: Iterable[bytes]) -> None:
        self._book.executemany("INSERT OR IGNORE INTO named VALUES (?)", [(digest,) for digest in digests])

    def _note(self, entry: CommittedBatch) -> None:
        for data in entry.batch.requests:
            try:
                payload = decode(Signed, data, bytes_max=REQUEST_BYTES_MAX).payload
                operation = decode_operation(decode(Request, payload, bytes_max=REQUEST_BYTES_MAX).operation)
            except KoinonError:
                continue  # the law refused it as well
            self._name(_digests(msgspec.to_builtins(operation, builtin_types=(bytes,))))
            if isinstance(operation, CompleteRound):
                seen = (operation.certificate.opening, int(self._clock()))
                self._book.execute("INSERT OR IGNORE INTO openings VALUES (?, ?)", seen)

    def _read_openings(self) -> None:
        for (digest,) in self._book.execute("SELECT digest FROM openings").fetchall():
            if digest not in self._blobs:
                continue
            self._name(_named_by(self._blobs.get(digest)))
            self._book.execute("DELETE FROM openings WHERE digest = ?", (digest,))


def piece_name(task: bytes, round: int, node: bytes) -> bytes:
    """Under what name a piece is charged; longer than any digest."""
    return task + round.to_bytes(8, "big") + node


def _digests(value: object) -> Iterator[bytes]:
    """Everything in an operation that may be a digest: whatever has 32 bytes, in operations yet to be invented too."""
    if isinstance(value, bytes) and len(value) == 32:
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _digests(pair)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _digests(each)


def _named_by(content: bytes) -> Iterator[bytes]:
    """The component blobs and the witness of an opening; nothing if it is none (the committee never signed it)."""
    try:
        opening = decode(Opening, content, bytes_max=OPENING_BYTES_MAX)
        contributions = [decode(Contribution, said.payload) for said in opening.contributions]
    except KoinonError:
        return
    if opening.witness != ZERO_DIGEST:
        yield opening.witness
    for contribution in contributions:
        for _, component in contribution.components:
            yield component
