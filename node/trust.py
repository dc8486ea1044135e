"""What a node believes of a model: 2f+1 replicas signed it, or the chain holds its digest. Checks raise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from koinon.config import FederationFile
from koinon.encoding import to_hex
from koinon.errors import BadSignature, UncertifiedModel
from koinon.rounds.state import Round
from koinon.signing import recover, signing_digest
from koinon.wire import RoundCertificate

if TYPE_CHECKING:
    from koinon.ledger import Ledger


def require_certified(federation: FederationFile, task: bytes, round_: Round) -> RoundCertificate:
    """The certificate of `round_`; UncertifiedModel unless 2f+1 distinct replicas signed it for this task and round.

    `federation` is the one in the round's epoch: that committee signed.
    """
    certificate = round_.certificate
    if certificate is None or (certificate.task, certificate.round) != (task, round_.number):
        raise UncertifiedModel(f"round {round_.number} has no certificate")
    what = signing_digest(federation.domain, certificate)
    addresses = federation.replica_addresses
    signers = set()
    for each in round_.signatures:
        try:
            signer = recover(what, each.signature)
        except BadSignature:
            continue
        if each.replica < len(addresses) and addresses[each.replica] == signer:
            signers.add(each.replica)
    if len(signers) < federation.quorum:
        raise UncertifiedModel(
            f"{len(signers)} replicas signed the certificate of round {round_.number}, {federation.quorum} are needed"
        )
    return certificate


def require_on_chain(ledger: Ledger, certificate: RoundCertificate) -> None:
    """UncertifiedModel unless the chain holds exactly this certificate. Blocks."""
    record = ledger.round(certificate.task, certificate.round)
    if record is None or not record.committed:
        raise UncertifiedModel(
            f"the chain does not hold round {certificate.round} yet", hint="the aggregator anchors it; try again soon"
        )
    if record.certificate != certificate.struct_hash() or record.model != certificate.model:
        raise UncertifiedModel(
            f"the chain certifies model {to_hex(record.model)} for round {certificate.round}, "
            f"the committee says {to_hex(certificate.model)}",
            hint="run koinon-audit",
        )
