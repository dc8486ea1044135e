"""A small Ethereum chain in this process, for machines where no anvil can be had: revm behind JSON-RPC.

It executes real transactions on a real EVM (pyrevm, Cancun rules) and answers the requests that Koinon's ledger
client makes, one block a transaction. It is for development only: block hashes are not Ethereum headers, state is
read at the latest block only, gas is free, and nothing outlives the process.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from eth_account import Account
from eth_account.typed_transactions.typed_transaction import TypedTransaction
from hexbytes import HexBytes
from pyrevm import EVM, AccountInfo, BlockEnv, CfgEnv, Env

from koinon.encoding import from_hex, keccak, to_hex
from koinon.errors import InvariantBroken, Malformed

REQUEST_BYTES_MAX = 4 << 20
BLOCK_GAS_MAX = 30_000_000
ANALYSIS_PADDING_BYTES = 33
DYNAMIC_FEE_TYPE = 2
EXECUTION_REVERTED = 3
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INVALID_PARAMS = -32602
REFUSED = -32000

_REVERT = re.compile(r"Revert \{.*output: (0x[0-9a-f]*)")


class Refused(Exception):
    """An error response: its JSON-RPC code, message and data."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.body = {"code": code, "message": message} | ({"data": data} if data is not None else {})


@dataclass
class Outcome:
    """What an execution left behind; `revert` is the reason's data, or None when it succeeded."""

    gas_used: int
    gas_refunded: int
    output: bytes
    logs: list[tuple[str, list[str], bytes]]
    created: str | None = None
    revert: bytes | None = None


