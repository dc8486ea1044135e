"""Custody: what a replica keeps for others, what it computes from it, and what it signs about it.

Blobs (public, by digest), pieces (private, until their round is certified), contributions to openings, round
certificates. Everything is checked against the law's state, which is read on the loop's thread only; heavy work
runs in threads (`Workers`) on immutable bytes and on rounds that can no longer change.

Rules: a receipt is signed after the piece is on disk, for one update a node and round. A contribution and a part of
a piece leave this replica for closed rounds only (opened once, for the set that the quorum fixed). A certificate is
signed after the opening was verified and the same model derived here.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from koinon.blobs import BLOB_BYTES_MAX, RECENT_BYTES_MAX, BlobStore
from koinon.config import FederationFile, write_atomically
from koinon.encoding import ZERO_DIGEST, decode, encode, from_hex, keccak
from koinon.errors import (
    BadPiece,
    BlobMismatch,
    CannotOpen,
    Malformed,
    Oversized,
    Unavailable,
    UnknownSigner,
    WrongEpoch,
)
from koinon.learning.parameters import from_blob
from koinon.opening import (
    ClosedRound,
    claimed_update,
    last_step,
    next_model,
    public_part,
    signed_contributions,
    verify_opening,
)
from koinon.privacy import Held, SealingKey, Setting, mode, piece_context, seal_to
from koinon.rounds.law import Federation
from koinon.rounds.rules import refuse
from koinon.rounds.state import Submission
from koinon.signing import Authenticated, Signed, Signer, authenticate, seal
from koinon.wire import BlobUpload, CertificateRequest, Contribution, Fault, Opening, PartRequest, Piece, Receipt

from .archive import Archive
from .faults import FaultFile
from .fetching import Fetcher, gather, part_context
from .holdings import Holdings, piece_name
from .pieces import Kept, PieceStore
from .waiting import Changes, SingleFlight, Workers

PIECE_BYTES_MAX = BLOB_BYTES_MAX
OPENING_BYTES_MAX = 1 << 20
SMALL_BYTES_MAX = 4096
ROUND_WAIT_SECONDS = 5.0
"""So long a replica that is a step behind waits for a round that the caller has seen already."""
HEAVY_THREADS = 2
HEAVY_WAITING_MAX = 512
CERTIFICATES_KEPT_MAX = 256

log = logging.getLogger("koinon.pbft.custody")


class Custody:
    """One replica's custody under `data` in one epoch. `sealing` opens what is sealed to this replica; `key_share` is
    its share of the Paillier key (b"" without one)."""

    def __init__(
        self,
        federation: FederationFile,
        index: int,
        signer: Signer,
        law: Federation,
        fetcher: Fetcher,
        changes: Changes,
        data: Path,
        *,
        sealing: SealingKey,
        key_share: bytes = b"",
    ) -> None:
        self._federation = federation
        self._domain = federation.domain
        self._addresses = federation.replica_addresses
        self._index = index
        self._signer = signer
        self._law = law
        self._fetcher = fetcher
        self._changes = changes
        self._key_share = key_share
        self._sealing = sealing
        self.blobs = BlobStore(data / "blobs", recent_bytes_max=RECENT_BYTES_MAX)
        self._pieces = PieceStore(data / "pieces")
        self._kept = self._pieces.rounds()
        self._holdings = Holdings(data / "holdings", self.blobs, clock=time.time)
        self._contributions = data / "contributions"
        self._steps: dict[tuple[bytes, bytes], bytes] = {}
        self._faults = FaultFile(data / "faults")
        self._certificates: dict[CertificateRequest, bytes] = {}
        self._workers = Workers("custody", threads=HEAVY_THREADS, waiting_max=HEAVY_WAITING_MAX)
        self._flight = SingleFlight()

    async def stop(self) -> None:
        await self._flight.stop()
        self._workers.stop(wait=True)
        self._holdings.close()

    # --- blobs -----------------------------------------------------------------------------------------------

    def announced(self, header: str) -> Authenticated[BlobUpload]:
        """What a member's signed header announces, before a byte of the body is read."""
        try:
            sealed = base64.b64decode(header, validate=True)
        except binascii.Error:
            raise Malformed("the upload header is not base64") from None
        said = authenticate(BlobUpload, sealed, self._domain, bytes_max=SMALL_BYTES_MAX)
        self._require_party(said.sender)
        return said

    def authorise_upload(self, digest: bytes, said: Authenticated[BlobUpload]) -> tuple[bytes, int]:
        """Who uploads blob `digest` and how many bytes; Oversized above the bounds."""
        if said.message.digest != digest:
            raise BlobMismatch("the signed upload is of another blob")
        if said.message.size > self.blobs.blob_bytes_max:
            raise Oversized(f"a blob has at most {self.blobs.blob_bytes_max} bytes")
        if digest not in self.blobs:
            self._holdings.require_room(said.sender, said.message.size)
        return said.sender, said.message.size

    async def keep_blob(self, sender: bytes, digest: bytes, content: bytes) -> None:
        """Store; BlobMismatch when `content` is not `digest`. A blob that is here already costs nobody anything."""
        new = digest not in self.blobs
        await self._workers.run(self.blobs.put, content, expected=digest)
        if new:
            await self._workers.run(self._holdings.charge, sender, digest, len(content))
        else:
            await self._workers.run(self._holdings.touch, digest)

    async def _blob(self, digest: bytes, *, of: bytes = b"") -> bytes:
        """A blob of ours, or of a peer's (then it is ours, too, and charged to the member `of`, if any).

        Unavailable when nobody has it, QuotaExceeded when that member has no room for it.
        """
        if digest not in self.blobs:
            content = await self._flight.share(digest, lambda: self._fetcher.blob(digest))
            if of:
                await self._workers.run(self._holdings.require_room, of, len(content))
            await self._workers.run(self.blobs.put, content, expected=digest)
            if of:
                await self._workers.run(self._holdings.charge, of, digest, len(content))
            return content
        return await self._workers.run(self.blobs.get, digest)

    # --- pieces ----------------------------------------------------------------------------------------------

    async def receive_piece(self, body: bytes) -> bytes:
        """Check and keep a node's piece: the sealed Receipt.

        Raises Malformed, BadSignature or UnknownSigner (not the node itself), Rejected (not invited, round over,
        or a second update), Unavailable (round or public part not here), BadPiece.
        """
        said = await self._workers.run(authenticate, Piece, body, self._domain, bytes_max=PIECE_BYTES_MAX)
        piece = said.message
        if piece.node != said.sender:
            raise UnknownSigner(f"0x{said.sender.hex()} hands in a piece of 0x{piece.node.hex()}")
        self._require_party(said.sender)
        if piece.replica != self._index:
            raise BadPiece(f"a piece for replica {piece.replica}, handed to replica {self._index}")
        at = await self._known_round(piece.task, piece.round)
        if piece.node not in at.round.cohort:
            refuse("not-invited", f"0x{piece.node.hex()} is not in the cohort of round {piece.round}")
        if at.round.phase != "training":
            refuse("round-closed", f"round {piece.round} is {at.round.phase}")
        fault = Fault(task=piece.task, round=piece.round, node=piece.node)
        if fault in self._faults.of(piece.task, piece.round):  # checking another one would cost us more
            raise BadPiece(f"0x{piece.node.hex()} handed in a false update for round {piece.round} before")
        before = await self._workers.run(self._pieces.checked, piece.task, piece.round, piece.node, piece.update)
        if before is not None:
            return self._receipt(piece, before)  # who asks again costs us a signature
        await self._workers.run(self._holdings.require_room, piece.node, len(piece.sealed))
        blob = await self._blob(piece.update, of=piece.node)
        at = await self._directed(at)
        examples_max = min(self._law.state.members[piece.node].examples_max, at.round.examples_cap)
        try:
            kept = await self._workers.run(self._checked, at, piece, blob, examples_max)
        except (BadPiece, Malformed):  # all that it follows from was signed by the node
            await self._workers.run(self._faults.keep, fault)
            raise
        await self._workers.run(self._keep, piece, kept)
        self._kept.add((piece.task, piece.round))
        return self._receipt(piece, kept)

    def _receipt(self, piece: Piece, kept: Kept) -> bytes:
        receipt = Receipt(
            task=piece.task, round=piece.round, node=piece.node, update=kept.update, examples=kept.examples
        )
        return seal(self._signer, self._domain, receipt)

    def _checked(self, at: ClosedRound, piece: Piece, blob: bytes, examples_max: int) -> Kept:
        """What is in the box; BadPiece or Malformed when the node lied: with the box, the seeds, the public part.
        Rejected for a claim above `examples_max`, about which replicas may differ for a moment."""
        update = claimed_update(at, piece.node, blob)
        if not 0 < update.examples <= examples_max:
            refuse("examples", f"a sample count lies in 1..{examples_max}")
        context = piece_context(piece.task, piece.round, piece.node, self._index)
        mine = self._sealing.open(piece.sealed, context)
        setting = at.setting(self._key_share_in(at), claims={piece.node: update.examples})
        mode(at.spec.mode).check(setting, piece.node, update.public, self._index, mine)
        return Kept(update=piece.update, examples=update.examples, piece=mine)

    def _keep(self, piece: Piece, kept: Kept) -> None:
        self._pieces.keep(piece.task, piece.round, piece.node, kept)
        self._holdings.charge(piece.node, piece_name(piece.task, piece.round, piece.node), len(kept.piece))

    def faults(self, task: bytes, number: int) -> tuple[Signed, ...]:
        """This replica's sealed Fault for each node whose update in this round it found provably false."""
        found = self._faults.of(task, number)
        return tuple(Signed(payload=encode(f), signature=self._signer.sign(self._domain, f)) for f in found)

    async def part(self, body: bytes) -> bytes:
        """What of an accepted update's piece a peer may see, sealed to it. Unavailable when it isn't here."""
        said = authenticate(PartRequest, body, self._domain, bytes_max=SMALL_BYTES_MAX)
        asked = said.message
        if asked.replica >= len(self._addresses) or self._addresses[asked.replica] != said.sender:
            raise UnknownSigner(f"0x{said.sender.hex()} asks for the part of replica {asked.replica}")
        at = await self._closed_round(asked.task, asked.round)
        accepted = at.round.submissions.get(asked.node)
        kept = await self._workers.run(self._pieces.find, asked.task, asked.round, asked.node)
        if accepted is None or kept is None or kept.update != accepted.update:
            raise Unavailable(f"no piece of the accepted update of node 0x{asked.node.hex()} here")
        part = mode(at.spec.mode).share_with(self._setting(at), kept.piece, asked.replica)
        context = part_context(asked.task, asked.round, asked.node, self._index, asked.replica)
        return seal_to(from_hex(self._federation.replicas[asked.replica].sealing_key), part, context)

    # --- openings --------------------------------------------------------------------------------------------

    async def contribution(self, task: bytes, number: int) -> bytes:
        """This replica's sealed Contribution to a closed round; its components are blobs by then.

        Unavailable when the round is not closed, or pieces cannot be recovered (yet), or it is over and this
        replica never contributed.
        """
        said = self._contribution_path(task, number)
        if said.exists():
            return said.read_bytes()
        at = await self._closed_round(task, number)
        return await self._flight.share(("open", task, number), lambda: self._contribute(at))

    async def _contribute(self, at: ClosedRound) -> bytes:
        accepted = sorted(at.round.submissions.items())
        updates = await gather([partial(self._held, at, node, submission) for node, submission in accepted])
        digests = await self._workers.run(self._combine, at, updates)
        contribution = Contribution(
            task=at.task,
            round=at.round.number,
            updates_root=at.round.updates_root,
            replica=self._index,
            components=tuple(sorted(digests.items())),
        )
        sealed = seal(self._signer, self._domain, contribution)
        await self._workers.run(write_atomically, self._contribution_path(at.task, at.round.number), sealed)
        return sealed

    async def _held(self, at: ClosedRound, node: bytes, submission: Submission) -> Held:
        """The accepted update as this replica keeps it, or recovers it from its peers."""
        public = public_part(at, node, await self._blob(submission.update))
        kept = await self._workers.run(self._pieces.find, at.task, at.round.number, node)
        if kept is not None and kept.update == submission.update:
            return Held(node, public, kept.piece)
        return Held(node, public, await self._recover(at, node, submission, public))

    async def _recover(self, at: ClosedRound, node: bytes, submission: Submission, public: bytes) -> bytes:
        asked = PartRequest(task=at.task, round=at.round.number, node=node, replica=self._index)
        merge: Callable[..., bytes] = mode(at.spec.mode).merge
        parts: list[bytes] = []
        async for part in self._fetcher.parts(asked, self._sealing, first=submission.holders):
            parts.append(part)
            try:
                piece = await self._workers.run(merge, self._setting(at), node, public, self._index, tuple(parts))
            except BadPiece:
                continue
            log.info("piece recovered", extra={"node": node.hex(), "round": at.round.number})
            return piece
        raise Unavailable(f"the piece of node 0x{node.hex()} cannot be recovered from {len(parts)} peers (yet)")

    def _combine(self, at: ClosedRound, updates: list[Held]) -> dict[int, bytes]:
        sums = mode(at.spec.mode).combine(self._setting(at), self._index, updates)
        digests = {number: self.blobs.put(component) for number, component in sums.items()}
        self._holdings.keep(digests.values())
        return digests

    # --- certificates ----------------------------------------------------------------------------------------

    async def certificate(self, body: bytes) -> bytes:
        """The sealed RoundCertificate for an opening that this replica verified.

        Raises CannotOpen or RemoteError when the evidence fails, BlobMismatch when another model follows from it,
        Unavailable when a blob is nowhere or the round is not closed.
        """
        said = authenticate(CertificateRequest, body, self._domain, bytes_max=SMALL_BYTES_MAX)
        asked = said.message
        self._require_party(said.sender)
        if (signed := self._certificates.get(asked)) is not None:
            return signed
        at = await self._closed_round(asked.task, asked.round)
        return await self._flight.share(asked, lambda: self._certify(at, asked))

    async def _certify(self, at: ClosedRound, asked: CertificateRequest) -> bytes:
        opening = decode(Opening, await self._blob(asked.opening), bytes_max=OPENING_BYTES_MAX)
        publics: dict[bytes, bytes] = {}
        for node, kept in sorted(at.round.submissions.items()):
            publics[node] = public_part(at, node, await self._blob(kept.update))
        sealed = [encode(each) for each in opening.contributions]
        genuine, bad = await self._workers.run(signed_contributions, at, sealed)
        if bad:  # before a blob that only liars name is fetched and held in memory
            raise CannotOpen(f"the opening contains false contributions: {bad}")
        components = {digest: await self._blob(digest) for digest in sorted(self._decided(genuine))}
        witness = b"" if opening.witness == ZERO_DIGEST else await self._blob(opening.witness)
        parent = await self._blob(at.round.parent_model)
        at = await self._directed(at)
        model = await self._workers.run(_derive, at, opening, publics, components, witness, parent)
        if keccak(model) != asked.model:
            raise BlobMismatch(f"another model follows from this opening: 0x{keccak(model).hex()}")
        await self._workers.run(self.blobs.put, model)
        certificate = self._law.draft_certificate(asked.task, asked.round, model=asked.model, opening=asked.opening)
        while len(self._certificates) >= CERTIFICATES_KEPT_MAX:
            del self._certificates[next(iter(self._certificates))]
        self._certificates[asked] = seal(self._signer, self._domain, certificate)
        return self._certificates[asked]

    def _decided(self, genuine: Mapping[int, Authenticated[Contribution]]) -> set[bytes]:
        """The component blobs that f+1 contributions name: what only liars signed may not exist."""
        votes: Counter[bytes] = Counter()
        for said in genuine.values():
            votes.update({digest for _, digest in said.message.components})
        return {digest for digest, count in votes.items() if count > self._federation.faulty}

    # --- rounds ----------------------------------------------------------------------------------------------

    def finished(self) -> list[tuple[bytes, int]]:
        """The rounds that are certified or aborted and of which pieces or faults are here."""
        found = []
        for task, number in self._kept | self._faults.rounds():
            at = self._round(task, number)
            record = self._law.state.tasks.get(task)
            forgotten = record is not None and record.current() is not None and not record.remembers(number)
            if forgotten or (at is not None and at.round.phase in ("certified", "aborted")):
                found.append((task, number))
        return found

    async def forget_finished(self) -> None:
        """Erase the pieces of finished rounds, of which nothing will ever be opened, and what was said of them."""
        while finished := self.finished():
            for task, number in finished:
                self._kept.discard((task, number))
                await self._workers.run(self._pieces.erase, task, number)
                await self._workers.run(self._faults.erase, task, number)
                await self._workers.run(self._holdings.release_pieces, task, number)

    async def collect(self, archive: Archive) -> None:
        """Delete blobs that the ordered log did not name in time (see `pbft.holdings`)."""

        await self._workers.run(self._holdings.follow, archive)
        for opening in await self._workers.run(self._holdings.missing_openings):
            with suppress(Unavailable):
                await self._blob(opening)
        if gone := await self._workers.run(self._holdings.collect):
            log.info("blobs collected", extra={"count": gone})

    async def _directed(self, at: ClosedRound) -> ClosedRound:
        """With the task's last step, where updates have to be aligned with it."""
        if not at.wants_direction:
            return at
        models = (at.round.parent_model, at.round.previous)
        if models not in self._steps:
            blobs = [await self._blob(model) for model in models]
            self._steps = {models: await self._workers.run(_last_step, *blobs)}  # of one task at a time
        return replace(at, direction=self._steps[models])

    def _setting(self, at: ClosedRound) -> Setting:
        return at.setting(self._key_share_in(at))

    def _key_share_in(self, at: ClosedRound) -> bytes:
        return self._key_share if at.spec.mode == "paillier" else b""

    def _round(self, task: bytes, number: int) -> ClosedRound | None:
        kept = self._law.state.tasks.get(task)
        round_ = kept.round(number) if kept else None
        board = self._law.state.boards.get(task)
        return ClosedRound(self._federation, task, kept.spec, round_, board) if kept and round_ else None

    async def _known_round(self, task: bytes, number: int) -> ClosedRound:
        await self._changes.until(lambda: self._round(task, number) is not None, ROUND_WAIT_SECONDS)
        at = self._round(task, number)
        if at is None:
            raise Unavailable(f"round {number} of task 0x{task.hex()} is not known here")
        if at.round.epoch != self._federation.epoch:
            raise WrongEpoch(f"round {number} is of epoch {at.round.epoch}, this replica of {self._federation.epoch}")
        return at

    async def _closed_round(self, task: bytes, number: int) -> ClosedRound:
        def closed() -> bool:
            at = self._round(task, number)
            return at is not None and at.round.phase not in ("announcing", "training")

        await self._changes.until(closed, ROUND_WAIT_SECONDS)
        at = await self._known_round(task, number)
        if at.round.phase != "closed":
            raise Unavailable(f"round {number} is {at.round.phase}; only a closed round is opened")
        return at

    def _require_party(self, sender: bytes) -> None:
        member = self._law.state.members.get(sender)
        if sender not in self._addresses and (member is None or not member.active):
            raise UnknownSigner(f"0x{sender.hex()} is not a member")

    def _contribution_path(self, task: bytes, number: int) -> Path:
        return self._contributions / f"{task.hex()}-{number}"


def _last_step(parent: bytes, previous: bytes) -> bytes:
    return last_step(from_blob(parent), from_blob(previous))


def _derive(
    at: ClosedRound,
    opening: Opening,
    publics: dict[bytes, bytes],
    components: dict[bytes, bytes],
    witness: bytes,
    parent: bytes,
) -> bytes:
    """The next model's blob, from verified evidence alone."""
    total = verify_opening(at, opening, publics, components, witness)
    parameters = from_blob(parent)
    if parameters.dimension != at.spec.dimension:
        raise CannotOpen(f"the parent model has {parameters.dimension} parameters, the task {at.spec.dimension}")
    return next_model(at.spec, at.round, parameters, total).blob()
