"""What the chain is told of the committee itself: its handovers, and who of it signed twice.

Every few seconds the chain's epoch is compared with what the client followed (`koinon.committees`, verified), and each
replica is asked for the evidence that it keeps. What verifies and the chain lacks is queued; the outbox does the rest.
The contract refuses rounds of an epoch before its handover, so the order between the two takes care of itself.
"""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Counter

from koinon.client import CommitteeClient
from koinon.errors import KoinonError, WrongEpoch
from koinon.evidence import PAIRS_MAX, verify_equivocation
from koinon.ledger import Ledger
from koinon.observe import refused
from koinon.threads import in_thread
from koinon.wire import Equivocation

from .anchor import Anchor

WATCH_SECONDS = 5.0
HANDOVERS_QUEUED_MAX = 32

CULPRITS = Counter("koinon_culprits_total", "Replicas that verified evidence says signed twice")

log = logging.getLogger("koinon.aggregator.committee")


class CommitteeWatch:
    """One a process; `run` until cancelled. `proofs` has verified evidence against each culprit."""

    def __init__(self, client: CommitteeClient, ledger: Ledger, anchor: Anchor) -> None:
        self._client = client
        self._ledger = ledger
        self._anchor = anchor
        self.proofs: dict[bytes, Equivocation] = {}

    async def run(self) -> None:
        while True:
            for step in (self.handovers, self.evidence):
                try:
                    await step()
                except KoinonError as error:
                    refused("aggregator", error)
                    log.warning("retry", extra={"code": error.code, "reason": error.message})
            await asyncio.sleep(WATCH_SECONDS)

    async def handovers(self) -> None:
        """Queue what the chain lacks of the handovers that are known here."""
        reached = await in_thread(self._ledger.epoch)
        for handover in self._client.committees.since(reached, limit=HANDOVERS_QUEUED_MAX):
            if handover.certificate.checkpoint.epoch >= reached:
                self._anchor.ensure_handover(handover)

    async def evidence(self) -> None:
        """Ask every replica of the present committee for evidence; queue a proof against each culprit that the chain
        has not convicted."""
        count = len(self._client.federation.replicas)
        answers = await asyncio.gather(*map(self._client.evidence, range(count)), return_exceptions=True)
        for index, found in enumerate(answers):
            if not isinstance(found, BaseException):
                for each in found[:PAIRS_MAX]:
                    if not await self.consider(index, each):
                        break  # what else a liar shows costs no more of our time
            elif not isinstance(found, KoinonError):  # a replica that is down is the committee's own business
                raise found
        for culprit, proof in self.proofs.items():
            if not await in_thread(self._ledger.convicted, culprit):
                self._anchor.ensure_report(culprit, proof)

    async def consider(self, source: int, evidence: Equivocation) -> bool:
        """Believe what verifies; one proof against a replica is enough. False for what no honest replica shows, or of
        an epoch that nobody can prove."""
        try:
            members = (await self._client.federation_of(evidence.first.epoch)).replica_addresses
            if evidence.index < len(members) and members[evidence.index] in self.proofs:
                return True
            culprit = verify_equivocation(self._client.federation.domain, members, evidence)
        except WrongEpoch:  # before the federation file's epoch, whose members nobody told us, or a lie
            return evidence.first.epoch <= self._client.federation.epoch
        except KoinonError as error:
            refused("aggregator", error)
            log.warning("false evidence", extra={"source": source, "code": error.code, "reason": error.message})
            return False
        self.proofs[culprit] = evidence
        CULPRITS.inc()
        about = {"epoch": evidence.first.epoch, "culprit": evidence.index, "address": culprit.hex()}
        log.error("a replica signed twice", extra={**about, "source": source})
        return True
