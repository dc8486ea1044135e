"""The chain as the rest of Koinon sees it: blocking calls, typed records, typed errors. The only file with web3.

`Ledger.connect` refuses a chain or contracts that are not the federation's; `Ledger.deploy` makes new ones. One
instance may be used by several threads. Writing needs a `Signer`; every write is tried with a static call first, so
that a refusal comes as ContractReverted with the contract's own error name, before gas is spent.
`open_round` and `commit_round` return quietly when the chain already holds the round: an outbox may repeat them.

Requests go through web3's provider as raw JSON-RPC and are decoded by `koinon.abi`; blocks are read without
web3's validation, which rejects the extra data of proof-of-authority chains such as Besu's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout
from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from .abi import Interface, decode_revert
from .artifacts import CONTRACTS, artifact
from .encoding import from_hex, keccak, to_hex
from .errors import ChainUnreachable, ContractMissing, ContractReverted, LedgerError, Malformed, WrongChain
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
    Network,
    RoundCommitted,
    RoundRecord,
    TaskRecord,
    TransactionRecord,
    certificate_from_values,
    event_from_values,
)
from .sending import RpcError, Sender
from .signing import Domain, Signer
from .wire import Admission, Revocation, Role, RoundCertificate

__all__ = ["CommitteeMember", "Contracts", "Deployment", "Federation", "Ledger", "Network"]

REQUEST_TIMEOUT_S = 10.0
REQUEST_TRIES_MAX = 3
SEND_TIMEOUT_S = 60.0
LOG_BLOCKS_MAX = 5_000
SUPPLY = 10**15
CLOSE_DELAY_S = 7 * 86_400
PERMIT_S = 3_600
DEVNET_WEI = 10**21
FIELDS = dict(zip(CONTRACTS, ("token", "registry", "committee", "ledger", "rewards"), strict=True))

_PERMIT_TYPE = keccak(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
)
_INTERFACES = {name: Interface(artifact(name).abi) for name in CONTRACTS}


class Deployment(NamedTuple):
    """What `Ledger.deploy` made: all that others need in order to recognise the network."""

    contracts: Contracts
    chain_id: int
    genesis_hash: bytes


class _Endpoint:
    """Raw JSON-RPC over web3's HTTP provider, with this project's errors."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._provider = HTTPProvider(
            url,
            request_kwargs={"timeout": REQUEST_TIMEOUT_S},
            exception_retry_configuration=ExceptionRetryConfiguration(
                errors=(RequestsConnectionError, Timeout), retries=REQUEST_TRIES_MAX, backoff_factor=0.1
            ),
        )

    def __call__(self, method: str, *params: Any) -> Any:
        try:
            response = self._provider.make_request(method, params)
        except (OSError, ValueError, Web3Exception) as error:
            raise ChainUnreachable(
                f"no answer from the chain at {self._url}: {type(error).__name__}",
                hint="is the chain running, and is `rpc` its JSON-RPC address?",
            ) from error
        if "error" in response:
            raise _refusal(response["error"])
        return response["result"]


