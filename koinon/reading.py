"""Reading one network's contracts: views, events and blocks as typed records. No web3 here.

`koinon.ledger.Ledger` is this with a connection and a pen. Blocks are read without web3's validation, which rejects
the extra data of proof-of-authority chains such as Besu's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from .abi import Interface
from .artifacts import CONTRACTS, artifact
from .encoding import from_hex, to_hex
from .errors import ContractMissing, LedgerError, Malformed, WrongChain
from .records import (
    Anchored,
    BlockRecord,
    CommitteeMember,
    CommitteeRecord,
    Contracts,
    EpochInstalled,
    Event,
    Federation,
    MemberRecord,
    RoundCommitted,
    RoundRecord,
    TaskRecord,
    certificate_from_values,
    event_from_values,
)
from .sending import Rpc
from .signing import Domain
from .wire import Role

LOG_BLOCKS_MAX = 5_000
FIELDS = dict(zip(CONTRACTS, ("token", "registry", "committee", "ledger", "rewards"), strict=True))
INTERFACES = {name: Interface(artifact(name).abi) for name in CONTRACTS}


class Reader:
    """One network's contracts, for reading."""

    def __init__(self, network: Federation, rpc: Rpc) -> None:
        self.network = network
        self.contracts = network.contracts
        self._rpc = rpc
        self._epochs: dict[int, CommitteeRecord] = {}

    # --- the network --------------------------------------------------------------------------------------------------

    def verify_network(self) -> None:
        """WrongChain or ContractMissing unless chain id, genesis, code and wiring are the federation's."""
        if (chain_id := int(self._rpc("eth_chainId"), 16)) != self.network.chain_id:
            raise WrongChain(f"chain id {chain_id} where the federation has {self.network.chain_id}")
        if (genesis := self.block(0).hash) != self.network.genesis_hash:
            raise WrongChain(
                f"genesis {to_hex(genesis)} where the federation has {to_hex(self.network.genesis_hash)}",
                hint="the chain was reset: deploy anew, or bring its data back",
            )
        for name in CONTRACTS:
            self._require_code(name)
        said = (
            self._one("Rewards", "TOKEN"),
            self._one("RoundLedger", "REGISTRY"),
            self._one("RoundLedger", "COMMITTEE"),
            self._one("Rewards", "LEDGER"),
            self._one("RoundLedger", "REWARDS"),
        )
        at = self.contracts
        if Contracts(*said) != at or any(
            self._one(name, "LEDGER") != at.ledger for name in ("MemberRegistry", "Committee")
        ):
            raise ContractMissing("the federation's contracts do not belong together")

    def domain(self) -> Domain:
        """The EIP-712 domain of every signature in this network."""
        return Domain(chain_id=self.network.chain_id, contract=self.contracts.ledger)

    # --- membership ---------------------------------------------------------------------------------------------------

    def member(self, address: bytes) -> MemberRecord:
        active, roles, examples_max, serial, sealing_key = self._one("MemberRegistry", "member", address)
        return MemberRecord(address, active, Role(roles), examples_max, sealing_key, serial)

    def epoch(self) -> int:
        """The current committee epoch."""
        return int(self._one("Committee", "epoch"))

    def committee(self, epoch: int | None = None) -> CommitteeRecord:
        """The replicas of `epoch` (the current one by default), from the event that installed it."""
        number = self.epoch() if epoch is None else epoch
        if number not in self._epochs:
            _, size, block, _ = self._one("Committee", "epochInfo", number)
            installed = (each for each in self.events(block, block) if isinstance(each, EpochInstalled))
            event = next((each for each in installed if each.epoch == number), None)
            if event is None:
                raise LedgerError(
                    f"the chain no longer has the event of epoch {number} (block {block})",
                    hint="this node prunes logs: ask one that keeps them",
                )
            members = zip(event.members, event.sealing_keys, event.urls, strict=True)
            self._epochs[number] = CommitteeRecord(
                number, tuple(CommitteeMember(*each) for each in members), size - (size - 1) // 3
            )
        return self._epochs[number]

    def convicted(self, address: bytes) -> bool:
        """Whether the replica was proven to equivocate, as a member of any epoch."""
        return bool(self._one("Committee", "convicted", address))

    # --- tasks and rounds ---------------------------------------------------------------------------------------------

    def task(self, task: bytes) -> TaskRecord | None:
        """The task on chain, or None."""
        values = self._one("RoundLedger", "task", task)
        record = TaskRecord(task, *values)
        return record if any(record.submitter) else None

    def latest_model(self, task: bytes) -> bytes | None:
        """The digest of the last certified model (at first the initial one); None for no such task."""
        record = self.task(task)
        return record.model if record else None

    def round(self, task: bytes, round: int) -> RoundRecord | None:
        """The round on chain, or None when it was never opened."""
        aggregator, epoch, deadline, model, updates_root, rewards_root, certificate = self._one(
            "RoundLedger", "round", task, round
        )
        if not any(aggregator):
            return None
        return RoundRecord(
            task=task,
            round=round,
            aggregator=aggregator,
            epoch=epoch,
            deadline_ms=deadline,
            committed=any(certificate),
            model=model,
            updates_root=updates_root,
            rewards_root=rewards_root,
            certificate=certificate,
        )

    def anchored(self, task: bytes, round: int) -> Anchored | None:
        """The certificate of a committed round with its signatures, read back from the transaction's calldata."""
        interface = INTERFACES["RoundLedger"]
        topic = next(entry.hash for entry in interface.events.values() if entry.name == "RoundCommitted")
        topics = [to_hex(topic), to_hex(task), to_hex(round.to_bytes(32, "big"))]
        found = [each for each in self._logs(0, self.block_number(), topics) if isinstance(each, RoundCommitted)]
        if not found:
            return None
        event = found[0]
        call = self._rpc("eth_getTransactionByHash", to_hex(event.transaction))
        values, members, bitmap, signatures = interface.arguments("commitRound", from_hex(call["input"]))
        indices = [index for index in range(len(members)) if bitmap >> index & 1]
        return Anchored(
            certificate=certificate_from_values(values),
            members=tuple(members),
            signatures=tuple((index, signatures[i * 64 : i * 64 + 64]) for i, index in enumerate(indices)),
            transaction=event.transaction,
            block=event.block,
        )

    # --- credits ------------------------------------------------------------------------------------------------------

    def claimed(self, task: bytes, account: bytes) -> int:
        """Credits that `account` has claimed of `task` so far."""
        return int(self._one("Rewards", "claimed", task, account))

    def balance(self, address: bytes) -> int:
        """Credits of `address`."""
        return int(self._one("CreditToken", "balanceOf", address))

    def wei(self, address: bytes) -> int:
        """Ether of `address` in wei."""
        return int(self._rpc("eth_getBalance", to_hex(address), "latest"), 16)

    # --- the chain itself ---------------------------------------------------------------------------------------------

    def block_number(self) -> int:
        return int(self._rpc("eth_blockNumber"), 16)

    def block(self, number: int) -> BlockRecord:
        """Block `number`; LedgerError when the chain has none yet."""
        found = self._rpc("eth_getBlockByNumber", hex(number), False)
        if found is None:
            raise LedgerError(f"the chain has no block {number}")
        return block_record(found)

    def events(self, from_block: int, to_block: int) -> tuple[Event, ...]:
        """All events of the five contracts in the inclusive range, in chain order."""
        return tuple(self._logs(from_block, to_block, []))

    # --- inside -------------------------------------------------------------------------------------------------------

    @cached_property
    def _addresses(self) -> dict[str, bytes]:
        return {name: getattr(self.contracts, field) for name, field in FIELDS.items()}

    def _one(self, contract: str, function: str, *arguments: Any) -> Any:
        """The single value that a view returns."""
        interface = INTERFACES[contract]
        call = {"to": to_hex(self._addresses[contract]), "data": to_hex(interface.call_data(function, *arguments))}
        (value,) = interface.result(function, from_hex(self._rpc("eth_call", call, "latest")))
        return value

    def _require_code(self, name: str) -> None:
        address = to_hex(self._addresses[name])
        code = from_hex(self._rpc("eth_getCode", address, "latest"))
        if not code:
            raise ContractMissing(f"no contract at {address}, where the federation has its {name}")
        if not artifact(name).matches(code):
            raise ContractMissing(f"the code at {address} is not this version's {name}")

    def _logs(self, from_block: int, to_block: int, topics: Sequence[str]) -> Iterator[Event]:
        names = {address: name for name, address in self._addresses.items()}
        for start in range(from_block, to_block + 1, LOG_BLOCKS_MAX):
            query = {
                "fromBlock": hex(start),
                "toBlock": hex(min(start + LOG_BLOCKS_MAX - 1, to_block)),
                "address": [to_hex(address) for address in names],
                "topics": list(topics),
            }
            logs = self._rpc("eth_getLogs", query)
            for log in sorted(logs, key=lambda each: (int(each["blockNumber"], 16), int(each["logIndex"], 16))):
                address = from_hex(log["address"])
                yield _event(INTERFACES[names[address]], address, log)


def _event(interface: Interface, address: bytes, log: dict[str, Any]) -> Event:
    decoded = interface.event([from_hex(topic) for topic in log["topics"]], from_hex(log["data"]))
    if decoded is None:
        raise Malformed(f"a log of {to_hex(address)} that its ABI does not know")
    place = {
        "contract": address,
        "block": int(log["blockNumber"], 16),
        "block_hash": from_hex(log["blockHash"]),
        "transaction": from_hex(log["transactionHash"]),
        "log_index": int(log["logIndex"], 16),
    }
    return event_from_values(*decoded, place)


def block_record(found: dict[str, Any]) -> BlockRecord:
    return BlockRecord(
        number=int(found["number"], 16),
        hash=from_hex(found["hash"]),
        parent=from_hex(found["parentHash"]),
        time_s=int(found["timestamp"], 16),
    )
