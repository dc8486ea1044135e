"""Certified models: fetched by digest, believed because 2f+1 replicas signed the digest and the chain holds it."""

from __future__ import annotations

from collections.abc import Sequence

from koinon.client import CommitteeClient
from koinon.learning.parameters import Parameters, from_blob
from koinon.rounds.state import Round
from koinon.threads import in_thread
from koinon.wire import RoundCertificate

from .home import Home
from .trust import require_certified, require_on_chain


async def certified_models(
    home: Home, committee: CommitteeClient, task: bytes, rounds: Sequence[Round]
) -> list[tuple[int, RoundCertificate, Parameters]]:
    """(round, certificate, model) of certified `rounds`.

    UncertifiedModel when replicas or chain do not vouch for one, BlobMismatch when its bytes are others.
    """
    certificates = [require_certified(await committee.federation_of(each.epoch), task, each) for each in rounds]

    def check() -> None:
        ledger = home.ledger()
        for certificate in certificates:
            require_on_chain(ledger, certificate)

    await in_thread(check)
    blobs = [await committee.get_blob(certificate.model) for certificate in certificates]
    return [
        (each.number, certificate, from_blob(blob))
        for each, certificate, blob in zip(rounds, certificates, blobs, strict=True)
    ]