class Ledger:
    """One network's contracts, for one key (or for reading only)."""

    def __init__(
        self,
        network: Federation,
        signer: Signer | None = None,
        *,
        confirmations: int = 0,
        timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        """Use `connect`, which checks the network; this only stores it."""
        self.network = network
        self.contracts = network.contracts
        self.signer = signer
        self._rpc = _Endpoint(network.rpc)
        self._epochs: dict[int, CommitteeRecord] = {}
        self._sender = (
            Sender(self._rpc, network.chain_id, signer, timeout_s=timeout_s, confirmations=confirmations)
            if signer
            else None
        )

    # --- beginnings --------------------------------------------------------------------------------------------

    @classmethod
    def connect(
        cls,
        federation: Federation,
        signer: Signer | None = None,
        *,
        confirmations: int = 0,
        timeout_s: float = SEND_TIMEOUT_S,
    ) -> Ledger:
        """A ledger of `federation`, after checking that the chain and the contracts are the federation's.

        Raises ChainUnreachable, WrongChain (chain id or genesis), ContractMissing (no code, other code, or
        contracts that do not belong together).
        """
        ledger = cls(federation, signer, confirmations=confirmations, timeout_s=timeout_s)
        ledger.verify_network()
        return ledger

    @classmethod
    def identify(cls, rpc: str) -> Network:
        """The chain that answers at `rpc`, with no contracts yet (zero addresses): enough for `wei` and `fund`."""
        endpoint = _Endpoint(rpc)
        genesis = _block(endpoint("eth_getBlockByNumber", "0x0", False))
        return Network(rpc, int(endpoint("eth_chainId"), 16), genesis.hash, Contracts(*(bytes(20),) * len(CONTRACTS)))

    @classmethod
    def deploy(
        cls,
        rpc: str,
        signer: Signer,
        registrar: bytes,
        members: Sequence[CommitteeMember],
        *,
        supply: int = SUPPLY,
        close_delay_s: int = CLOSE_DELAY_S,
    ) -> Deployment:
        """Deploy the five contracts with `members` as epoch 0 (by replica index); credits go to `signer`.

        `registrar` admits members and installs epochs. On a development chain the signer gets ether first.
        """
        endpoint = _Endpoint(rpc)
        chain_id, genesis = int(endpoint("eth_chainId"), 16), _block(endpoint("eth_getBlockByNumber", "0x0", False))
        nowhere = Contracts(*(bytes(20),) * len(CONTRACTS))
        ledger = cls(Network(rpc, chain_id, genesis.hash, nowhere), signer)
        ledger._fund_self()
        nonce = int(endpoint("eth_getTransactionCount", to_hex(signer.address), "latest"), 16)
        token, registry, committee, rewards, round_ledger = (  # the last one, which all others point at, checks them
            _created_address(signer.address, nonce + position) for position in range(len(CONTRACTS))
        )
        keys, urls = [each.sealing_key for each in members], [each.url for each in members]
        ledger._create("CreditToken", signer.address, supply)
        ledger._create("MemberRegistry", round_ledger, registrar)
        ledger._create("Committee", round_ledger, registrar, [each.address for each in members], keys, urls)
        ledger._create("Rewards", token, round_ledger)
        ledger._create("RoundLedger", registry, committee, rewards, close_delay_s)
        contracts = Contracts(token, registry, committee, round_ledger, rewards)
        cls(Network(rpc, chain_id, genesis.hash, contracts)).verify_network()
        return Deployment(contracts, chain_id, genesis.hash)

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

    # --- membership --------------------------------------------------------------------------------------------

    def register(self, admission: Admission, signature: bytes) -> TransactionRecord:
        """Hand in an admission that the registrar signed (64 bytes)."""
        values = (
            admission.member,
            admission.roles,
            admission.examples_max,
            admission.sealing_key,
            admission.serial,
        )
        return self._send("MemberRegistry", "register", values, signature)

    def revoke(self, revocation: Revocation, signature: bytes) -> TransactionRecord:
        """Hand in a revocation that the registrar signed (64 bytes)."""
        return self._send("MemberRegistry", "revoke", (revocation.member, revocation.serial), signature)

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
            _, size, block = self._one("Committee", "epochInfo", number)
            event = next(
                each for each in self.events(block, block) if isinstance(each, EpochInstalled) and each.epoch == number
            )
            members = zip(event.members, event.sealing_keys, event.urls, strict=True)
            self._epochs[number] = CommitteeRecord(
                number, tuple(CommitteeMember(*each) for each in members), size - (size - 1) // 3
            )
        return self._epochs[number]

    def install_epoch(self, members: Sequence[CommitteeMember]) -> TransactionRecord:
        """Install the next committee; the signer must be the registrar."""
        return self._send(
            "Committee",
            "installEpoch",
            [each.address for each in members],
            [each.sealing_key for each in members],
            [each.url for each in members],
        )

    # --- tasks and rounds --------------------------------------------------------------------------------------

    def create_task(self, task: bytes, spec: bytes, initial_model: bytes, budget: int) -> TransactionRecord:
        """Put a task on chain and escrow `budget` credits of the signer (its permit is signed here).

        `task` is the task's identity, `spec` the digest of its TaskSpec, `initial_model` the first parent model.
        """
        if budget == 0:
            return self._send("RoundLedger", "createTask", task, spec, initial_model, budget)
        deadline = int(time.time()) + PERMIT_S
        permit = self._permit(budget, deadline)
        return self._send("RoundLedger", "createTaskWithPermit", task, spec, initial_model, budget, deadline, permit)

    def task(self, task: bytes) -> TaskRecord | None:
        """The task on chain, or None."""
        values = self._one("RoundLedger", "task", task)
        record = TaskRecord(task, *values)
        return record if any(record.submitter) else None

    def latest_model(self, task: bytes) -> bytes | None:
        """The digest of the last certified model (at first the initial one); None for no such task."""
        record = self.task(task)
        return record.model if record else None

    def open_round(self, task: bytes, round: int, parent_model: bytes, deadline_ms: int) -> TransactionRecord | None:
        """Open a round with the current epoch; None when it is already open (whoever opened it)."""
        if self.round(task, round) is not None:
            return None
        try:
            return self._send("RoundLedger", "openRound", task, round, parent_model, deadline_ms)
        except ContractReverted:
            if self.round(task, round) is None:
                raise
            return None

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

    def commit_round(
        self, certificate: RoundCertificate, signatures: Sequence[tuple[int, bytes]]
    ) -> TransactionRecord | None:
        """Anchor a certificate with (replica index, 64-byte signature) pairs in any order.

        None when the chain already holds exactly this certificate; ContractReverted when it holds another one.
        """
        if self._holds(certificate):
            return None
        ordered = sorted(dict(signatures).items())
        bitmap = sum(1 << index for index, _ in ordered)
        try:
            return self._send(
                "RoundLedger",
                "commitRound",
                _values(certificate),
                self.committee(certificate.epoch).addresses,
                bitmap,
                b"".join(signature for _, signature in ordered),
            )
        except ContractReverted:
            if not self._holds(certificate):
                raise
            return None

    def anchored(self, task: bytes, round: int) -> Anchored | None:
        """The certificate of a committed round with its signatures, read back from the transaction's calldata."""
        interface = _INTERFACES["RoundLedger"]
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

    def submit_update(self, task: bytes, round: int, update: bytes, examples: int) -> TransactionRecord:
        """Put an update's digest on chain directly: the way around a committee that censors."""
        return self._send("RoundLedger", "submitUpdate", task, round, update, examples)

    def stop_task(self, task: bytes) -> TransactionRecord:
        """No new rounds; open ones may still be committed until `closable_at`. Submitter only."""
        return self._send("RoundLedger", "stopTask", task)

    def close_task(self, task: bytes) -> TransactionRecord:
        """Return the unspent budget to the submitter, once the delay after `stop_task` is over."""
        return self._send("RoundLedger", "closeTask", task)

    # --- credits -----------------------------------------------------------------------------------------------

    def claim(self, task: bytes, account: bytes, cumulative: int, proof: Sequence[bytes]) -> TransactionRecord:
        """Pay `account` what it earned so far; anybody may ask for anybody. `proof` as of koinon.merkle."""
        return self._send("Rewards", "claim", task, account, cumulative, list(proof))

    def claimed(self, task: bytes, account: bytes) -> int:
        """Credits that `account` has claimed of `task` so far."""
        return int(self._one("Rewards", "claimed", task, account))

    def balance(self, address: bytes) -> int:
        """Credits of `address`."""
        return int(self._one("CreditToken", "balanceOf", address))

    def transfer(self, target: bytes, amount: int) -> TransactionRecord:
        """Give credits of the signer to `target`."""
        return self._send("CreditToken", "transfer", target, amount)

    def wei(self, address: bytes) -> int:
        """Ether of `address` in wei."""
        return int(self._rpc("eth_getBalance", to_hex(address), "latest"), 16)

    def fund(self, addresses: Sequence[bytes], wei: int = DEVNET_WEI) -> None:
        """Ether for gas: set on a development chain, sent from the signer elsewhere."""
        for address in addresses:
            if not self._set_balance(address, wei):
                self._writer().send(address, b"", wei)

    # --- the chain itself --------------------------------------------------------------------------------------

    def block_number(self) -> int:
        return int(self._rpc("eth_blockNumber"), 16)

    def block(self, number: int) -> BlockRecord:
        """Block `number`; LedgerError when the chain has none yet."""
        found = self._rpc("eth_getBlockByNumber", hex(number), False)
        if found is None:
            raise LedgerError(f"the chain has no block {number}")
        return _block(found)

    def events(self, from_block: int, to_block: int) -> tuple[Event, ...]:
        """All events of the five contracts in the inclusive range, in chain order."""
        return tuple(self._logs(from_block, to_block, []))

    # --- inside ------------------------------------------------------------------------------------------------

    @cached_property
    def _addresses(self) -> dict[str, bytes]:
        return {name: getattr(self.contracts, field) for name, field in FIELDS.items()}

    def _one(self, contract: str, function: str, *arguments: Any) -> Any:
        """The single value that a view returns."""
        interface = _INTERFACES[contract]
        call = {"to": to_hex(self._addresses[contract]), "data": to_hex(interface.call_data(function, *arguments))}
        (value,) = interface.result(function, from_hex(self._rpc("eth_call", call, "latest")))
        return value

    def _send(self, contract: str, function: str, *arguments: Any) -> TransactionRecord:
        data = _INTERFACES[contract].call_data(function, *arguments)
        return self._writer().send(self._addresses[contract], data)

    def _create(self, contract: str, *arguments: Any) -> TransactionRecord:
        return self._writer().send(
            None, artifact(contract).bytecode + _INTERFACES[contract].constructor_data(*arguments)
        )

    def _writer(self) -> Sender:
        if self._sender is None:
            raise LedgerError("this ledger is for reading only", hint="connect with a signer")
        return self._sender

    def _holds(self, certificate: RoundCertificate) -> bool:
        held = self.round(certificate.task, certificate.round)
        return held is not None and held.certificate == certificate.struct_hash()

    def _permit(self, amount: int, deadline: int) -> bytes:
        signer = self.signer
        if signer is None:
            raise LedgerError("this ledger is for reading only", hint="connect with a signer")
        words = (
            signer.address.rjust(32, b"\0"),
            self.contracts.rewards.rjust(32, b"\0"),
            *(
                number.to_bytes(32, "big")
                for number in (amount, self._one("CreditToken", "nonces", signer.address), deadline)
            ),
        )
        separator: bytes = self._one("CreditToken", "DOMAIN_SEPARATOR")
        return signer.sign_digest(keccak(b"\x19\x01" + separator + keccak(_PERMIT_TYPE + b"".join(words))))

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
                yield _event(_INTERFACES[names[address]], address, log)

    def _fund_self(self) -> None:
        address = self._writer() and self.signer and self.signer.address
        if address and self.wei(address) == 0:
            self._set_balance(address, DEVNET_WEI)

    def _set_balance(self, address: bytes, wei: int) -> bool:
        """Whether this is a development chain that lets anybody set balances."""
        try:
            self._rpc("anvil_setBalance", to_hex(address), hex(wei))
        except RpcError:
            return False
        return True


def _values(certificate: RoundCertificate) -> tuple[Any, ...]:
    return tuple(getattr(certificate, name) for name in certificate.__struct_fields__)


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


def _block(found: dict[str, Any]) -> BlockRecord:
    return BlockRecord(
        number=int(found["number"], 16),
        hash=from_hex(found["hash"]),
        parent=from_hex(found["parentHash"]),
        time_s=int(found["timestamp"], 16),
    )


def _created_address(sender: bytes, nonce: int) -> bytes:
    """The address of the contract that `sender` creates with transaction `nonce`: keccak(rlp([sender, nonce]))."""
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = number if len(number) == 1 and number[0] < 0x80 else bytes([0x80 + len(number)]) + number
    body = b"\x94" + sender + item
    return keccak(bytes([0xC0 + len(body)]) + body)[12:]


def _refusal(error: Any) -> LedgerError:
    """What an error response means: a revert that some ABI explains, or a refusal of the chain itself."""
    message = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    data = error.get("data") if isinstance(error, dict) else None
    if isinstance(data, dict):
        data = data.get("data") or data.get("result")
    reverted = "revert" in message.lower()
    if isinstance(data, str) and data.startswith("0x") and (reverted or len(data) > 2):
        name, arguments = decode_revert(_INTERFACES.values(), from_hex(data))
        return ContractReverted(name, arguments)
    if reverted:
        return ContractReverted("revert", (message,))
    return RpcError(message)
