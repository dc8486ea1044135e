"""The checks of a task as a whole: what the chain says of it, and where the credits are."""

from __future__ import annotations

from koinon.encoding import digest, to_hex
from koinon.errors import AuditFailure
from koinon.quantising import privacy_spent
from koinon.records import BudgetEscrowed, BudgetReleased, RewardClaimed
from koinon.rounds.operations import MILLION, CreateTask
from koinon.rounds.rules import task_identity
from koinon.rounds.state import Task

from .chain import ChainFacts
from .evidence import Evidence
from .network import usable_chain
from .report import Report


def check_task(report: Report, evidence: Evidence, identity: bytes, task: Task) -> None:
    """The task on chain is the log's, its last model is the last certified one, claims are covered."""
    with report.check("task on chain", task=identity) as place:
        facts = usable_chain(evidence.chain)
        _require_task(facts, identity, task)
        place.say(f"{task.spec.name}: spec, submitter and newest model are the log's; {task.certified} rounds")
    with report.check("claims", task=identity) as place:
        facts = usable_chain(evidence.chain)
        place.say(_require_claims(facts, identity, task))
    spent = privacy_spent(task.spec, task.opened)
    if spent is not None:
        with report.check("privacy budget", task=identity) as place:
            rounds = sum(task.opened.values())
            place.say(f"epsilon {spent:.2f} at delta {task.spec.delta / MILLION:g} for a node of all {rounds} rounds")


def _require_task(facts: ChainFacts, identity: bytes, task: Task) -> None:
    if task_identity(task.submitter, CreateTask(spec=task.spec)) != identity:
        raise AuditFailure("the task's identity is not that of its spec and submitter")
    record = facts.task(identity)
    if record is None:
        raise AuditFailure("the chain does not know the task")
    if record.submitter != task.submitter:
        raise AuditFailure(f"submitter is {to_hex(record.submitter)} on chain, {to_hex(task.submitter)} in the log")
    if record.spec != digest(task.spec):
        raise AuditFailure("spec on chain is not the digest of the log's spec")
    models = {each.certificate.round: each.certificate.model for each in task.rounds if each.certificate}
    models[0] = task.spec.initial_model
    if record.last_committed not in models:
        raise AuditFailure(f"the chain's last round {record.last_committed} is not certified in the log")
    if record.model != models[record.last_committed]:
        raise AuditFailure(
            f"newest model on chain is {to_hex(record.model)}, "
            f"round {record.last_committed} certified {to_hex(models[record.last_committed])}"
        )


def _require_claims(facts: ChainFacts, identity: bytes, task: Task) -> str:
    """What each account claimed is what its events say, and no more than it earned."""
    by_events: dict[bytes, int] = {}
    for event in facts.events:
        if isinstance(event, RewardClaimed) and event.task == identity:
            by_events[event.account] = by_events.get(event.account, 0) + event.amount
            if event.cumulative != by_events[event.account]:
                raise AuditFailure(f"claims of {to_hex(event.account)} up to block {event.block} do not add up")
    held = {each.account: each.amount for each in facts.claims if each.task == identity}
    for account in sorted(set(by_events) | set(held)):
        if by_events.get(account, 0) != held.get(account, 0):
            raise AuditFailure(f"claimed of {to_hex(account)} is {held.get(account, 0)} in the contract, "
                               f"{by_events.get(account, 0)} by its events")  # fmt: skip
        if by_events[account] > task.rewards.get(account, 0):
            raise AuditFailure(
                f"{to_hex(account)} claimed {by_events[account]} and earned {task.rewards.get(account, 0)}"
            )
    record = facts.task(identity)
    if record is not None and sum(task.rewards.values()) > record.budget:
        raise AuditFailure(f"rewards of {sum(task.rewards.values())} exceed the budget of {record.budget}")
    return f"{sum(by_events.values())} of {sum(task.rewards.values())} earned credits are claimed"


def check_escrow(report: Report, evidence: Evidence) -> None:
    """The Rewards contract holds what all tasks escrowed, less what was claimed and returned."""
    with report.check("escrow") as place:
        facts = usable_chain(evidence.chain)
        escrowed = sum(each.amount for each in facts.events if isinstance(each, BudgetEscrowed))
        claimed = sum(each.amount for each in facts.events if isinstance(each, RewardClaimed))
        released = sum(each.amount for each in facts.events if isinstance(each, BudgetReleased))
        owed = escrowed - claimed - released
        place.block = facts.head.number
        if facts.escrow < owed:
            raise AuditFailure(f"the contract holds {facts.escrow} credits and owes {owed}")
        if facts.escrow > owed:
            place.say(f"{facts.escrow} credits held, {owed} owed (somebody gave {facts.escrow - owed} away)")
        else:
            place.say(f"{escrowed} escrowed − {claimed} claimed − {released} returned = {facts.escrow} held")
