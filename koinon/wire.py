"""What the parties say to one another: the messages that more than one room knows.

The replicas' private talk (view changes, checkpoints) is in `pbft/messages.py`; the operations that the law
executes are in `koinon/rounds/operations.py`. Amounts are whole credits, times are milliseconds since the Unix
epoch, digests are Keccak-256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from typing import Annotated, ClassVar

from msgspec import Meta

from .encoding import U8, U32, U63, Address, Digest, Message, PublicKey, Signature, Text, digest, encode, keccak
from .signing import Signed, Typed

__all__ = [
    "AcceptedSet",
    "Admission",
    "Batch",
    "BlobUpload",
    "CertificateRequest",
    "Checkpoint",
    "CheckpointCertificate",
    "CommittedBatch",
    "Contribution",
    "EpochChange",
    "Equivocation",
    "Fault",
    "MaskAnnouncement",
    "MaskNotice",
    "MaskReveal",
    "Opening",
    "PartRequest",
    "Phase",
    "Piece",
    "Receipt",
    "Refusal",
    "Replies",
    "Reply",
    "Request",
    "Revocation",
    "Role",
    "RoundCertificate",
    "SealedShares",
    "Signed",
    "SignedReceipt",
    "Update",
    "Vote",
    "announced_digest",
    "invited_digest",
    "seed_commitment",
    "share_digest",
]  # fmt: skip


CHECKPOINT_INTERVAL = 64
"""Every so many sequence numbers the committee signs its state, and may hand over to the next one. Part of the
protocol: an auditor finds the handovers of a log by it."""
REPLIES_MAX = 256
"""The most replies under one signature."""
COMMITTEE_MAX = 100
"""The most signatures that a certificate is read with; a committee that the law installs has at most 31 members."""


class Role(IntFlag):
    """What an admitted party may do. A replica is a member of the committee, not of this list."""

    NODE = 1
    AGGREGATOR = 2
    AUDITOR = 4


# --- membership ------------------------------------------------------------------------------------------------


class Admission(Typed, frozen=True):
    """The registrar admits a party. The same signed credential is checked by the contract and by the law."""

    TYPE: ClassVar[str] = "Admission(address member,uint8 roles,uint32 examplesMax,bytes32 sealingKey,uint64 serial)"

    member: Address
    roles: U8
    examples_max: U32
    sealing_key: PublicKey
    serial: U63


class Revocation(Typed, frozen=True):
    """The registrar ends a membership; the serial orders it against admissions of the same party."""

    TYPE: ClassVar[str] = "Revocation(address member,uint64 serial)"

    member: Address
    serial: U63


# --- consensus -------------------------------------------------------------------------------------------------


class Request(Message, frozen=True):
    """A client's operation for the ordered log; `number` grows strictly for each client (its sender)."""

    number: U63
    operation: bytes


class Reply(Message, frozen=True):
    """A replica's answer to a request; a client believes f+1 equal `result`s."""

    view: U63
    client: Address
    number: U63
    result: bytes


class Replies(Message, frozen=True):
    """Replies of one replica under one signature. Each binds the replica as if it had been signed alone; whoever wants
    to show one of them shows all."""

    replies: Annotated[tuple[Reply, ...], Meta(min_length=1, max_length=REPLIES_MAX)]


class Batch(Message, frozen=True):
    """What one sequence number orders: sealed requests (`Signed` bytes) and the primary's clock."""

    time_ms: U63
    requests: tuple[bytes, ...]


class Phase(IntEnum):
    """The phases whose votes a contract can check (Castro & Liskov 1999, section 4.2)."""

    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3


class Vote(Typed, frozen=True):
    """One replica's word on one slot. Two of one phase, epoch, view and sequence with other digests are evidence."""

    TYPE: ClassVar[str] = "Vote(uint8 phase,uint32 epoch,uint64 view,uint64 sequence,bytes32 digest)"

    phase: U8
    epoch: U32
    view: U63
    sequence: U63
    digest: Digest


