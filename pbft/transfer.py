"""State transfer: how a replica that lags, was wiped or is new gets the state (Castro & Liskov 1999, section 4.3).

Entries of the ordered log come page by page while a peer still has them; otherwise the snapshot of the newest
certified checkpoint comes in chunks. A certificate is verified before a byte of its snapshot is fetched, the
snapshot against the certificate's Keccak-256 when it is whole, entries by the core, which tells how far it got. What
arrived of a snapshot is kept in a file: a transfer that broke off goes on where it was, at the same peer or another
one, also after a restart. A peer that is slow, silent or tells lies goes to the end of the row at once.

Peers show the digests of a snapshot's chunks beside its certificate. What f+1 of them show alike, one honest one shows:
then each chunk is judged when it comes, and the first false one ends its peer's part. Without f+1 the whole decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import aiohttp
from msgspec import Meta
from prometheus_client import Counter

from koinon.encoding import U63, Digest, Message, decode, encode, keccak
from koinon.errors import BlobMismatch, KoinonError, Malformed, Oversized, Unavailable
from koinon.wire import CheckpointCertificate, CommittedBatch

from .messages import MESSAGE_BYTES_MAX, SNAPSHOT_BYTES_MAX

CHUNK_BYTES = 512 << 10
PAGE_ENTRIES = 128
PAGE_BYTES_MAX = MESSAGE_BYTES_MAX + (4 << 20)
PAGES_PER_PEER_MAX = 64
ANSWER_SECONDS = 5.0
"""For one page or chunk: who sends a chunk more slowly than this is of no help."""
SLOW_SECONDS = 1.0
"""After a chunk that took longer the next peer goes on, if there is one: whoever dawdles costs one chunk's time."""
SHOWN_BYTES_MAX = 64 << 10
PROGRESS_BYTES = 16 << 20

TRANSFERS = Counter("koinon_state_transfers_total", "State transfers of this replica", ["kind", "result"])
TRANSFER_BYTES = Counter("koinon_state_transfer_bytes_total", "Bytes of state fetched from peers", ["kind"])

log = logging.getLogger("koinon.pbft.transfer")
Take = Callable[[int, tuple[CommittedBatch, ...], CheckpointCertificate | None, bytes | None], Awaitable[int]]
"""Hands state of a peer to the core; the last sequence number that is executed afterwards."""


