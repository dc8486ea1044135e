"""What replicas say to one another, and what they write into their journals (Castro & Liskov 1999, section 4).

Everything that counts toward a quorum is signed over an EIP-712 digest, and the signer is recovered from the
signature: a message may be handed on by anybody. `Vote` and `Checkpoint` (koinon.wire) are `Typed`, so a contract
can check them. All of it names the epoch of the committee that it was said in, and counts in no other. `Status`,
`Fetch` and `Body` prove nothing and are believed only as far as their content goes.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from koinon.encoding import U32, U63, ZERO_DIGEST, Address, Digest, Message, Signature, decode, digest
from koinon.wire import Batch, Checkpoint, CheckpointCertificate, CommittedBatch, Vote

from .quorum import COMMITTEE_MAX

MESSAGE_BYTES_MAX = 8 << 20
SNAPSHOT_BYTES_MAX = 256 << 20
WINDOW_MAX = 1024

Signatures = Annotated[tuple[Signature, ...], Meta(max_length=COMMITTEE_MAX)]

NULL_BATCH = Batch(time_ms=0, requests=())
"""The null request of section 4.4: it goes through the protocol like any other, and its execution is a no-op."""
NULL_DIGEST = digest(NULL_BATCH)


class PrePrepare(Message, frozen=True):
    """The primary assigns `sequence` to `batch`; signed is `Vote(PRE_PREPARE, ..., sequence, digest(batch))`."""

    epoch: U32
    view: U63
    sequence: U63
    batch: Batch
    signature: Signature


class Ballot(Message, frozen=True):
    """A vote and its signature. Two ballots of one signer that differ only in the digest are evidence."""

    vote: Vote
    signature: Signature


class CheckpointVote(Message, frozen=True):
    checkpoint: Checkpoint
    signature: Signature


GENESIS = CheckpointCertificate(
    checkpoint=Checkpoint(epoch=0, sequence=0, state=ZERO_DIGEST, next=ZERO_DIGEST), signatures=()
)
"""The beginning of the log, whatever the number of the epoch that it begins in."""


class PreparedProof(Message, frozen=True):
    """P_m of section 4.4: a pre-prepare without its batch, and quorum-1 matching prepares of distinct backups."""

    epoch: U32
    view: U63
    sequence: U63
    digest: Digest
    pre_prepare: Signature
    prepares: Signatures


class ViewChange(Message, frozen=True):
    """Its sender leaves for `view`, last stable at `stable`, prepared as `prepared` (strictly ascending)."""

    epoch: U32
    view: U63
    stable: CheckpointCertificate
    prepared: Annotated[tuple[PreparedProof, ...], Meta(max_length=WINDOW_MAX)]

    def __post_init__(self) -> None:
        numbers = [proof.sequence for proof in self.prepared]
        if numbers != sorted(set(numbers)):
            raise ValueError("prepared proofs are not in strictly ascending order")


class SignedViewChange(Message, frozen=True):
    message: ViewChange
    signature: Signature


class Proposal(Message, frozen=True):
    """One pre-prepare of O in a NEW-VIEW, without its batch; signed like a `PrePrepare`."""

    sequence: U63
    digest: Digest
    signature: Signature


class NewView(Message, frozen=True):
    """The new primary's proof: V, a quorum of view changes for `view`, and O, what follows from them."""

    epoch: U32
    view: U63
    view_changes: Annotated[tuple[SignedViewChange, ...], Meta(max_length=COMMITTEE_MAX)]
    proposals: Annotated[tuple[Proposal, ...], Meta(max_length=WINDOW_MAX)]


class SignedNewView(Message, frozen=True):
    message: NewView
    signature: Signature


class Relay(Message, frozen=True):
    """A client's sealed request, handed to the primary by a backup (section 4.2)."""

    request: bytes


class Status(Message, frozen=True):
    """Where its sender stands; peers answer with what it seems to lack."""

    epoch: U32
    view: U63
    active: bool
    stable: U63
    executed: U63


class RecoveryRequest(Message, frozen=True):
    """Its sender lost its journal, and started at `since_ms` of its clock, which tells its answers from older ones. It
    asks where the others stand, and speaks from `view` on (0 while it doesn't know): lower views are to be left. Or it
    left a view alone, and speaks from `view` on."""

    epoch: U32
    since_ms: U63
    view: U63


class SignedRecoveryRequest(Message, frozen=True):
    message: RecoveryRequest
    signature: Signature


class RecoveryResponse(Message, frozen=True):
    """Its sender, whose journal is whole, is in `view` or left for it."""

    epoch: U32
    since_ms: U63
    view: U63


class Fetch(Message, frozen=True):
    """Asks for the batch of a digest that a NEW-VIEW proposed."""

    sequence: U63
    digest: Digest


class Body(Message, frozen=True):
    """The answer to `Fetch`; its digest says what it is."""

    sequence: U63
    batch: Batch


class ViewRecord(Message, frozen=True):
    """Journal only: this replica left every view below `view` (and has not yet seen it begin)."""

    epoch: U32
    view: U63


class Recovering(Message, frozen=True):
    """Journal only: what this replica signed before may be lost. It signs nothing below `view` (0: in no view, since it
    doesn't know yet which) and asks for no view change, until a record says that this is `over`."""

    epoch: U32
    view: U63
    over: bool


class Client(Message, frozen=True):
    """The last request of one client that was executed, and its result."""

    address: Address
    number: U63
    result: bytes


class Snapshot(Message, frozen=True):
    """Everything that execution depends on after `sequence`; its Keccak-256 is the checkpoint's `state`.

    `epoch` is that of the next entry: at a handover already the next one. `clients` ascend by address; `application`
    is the application's canonical snapshot, `root` its Keccak-256.
    """

    epoch: U32
    sequence: U63
    time_ms: U63
    clients: tuple[Client, ...]
    root: bytes
    application: bytes


PeerMessage = (
    PrePrepare
    | Ballot
    | CheckpointVote
    | CheckpointCertificate
    | SignedViewChange
    | SignedNewView
    | Relay
    | Status
    | SignedRecoveryRequest
    | RecoveryResponse
    | Fetch
    | Body
)
Record = CheckpointCertificate | PrePrepare | PreparedProof | ViewRecord | SignedNewView | Recovering


def epoch_of(message: PeerMessage | Record) -> int | None:
    """The epoch in which it was said; None for what proves nothing and names none."""
    match message:
        case Ballot():
            return message.vote.epoch
        case CheckpointVote() | CheckpointCertificate():
            return message.checkpoint.epoch
        case SignedViewChange() | SignedNewView() | SignedRecoveryRequest():
            return message.message.epoch
        case PrePrepare() | PreparedProof() | ViewRecord() | Status() | RecoveryResponse() | Recovering():
            return message.epoch
        case _:
            return None


def decode_peer(data: bytes) -> PeerMessage:
    """Parse what a peer sent; raises Malformed and its kinds."""
    message: PeerMessage = decode(PeerMessage, data, bytes_max=MESSAGE_BYTES_MAX)
    return message


def decode_record(data: bytes) -> Record:
    """Parse a journal record; raises Malformed and its kinds."""
    record: Record = decode(Record, data, bytes_max=MESSAGE_BYTES_MAX)
    return record


def decode_entry(data: bytes) -> CommittedBatch:
    """Parse an entry of the ordered log; raises Malformed and its kinds."""
    return decode(CommittedBatch, data, bytes_max=MESSAGE_BYTES_MAX)
