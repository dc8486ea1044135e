"""The chain as the rest of Koinon sees it: blocking calls, typed records, typed errors. The only file with web3.

`Ledger.connect` refuses a chain or contracts that are not the federation's; `Ledger.deploy` makes new ones. One
instance may be used by several threads. Writing needs a `Signer`; every write is tried with a static call first, so
that a refusal comes as ContractReverted with the contract's own error name, before gas is spent.
`open_round` and `commit_round` return quietly when the chain already holds the round: an outbox may repeat them.

Requests go through web3's provider as raw JSON-RPC and are decoded by `koinon.abi` (docs/adr/0011).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import Timeout
from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from .abi import decode_revert
from .artifacts import CONTRACTS, artifact
from .encoding import Message, from_hex, keccak, to_hex
from .epochs import Handover
from .errors import ChainUnreachable, ContractReverted, LedgerError
from .reading import INTERFACES, Reader, block_record
from .records import (
    CommitteeMember,
    Contracts,
    Federation,
    Network,
    TransactionRecord,
)
from .sending import RpcError, Sender
from .signing import Signer, recover, signing_digest
from .wire import Admission, Equivocation, Revocation, RoundCertificate

__all__ = ["CommitteeMember", "Contracts", "Deployment", "Federation", "Ledger", "Network"]

REQUEST_TIMEOUT_S = 10.0
REQUEST_TRIES_MAX = 3
SEND_TIMEOUT_S = 60.0
SUPPLY = 10**15
CLOSE_DELAY_S = 7 * 86_400
PERMIT_S = 3_600
DEVNET_WEI = 10**21

_PERMIT_TYPE = keccak(
    b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
)


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


class Ledger(Reader):
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
        super().__init__(network, _Endpoint(network.rpc))
        self.signer = signer
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
        genesis = block_record(endpoint("eth_getBlockByNumber", "0x0", False))
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
        chain = cls.identify(rpc)
        ledger = cls(chain, signer)
        ledger._fund_self()
        nonce = int(ledger._rpc("eth_getTransactionCount", to_hex(signer.address), "latest"), 16)
        # The round ledger comes last: all others point at it, and its constructor checks that they do.
        token, registry, committee, rewards, round_ledger = (
            _created_address(signer.address, nonce + position) for position in range(len(CONTRACTS))
        )
        keys, urls = [each.sealing_key for each in members], [each.url for each in members]
        ledger._create("CreditToken", signer.address, supply)
        ledger._create("MemberRegistry", round_ledger, registrar)
        ledger._create("Committee", round_ledger, registrar, [each.address for each in members], keys, urls)
        ledger._create("Rewards", token, round_ledger)
        ledger._create("RoundLedger", registry, committee, rewards, close_delay_s)
        contracts = Contracts(token, registry, committee, round_ledger, rewards)
        cls(replace(chain, contracts=contracts)).verify_network()
        return Deployment(contracts, chain.chain_id, chain.genesis_hash)

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

    def install_epoch(self, members: Sequence[CommitteeMember]) -> TransactionRecord:
        """Install the next committee; the signer must be the registrar."""
        return self._send(
            "Committee",
            "installEpoch",
            [each.address for each in members],
            [each.sealing_key for each in members],
            [each.url for each in members],
        )

    def install_epoch_by_certificate(self, handover: Handover) -> TransactionRecord | None:
        """Record a handover of the log; None when the chain holds it already.

        LedgerError while the chain lacks an earlier one, or when it holds another committee under this number;
        ContractReverted (Committee__ConvictedMember, ...) when the contract does not take it.
        """
        checkpoint = handover.certificate.checkpoint
        epoch = checkpoint.epoch
        if (reached := self.epoch()) < epoch:
            raise LedgerError(f"the chain is in epoch {reached}, and this is the handover of epoch {epoch}")
        if self._installed(handover):
            return None
        members = self.committee(epoch).addresses
        what = signing_digest(self.domain(), checkpoint)
        signed = {recover(what, signature): signature for signature in handover.certificate.signatures}
        indices = [index for index, member in enumerate(members) if member in signed]
        seats = handover.seats
        proof = (
            checkpoint.sequence,
            checkpoint.state,
            members,
            sum(1 << index for index in indices),
            b"".join(signed[members[index]] for index in indices),
        )
        columns = [seat.address for seat in seats], [seat.sealing_key for seat in seats], [seat.url for seat in seats]
        try:
            return self._send("Committee", "installEpochByCertificate", *columns, proof)
        except ContractReverted:
            if not self._installed(handover):
                raise
            return None

    def report_equivocation(self, evidence: Equivocation) -> TransactionRecord | None:
        """Have the replica convicted; None when it is. LedgerError before the chain knows the votes' epoch."""
        epoch = evidence.first.epoch
        if epoch > self.epoch():
            raise LedgerError(f"the chain does not know epoch {epoch} yet, in which replica {evidence.index} lied")
        members = self.committee(epoch).addresses
        if evidence.index < len(members) and self.convicted(members[evidence.index]):
            return None
        votes = _values(evidence.first), _values(evidence.second)
        signatures = evidence.first_signature + evidence.second_signature
        try:
            return self._send("Committee", "reportEquivocation", epoch, members, evidence.index, *votes, signatures)
        except ContractReverted as error:
            if error.name != "Committee__AlreadyConvicted":
                raise
            return None

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

    def open_round(
        self, task: bytes, round: int, parent_model: bytes, deadline_ms: int, *, epoch: int | None = None
    ) -> TransactionRecord | None:
        """Open a round, pinned to `epoch` (the current one for None); None when it is open (whoever opened it).

        ContractReverted (RoundLedger__EpochNotInForce) before the chain knows the epoch, and a week after it ended.
        """
        if self.round(task, round) is not None:
            return None
        try:
            number = self.epoch() if epoch is None else epoch
            return self._send("RoundLedger", "openRound", task, round, number, parent_model, deadline_ms)
        except ContractReverted:
            if self.round(task, round) is None:
                raise
            return None

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

    def transfer(self, target: bytes, amount: int) -> TransactionRecord:
        """Give credits of the signer to `target`."""
        return self._send("CreditToken", "transfer", target, amount)

    def fund(self, addresses: Sequence[bytes], wei: int = DEVNET_WEI) -> None:
        """Ether for gas: set on a development chain, sent from the signer elsewhere."""
        for address in addresses:
            if not self._set_balance(address, wei):
                self._writer().send(address, b"", wei)

    # --- inside ------------------------------------------------------------------------------------------------

    def _send(self, contract: str, function: str, *arguments: Any) -> TransactionRecord:
        data = INTERFACES[contract].call_data(function, *arguments)
        return self._writer().send(self._addresses[contract], data)

    def _create(self, contract: str, *arguments: Any) -> TransactionRecord:
        return self._writer().send(
            None, artifact(contract).bytecode + INTERFACES[contract].constructor_data(*arguments)
        )

    def _writer(self) -> Sender:
        if self._sender is None:
            raise LedgerError("this ledger is for reading only", hint="connect with a signer")
        return self._sender

    def _holds(self, certificate: RoundCertificate) -> bool:
        held = self.round(certificate.task, certificate.round)
        return held is not None and held.certificate == certificate.struct_hash()

    def _installed(self, handover: Handover) -> bool:
        """LedgerError when another committee has the number of this one."""
        epoch = handover.certificate.checkpoint.epoch + 1
        if self.epoch() < epoch:
            return False
        if self.committee(epoch).seats != handover.seats:
            raise LedgerError(f"the chain has another committee of epoch {epoch} than the log")
        return True

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


def _values(message: Message) -> tuple[Any, ...]:
    return tuple(getattr(message, name) for name in message.__struct_fields__)


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
        name, arguments = decode_revert(INTERFACES.values(), from_hex(data))
        return ContractReverted(name, arguments)
    if reverted:
        return ContractReverted("revert", (message,))
    return RpcError(message)
