"""Whether the chain's committee is the one of federation.json.

The chain is not needed for ordering: a replica asks while it serves already, and if the chain does not answer it
goes on, says so, and keeps asking. A chain that answers something else than the file ends the replica: it would
sign for nobody. (Signatures are bound to chain id and ledger, so those of the first second are worth nothing.)
"""

from __future__ import annotations

import asyncio
import logging

from koinon.config import FederationFile
from koinon.errors import ContractMissing, LedgerError, WrongChain

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
        from koinon.ledger import Ledger  # web3 takes a second or two to import: not before this replica serves

        federation = self._federation
        ledger = Ledger.connect(federation.network)
        if (epoch := ledger.epoch()) < federation.epoch:
            raise WrongChain(f"the chain is in epoch {epoch}, federation.json in {federation.epoch}")
        record = ledger.committee(federation.epoch)
        if record.addresses != federation.replica_addresses:
            raise WrongChain(
                f"the chain's committee of epoch {federation.epoch} is not the one of federation.json",
                hint="ask the registrar for the current federation.json",
            )
