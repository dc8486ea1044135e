"""What must hold after every fault: agreement, and nothing acknowledged is lost or done twice.

Logs are fetched through /v1/log, as any auditor does, page by page from where the last check ended. Every entry of
every replica must carry a quorum's signatures; entries of one number must be the same batch, byte for byte. Commit
signatures are each replica's own choice of 2f+1, and so may differ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from koinon.audit.history import require_entry
from koinon.encoding import encode, keccak
from koinon.errors import KoinonError, Unavailable
from koinon.service import BODY_BYTES_MAX, read_answer
from koinon.wire import CommittedBatch

from .committee import Committee
from .load import Load
from .scene import Violation

PAGE_ENTRIES = 256
FETCH_SECONDS = 20.0
CHECKPOINT_INTERVAL = 64
"""A replica that jumped to a checkpoint has a gap in its log up to there."""
CHECKPOINT_TRIES_MAX = 20
CHECKPOINT_PAUSE_SECONDS = 0.25
Checkpoint = tuple[str, int, int, bytes, bytes]


class Examiner:
    """Remembers the logs that it read, so that each check reads only what is new."""

    def __init__(self, committee: Committee, load: Load) -> None:
        self._committee = committee
        self._load = load
        self._batches: dict[int, bytes] = {}
        self._places: dict[bytes, list[int]] = {}
        self._next = dict.fromkeys(committee.everybody, 1)
        self._settled = 0
        self.gaps: dict[int, int] = {}

    @property
    def log_mb(self) -> float:
        """Megabytes of the batches that were read."""
        return sum(map(len, self._batches.values())) / 1e6

    async def examine(self) -> None:
        """Everything up to now, at replicas that have all come back. Violation with what is wrong."""
        acknowledged = len(self._load.acknowledged)
        head = await self._committee.head()
        await self._committee.caught_up(head, seconds=FETCH_SECONDS)
        for index in self._committee.everybody:
            await self._read(index, head)
        wrong = [f"no replica shows entry {number}" for number in range(1, head + 1) if number not in self._batches]
        wrong += self._lost(acknowledged) + self._load.problems
        if refusals := await self._committee.client.refusals():
            wrong.append(f"requests were executed that the law refused, perhaps for the second time: {refusals}")
        if wrong:
            raise Violation(*wrong[:10])
        await self._equal_checkpoints()

    @property
    def ordered_twice(self) -> int:
        """How many requests stand in the log more than once: a new primary may propose again what it holds no batch of.

        Replicas execute such a request once; if they did not, the law would refuse, and count, the second time.
        """
        return sum(len(places) > 1 for places in self._places.values())

    # --- logs

    async def _read(self, index: int, head: int) -> None:
        """The new entries of one replica up to `head`."""
        while (first := self._next[index]) <= head:
            page = await self._page(index, first)
            if not page:
                first = await self._after_gap(index, first, head)
                self.gaps[index] = self.gaps.get(index, 0) + first - self._next[index]
                self._next[index] = first
                continue
            for offset, entry in enumerate(page):
                if entry.sequence != first + offset:
                    raise Violation(f"replica {index} shows entry {entry.sequence} where {first + offset} belongs")
                self._take(index, entry)
            self._next[index] = first + len(page)

    async def _page(self, index: int, first: int) -> list[CommittedBatch]:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                return await self._committee.client.log(index, first=first, limit=PAGE_ENTRIES)
        except (KoinonError, TimeoutError) as error:
            raise Unavailable(f"replica {index} does not show its log: {error!r}") from None

    async def _after_gap(self, index: int, first: int, head: int) -> int:
        """Where the log goes on after entries that the replica skipped with a checkpoint."""
        after = first - first % CHECKPOINT_INTERVAL + CHECKPOINT_INTERVAL + 1
        for candidate in range(after, head + 1, CHECKPOINT_INTERVAL):
            if await self._page(index, candidate):
                return candidate
        return head + 1

    def _take(self, index: int, entry: CommittedBatch) -> None:
        try:
            require_entry(self._committee.federation, entry)
        except KoinonError as error:
            raise Violation(f"replica {index}, entry {entry.sequence}: {error.message}") from None
        mine = encode(entry.batch)
        known = self._batches.setdefault(entry.sequence, mine)
        if known != mine:
            raise Violation(f"replica {index} has another batch than others at entry {entry.sequence}")
        if known is mine:
            for request in entry.batch.requests:
                self._places.setdefault(request, []).append(entry.sequence)

    def _lost(self, count: int) -> list[str]:
        """Acknowledged requests that are not in the log."""
        acknowledged = self._load.acknowledged[self._settled : count]
        lost = [one for one in acknowledged if one.request not in self._places]
        if not lost:
            self._settled = count
        return [f"acknowledged request {keccak(one.request).hex()[:16]} is in no log" for one in lost]

    # --- checkpoints

    async def _equal_checkpoints(self) -> None:
        """Snapshots of one sequence number are equal, and every replica has come to the newest stable one."""
        known: dict[int, bytes] = {}
        for _ in range(CHECKPOINT_TRIES_MAX):
            newest: dict[int, int] = {}
            for index in self._committee.everybody:
                sequence, state = await self._checkpoint(index)
                newest[index] = sequence
                if known.setdefault(sequence, state) != state:
                    raise Violation(f"replica {index} has another state than others after entry {sequence}")
            if _near(newest.values()):
                return
            await asyncio.sleep(CHECKPOINT_PAUSE_SECONDS)
        raise Violation(f"the replicas' stable checkpoints stay apart: {newest}")

    async def _checkpoint(self, index: int) -> tuple[int, bytes]:
        """(sequence, Keccak-256 of the snapshot) of replica `index`'s stable checkpoint; 0 before the first.

        Violation when it isn't the state that the certificate beside it names.
        """
        base = self._committee.federation.replicas[index].url
        raw = await self._get(f"{base}/v1/checkpoint")
        if raw is None:
            return 0, b""
        # pbft's Shown(certificate, size, chunks), whose certificate is of a Checkpoint(epoch, sequence, state, next)
        kind = tuple[str, tuple[str, Checkpoint, list[bytes]], int, list[bytes]]
        _, certificate, size, _ = msgspec.msgpack.decode(raw, type=kind)
        _, _, sequence, state, _ = certificate[1]
        snapshot = b""
        while len(snapshot) < size:
            part = await self._get(f"{base}/v1/snapshots/{sequence}?from={len(snapshot)}")
            if not part:
                raise Unavailable(f"replica {index} does not show the snapshot of {sequence}")
            snapshot += part
        if keccak(snapshot) != state:
            raise Violation(f"replica {index} shows a snapshot that its certificate does not name")
        return sequence, state

    async def _get(self, url: str) -> bytes | None:
        """The body of an answer, or None for a 404."""
        async with asyncio.timeout(FETCH_SECONDS), self._load.session.get(url) as response:
            return None if response.status == 404 else await read_answer(response, bytes_max=BODY_BYTES_MAX)


def _near(sequences: Iterable[int]) -> bool:
    known = list(sequences)
    return max(known) - min(known) <= CHECKPOINT_INTERVAL