@dataclass
class Chain:
    """The state of the chain; every method expects the caller to hold `lock`."""

    chain_id: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    transactions: dict[str, dict[str, Any]] = field(default_factory=dict)
    nonces: dict[str, int] = field(default_factory=dict)
    skipped_s: int = 0

    def __post_init__(self) -> None:
        self.evm = EVM(env=Env(cfg=CfgEnv(chain_id=self.chain_id)), gas_limit=BLOCK_GAS_MAX, spec_id="CANCUN")
        self.mine(None)

    # --- executing ---------------------------------------------------------------------------------------------

    def send(self, raw: bytes) -> str:
        """Execute a signed transaction in a block of its own; its hash."""
        name = to_hex(keccak(raw))
        if name in self.transactions:
            raise Refused(REFUSED, "already known")
        said, sender = _parse(raw)
        if said["chainId"] != self.chain_id:
            raise Refused(REFUSED, f"invalid chain id {said['chainId']}")
        expected = self.nonces.get(sender, 0)
        if said["nonce"] != expected:
            word = "low" if said["nonce"] < expected else "high"
            raise Refused(REFUSED, f"nonce too {word}: {said['nonce']} where {expected} is next")
        if self.evm.get_balance(sender) < said["value"]:
            raise Refused(REFUSED, "insufficient funds for value")
        target = to_hex(bytes(said["to"])) if said["to"] else None
        self._tick()
        outcome = self._execute(sender, target, bytes(said["data"]), said["value"], said["gas"], keep=True)
        self.nonces[sender] = expected + 1
        self._restore_nonce(sender)
        self.transactions[name] = {
            "hash": name,
            "from": sender,
            "to": target,
            "input": to_hex(bytes(said["data"])),
            "nonce": hex(expected),
            "value": hex(said["value"]),
        }
        self.mine(name, outcome)
        return name

    def call(self, request: dict[str, Any]) -> Outcome:
        """Execute without keeping anything; Refused with the revert data when it reverts."""
        sender = str(request.get("from", "0x" + "00" * 20)).lower()
        data = from_hex(str(request.get("data") or request.get("input") or "0x"))
        self._tick()
        value = int(request.get("value", "0x0"), 16)
        outcome = self._execute(sender, request.get("to"), data, value, BLOCK_GAS_MAX, keep=False)
        if outcome.revert is not None:
            raise Refused(EXECUTION_REVERTED, "execution reverted", to_hex(outcome.revert))
        return outcome

    def _execute(self, sender: str, target: str | None, data: bytes, value: int, gas: int, *, keep: bool) -> Outcome:
        self._restore_nonce(sender)
        checkpoint = self.evm.snapshot()
        created, output, revert = None, b"", None
        try:
            if target is None:
                created = self.evm.deploy(sender, data, value=value, gas=gas)
            else:
                output = bytes(self.evm.message_call(sender, target, data, value=value, gas=gas))
        except RuntimeError as error:
            if not str(error).startswith(("Revert", "Halt")):  # refused before it ran: no funds, no gas, ...
                self.evm.revert(checkpoint)
                raise Refused(REFUSED, f"invalid transaction: {error}") from None
            found = _REVERT.search(str(error))
            revert = from_hex(found.group(1)) if found else b""
        result = self.evm.result
        if result is None:
            raise InvariantBroken("revm executed and has no result")
        logs = [] if revert is not None else [(log.address.lower(), log.topics, log.data[1]) for log in result.logs]
        outcome = Outcome(
            gas_used=int(result.gas_used),
            gas_refunded=int(getattr(result, "gas_refunded", 0) or 0) if revert is None else 0,
            output=output,
            logs=logs,
            created=created.lower() if created else None,
            revert=revert,
        )
        if keep and revert is None:
            self.evm.commit()
        else:
            self.evm.revert(checkpoint)
        return outcome

    def _restore_nonce(self, sender: str) -> None:
        """revm counts the nonces of creations only; the address of a new contract depends on it."""
        known = self.evm.basic(sender)
        wanted = self.nonces.get(sender, 0)
        if known.nonce != wanted:
            self.evm.insert_account_info(sender, AccountInfo(nonce=wanted, balance=known.balance))  # type: ignore[call-arg]

    def code(self, address: str) -> bytes:
        """The code at `address`; revm keeps it with padding for its own jump analysis."""
        return bytes(self.evm.get_code(address) or bytes(ANALYSIS_PADDING_BYTES))[:-ANALYSIS_PADDING_BYTES]

    # --- blocks ------------------------------------------------------------------------------------------------

    def mine(self, transaction: str | None, outcome: Outcome | None = None) -> None:
        """Append a block with at most one transaction."""
        number, now = len(self.blocks), self._now()
        parent = self.blocks[-1]["hash"] if self.blocks else "0x" + "00" * 32
        seed = json.dumps([self.chain_id, number, now, parent, transaction, time.time_ns() if number == 0 else 0])
        block = {
            "number": hex(number),
            "hash": to_hex(keccak(seed.encode())),
            "parentHash": parent,
            "timestamp": hex(now),
            "transactions": [transaction] if transaction else [],
            "baseFeePerGas": "0x0",
            "gasLimit": hex(BLOCK_GAS_MAX),
            "gasUsed": hex(outcome.gas_used if outcome else 0),
        }
        self.blocks.append(block)
        if transaction and outcome:
            place = {"blockNumber": block["number"], "blockHash": block["hash"], "transactionHash": transaction}
            self.transactions[transaction] |= {"blockNumber": block["number"], "blockHash": block["hash"]}
            self.receipts[transaction] = place | {
                "transactionIndex": "0x0",
                "status": hex(outcome.revert is None),
                "gasUsed": hex(outcome.gas_used),
                "contractAddress": outcome.created,
                "logs": [
                    place | {"address": address, "topics": topics, "data": to_hex(data), "logIndex": hex(index)}
                    for index, (address, topics, data) in enumerate(outcome.logs)
                ],
            }

    def _now(self) -> int:
        last = int(self.blocks[-1]["timestamp"], 16) if self.blocks else 0
        return max(int(time.time()) + self.skipped_s, last)

    def _tick(self) -> None:
        """What a transaction sees of the block that it is going to be in."""
        self.evm.set_block_env(
            BlockEnv(number=len(self.blocks), timestamp=self._now(), basefee=0, gas_limit=BLOCK_GAS_MAX)
        )

    def find_block(self, which: str) -> dict[str, Any] | None:
        named = {"earliest": 0, "latest": len(self.blocks) - 1, "pending": len(self.blocks) - 1}
        number = named[which] if which in named else int(which, 16)
        return self.blocks[number] if number < len(self.blocks) else None

    def logs(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        first, last = (self.find_block(query.get(key, "latest")) for key in ("fromBlock", "toBlock"))
        if first is None:
            return []
        until = int(last["number"], 16) if last else len(self.blocks) - 1
        asked = query.get("address") or []
        addresses = {each.lower() for each in ([asked] if isinstance(asked, str) else asked)}
        topics = query.get("topics") or []
        return [
            log
            for block in self.blocks[int(first["number"], 16) : until + 1]
            for name in block["transactions"]
            for log in self.receipts[name]["logs"]
            if (not addresses or log["address"] in addresses) and _matches(log["topics"], topics)
        ]


def _matches(topics: list[str], wanted: list[Any]) -> bool:
    if len(wanted) > len(topics):
        return False
    return all(
        want is None or topic == want or (isinstance(want, list) and topic in want)
        for topic, want in zip(topics, wanted, strict=False)
    )


def _parse(raw: bytes) -> tuple[dict[str, Any], str]:
    """The fields and sender of a signed dynamic-fee transaction."""
    if not raw or raw[0] != DYNAMIC_FEE_TYPE:
        raise Refused(REFUSED, "only dynamic-fee transactions (type 2) are supported")
    try:
        fields: dict[str, Any] = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        return fields, str(Account.recover_transaction(raw)).lower()
    except Exception as error:  # eth_account raises whatever its parsers do
        raise Refused(REFUSED, f"not a transaction: {error}") from None


# --- requests --------------------------------------------------------------------------------------------------


def methods(chain: Chain) -> dict[str, Callable[..., Any]]:
    """JSON-RPC method -> function of its parameters."""

    def estimate(request: dict[str, Any], *_: Any) -> str:
        outcome = chain.call(request)
        used = outcome.gas_used + outcome.gas_refunded
        return hex(used if used == 21_000 else used + used // 32 + 5_000)  # 63/64 of the gas goes to inner calls

    def set_balance(address: str, wei: str) -> None:
        chain.evm.set_balance(address.lower(), int(wei, 16))

    def skip(seconds: int | str) -> str:
        chain.skipped_s += int(seconds, 16) if isinstance(seconds, str) else seconds
        return hex(chain.skipped_s)

    return {
        "web3_clientVersion": lambda: "koinon-embedded/1",
        "net_version": lambda: str(chain.chain_id),
        "eth_chainId": lambda: hex(chain.chain_id),
        "eth_blockNumber": lambda: hex(len(chain.blocks) - 1),
        "eth_gasPrice": lambda: "0x0",
        "eth_maxPriorityFeePerGas": lambda: "0x0",
        "eth_getBlockByNumber": lambda which, _=False: chain.find_block(which),
        "eth_getBalance": lambda address, _="latest": hex(chain.evm.get_balance(address)),
        "eth_getCode": lambda address, _="latest": to_hex(chain.code(address)),
        "eth_getTransactionCount": lambda address, _="latest": hex(chain.nonces.get(address.lower(), 0)),
        "eth_call": lambda request, *_: to_hex(chain.call(request).output),
        "eth_estimateGas": estimate,
        "eth_sendRawTransaction": lambda raw: chain.send(from_hex(raw)),
        "eth_getTransactionReceipt": lambda name: chain.receipts.get(name),
        "eth_getTransactionByHash": lambda name: chain.transactions.get(name),
        "eth_getLogs": chain.logs,
        "anvil_setBalance": set_balance,
        "evm_increaseTime": skip,
        "evm_mine": lambda *_: chain.mine(None),
    }


def answer(chain: Chain, table: dict[str, Callable[..., Any]], body: bytes) -> dict[str, Any]:
    """The response to one request; bad ones get a JSON-RPC error."""
    name = None
    try:
        request = json.loads(body)
        name = request.get("id") if isinstance(request, dict) else None
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            raise Refused(INVALID_REQUEST, "expected one request object")
        if request["method"] not in table:
            raise Refused(UNKNOWN_METHOD, f"the method {request['method']} is not available")
        with chain.lock:
            result = table[request["method"]](*request.get("params", []))
        return {"jsonrpc": "2.0", "id": name, "result": result}
    except Refused as error:
        return {"jsonrpc": "2.0", "id": name, "error": error.body}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, Malformed) as error:
        return {"jsonrpc": "2.0", "id": name, "error": {"code": INVALID_PARAMS, "message": f"invalid params: {error}"}}


def server(chain_id: int, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server of a fresh chain, not yet serving."""
    chain = Chain(chain_id)
    table = methods(chain)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 < size <= REQUEST_BYTES_MAX:
                self.close_connection = True
                self.send_error(413)
                return
            body = json.dumps(answer(chain, table, self.rfile.read(size))).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Requests are not worth a line each."""

    return ThreadingHTTPServer((host, port), Handler)
