"""What the chain says, read once into plain data: the audit judges these facts, and they can be kept as JSON.

`read_chain` asks a node of the chain (through koinon.ledger); `to_json` and `from_json` keep the facts beside the
replicas' archives, so that an audit can be repeated offline. Kept facts are testimony of whoever kept them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import msgspec

from koinon.config import FederationFile
from koinon.encoding import UNREADABLE, decode_json
from koinon.errors import LedgerError, Malformed
from koinon.records import (
    EVENTS,
    Anchored,
    BlockRecord,
    BudgetEscrowed,
    BudgetReleased,
    CommitteeRecord,
    EpochHandedOver,
    Event,
    ReplicaConvicted,
    RewardClaimed,
    RoundCommitted,
    RoundOpened,
    RoundRecord,
    TaskCreated,
    TaskRecord,
)

if TYPE_CHECKING:
    from koinon.ledger import Ledger

READ_TRIES_MAX = 5
KEPT = (
    EpochHandedOver,
    ReplicaConvicted,
    TaskCreated,
    RoundOpened,
    RoundCommitted,
    BudgetEscrowed,
    BudgetReleased,
    RewardClaimed,
)
"""The events that the audit judges."""


@dataclass(frozen=True)
class Claim:
    """Credits that `account` has claimed of `task`, as the contract remembers."""

    task: bytes
    account: bytes
    amount: int


@dataclass(frozen=True)
class ChainFacts:
    """One reading of the chain at `head`. `refusal` is (error code, message) when it is not the federation's chain;
    then all other fields are empty. `escrow` is the Rewards contract's balance in credits."""

    head: BlockRecord
    refusal: tuple[str, str] | None = None
    epoch: int = 0
    committees: tuple[CommitteeRecord, ...] = ()
    tasks: tuple[TaskRecord, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    anchored: tuple[Anchored, ...] = ()
    claims: tuple[Claim, ...] = ()
    escrow: int = 0
    events: tuple[Event, ...] = ()

    def task(self, task: bytes) -> TaskRecord | None:
        return next((each for each in self.tasks if each.task == task), None)

    def round(self, task: bytes, number: int) -> RoundRecord | None:
        return next((each for each in self.rounds if (each.task, each.round) == (task, number)), None)

    def committed(self, task: bytes, number: int) -> list[RoundCommitted]:
        mine = (each for each in self.events if isinstance(each, RoundCommitted))
        return [each for each in mine if (each.task, each.round) == (task, number)]

    def anchor(self, certificate_round: tuple[bytes, int]) -> Anchored | None:
        found = (each for each in self.anchored if (each.certificate.task, each.certificate.round) == certificate_round)
        return next(found, None)

    def committee(self, epoch: int) -> CommitteeRecord | None:
        return next((each for each in self.committees if each.epoch == epoch), None)


def read_chain(federation: FederationFile) -> ChainFacts:
    """Read everything that the audit needs; ChainUnreachable when nobody answers.

    Repeated while new events of the contracts arrive in between, so that records and events belong together.
    """
    from koinon.ledger import Ledger  # on demand: web3 takes two seconds to import, and offline audits need none

    ledger = Ledger(federation.network)
    head = ledger.block(ledger.block_number())
    try:
        ledger.verify_network()
    except LedgerError as error:
        if error.code == "chain-unreachable":
            raise
        return ChainFacts(head, refusal=(error.code, error.message))
    facts = _read(ledger)
    for _ in range(READ_TRIES_MAX):
        if not ledger.events(facts.head.number + 1, ledger.block_number()):
            break
        facts = _read(ledger)
    return facts


def _read(ledger: Ledger) -> ChainFacts:
    head = ledger.block(ledger.block_number())
    events = tuple(each for each in ledger.events(0, head.number) if isinstance(each, KEPT))
    created = [each.task for each in events if isinstance(each, TaskCreated)]
    opened = [each for each in events if isinstance(each, RoundOpened)]
    committed = [each for each in events if isinstance(each, RoundCommitted)]
    claimants = sorted({(each.task, each.account) for each in events if isinstance(each, RewardClaimed)})
    epoch = ledger.epoch()
    tasks = [ledger.task(task) for task in created]
    rounds = [ledger.round(each.task, each.round) for each in opened]
    anchored = [ledger.anchored(each.task, each.round) for each in committed]
    return ChainFacts(
        head=head,
        epoch=epoch,
        committees=tuple(ledger.committee(number) for number in range(epoch + 1)),
        tasks=tuple(each for each in tasks if each),
        rounds=tuple(each for each in rounds if each),
        anchored=tuple(each for each in anchored if each),
        claims=tuple(Claim(task, account, ledger.claimed(task, account)) for task, account in claimants),
        escrow=ledger.balance(ledger.contracts.rewards),
        events=events,
    )


def to_json(facts: ChainFacts) -> bytes:
    """The facts as JSON (bytes in base64)."""
    body = {each.name: msgspec.to_builtins(getattr(facts, each.name)) for each in fields(facts)}
    body["events"] = [[type(each).__name__, msgspec.to_builtins(each)] for each in facts.events]
    return msgspec.json.format(msgspec.json.encode(body), indent=1)


def from_json(data: bytes) -> ChainFacts:
    """What `to_json` wrote; Malformed for anything else."""
    try:
        body = decode_json(data)
        events = tuple(msgspec.convert(values, EVENTS[name]) for name, values in body.pop("events"))
        known = msgspec.convert({**body, "events": []}, ChainFacts)
    except (*UNREADABLE, Malformed, KeyError, TypeError) as error:
        raise Malformed(f"not the facts of a chain: {error}") from None
    return ChainFacts(**{**{each.name: getattr(known, each.name) for each in fields(known)}, "events": events})
