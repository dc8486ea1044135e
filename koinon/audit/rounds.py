"""The checks of one certified round: from the signed updates to the model that everybody adopted.

All is recomputed: the Merkle root from the updates in the log, the aggregate from the component sums, the next model
from the aggregate (koinon.opening), the rewards from who took part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from koinon.config import FederationFile
from koinon.encoding import ZERO_DIGEST, decode, digest, to_hex
from koinon.errors import AuditFailure, BadSignature
from koinon.learning.parameters import Parameters, from_blob
from koinon.merkle import root, update_leaf
from koinon.opening import (
    UPDATE_BYTES_MAX,
    ClosedRound,
    component_digests,
    last_step,
    next_model,
    public_part,
    require_committed,
    verify_opening,
)
from koinon.privacy.mode import Values
from koinon.quantising import privacy_spent
from koinon.rounds.operations import MILLION, AnnounceMasks, CompleteRound, RevealShares, SubmitUpdate
from koinon.rounds.state import MaskBoard, Round, Task, rewards_root
from koinon.signing import recover, signing_digest
from koinon.wire import Opening, Receipt, RoundCertificate, SignedReceipt

from .evidence import Evidence
from .history import Executed, History
from .network import usable_chain
from .report import Report, Skipped


@dataclass(frozen=True)
class Examined:
    """One certified round under examination. `parent` and `paid` are what the rounds before it left behind;
    `federation` is as it stood in the round's epoch."""

    evidence: Evidence
    federation: FederationFile
    identity: bytes
    task: Task
    round: Round
    certificate: RoundCertificate
    parent: bytes
    paid: dict[bytes, int]
    submitted: dict[bytes, Executed]
    completed: Executed | None
    board: MaskBoard | None

    @property
    def closed(self) -> ClosedRound:
        return ClosedRound(self.federation, self.identity, self.task.spec, self.round, self.board)


def index_operations(history: History, identity: bytes) -> tuple[dict[int, dict[bytes, Executed]], dict[int, Executed]]:
    """The effective SubmitUpdates (round -> node -> where) and CompleteRounds (round -> where) of one task."""
    submitted: dict[int, dict[bytes, Executed]] = {}
    completed: dict[int, Executed] = {}
    for each in history.executed:
        match each.operation:
            case SubmitUpdate(task=task, round=number) if task == identity:
                submitted.setdefault(number, {})[each.sender] = each
            case CompleteRound(certificate=certificate) if certificate.task == identity:
                completed[certificate.round] = each
    return submitted, completed


def mask_boards(history: History, identity: bytes) -> dict[int, MaskBoard]:
    """What nodes announced and revealed in mode `masked`, by round: the law forgets it when a round is over."""
    boards: dict[int, MaskBoard] = {}
    for each in history.executed:
        match each.operation:
            case AnnounceMasks(task=task, round=number, announcement=said) if task == identity:
                boards.setdefault(number, MaskBoard()).announced[each.sender] = said
            case RevealShares(task=task, round=number, reveal=said) if task == identity:
                boards.setdefault(number, MaskBoard()).revealed[each.sender] = said
    return boards


def check_round(report: Report, examined: Examined, *, commitments: bool = False) -> None:
    """All checks of one round, one line each; with `commitments`, also those that need nobody's honesty."""
    where = {"task": examined.identity, "round": examined.round.number}
    with report.check("updates", **where) as place:  # type: ignore[arg-type]
        _require_updates(examined)
        place.say(
            f"{len(examined.round.submissions)} of {len(examined.round.cohort)} invited nodes, signed, with receipts; "
            "Merkle root rebuilt"
        )
    with report.check("update blobs", **where) as place:  # type: ignore[arg-type]
        publics = _publics(examined)
        place.say(f"{len(publics)} blobs fit their digests, tasks, rounds, nodes and claims")
    with report.check("certificate", **where) as place:  # type: ignore[arg-type]
        place.say(_require_certificate(examined))
    with report.check("certificate on chain", **where) as place:  # type: ignore[arg-type]
        event = _require_anchored(examined)
        place.block, place.transaction = event
        place.say("the chain verified and holds the log's certificate")
    with report.check("aggregate", **where) as place:  # type: ignore[arg-type]
        place.say(_require_aggregate(examined))
    if commitments:
        with report.check("commitments", **where) as place:  # type: ignore[arg-type]
            place.say(_require_committed(examined))
    spent = privacy_spent(examined.task.spec, {len(examined.round.submissions): 1})
    if spent is not None:
        with report.check("privacy", **where) as place:  # type: ignore[arg-type]
            place.say(f"epsilon {spent:.2f} at delta {examined.task.spec.delta / MILLION:g} for a node of this round")
    with report.check("lineage", **where) as place:  # type: ignore[arg-type]
        _require_lineage(examined)
        place.say(f"starts from model {to_hex(examined.parent)[:18]}")
    with report.check("rewards", **where) as place:  # type: ignore[arg-type]
        place.say(_require_rewards(examined))


