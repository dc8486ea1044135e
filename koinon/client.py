"""How every party talks to the committee: operations, questions, blobs and pieces.

An answer that matters is believed only when f+1 replicas give the same one (Castro & Liskov 1999, section 4.1),
when 2f+1 signed it, or when its digest proves it. A single replica is believed in nothing. Operations go over streams
(`koinon.streams`), the rest are HTTP exchanges; `koinon.asking` follows the committee to its next epoch.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from koinon.blobs import require_digest
from koinon.committees import Committees
from koinon.config import FederationFile
from koinon.encoding import UNREADABLE, decode, decode_json, encode, keccak
from koinon.errors import BlobMismatch, KoinonError, Malformed, Overtaken, RemoteError, Replayed, Unavailable
from koinon.evidence import EVIDENCE_BYTES_MAX
from koinon.rounds.operations import CreateTask, Operation, Outcome
from koinon.rounds.rules import decode_outcome, task_identity
from koinon.rounds.state import MaskBoard, Member, Task
from koinon.service import BODY_BYTES_MAX
from koinon.signing import Signed, Signer, authenticate, seal
from koinon.wire import (
    BlobUpload,
    CertificateRequest,
    CommittedBatch,
    Contribution,
    Equivocation,
    Fault,
    Piece,
    Receipt,
    RoundCertificate,
)

from .streams import Gateway

BLOB_HEDGE_SECONDS = 2.0
OVERTAKEN_MAX = 5
REPLAYED_HINT = "look whether it took effect (koinon status, koinon log), and send it again if it did not"
UPLOAD_HEADER = "Koinon-Upload"
T = TypeVar("T")


class Standing(msgspec.Struct, frozen=True):
    """What of a replica's `GET /v1/status` is computed with; -1 or "" where it says nothing."""

    state: str = ""
    index: int = -1
    epoch: int = -1
    view: int = -1
    sequence: int = -1
    checkpoint: int = -1
    lag: int = -1
    changing: bool = False


