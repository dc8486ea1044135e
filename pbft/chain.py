"""Whether the chain's committee is the one of federation.json.

The chain is not needed for ordering: a replica asks while it serves already, and if the chain does not answer it
goes on, says so, and keeps asking. A chain that answers something else than the file ends the replica: it would
sign for nobody. (Signatures are bound to chain id and ledger, so those of the first second are worth nothing.)
"""

from __future__ import annotations

import asyncio
import json
import logging
import urllib.request
from http.client import HTTPException
from typing import Any

from koinon.config import FederationFile
from koinon.encoding import decode_json
from koinon.errors import ChainUnreachable, ContractMissing, LedgerError, Malformed, WrongChain

REQUEST_TIMEOUT_SECONDS = 10.0
REPLY_BYTES_MAX = 8 << 20
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0

log = logging.getLogger("koinon.pbft.chain")


class ChainCheck:
    """`state` is "unverified", "verified" or "unreachable"."""

    def __init__(self, federation: FederationFile) -> None:
        self._federation = federation
        self.state = "unverified"

    async def check(self) -> bool:
        """True when the chain agrees, False when it gives no answer; WrongChain or ContractMissing otherwise."""
        try:
            await asyncio.to_thread(self._compare)
        except (WrongChain, ContractMissing):
            raise
        except LedgerError as error:
            if self.state != "unreachable":
                log.warning("the chain does not answer", extra={"reason": error.message})
            self.state = "unreachable"
            return False
        self.state = "verified"
        log.info("chain verified", extra={"epoch": self._federation.epoch})
        return True

    async def keep_checking(self) -> None:
        """Until the chain answers, with a capped backoff."""
        pause = RETRY_SECONDS
        while not await self.check():
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    def _compare(self) -> None:
        from koinon.reading import (
            Reader,
        )  # on demand, in this thread: its ABI codec must not keep a replica from serving

        federation = self._federation
        chain = Reader(federation.network, _JsonRpc(federation.rpc))
        chain.verify_network()
        if (epoch := chain.epoch()) < federation.epoch:
            raise WrongChain(f"the chain is in epoch {epoch}, federation.json in {federation.epoch}")
        if chain.committee(federation.epoch).addresses != federation.replica_addresses:
            raise WrongChain(
                f"the chain's committee of epoch {federation.epoch} is not the one of federation.json",
                hint="ask the registrar for the current federation.json",
            )


class _JsonRpc:
    """A few reads at the start: web3, which takes two seconds and 60 MiB to import, would be too much for them."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_SECONDS) as response:
                reply = decode_json(response.read(REPLY_BYTES_MAX))
            if "error" in reply:
                raise LedgerError(f"the chain refuses {method}: {str(reply['error'])[:200]}")
            return reply["result"]
        except (OSError, Malformed, ValueError, KeyError, HTTPException) as error:
            raise ChainUnreachable(f"no answer from the chain at {self._url}: {type(error).__name__}") from error