class Equivocation(Message, frozen=True):
    """Replica `index` of the votes' epoch signed both: believed as far as `koinon.evidence` verifies it."""

    index: U8
    first: Vote
    first_signature: Signature
    second: Vote
    second_signature: Signature


class CommittedBatch(Message, frozen=True):
    """An entry of the ordered log: the batch and 2f+1 signatures of `Vote(COMMIT, epoch, view, sequence, digest)`."""

    epoch: U32
    view: U63
    sequence: U63
    batch: Batch
    signatures: tuple[Signature, ...]


class Checkpoint(Typed, frozen=True):
    """The state after executing `sequence`: Keccak-256 of the canonical snapshot (section 4.3).

    `next` is 32 zero bytes, or, at the last checkpoint of an epoch (its *handover*), the struct hash of the
    `EpochChange` that names the committee of the next one.
    """

    TYPE: ClassVar[str] = "Checkpoint(uint32 epoch,uint64 sequence,bytes32 state,bytes32 next)"

    epoch: U32
    sequence: U63
    state: Digest
    next: Digest


class CheckpointCertificate(Message, frozen=True):
    """A stable checkpoint: a quorum of the epoch's members signed `checkpoint`. Sequence 0 needs nobody."""

    checkpoint: Checkpoint
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=COMMITTEE_MAX)]


class EpochChange(Typed, frozen=True):
    """A committee by digests, as the Committee contract rebuilds them (`koinon.epochs.epoch_change`)."""

    TYPE: ClassVar[str] = "EpochChange(uint32 epoch,bytes32 members,bytes32 contacts)"

    epoch: U32
    members: Digest
    contacts: Digest


# --- custody of protected updates ------------------------------------------------------------------------------


class BlobUpload(Message, frozen=True):
    """Asks a replica to keep a blob; the signed header of an upload."""

    digest: Digest
    size: U63


class Update(Message, frozen=True):
    """The public part of a protected update; its encoding is the blob that `update` digests name.

    `examples` is the sample count that the node claims: it fixes the update's weight, and in mode `shares` the norm
    that it may have. `commitment` is the node's Pedersen commitment in a task that asks for one, else empty.
    """

    task: Digest
    round: U32
    node: Address
    mode: Text
    examples: U32
    public: bytes
    commitment: bytes = b""


class SealedShares(Message, frozen=True):
    """A dealer's two shares for one holder: the digest of each (`share_digest`), and both in a sealed box."""

    seed: Digest
    key: Digest
    box: Annotated[bytes, Meta(min_length=112, max_length=112)]


class MaskAnnouncement(Message, frozen=True):
    """A node's masks for one round of mode `masked` (koinon.privacy.masking); `shares` by ascending invited node."""

    public_key: PublicKey
    seed_commitment: Digest
    shares: tuple[SealedShares, ...]


class MaskReveal(Message, frozen=True):
    """A node's shares of the announcers' secrets, by ascending announcer; b"" where the dealer cheated."""

    shares: tuple[Annotated[bytes, Meta(max_length=32)], ...]


class MaskNotice(Message, frozen=True):
    """What a node signs of its masks, so that other nodes believe them on nobody else's word.

    `cohort` is the `invited_digest` of the admissions whose keys the shares were sealed to; `announcement` a digest.
    Whoever could show each node a `parent_model` or an `examples_cap` of its own could make all updates but one vanish
    in the sum (Pasquini et al. 2022, "Eluding secure aggregation in federated learning via model inconsistency").
    """

    task: Digest
    round: U32
    epoch: U32
    parent_model: Digest
    examples_cap: U32
    cohort: Digest
    announcement: Digest


class AcceptedSet(Message, frozen=True):
    """What an accepted node signs before it reveals shares: for which updates, and under which announcements.

    `announced` is an `announced_digest`; `updates_root` the round's Merkle root, as in its certificate.
    """

    task: Digest
    round: U32
    epoch: U32
    announced: Digest
    updates_root: Digest