class CommitteeClient(Gateway):
    """One key's client. Use as an async context manager; `signer` may be None for reading."""

    def __init__(self, federation: FederationFile | Committees, signer: Signer | None = None) -> None:
        super().__init__(federation)
        self.signer = signer
        self._speaking = asyncio.Lock()
        self._slow: set[int] = set()

    @property
    def first(self) -> int:
        """All: whoever speaks for one key asks seldom, and the first f+1 to answer are quicker than any f+1."""
        return self.count

    # --- ordered operations ----------------------------------------------------------------------------------

    async def submit(self, operation: Operation) -> Outcome:
        """Have `operation` ordered and executed once; the outcome that f+1 replicas agree on.

        One at a time, as a client of the paper has one request outstanding: the later of two could overtake the earlier
        one. Where another process speaks with the same key, that happens all the same. Then it is sent again if f+1
        replicas know that it was not executed, and otherwise never: Replayed says that what became of it is not known.
        Raises Rejected when the law refuses it and Unavailable when no quorum answers in time.
        """
        content = encode(operation)
        async with self._speaking:
            for _ in range(OVERTAKEN_MAX):
                try:
                    return decode_outcome(await self.order(self._require_signer(), content))
                except Overtaken:
                    continue
                except Replayed as error:
                    message = f"another process speaks with the same key: {error.message}"
                    raise Replayed(message, hint=REPLAYED_HINT) from None
        raise Overtaken("other requests of the same key keep overtaking this one", hint="one process for each key")

    # --- questions -------------------------------------------------------------------------------------------

    async def task(self, task: bytes, *, rounds: int = 2) -> Task:
        """A task with its last `rounds` rounds, as f+1 replicas agree; Unavailable if it does not exist."""
        return await self.watch_task(task, after=-1, wait_ms=0, rounds=rounds)

    async def watch_task(
        self, task: bytes, *, after: int = -1, stage: str = "", wait_ms: int = 10_000, rounds: int = 2
    ) -> Task:
        """As `task`, but waits up to `wait_ms` for a version above `after` and for another `Task.stage` than `stage`.

        Every update is a new version: who only wants to know when a round opens or is over waits for a stage.
        """
        path = f"/v1/tasks/{task.hex()}?after={after}&stage={stage}&wait_ms={wait_ms}&rounds={rounds}"
        found = _agreed_record(await self._ask(path), Task)
        _require_named(task, found)
        return found

    async def tasks(self) -> dict[bytes, Task]:
        """All tasks by identity, each with its last round only."""
        found = _agreed_record(await self._ask("/v1/tasks"), dict[bytes, Task])
        for identity, task in found.items():
            _require_named(identity, task)
        return found

    async def masks(self, task: bytes) -> MaskBoard:
        """What the nodes of the task's open round of mode `masked` announced and revealed; Missing without one."""
        return _agreed_record(await self._ask(f"/v1/masks/{task.hex()}"), MaskBoard)

    async def members(self) -> dict[bytes, Member]:
        return _agreed_record(await self._ask("/v1/members"), dict[bytes, Member])

    async def refusals(self) -> dict[str, int]:
        """How often the law refused an operation, by rule."""
        return _agreed_record(await self._ask("/v1/refusals"), dict[str, int])

    async def status(self, index: int) -> dict[str, Any]:
        """What replica `index` says of itself (`Standing` and more): for operators, not for trust; Malformed."""
        raw = await self._call(index, "GET", "/v1/status")
        try:
            said = decode_json(raw)
            msgspec.convert(said, Standing)
        except (Malformed, *UNREADABLE) as error:
            raise Malformed(f"replica {index} says nothing of itself that can be read: {error}") from None
        return said

    async def log(self, index: int, *, first: int, limit: int = 256) -> list[CommittedBatch]:
        """Entries of the ordered log from sequence `first`, as replica `index` keeps them; check the signatures."""
        raw = await self._call(index, "GET", f"/v1/log?from={first}&limit={limit}")
        entries: list[CommittedBatch] = decode(list[CommittedBatch], raw, bytes_max=BODY_BYTES_MAX)
        return entries

    async def evidence(self, index: int) -> tuple[Equivocation, ...]:
        """What replica `index` saw others sign twice; see `koinon.evidence` for what is true of it."""
        raw = await self._call(index, "GET", "/v1/evidence")
        found: tuple[Equivocation, ...] = decode(tuple[Equivocation, ...], raw, bytes_max=EVIDENCE_BYTES_MAX)
        return found

    # --- blobs and pieces ------------------------------------------------------------------------------------

    async def put_blob(self, content: bytes) -> bytes:
        """Store on at least 2f+1 replicas; the digest. Unavailable when fewer keep it."""
        await self.collect(self.upload(content), enough=self.federation.quorum, what="keep the blob")
        return keccak(content)

    def upload(self, content: bytes) -> Callable[[int], Awaitable[None]]:
        """What stores `content` on one replica, by its index."""
        digest = keccak(content)
        headers = self._upload_header(digest, len(content))

        async def put(index: int) -> None:
            await self._call(index, "PUT", f"/v1/blobs/{digest.hex()}", content, headers=headers, slow=True)

        return put

    def _upload_header(self, digest: bytes, size: int) -> dict[str, str]:
        """The signed announcement that a replica wants before it reads a large body."""
        announced = seal(self._require_signer(), self._domain, BlobUpload(digest=digest, size=size))
        return {UPLOAD_HEADER: base64.b64encode(announced).decode()}

    async def get_blob(self, digest: bytes, *, besides: int = -1) -> bytes:
        """Fetch from any replica (`besides` one) that has it, checked against the digest; Unavailable when none has.

        Replicas are asked one after the other, the next one as soon as the last answered or is slow: one that
        holds its tongue costs BLOB_HEDGE_SECONDS once, then it is asked last until it answers again.
        """

        async def fetch(index: int) -> bytes:
            content = await self._call(index, "GET", f"/v1/blobs/{digest.hex()}", slow=True)
            self._slow.discard(index)
            require_digest(content, digest)
            return content

        count = len(self.federation.replicas)
        order = [index for step in range(count) if (index := (digest[0] + step) % count) != besides]
        order.sort(key=lambda index: index in self._slow)
        running: set[asyncio.Task[bytes]] = set()
        failure: KoinonError = Unavailable(f"no replica has blob 0x{digest.hex()}")
        try:
            asked = -1
            while order or running:
                if order:
                    asked = order.pop(0)
                    running.add(asyncio.create_task(fetch(asked)))
                patience = BLOB_HEDGE_SECONDS if order else None
                done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._slow.add(asked)
                for future in done:
                    error = future.exception()
                    if error is None:
                        return future.result()
                    if not isinstance(error, KoinonError):
                        raise error
                    failure = error
        finally:
            for task in running:
                task.cancel()
        raise failure

    async def get_blob_from(self, index: int, digest: bytes) -> bytes:
        """Replica `index`'s own copy; BlobMismatch when it is false, Unavailable when it has none: for auditors."""
        content = await self._call(index, "GET", f"/v1/blobs/{digest.hex()}", slow=True)
        require_digest(content, digest)
        return content

    async def deliver(self, index: int, piece: Piece, examples: int) -> bytes:
        """Hand a piece to replica `index`; its 64-byte signature of the Receipt for the update that claims so many
        samples."""
        body = seal(self._require_signer(), self._domain, piece)
        headers = self._upload_header(keccak(body), len(body))
        raw = await self._call(index, "POST", "/v1/pieces", body, headers=headers, slow=True)
        receipt = authenticate(Receipt, raw, self._domain)
        self._require_replica(index, receipt.sender)
        expected = Receipt(task=piece.task, round=piece.round, node=piece.node, update=piece.update, examples=examples)
        if receipt.message != expected:
            raise RemoteError(f"replica {index} signed a receipt for something else")
        return receipt.signature

    async def faults(self, index: int, task: bytes, round_: int) -> dict[Fault, bytes]:
        """Which nodes' updates of a round replica `index` found provably false: its signature of each Fault."""
        raw = await self._call(index, "GET", f"/v1/faults/{task.hex()}/{round_}")
        found: dict[Fault, bytes] = {}
        for sealed in decode(tuple[Signed, ...], raw, bytes_max=BODY_BYTES_MAX):
            said = authenticate(Fault, encode(sealed), self._domain)
            self._require_replica(index, said.sender)
            found[said.message] = said.signature
        return found

    async def contribution(self, index: int, task: bytes, round_: int) -> bytes:
        """Replica `index`'s sealed Contribution to the opening of a closed round (checked for its signer)."""
        raw = await self._call(index, "GET", f"/v1/openings/{task.hex()}/{round_}", slow=True)
        self._require_replica(index, authenticate(Contribution, raw, self._domain).sender)
        return raw

    async def certify(self, index: int, request: CertificateRequest) -> tuple[RoundCertificate, bytes]:
        """Ask replica `index` to check an opening; the certificate that it signed and its signature."""
        body = seal(self._require_signer(), self._domain, request)
        signed = authenticate(
            RoundCertificate,
            await self._call(index, "POST", "/v1/certificates", body, slow=True),
            self._domain,
        )
        self._require_replica(index, signed.sender)
        return signed.message, signed.signature

    # --- helpers ---------------------------------------------------------------------------------------------

    def _require_signer(self) -> Signer:
        if self.signer is None:
            raise RuntimeError("this client was opened for reading only")
        return self.signer


def _agreed_record(raw: bytes, kind: type[T]) -> T:
    """A part of the law's state as f+1 replicas gave it; Malformed when it is none."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except UNREADABLE as error:
        raise Malformed(f"f+1 replicas agree on bytes that cannot be read: {error}") from None


def _require_named(identity: bytes, task: Task) -> None:
    """A task's name is the digest of what was asked for: its mode and bounds are nobody's word."""
    if task_identity(task.submitter, CreateTask(spec=task.spec)) != identity:
        raise BlobMismatch(f"f+1 replicas show another task under the name 0x{identity.hex()}")
