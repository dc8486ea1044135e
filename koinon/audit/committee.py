"""What the chain says of the committee: every epoch needs the certificate that the log leads to, every conviction its
proof. Both are in the events themselves, so it does not matter who sent the transactions."""

from __future__ import annotations

from koinon.encoding import to_hex
from koinon.epochs import epoch_change, verify_quorum
from koinon.errors import AuditFailure, BadSignature
from koinon.evidence import verify_equivocation
from koinon.records import CommitteeRecord, EpochHandedOver, ReplicaConvicted
from koinon.signing import signer_of
from koinon.wire import Checkpoint, Equivocation, Phase

from .chain import ChainFacts
from .evidence import Evidence
from .history import History
from .network import usable_chain
from .report import Report, Skipped

SIGNATURE_BYTES = 64


def check_committee(report: Report, evidence: Evidence, history: History) -> None:
    """One line for each handover and each conviction that the chain has, or one that says that there is none."""
    first = evidence.federation.epoch
    facts = evidence.chain
    later = [each for each in facts.committees if each.epoch > first] if facts is not None else []
    if not later:
        with report.check("handovers") as place:
            usable_chain(facts)
            place.say(f"the chain knows no epoch after {first}")
    for record in later:
        with report.check("handover") as place:
            event = _handed_over(usable_chain(facts), record.epoch)
            place.block, place.transaction = event.block, event.transaction
            place.say(_require_handover(evidence, history, record, event))
    convictions = [each for each in facts.events if isinstance(each, ReplicaConvicted)] if facts is not None else []
    if not convictions:
        with report.check("convictions") as place:
            usable_chain(facts)
            place.say("no replica was convicted")
    for conviction in convictions:
        with report.check("conviction") as place:
            place.block, place.transaction = conviction.block, conviction.transaction
            place.say(_require_conviction(evidence, history, usable_chain(facts), conviction))


def _handed_over(facts: ChainFacts, epoch: int) -> EpochHandedOver:
    found = [each for each in facts.events if isinstance(each, EpochHandedOver) and each.epoch == epoch]
    if len(found) != 1:
        raise AuditFailure(f"epoch {epoch} was installed without a certificate of the committee before it")
    return found[0]


def _require_handover(evidence: Evidence, history: History, record: CommitteeRecord, event: EpochHandedOver) -> str:
    """The log ends the epoch before at the event's checkpoint, names this committee, and a quorum signed that."""
    before, epoch = event.epoch - 1, event.epoch
    file, old = history.committees.get(epoch), history.committees.get(before)
    if file is None or old is None:
        if event.sequence > len(history.entries):
            raise Skipped(f"the log at hand ends at entry {len(history.entries)}, before entry {event.sequence}")
        raise AuditFailure(f"the chain has an epoch {epoch}, and the log does not lead to it")
    ended = max((entry.sequence for entry in history.entries if entry.epoch == before), default=0)
    if event.sequence != ended:
        raise AuditFailure(f"epoch {before} ends at entry {ended} of the log, at {event.sequence} on chain")
    if record.seats != file.seats:
        raise AuditFailure(f"the chain has another committee of epoch {epoch} than the change in the log names")
    following = epoch_change(epoch, file.seats).struct_hash()
    checkpoint = Checkpoint(epoch=before, sequence=event.sequence, state=event.state, next=following)
    signatures = [
        event.signatures[start : start + SIGNATURE_BYTES] for start in range(0, len(event.signatures), SIGNATURE_BYTES)
    ]
    members = old.replica_addresses
    verify_quorum(file.domain, members, checkpoint, signatures)
    named = [member for index, member in enumerate(members) if event.signers >> index & 1]
    if [signer_of(file.domain, checkpoint, each) for each in signatures] != named:
        raise BadSignature("the event names other signers than those who signed")
    return f"epoch {epoch}: {len(named)} members of epoch {before} signed, at log entry {event.sequence}"


def _require_conviction(evidence: Evidence, history: History, facts: ChainFacts, event: ReplicaConvicted) -> str:
    """The member that the event names signed both votes."""
    file, record = history.committees.get(event.epoch), facts.committee(event.epoch)
    if file is None and record is None:
        raise AuditFailure(
            f"replica {event.index} was convicted as a member of epoch {event.epoch}, which nobody knows"
        )
    members = file.replica_addresses if file is not None else record.addresses if record is not None else ()
    proof = Equivocation(
        index=event.index,
        first=event.first,
        first_signature=event.signatures[:SIGNATURE_BYTES],
        second=event.second,
        second_signature=event.signatures[SIGNATURE_BYTES:],
    )
    if verify_equivocation(evidence.federation.domain, members, proof) != event.member:
        raise AuditFailure(f"the event convicts {to_hex(event.member)}, who is not replica {event.index}")
    vote = event.first
    return (
        f"replica {event.index} of epoch {event.epoch} ({to_hex(event.member)}) signed two "
        f"{Phase(vote.phase).name.lower()} votes for view {vote.view}, entry {vote.sequence}"
    )
