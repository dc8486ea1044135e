"""What the chain says, as frozen dataclasses: the values that `koinon.ledger` reads and the events that it decodes.

Addresses are 20 bytes, digests 32 bytes, amounts whole credits. An event carries where it lies in the chain, so that
an auditor can name the block and transaction of every line of its report. No web3 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from .epochs import Seat
from .wire import Role, RoundCertificate, Vote


@dataclass(frozen=True, slots=True)
class Contracts:
    """The five contracts of one network by 20-byte address; `ledger` is the EIP-712 verifying contract."""

    token: bytes
    registry: bytes
    committee: bytes
    ledger: bytes
    rewards: bytes


class Federation(Protocol):
    """What `Ledger.connect` needs to know of a network (a part of koinon.config's federation file)."""

    @property
    def rpc(self) -> str: ...
    @property
    def chain_id(self) -> int: ...
    @property
    def genesis_hash(self) -> bytes: ...
    @property
    def contracts(self) -> Contracts: ...


@dataclass(frozen=True, slots=True)
class Network:
    """The smallest Federation: where a chain answers, and how to recognise it."""

    rpc: str
    chain_id: int
    genesis_hash: bytes
    contracts: Contracts


@dataclass(frozen=True, slots=True)
class CommitteeMember:
    """A replica as the chain announces it: signing address, X25519 sealing key, and where it answers."""

    address: bytes
    sealing_key: bytes
    url: str


@dataclass(frozen=True, slots=True)
class CommitteeRecord:
    """One epoch's replicas by index, and the least number of their signatures that speaks for them."""

    epoch: int
    members: tuple[CommitteeMember, ...]
    quorum: int

    @property
    def seats(self) -> tuple[Seat, ...]:
        return tuple(Seat(address=each.address, sealing_key=each.sealing_key, url=each.url) for each in self.members)

    @property
    def addresses(self) -> tuple[bytes, ...]:
        return tuple(member.address for member in self.members)


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A party as the registry knows it. `serial` 0 means never admitted; not `active` means revoked."""

    address: bytes
    active: bool
    roles: Role
    examples_max: int
    sealing_key: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A task on chain. `model` is the last certified one (at first the initial one), `closable_at` in seconds or 0."""

    task: bytes
    submitter: bytes
    spec: bytes
    model: bytes
    budget: int
    rewards_total: int
    last_opened: int
    last_committed: int
    closable_at: int
    closed: bool


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A round on chain; `committed` says whether `model`, `updates_root`, `rewards_root` and `certificate` are set.

    `certificate` is the EIP-712 struct hash of the committed RoundCertificate.
    """

    task: bytes
    round: int
    aggregator: bytes
    epoch: int
    deadline_ms: int
    committed: bool
    model: bytes
    updates_root: bytes
    rewards_root: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Anchored:
    """A certificate as it was handed to the chain: everything that a stranger needs to check it again."""

    certificate: RoundCertificate
    members: tuple[bytes, ...]
    signatures: tuple[tuple[int, bytes], ...]
    transaction: bytes
    block: int


@dataclass(frozen=True, slots=True)
class BlockRecord:
    number: int
    hash: bytes
    parent: bytes
    time_s: int


@dataclass(frozen=True, slots=True)
class TransactionRecord:
    """A mined transaction: its 32-byte hash, block, and the gas that it used."""

    hash: bytes
    block: int
    block_hash: bytes
    gas_used: int


# --- events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events: which contract emitted it, and where in the chain."""

    contract: bytes
    block: int
    block_hash: bytes
    transaction: bytes
    log_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRegistered(Event):
    member: bytes
    roles: Role
    examples_max: int
    sealing_key: bytes
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRevoked(Event):
    member: bytes
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochInstalled(Event):
    epoch: int
    members_hash: bytes
    members: tuple[bytes, ...]
    sealing_keys: tuple[bytes, ...]
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochHandedOver(Event):
    """`epoch` was installed by a certificate of the one before; `signers` is the bitmap of the signatures' replicas."""

    epoch: int
    sequence: int
    state: bytes
    signers: int
    signatures: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConvicted(Event):
    """`member`, replica `index` of `epoch`, signed two votes for one slot; `signatures` are 64 bytes of each."""

    epoch: int
    index: int
    member: bytes
    reporter: bytes
    first: Vote
    second: Vote
    signatures: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCreated(Event):
    task: bytes
    submitter: bytes
    spec: bytes
    initial_model: bytes
    budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStopped(Event):
    task: bytes
    closable_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskClosed(Event):
    task: bytes
    submitter: bytes
    returned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    task: bytes
    round: int
    aggregator: bytes
    epoch: int
    parent_model: bytes
    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCommitted(Event):
    """`signers` is the bitmap of the replicas whose signatures the chain verified."""

    task: bytes
    round: int
    model: bytes
    certificate: RoundCertificate
    signers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSubmitted(Event):
    task: bytes
    round: int
    node: bytes
    update: bytes
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEscrowed(Event):
    task: bytes
    payer: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReleased(Event):
    task: bytes
    payee: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardsCertified(Event):
    task: bytes
    root: bytes
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardClaimed(Event):
    task: bytes
    account: bytes
    amount: int
    cumulative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Event):
    """Credits moved; `source` is zero when they were minted."""

    source: bytes
    target: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Event):
    owner: bytes
    spender: bytes
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnershipTransferred(Event):
    previous: bytes
    next: bytes


EVENTS: Mapping[str, type[Event]] = {
    kind.__name__: kind
    for kind in (
        MemberRegistered,
        MemberRevoked,
        EpochInstalled,
        EpochHandedOver,
        ReplicaConvicted,
        TaskCreated,
        TaskStopped,
        TaskClosed,
        RoundOpened,
        RoundCommitted,
        UpdateSubmitted,
        BudgetEscrowed,
        BudgetReleased,
        RewardsCertified,
        RewardClaimed,
        Transfer,
        Approval,
        OwnershipTransferred,
    )
}
"""Every event of the five contracts by its name in the ABI."""
PAIR = ("first", "second")


def event_from_values(name: str, values: tuple[Any, ...], place: Mapping[str, Any]) -> Event:
    """Build the event `name` from its arguments in ABI order and its `place` (the fields of Event)."""
    kind = EVENTS[name]
    names = [field.name for field in fields(kind) if field.name not in place]
    arguments = dict(zip(names, values, strict=True))
    if kind is MemberRegistered:
        arguments["roles"] = Role(arguments["roles"])
    if kind is RoundCommitted:
        arguments["certificate"] = certificate_from_values(arguments["certificate"])
    if kind is ReplicaConvicted:
        arguments |= {name: Vote(**dict(zip(Vote.__struct_fields__, arguments[name], strict=True))) for name in PAIR}
    return kind(**place, **arguments)


def certificate_from_values(values: tuple[Any, ...]) -> RoundCertificate:
    """The RoundCertificate whose fields are `values` in the order of its EIP-712 type."""
    return RoundCertificate(**dict(zip(RoundCertificate.__struct_fields__, values, strict=True)))
