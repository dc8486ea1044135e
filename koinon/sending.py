"""Sending transactions: one locked nonce counter a key, bounded waiting, idempotent rebroadcast. No web3 here.

A transaction that was handed over is kept as raw bytes until its receipt is seen; handing it over again is harmless
('already known' counts as success). The lock is held while a nonce is taken and the transaction is handed over, not
while its receipt is awaited, so that several threads can have transactions in flight.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any, Protocol

from .encoding import from_hex, keccak, to_hex
from .errors import ChainUnreachable, ContractReverted, LedgerError
from .records import TransactionRecord
from .signing import Signer

BROADCAST_TRIES_MAX = 5
HAND_OVER_TRIES_MAX = 3
REBROADCAST_S = 5.0
POLL_FIRST_S = 0.05
POLL_MAX_S = 1.0
GAS_MARGIN_PERCENT = 25
GAS_MARK_MAX = 1 << 16
PLAIN_TRANSFER_GAS = 21_000

_KNOWN = ("already known", "already imported", "already exists", "known transaction", "already in mempool")
_NONCE_LOW = ("nonce too low", "nonce is below", "nonce below", "old nonce")
_NONCE_TAKEN = ("replacement transaction underpriced", "transaction underpriced", "nonce too distant")


class RpcError(LedgerError):
    """The chain answered a request with an error; `data` is the revert data if there was any."""

    code = "rpc"

    def __init__(self, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.data = data


class Rpc(Protocol):
    """One JSON-RPC request; raises RpcError, ContractReverted or ChainUnreachable."""

    def __call__(self, method: str, *params: Any) -> Any: ...


class Sender:
    """Signs and sends for one key on one chain."""

    def __init__(self, rpc: Rpc, chain_id: int, signer: Signer, *, timeout_s: float, confirmations: int) -> None:
        self._rpc = rpc
        self._chain_id = chain_id
        self._signer = signer
        self._timeout_s = timeout_s
        self._confirmations = confirmations
        self._lock = threading.Lock()
        self._nonce: int | None = None

    def send(self, target: bytes | None, data: bytes, value: int = 0) -> TransactionRecord:
        """Send one transaction (a contract's creation without `target`) and wait until it is mined.

        Raises ContractReverted from the trial run or from the receipt, ChainUnreachable when the time is up.
        """
        call = {"from": to_hex(self._signer.address), "data": to_hex(data), "value": hex(value)}
        if target is not None:
            call["to"] = to_hex(target)
        self._rpc("eth_call", call, "latest")
        gas = int(self._rpc("eth_estimateGas", call), 16)
        margin = 0 if gas == PLAIN_TRANSFER_GAS else gas * GAS_MARGIN_PERCENT // 100
        # The odd gas limit makes these bytes ours alone: another process with the same key and the same call would
        # otherwise make the same transaction, and 'already known' would count as success of two where one was mined.
        raw = self._broadcast(target, data, value, gas + margin + secrets.randbelow(GAS_MARK_MAX))
        record, succeeded = self._await(raw)
        if not succeeded:
            self._rpc("eth_call", call, hex(record.block))
            raise ContractReverted("revert", (to_hex(record.hash),), hint="it reverted when mined, not when tried")
        return record

    def _broadcast(self, target: bytes | None, data: bytes, value: int, gas: int) -> bytes:
        with self._lock:
            for _ in range(BROADCAST_TRIES_MAX):
                if self._nonce is None:
                    pending = self._rpc("eth_getTransactionCount", to_hex(self._signer.address), "pending")
                    self._nonce = int(pending, 16)
                raw = self._signed(target, data, value, gas, self._nonce)
                try:
                    self._hand_over(raw)
                except RpcError as error:
                    self._nonce = None
                    if not _says(error, _NONCE_LOW + _NONCE_TAKEN):
                        raise
                    continue
                except LedgerError:
                    self._nonce = None
                    raise
                self._nonce += 1
                return raw
        raise ChainUnreachable(
            f"no free nonce after {BROADCAST_TRIES_MAX} tries",
            hint="another process sends with the same key; give each its own",
        )

    def _signed(self, target: bytes | None, data: bytes, value: int, gas: int, nonce: int) -> bytes:
        from eth_account import Account  # on demand: whoever reads the chain alone needs none of it

        fee, tip = self._fees()
        transaction: dict[str, Any] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": fee,
            "maxPriorityFeePerGas": tip,
            "value": value,
            "data": data,
        }
        if target is not None:
            transaction["to"] = target
        return bytes(Account.sign_transaction(transaction, self._signer.secret).raw_transaction)

    def _fees(self) -> tuple[int, int]:
        """(maxFeePerGas, maxPriorityFeePerGas): nothing where the base fee is nothing (zero-fee networks)."""
        block = self._rpc("eth_getBlockByNumber", "latest", False)
        base = int(block.get("baseFeePerGas", "0x0"), 16)
        if base == 0:
            return 0, 0
        try:
            tip = int(self._rpc("eth_maxPriorityFeePerGas"), 16)
        except RpcError:
            tip = 0
        return 2 * base + tip, tip

    def _hand_over(self, raw: bytes) -> None:
        """Give the chain `raw`, again when the answer got lost: it may have arrived the first time."""
        for attempt in range(HAND_OVER_TRIES_MAX):
            try:
                self._rpc("eth_sendRawTransaction", to_hex(raw))
            except ChainUnreachable:
                if attempt + 1 == HAND_OVER_TRIES_MAX:
                    raise
                time.sleep(POLL_FIRST_S * 2**attempt)
                continue
            except RpcError as error:
                mined = _says(error, _NONCE_LOW) and self._receipt(keccak(raw)) is not None
                if not mined and not _says(error, _KNOWN):
                    raise
            return

    def _receipt(self, transaction: bytes) -> dict[str, Any] | None:
        receipt: dict[str, Any] | None = self._rpc("eth_getTransactionReceipt", to_hex(transaction))
        return receipt if receipt and receipt.get("blockNumber") else None

    def _await(self, raw: bytes) -> tuple[TransactionRecord, bool]:
        """Wait for the receipt and the confirmations over it; a reorganisation that drops it starts over."""
        name = keccak(raw)
        started = rebroadcast = time.monotonic()
        pause = POLL_FIRST_S
        while (now := time.monotonic()) - started < self._timeout_s:
            try:
                receipt = self._receipt(name)
                if receipt is not None and self._deep_enough(receipt):
                    return _record(receipt), int(receipt["status"], 16) == 1
                if receipt is None and now - rebroadcast > REBROADCAST_S:
                    rebroadcast = now
                    self._hand_over(raw)
            except ChainUnreachable:
                pass  # it may come back while there is time, and what was sent is kept
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_MAX_S)
        with self._lock:
            self._nonce = None
        raise ChainUnreachable(
            f"transaction {to_hex(name)} was not mined within {self._timeout_s:g} s",
            hint="the chain produces no blocks, or the key has no ether for gas",
        )

    def _deep_enough(self, receipt: dict[str, Any]) -> bool:
        if self._confirmations == 0:
            return True
        return int(self._rpc("eth_blockNumber"), 16) >= int(receipt["blockNumber"], 16) + self._confirmations


def _says(error: RpcError, phrases: tuple[str, ...]) -> bool:
    text = error.message.lower()
    return any(phrase in text for phrase in phrases)


def _record(receipt: dict[str, Any]) -> TransactionRecord:
    return TransactionRecord(
        hash=from_hex(receipt["transactionHash"]),
        block=int(receipt["blockNumber"], 16),
        block_hash=from_hex(receipt["blockHash"]),
        gas_used=int(receipt["gasUsed"], 16),
    )