def invited_digest(invited: Iterable[Admission]) -> bytes:
    """Names a cohort with its keys; `invited` by ascending member."""
    return keccak(encode(("koinon/masked/invited", tuple(invited))))


def announced_digest(cohort: bytes, announced: Mapping[bytes, MaskAnnouncement]) -> bytes:
    """Names the announcements (by node) of a round whose cohort has this `invited_digest`."""
    return keccak(
        encode(("koinon/masked/announced", cohort, [(node, digest(announced[node])) for node in sorted(announced)]))
    )


def seed_commitment(task: bytes, round_: int, node: bytes, seed: bytes) -> bytes:
    """What an announcement says of its node's self-mask seed."""
    return keccak(encode(("koinon/masked/seed", task, round_, node, seed)))


def share_digest(task: bytes, round_: int, dealer: bytes, holder: bytes, kind: int, share: bytes) -> bytes:
    """What an announcement says of one share; a share has 255 bits of entropy, so the digest hides it."""
    return keccak(encode(("koinon/masked/share", task, round_, dealer, holder, kind, share)))


class Piece(Message, frozen=True):
    """What a node hands to one replica: the update's public part by digest, and that replica's sealed share."""

    task: Digest
    round: U32
    node: Address
    replica: U8
    update: Digest
    sealed: bytes


class Receipt(Message, frozen=True):
    """A replica holds the public part and a valid piece of this update, which claims so many `examples`."""

    task: Digest
    round: U32
    node: Address
    update: Digest
    examples: U32


class SignedReceipt(Message, frozen=True):
    replica: U8
    signature: Signature


class Fault(Message, frozen=True):
    """A node handed the replica that signs this an update that is not what the task allows, or no piece of it.

    It follows from what the node signed and the replica alone can open: f+1 replicas say it, or it counts for nothing.
    """

    task: Digest
    round: U32
    node: Address


class Contribution(Message, frozen=True):
    """A replica's part of an opening: the digest of each component sum that it can compute."""

    task: Digest
    round: U32
    updates_root: Digest
    replica: U8
    components: tuple[tuple[U32, Digest], ...]

    def __post_init__(self) -> None:
        numbers = [number for number, _ in self.components]
        if numbers != sorted(set(numbers)):
            raise ValueError("components are not in strictly ascending order")


class Opening(Message, frozen=True):
    """The public evidence of an aggregate: signed contributions, and what the mode adds (see koinon.privacy)."""

    task: Digest
    round: U32
    contributions: tuple[Signed, ...]
    witness: Digest


class PartRequest(Message, frozen=True):
    """A replica that lacks its piece of an accepted update asks a peer for what the peer may show it."""

    task: Digest
    round: U32
    node: Address
    replica: U8


class CertificateRequest(Message, frozen=True):
    """Asks a replica to check an opening and to sign the round's certificate."""

    task: Digest
    round: U32
    opening: Digest
    model: Digest


# --- certificates ----------------------------------------------------------------------------------------------


class RoundCertificate(Typed, frozen=True):
    """What 2f+1 replicas sign when a round is done, and what the chain verifies."""

    TYPE: ClassVar[str] = (
        "RoundCertificate(bytes32 task,uint32 round,uint32 epoch,bytes32 parentModel,bytes32 model,"
        "bytes32 updatesRoot,bytes32 opening,bytes32 rewardsRoot,uint64 rewardsTotal,uint32 participants)"
    )

    task: Digest
    round: U32
    epoch: U32
    parent_model: Digest
    model: Digest
    updates_root: Digest
    opening: Digest
    rewards_root: Digest
    rewards_total: U63
    participants: U32


class Refusal(Message, frozen=True):
    """The body of every error response of a service: the error's code, message and hint."""

    code: Text
    message: Text
    hint: Text = ""