class Shown(Message, frozen=True):
    """The answer of `GET /v1/checkpoint`: a stable checkpoint, how many bytes its snapshot has, and the Keccak-256 of
    each CHUNK_BYTES of them."""

    certificate: CheckpointCertificate
    size: U63
    chunks: Annotated[tuple[Digest, ...], Meta(max_length=SNAPSHOT_BYTES_MAX // CHUNK_BYTES)]

    def __post_init__(self) -> None:
        if len(self.chunks) != -(-self.size // CHUNK_BYTES):
            raise ValueError(f"{len(self.chunks)} chunks of {self.size} bytes")


class Ask(Protocol):
    """`GET path` from a peer, at most `bytes_max` bytes; raises KoinonError or aiohttp's."""

    async def __call__(self, peer: int, path: str, *, bytes_max: int) -> bytes: ...


class Order:
    """In which order peers are asked: those that failed last, last; the others in turn."""

    def __init__(self, count: int, index: int) -> None:
        self._failures = {peer: 0 for peer in range(count) if peer != index}
        self._turn = index

    def peers(self) -> list[int]:
        self._turn += 1
        return sorted(self._failures, key=lambda peer: (self._failures[peer], (peer - self._turn) % 1024))

    def failed(self, peer: int, why: BaseException | str) -> None:
        self._failures[peer] = min(self._failures[peer] + 1, 1024)
        log.info("no state", extra={"peer": peer, "reason": str(why) or type(why).__name__})

    def served(self, peer: int) -> None:
        self._failures[peer] = 0


class Part:
    """What has arrived of one snapshot: a file whose name says of which."""

    def __init__(self, folder: Path, certificate: CheckpointCertificate) -> None:
        checkpoint = certificate.checkpoint
        self.path = folder / f"{checkpoint.sequence}-{checkpoint.state.hex()}.part"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in folder.glob("*.part"):
            if other != self.path:
                other.unlink()
        self.size = self.path.stat().st_size if self.path.exists() else 0
        self.by: set[int] = {-1} if self.size else set()
        """Whose bytes these are; -1 for those of an earlier run."""

    def keep_genuine(self, chunks: Sequence[bytes]) -> None:
        """Cut off what is there from the first chunk on that is not one of `chunks`."""
        if not self.size:
            return
        with self.path.open("r+b") as file:
            good = 0
            for known in chunks:
                chunk = file.read(CHUNK_BYTES)
                if keccak(chunk) != known:
                    break
                good += len(chunk)
            file.truncate(good)
        self.size = good

    def append(self, peer: int, chunk: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(chunk)
        self.size += len(chunk)
        self.by.add(peer)

    def whole(self, certificate: CheckpointCertificate) -> bytes | None:
        """The snapshot, if it is the certified one; otherwise None, and nothing is kept."""
        content = self.path.read_bytes() if self.size else b""
        if keccak(content) == certificate.checkpoint.state:
            return content
        self.discard()
        return None

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.size, self.by = 0, set()


class StateTransfer:
    """One replica's side that asks. `verify` raises a KoinonError for a certificate that is none."""

    def __init__(
        self,
        order: Order,
        ask: Ask,
        take: Take,
        verify: Callable[[CheckpointCertificate], None],
        folder: Path,
        *,
        weak: int,
    ) -> None:
        """`weak` is f+1: of so many peers one is honest."""
        self._weak = weak
        self._order = order
        self._ask = ask
        self._take = take
        self._verify = verify
        self._folder = folder

    async def bring(self, first: int) -> None:
        """Bring the state from entry `first` on, from whichever peer has it."""
        for peer in self._order.peers():
            if await self._entries(peer, first) >= first:
                TRANSFERS.labels("entries", "done").inc()
                return
        try:
            peer, certificate, snapshot = await self.snapshot(above=first - 1)
        except Unavailable as error:
            TRANSFERS.labels("snapshot", "failed").inc()
            log.warning("no state transfer", extra={"reason": error.message})
            return
        await self._take(peer, (), certificate, snapshot)
        TRANSFERS.labels("snapshot", "done").inc()
        log.info("snapshot restored", extra={"sequence": certificate.checkpoint.sequence, "bytes": len(snapshot)})

    # --- entries

    async def _entries(self, peer: int, first: int) -> int:
        """Pages of the log from one peer; the last entry that the core took, or first - 1."""
        for _ in range(PAGES_PER_PEER_MAX):
            try:
                page, size = await self._page(peer, first)
            except (KoinonError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._order.failed(peer, error)
                break
            if not page:
                break
            TRANSFER_BYTES.labels("entries").inc(size)
            executed = await self._take(peer, page, None, None)
            if executed < page[-1].sequence:
                self._order.failed(peer, f"entry {executed + 1} of its log is not the committee's")
                break
            log.info("entries taken", extra={"peer": peer, "first": first, "executed": executed})
            self._order.served(peer)
            first = executed + 1
        return first - 1

    async def _page(self, peer: int, first: int) -> tuple[tuple[CommittedBatch, ...], int]:
        path = f"/v1/log?from={first}&limit={PAGE_ENTRIES}"
        async with asyncio.timeout(ANSWER_SECONDS):
            raw = await self._ask(peer, path, bytes_max=PAGE_BYTES_MAX)
        page: tuple[CommittedBatch, ...] = decode(tuple[CommittedBatch, ...], raw, bytes_max=PAGE_BYTES_MAX)
        if [entry.sequence for entry in page] != list(range(first, first + len(page))):
            raise Malformed(f"a page that is not the log from {first} on")
        return page, len(raw)

    # --- snapshots

    async def snapshot(self, *, above: int) -> tuple[int, CheckpointCertificate, bytes]:
        """A certified snapshot above a sequence number, and who gave the last of it: the one that was begun, or the
        newest that somebody gives.

        Unavailable when nobody has one, or nobody gives it.
        """
        shown = await self._shown(above)
        if not shown:
            raise Unavailable(f"no peer shows a checkpoint above {above}")
        kept = {path.name.partition("-")[0] for path in self._folder.glob("*.part")}
        offered = {one.certificate.checkpoint: one.certificate for one in shown.values()}
        preferred = sorted(offered, key=lambda one: (str(one.sequence) in kept, one.sequence), reverse=True)
        for checkpoint in preferred:  # a liar may go on showing what was begun, and never give the rest
            part = await asyncio.to_thread(Part, self._folder, offered[checkpoint])
            offers = {peer: offer for peer, offer in shown.items() if offer.certificate.checkpoint == checkpoint}
            chunks = self._agreed(offers)
            if chunks is not None:
                await asyncio.to_thread(part.keep_genuine, chunks)
            for peer, offer in offers.items():
                if chunks not in (None, offer.chunks):
                    self._order.failed(peer, "it shows other chunks than f+1 others")
                    continue
                patience = ANSWER_SECONDS if peer == list(offers)[-1] else SLOW_SECONDS
                snapshot = await self._fill(part, peer, offer, chunks, patience)
                if snapshot is not None:
                    self._order.served(peer)
                    part.discard()
                    return peer, offer.certificate, snapshot
        raise Unavailable(f"no peer gave the whole snapshot of {preferred[0].sequence}")

    async def _shown(self, above: int) -> dict[int, Shown]:
        """Verified checkpoints of all peers that answer, in the order in which these are to be asked."""

        async def show(peer: int) -> Shown | None:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    raw = await self._ask(peer, "/v1/checkpoint", bytes_max=SHOWN_BYTES_MAX)
                shown = decode(Shown, raw, bytes_max=SHOWN_BYTES_MAX)
                if shown.size > SNAPSHOT_BYTES_MAX:
                    raise Oversized(f"a snapshot of {shown.size} bytes")
                self._verify(shown.certificate)
            except (KoinonError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._order.failed(peer, error)
                return None
            return shown if shown.certificate.checkpoint.sequence > above else None

        order = self._order.peers()
        answers = await asyncio.gather(*map(show, order))
        return {peer: shown for peer, shown in zip(order, answers, strict=True) if shown is not None}

    def _agreed(self, offers: dict[int, Shown]) -> tuple[bytes, ...] | None:
        """The chunks of one snapshot that f+1 peers show alike, if any do."""
        ((chunks, count),) = Tally(offer.chunks for offer in offers.values()).most_common(1)
        return chunks if count >= self._weak else None

    async def _fill(
        self, part: Part, peer: int, offer: Shown, chunks: tuple[bytes, ...] | None, patience: float
    ) -> bytes | None:
        """Fetch what is missing from this peer; the snapshot when it is whole and right.

        When it is wrong and others' bytes are in it, all of it is fetched again from this peer alone: then it is
        clear who lies.
        """
        while await self._chunks(part, peer, offer, chunks, patience):
            alone = part.by <= {peer}
            snapshot = await asyncio.to_thread(part.whole, offer.certificate)
            if snapshot is not None:
                return snapshot
            if alone:
                self._order.failed(peer, "its snapshot is not the certified one")
                return None
        return None

    async def _chunks(
        self, part: Part, peer: int, offer: Shown, chunks: tuple[bytes, ...] | None, patience: float
    ) -> bool:
        """Append chunks until the announced size is there; False when the peer gives up first, gives a false one, or
        took more than `patience` seconds for one."""
        checkpoint, clock = offer.certificate.checkpoint, asyncio.get_running_loop().time
        while part.size < offer.size:
            begun = clock()
            wanted = min(CHUNK_BYTES, offer.size - part.size)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    path = f"/v1/snapshots/{checkpoint.sequence}?from={part.size}"
                    chunk = await self._ask(peer, path, bytes_max=CHUNK_BYTES)
                if len(chunk) < wanted:
                    raise Malformed(f"a chunk of {len(chunk)} bytes instead of {wanted}")
                if chunks is not None and keccak(chunk) != chunks[part.size // CHUNK_BYTES]:
                    raise BlobMismatch(f"byte {part.size} begins a chunk that is not the snapshot's")
            except (KoinonError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._order.failed(peer, error)
                return False
            before = part.size // PROGRESS_BYTES
            await asyncio.to_thread(part.append, peer, chunk[:wanted])
            TRANSFER_BYTES.labels("snapshot").inc(wanted)
            if part.size // PROGRESS_BYTES > before:
                told = {"peer": peer, "sequence": checkpoint.sequence, "bytes": part.size, "of": offer.size}
                log.info("snapshot arrives", extra=told)
            if part.size < offer.size and clock() - begun > patience:
                self._order.failed(peer, f"a chunk took {clock() - begun:.1f} s")
                return False
        return True


def announce(certificate: CheckpointCertificate, size: int, chunks: Sequence[bytes]) -> bytes:
    """The body of `GET /v1/checkpoint`."""
    return encode(Shown(certificate=certificate, size=size, chunks=tuple(chunks)))
