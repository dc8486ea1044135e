"""All five contracts on revm, with the keys of everybody, for the tests of this folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyrevm import EVM, BlockEnv, CfgEnv, Env

from koinon.abi import Interface, decode_revert
from koinon.artifacts import CONTRACTS, artifact
from koinon.encoding import Message, from_hex, keccak, to_hex
from koinon.epochs import Seat, epoch_change
from koinon.errors import ContractReverted
from koinon.ledger import _created_address
from koinon.signing import Domain, Signer, Typed, signing_digest
from koinon.wire import Admission, Checkpoint, Revocation, Role, RoundCertificate, Vote

CHAIN_ID = 31_415
SUPPLY = 1_000_000
CLOSE_DELAY_S = 1_000
START_S = 1_700_000_000
INTERFACES = {name: Interface(artifact(name).abi) for name in CONTRACTS}


_REVERT = re.compile(r"Revert \{.*output: (0x[0-9a-f]*)")


@dataclass(frozen=True)
class Done:
    """What a transaction returned: its events as (name, arguments) and the gas that it used."""

    events: list[tuple[str, tuple[Any, ...]]]
    gas: int


def key(name: str) -> Signer:
    """The same key for the same name, always."""
    return Signer(keccak(name.encode()))


def task_of(submitter: Signer, spec: bytes) -> bytes:
    """The identity that the contract accepts for a task."""
    return keccak(submitter.address.rjust(32, b"\0") + spec)


SPEC, INITIAL, STATE = keccak(b"spec"), keccak(b"initial"), keccak(b"state")
TASK = task_of(key("user"), SPEC)


def sealing_keys(count: int) -> list[bytes]:
    return [bytes([index + 1]) * 32 for index in range(count)]


def urls(count: int) -> list[str]:
    return [f"https://replica-{index}.example" for index in range(count)]


class World:
    def __init__(self, replicas: int = 4) -> None:
        self.evm = EVM(env=Env(cfg=CfgEnv(chain_id=CHAIN_ID)), gas_limit=30_000_000, spec_id="CANCUN")
        self.at_time(START_S)
        self.deployer, self.registrar = key("deployer"), key("registrar")
        self.user, self.aggregator, self.node = key("user"), key("aggregator"), key("node")
        self.replicas = [key(f"replica {index}") for index in range(replicas)]
        self.addresses: dict[str, bytes] = {}
        self._deploy()
        self.domain = Domain(CHAIN_ID, self.addresses["RoundLedger"])
        for member, roles in ((self.user, 0), (self.aggregator, Role.AGGREGATOR), (self.node, Role.NODE)):
            self.admit(member, roles)
        self.send(self.deployer, "CreditToken", "transfer", self.user.address, 10_000)

    def _deploy(self) -> None:
        token, registry, committee, rewards, ledger = (
            _created_address(self.deployer.address, nonce) for nonce in range(5)
        )
        members = [replica.address for replica in self.replicas]
        count = len(members)
        registrar = self.registrar.address
        self.create("CreditToken", self.deployer.address, SUPPLY)
        self.create("MemberRegistry", ledger, registrar)
        self.create("Committee", ledger, registrar, members, sealing_keys(count), urls(count))
        self.create("Rewards", token, ledger)
        self.create("RoundLedger", registry, committee, rewards, CLOSE_DELAY_S)
        assert self.addresses["RoundLedger"] == ledger

    # --- the machine -------------------------------------------------------------------------------------------

    def at_time(self, seconds: int) -> None:
        self.now = seconds
        self.evm.set_block_env(BlockEnv(number=1, timestamp=seconds))

    def create(self, contract: str, *arguments: Any) -> bytes:
        """Deploy and remember `contract`; ContractReverted by name."""
        code = artifact(contract).bytecode + INTERFACES[contract].constructor_data(*arguments)
        address = self._run(lambda: self.evm.deploy(to_hex(self.deployer.address), code))
        self.addresses[contract] = from_hex(address)
        return self.addresses[contract]

    def send(self, sender: Signer, contract: str, function: str, *arguments: Any) -> Done:
        """A transaction; ContractReverted by name."""
        data = INTERFACES[contract].call_data(function, *arguments)
        target = to_hex(self.addresses[contract])
        self._run(lambda: self.evm.message_call(to_hex(sender.address), target, data))
        result = self.evm.result
        decoded = [self._event(log) for log in result.logs]
        return Done(decoded, int(result.gas_used))

    def view(self, contract: str, function: str, *arguments: Any) -> Any:
        interface = INTERFACES[contract]
        data, target = interface.call_data(function, *arguments), to_hex(self.addresses[contract])
        output = self._run(lambda: self.evm.message_call("0x" + "00" * 20, target, data, is_static=True))
        values = interface.result(function, bytes(output))
        return values[0] if values else None

    def _event(self, log: Any) -> tuple[str, tuple[Any, ...]]:
        names = {address: name for name, address in self.addresses.items()}
        topics, data = log.data
        event = INTERFACES[names[from_hex(log.address.lower())]].event([bytes(topic) for topic in topics], bytes(data))
        assert event is not None
        return event

    def _run(self, action: Any) -> Any:
        try:
            return action()
        except RuntimeError as error:
            found = _REVERT.search(str(error))
            if found is None:
                raise
            raise ContractReverted(*decode_revert(INTERFACES.values(), from_hex(found.group(1)))) from None

    # --- the federation ----------------------------------------------------------------------------------------

    def admit(self, member: Signer, roles: int, serial: int = 1) -> Done:
        admission = Admission(
            member=member.address, roles=roles, examples_max=600, sealing_key=b"\x05" * 32, serial=serial
        )
        return self.send(
            self.registrar, "MemberRegistry", "register", fields(admission), self.registrar.sign(self.domain, admission)
        )

    def revoke(self, member: Signer, serial: int) -> Done:
        revocation = Revocation(member=member.address, serial=serial)
        signature = self.registrar.sign(self.domain, revocation)
        return self.send(self.registrar, "MemberRegistry", "revoke", fields(revocation), signature)

    def create_task(self, budget: int = 1_000, task: bytes = TASK) -> Done:
        self.send(self.user, "CreditToken", "approve", self.addresses["Rewards"], budget)
        return self.send(self.user, "RoundLedger", "createTask", task, SPEC, INITIAL, budget)

    def open_round(self, number: int = 1, parent: bytes = INITIAL, task: bytes = TASK, epoch: int = 0) -> Done:
        return self.send(self.aggregator, "RoundLedger", "openRound", task, number, epoch, parent, 123_456)

    def certificate(self, **changes: Any) -> RoundCertificate:
        values: dict[str, Any] = {
            "task": TASK,
            "round": 1,
            "epoch": 0,
            "parent_model": INITIAL,
            "model": keccak(b"model 1"),
            "updates_root": keccak(b"updates"),
            "opening": keccak(b"opening"),
            "rewards_root": keccak(b"rewards"),
            "rewards_total": 0,
            "participants": 3,
        }
        return RoundCertificate(**(values | changes))

    def signatures(self, message: Typed, indices: list[int]) -> bytes:
        digest = signing_digest(self.domain, message)
        return b"".join(self.replicas[index].sign_digest(digest) for index in indices)

    def quorum(self) -> list[int]:
        return list(range(len(self.replicas) - (len(self.replicas) - 1) // 3))

    def commit(self, certificate: RoundCertificate, indices: list[int] | None = None, **changes: Any) -> Done:
        """Commit with the signatures of `indices` (the first quorum); `changes` replace members, bitmap, signatures."""
        signers = self.quorum() if indices is None else indices
        members = changes.get("members", [replica.address for replica in self.replicas])
        bitmap = changes.get("bitmap", sum(1 << index for index in signers))
        signatures = changes.get("signatures", self.signatures(certificate, signers))
        return self.send(self.node, "RoundLedger", "commitRound", fields(certificate), members, bitmap, signatures)

    def hand_over(
        self, following: Sequence[Signer], current: Sequence[Signer] | None = None, *, epoch: int = 1, **changes: Any
    ) -> Done:
        """Install `epoch` by the first quorum of `current`; `changes` replace what is signed or handed in."""
        members = self.replicas if current is None else current
        given = {"seats": seats(following), "sequence": 64, "state": STATE, "bitmap": (1 << quorum(len(members))) - 1}
        given |= {"members": [each.address for each in members], "signed": checkpoint(epoch, following)} | changes
        digest = signing_digest(self.domain, given["signed"])
        signatures = b"".join(each.sign_digest(digest) for i, each in enumerate(members) if given["bitmap"] >> i & 1)
        columns = [list(column) for column in zip(*map(fields, given["seats"]), strict=True)] or [[], [], []]
        proof = (given["sequence"], given["state"], given["members"], given["bitmap"], signatures)
        return self.send(self.node, "Committee", "installEpochByCertificate", *columns, proof)

    def report(self, culprit: int, first: Vote, second: Vote, **changes: Any) -> Done:
        """Hand in both votes, signed by `culprit`; `changes` replace epoch, members, index or signatures."""
        key = self.replicas[culprit]
        given = {"epoch": 0, "members": [each.address for each in self.replicas], "index": culprit}
        given["signatures"] = key.sign(self.domain, first) + key.sign(self.domain, second)
        given |= changes
        return self.send(
            self.node,
            "Committee",
            "reportEquivocation",
            given["epoch"],
            given["members"],
            given["index"],
            fields(first),
            fields(second),
            given["signatures"],
        )


def quorum(size: int) -> int:
    return size - (size - 1) // 3


def seats(members: Sequence[Signer]) -> list[Seat]:
    return [
        Seat(address=member.address, sealing_key=sealing, url=url)
        for member, sealing, url in zip(members, sealing_keys(len(members)), urls(len(members)), strict=True)
    ]


def checkpoint(epoch: int, following: Sequence[Signer]) -> Checkpoint:
    """The last checkpoint of the epoch before `epoch`, of which `following` are the committee."""
    following_hash = epoch_change(epoch, seats(following)).struct_hash()
    return Checkpoint(epoch=epoch - 1, sequence=64, state=STATE, next=following_hash)


def fields(message: Message) -> tuple[Any, ...]:
    """A message's values in order: the tuple that its Solidity struct takes."""
    return tuple(getattr(message, name) for name in message.__struct_fields__)