def _require_updates(examined: Examined) -> None:
    round_, identity, federation = examined.round, examined.identity, examined.federation
    for node, kept in sorted(round_.submissions.items()):
        found = examined.submitted.get(node)
        if found is None or not isinstance(found.operation, SubmitUpdate):
            raise AuditFailure(f"node {to_hex(node)}: no signed submission is in the log")
        said = found.operation
        for name, recorded in (("update", kept.update), ("examples", kept.examples)):
            if getattr(said, name) != recorded:
                raise AuditFailure(f"node {to_hex(node)}: {name} of log entry {found.sequence} is not the record's")
        receipt = Receipt(task=identity, round=round_.number, node=node, update=kept.update, examples=kept.examples)
        try:
            _require_signatures(signing_digest(federation.domain, receipt), said.receipts, federation.replica_addresses)
        except BadSignature as error:
            raise AuditFailure(f"node {to_hex(node)}, receipts: {error.message}") from None
    leaves = [
        update_leaf(identity, round_.number, node, kept.update, kept.examples)
        for node, kept in sorted(round_.submissions.items())
    ]
    if root(leaves) != examined.certificate.updates_root:
        raise AuditFailure(
            f"the updates in the log have the Merkle root {to_hex(root(leaves))}, "
            f"updates_root of the certificate is {to_hex(examined.certificate.updates_root)}"
        )


def _require_signatures(what: bytes, signatures: tuple[SignedReceipt, ...], members: tuple[bytes, ...]) -> None:
    """BadSignature unless a quorum of distinct `members` signed the digest `what`."""
    quorum = len(members) - (len(members) - 1) // 3
    for each in signatures:
        if each.replica >= len(members) or recover(what, each.signature) != members[each.replica]:
            raise BadSignature(f"the signature of replica {each.replica} is not its own")
    distinct = {each.replica for each in signatures}
    if len(distinct) < quorum:
        raise BadSignature(f"{len(distinct)} replicas signed, {quorum} are needed")


def _publics(examined: Examined) -> dict[bytes, bytes]:
    publics = {}
    for node, kept in sorted(examined.round.submissions.items()):
        blob = examined.evidence.blob(kept.update, f"update of node {to_hex(node)}")
        publics[node] = public_part(examined.closed, node, blob)
    return publics


def _require_certificate(examined: Examined) -> str:
    """2f+1 signatures of the committee that the chain knows (that the log leads to when the chain is not at hand)."""
    certificate, evidence = examined.certificate, examined.evidence
    members, source = examined.federation.replica_addresses, "the log"
    if evidence.chain is not None and (record := evidence.chain.committee(certificate.epoch)) is not None:
        members, source = record.addresses, "the chain"
    _require_signatures(signing_digest(evidence.federation.domain, certificate), examined.round.signatures, members)
    if certificate.participants != len(examined.round.submissions):
        raise AuditFailure(f"participants of the certificate is {certificate.participants}, in the log they are "
                           f"{len(examined.round.submissions)}")  # fmt: skip
    entry = f", log entry {examined.completed.sequence}" if examined.completed else ""
    return f"{len(examined.round.signatures)} signatures of the committee that {source} knows{entry}"


