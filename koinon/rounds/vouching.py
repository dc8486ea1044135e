"""What a node of mode `masked` checks for itself, so that a committee that lies to it learns nothing.

Bonawitz et al. 2017 against active adversaries (figure 4, underlined parts; section 6.2): a public-key
infrastructure, and the consistency check. Here the registrar is the infrastructure: it signed who has which address
and sealing key. On its word, and on each node's own signature, a node believes

    who is invited, with which keys     the registrar's signatures of the admissions (`require_invited`)
    the others' masks                   their signatures of a MaskNotice, for this task, round, model, weights, cohort
    that all reveal for one set         signatures of t accepted nodes of the AcceptedSet that this node signed itself

and on nobody's word that anything else. An honest node signs one AcceptedSet a round. So with t = floor(2m / 3) + 1 of
m invited nodes of which c collude, two sets cannot both be signed by t nodes unless 2 (t - c) <= m - c: while
2t > m + c, which c <= m / 3 implies, all honest nodes reveal for the same set, and t - c of it are honest.

A copied mask key is harmless, unlike in the paper: what two nodes agree on is bound to their addresses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from koinon.encoding import Message, digest
from koinon.errors import BadSignature, Unproven
from koinon.privacy.masking import threshold, usable_key
from koinon.signing import Domain, recover, signing_digest
from koinon.wire import AcceptedSet, Admission, MaskAnnouncement, MaskNotice, Role, invited_digest

from .operations import TaskSpec
from .state import MaskBoard, Member, Round

MISTRUST = "more than f replicas lie, or another federation's file is in use: compare with others, run koinon-audit"


def mask_notice(task: bytes, round_: Round, cohort: bytes, said: MaskAnnouncement) -> MaskNotice:
    """What the announcing node signs; `cohort` is an `invited_digest`."""
    return MaskNotice(
        task=task,
        round=round_.number,
        epoch=round_.epoch,
        parent_model=round_.parent_model,
        examples_cap=round_.examples_cap,
        cohort=cohort,
        announcement=digest(said),
    )


def accepted_set(task: bytes, round_: Round, announced: bytes) -> AcceptedSet:
    """What the accepted nodes sign of a closed round's submissions, as they stand in `round_`; `announced` is an
    `announced_digest`."""
    return AcceptedSet(
        task=task,
        round=round_.number,
        epoch=round_.epoch,
        announced=announced,
        updates_root=round_.rebuilt_updates_root(task),
    )


def require_signed(domain: Domain, message: Message, signature: bytes, signer: bytes, what: str) -> None:
    """Unproven, naming `signer`, unless it signed `message`."""
    try:
        found = recover(signing_digest(domain, message), signature)
    except BadSignature as error:
        raise Unproven(f"{what} bears no signature: {error.message}", hint=MISTRUST) from None
    if found != signer:
        raise Unproven(f"{what} was signed by 0x{found.hex()}", hint=MISTRUST)


def require_invited(
    domain: Domain, registrar: bytes, spec: TaskSpec, round_: Round, members: Mapping[bytes, Member], node: bytes
) -> tuple[Admission, ...]:
    """The admissions of the cohort, ascending; Unproven unless the registrar signed each, `node` is one of them, and
    they are as many as the task wants."""
    cohort = round_.cohort
    if list(cohort) != sorted(set(cohort)) or node not in cohort:
        raise Unproven(f"the cohort of round {round_.number} is no list of nodes with this one in it", hint=MISTRUST)
    if not spec.cohort_min <= len(cohort) <= spec.cohort_max:
        raise Unproven(
            f"{len(cohort)} nodes are invited to round {round_.number}, the task wants "
            f"{spec.cohort_min} to {spec.cohort_max}",
            hint=MISTRUST,
        )
    found = []
    for each in cohort:
        member, name = members.get(each), f"0x{each.hex()}"
        if member is None:
            raise Unproven(f"node {name} is invited to round {round_.number} without an admission", hint=MISTRUST)
        admission = member.admission(each)
        require_signed(domain, admission, member.signature, registrar, f"the admission of node {name}")
        if not (admission.roles & Role.NODE and admission.examples_max):
            raise Unproven(f"{name} is invited to round {round_.number} and was not admitted as a node", hint=MISTRUST)
        found.append(admission)
    return tuple(found)


def require_announced(
    domain: Domain, task: bytes, round_: Round, cohort: bytes, board: MaskBoard
) -> dict[bytes, MaskAnnouncement]:
    """The announcements of a round, by node, ascending; Unproven unless each was made by its node for this round as it
    is shown here (a MaskNotice) and this cohort (an `invited_digest`), and they are enough."""
    found = {}
    for node, said in sorted(board.announced.items()):
        name = f"the announcement of node 0x{node.hex()} for round {round_.number}"
        if node not in round_.cohort or len(said.shares) != len(round_.cohort) or not usable_key(said.public_key):
            raise Unproven(f"{name} fits no invited node, or not this cohort", hint=MISTRUST)
        notice = mask_notice(task, round_, cohort, said)
        require_signed(domain, notice, board.signatures.get(node, b""), node, name)
        found[node] = said
    if len(found) < threshold(len(round_.cohort)):
        raise Unproven(
            f"{len(found)} nodes announced masks for round {round_.number}, "
            f"{threshold(len(round_.cohort))} are needed to go on",
            hint=MISTRUST,
        )
    return found


def require_acceptable(spec: TaskSpec, round_: Round, announced: Mapping[bytes, MaskAnnouncement]) -> None:
    """Unproven unless the accepted set consists of announcers, enough of them for masks and task."""
    accepted = set(round_.submissions)
    if strangers := accepted - set(announced):
        named = ", ".join(f"0x{each.hex()}" for each in sorted(strangers))
        raise Unproven(f"accepted in round {round_.number} without masks that this node knows: {named}", hint=MISTRUST)
    needed = max(spec.cohort_min, threshold(len(round_.cohort)))
    if len(accepted) < needed:
        raise Unproven(
            f"round {round_.number} was closed with {len(accepted)} updates, {needed} are needed", hint=MISTRUST
        )


def require_confirmed(domain: Domain, said: AcceptedSet, round_: Round) -> None:
    """Unproven unless t accepted nodes signed `said`, and none of those shown signed anything else."""
    for node, signature in sorted(round_.confirmed.items()):
        name = f"the confirmation of node 0x{node.hex()} for round {round_.number}"
        if node not in round_.submissions:
            raise Unproven(f"{name} is of a node that has no accepted update", hint=MISTRUST)
        require_signed(domain, said, signature, node, name)
    if not round_.agreed:
        needed = threshold(len(round_.cohort))
        raise Unproven(
            f"{len(round_.confirmed)} nodes confirmed the accepted set of round {round_.number}, {needed} are needed"
        )


def cohort_digest(members: Mapping[bytes, Member], cohort: Sequence[bytes]) -> bytes:
    """The `invited_digest` of the members that are invited (ascending)."""
    return invited_digest(members[each].admission(each) for each in cohort)
