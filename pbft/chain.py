"""Whether the chain's committee is the one of federation.json.

The chain is not needed for ordering: a replica whose chain does not answer goes on, says so, and keeps asking.
A chain that answers something else than the file is a reason to stop: signatures would be made for nobody.
"""

from __future__ import annotations

import asyncio
import logging

from koinon.config import FederationFile
from koinon.errors import ChainUnreachable, WrongChain
from koinon.ledger import Ledger

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0

log = logging.getLogger("koinon.pbft.chain")


class ChainCheck:
    """`state` is "unverified", "verified" or "unreachable"."""

    def __init__(self, federation: FederationFile) -> None:
        self._federation = federation
        self.state = "unverified"

    async def check(self) -> bool:
        """True when the chain agrees, False when it does not answer; WrongChain or ContractMissing otherwise."""
        try:
            await asyncio.to_thread(self._compare)
        except ChainUnreachable as error:
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
        while True:
            await asyncio.sleep(pause)
            if await self.check():
                return
            pause = min(2 * pause, RETRY_SECONDS_MAX)

    def _compare(self) -> None:
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