def _require_anchored(examined: Examined) -> tuple[int, bytes]:
    """Where the chain holds exactly this certificate: (block, transaction)."""
    facts, certificate = usable_chain(examined.evidence.chain), examined.certificate
    events = facts.committed(examined.identity, certificate.round)
    known = facts.task(examined.identity)
    if not events and known is not None and known.last_committed < certificate.round:
        raise Skipped(f"not on chain yet: it holds rounds up to {known.last_committed}")
    if len(events) != 1:
        raise AuditFailure(f"the chain has {len(events)} RoundCommitted events of this round")
    event = events[0]
    for name in certificate.__struct_fields__:
        if getattr(event.certificate, name) != getattr(certificate, name):
            raise AuditFailure(f"{name} of the certificate on chain differs from the log's (block {event.block})")
    record = facts.round(examined.identity, certificate.round)
    if record is None or record.certificate != certificate.struct_hash():
        raise AuditFailure("the contract's storage holds another certificate than its event")
    for name in ("model", "updates_root", "rewards_root", "epoch"):
        if getattr(record, name) != getattr(certificate, name):
            raise AuditFailure(f"{name} in the contract's storage differs from the certificate")
    anchor = facts.anchor((examined.identity, certificate.round))
    if anchor is not None:
        signatures = tuple(SignedReceipt(replica=index, signature=each) for index, each in anchor.signatures)
        what = signing_digest(examined.evidence.federation.domain, certificate)
        _require_signatures(what, signatures, anchor.members)
        committee = facts.committee(certificate.epoch)
        if committee is None or committee.addresses != anchor.members:
            raise AuditFailure("the transaction names other members than the epoch's")
    return event.block, event.transaction


def _require_committed(examined: Examined) -> str:
    """The opened sum is what the nodes' own commitments add up to: no replica is believed for that."""
    if not examined.task.spec.commit:
        raise Skipped("the task asks its nodes for no commitments (commit = true in its file)")
    updates = {
        node: examined.evidence.blob(kept.update, f"update of node {to_hex(node)}")
        for node, kept in sorted(examined.round.submissions.items())
    }
    total, _ = _opened(examined)
    require_committed(examined.closed, updates, total)
    return f"the sum opens the product of {len(updates)} commitments"


def _opened(examined: Examined) -> tuple[Values, int]:
    """The opened sum from the evidence, and of how many component sums."""
    evidence, certificate = examined.evidence, examined.certificate
    blob = evidence.blob(certificate.opening, "opening")
    opening = decode(Opening, blob, bytes_max=UPDATE_BYTES_MAX)
    components = {
        each: evidence.blob(each, "component sum")
        for each in component_digests(opening)
        if each in evidence.blobs and (evidence.blobs[each].content is not None or evidence.blobs[each].false)
    }
    witness = b"" if opening.witness == ZERO_DIGEST else evidence.blob(opening.witness, "witness of the opening")
    closed = examined.closed
    if closed.wants_direction:
        previous = from_blob(evidence.blob(closed.round.previous, "model before the parent"))
        closed = replace(closed, direction=last_step(_parent(examined), previous))
    return verify_opening(closed, opening, _publics(examined), components, witness), len(components)


def _parent(examined: Examined) -> Parameters:
    return from_blob(examined.evidence.blob(examined.round.parent_model, "parent model"))


def _require_aggregate(examined: Examined) -> str:
    """Open the sum again from the component sums, and derive the certified model from it, bit for bit."""
    evidence, certificate = examined.evidence, examined.certificate
    total, components = _opened(examined)
    parent = _parent(examined)
    model = next_model(examined.task.spec, examined.round, parent, total)
    if digest(model) != certificate.model:
        raise AuditFailure(
            f"the updates sum up to model {to_hex(digest(model))}, "
            f"model of the certificate is {to_hex(certificate.model)}"
        )
    if evidence.blob(certificate.model, "model") != model.blob():
        raise AuditFailure("the model blob differs from the recomputed model")
    proved = f"; {len(examined.round.submissions)} norms proved" if examined.task.spec.norm else ""
    recomputed = f"model {to_hex(certificate.model)[:18]} recomputed bit for bit"
    return f"{components} component sums opened{proved}; {recomputed}"


def _require_lineage(examined: Examined) -> None:
    said = {"parent_model of the certificate": examined.certificate.parent_model,
            "parent model of the round": examined.round.parent_model}  # fmt: skip
    for name, model in said.items():
        if model != examined.parent:
            raise AuditFailure(
                f"{name} is {to_hex(model)}, the last certified model before it is {to_hex(examined.parent)}"
            )


def _require_rewards(examined: Examined) -> str:
    """Cumulative rewards rebuilt from who took part; `paid` already counts this round."""
    certificate, total = examined.certificate, sum(examined.paid.values())
    if rewards_root(examined.identity, examined.paid) != certificate.rewards_root:
        raise AuditFailure(
            f"rewards_root of the certificate is {to_hex(certificate.rewards_root)}, "
            f"taking part earned {to_hex(rewards_root(examined.identity, examined.paid))}"
        )
    if certificate.rewards_total != total:
        raise AuditFailure(f"rewards_total of the certificate is {certificate.rewards_total}, earned were {total}")
    return f"{total} credits earned so far by {len(examined.paid)} nodes"
