"""The names of the law's rules, and how a refusal by one of them is raised, sent and read."""

from __future__ import annotations

from typing import NoReturn

from koinon.encoding import decode, digest, keccak
from koinon.errors import Rejected

from .operations import CreateTask, Outcome

RULES = {
    "malformed": "the operation's bytes are not an operation",
    "not-a-member": "the sender was never admitted, or its membership was revoked",
    "role": "the sender's role does not allow this operation",
    "admission": "an admission that is stale, for somebody else, or not signed by the registrar",
    "unknown-task": "no such task",
    "task-exists": "the same task from the same submitter exists",
    "task-over": "the task is completed, stopped or failed",
    "too-many-tasks": "the committee serves no more active tasks, or no more of this submitter",
    "unprovable": "no sound proof of the task's bound on the norm exists: the detail says why",
    "not-the-submitter": "only the submitter stops a task",
    "round-open": "the previous round is not certified or aborted yet",
    "unknown-round": "not the task's current round",
    "round-closed": "the round takes no more updates",
    "stale-model": "the operation starts from another model than the last certified one",
    "cohort": "the cohort is unsorted, too small, too large, or invites somebody who cannot train",
    "masks": "an announcement, confirmation or reveal of masks that is malformed, not signed, repeated, or too early",
    "not-invited": "the sender is not in the round's cohort",
    "duplicate-update": "one update a node and round",
    "examples": "the sample count is zero, or above what the node was admitted with or what counts in the round",
    "barred": "the node handed in a provably false update in an earlier round of this task",
    "fault": "fewer than f+1 valid signatures of replicas that say so, or a node that the round did not invite",
    "receipts": "fewer than 2f+1 valid receipts of distinct replicas for this update and sample count",
    "too-early": "the deadline has not passed and updates are missing",
    "certificate": "the certificate does not say what the round's records say",
    "quorum": "fewer than 2f+1 valid signatures of distinct replicas",
    "committee-change": "a committee that may not follow the present one, or not now",
    "evaluation": "an evaluation of a round that is not certified, or long over, by a stranger to it, or a second one",
}


def task_identity(submitter: bytes, operation: CreateTask) -> bytes:
    """32 bytes that name a task; the contract computes the same: keccak256(abi.encode(submitter, digest(spec)))."""
    return keccak(submitter.rjust(32, b"\0") + digest(operation.spec))


def refuse(rule: str, message: str) -> NoReturn:
    if rule not in RULES:
        raise KeyError(rule)
    raise Rejected(rule, message)


def decode_outcome(data: bytes) -> Outcome:
    """The outcome in a reply; raises Rejected when the law refused the operation."""
    outcome = decode(Outcome, data)
    if outcome.rule:
        raise Rejected(outcome.rule, outcome.detail, hint=RULES.get(outcome.rule))
    return outcome
