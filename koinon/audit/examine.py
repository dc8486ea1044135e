"""The whole examination in its order: network, log, each task's rounds, credits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from koinon.encoding import to_hex
from koinon.errors import AuditFailure
from koinon.rounds.state import Task

from .committee import check_committee
from .evidence import Evidence
from .history import History, law_of
from .network import check_log, check_network
from .report import Line, Report
from .rewards import check_escrow, check_task
from .rounds import Examined, check_round, index_operations, mask_boards


@dataclass(frozen=True)
class Selection:
    """Which tasks (a name, or the first digits of an identity; "" for all) and rounds to report on, and whether to
    check opened sums against the nodes' own commitments as well."""

    task: str = ""
    first: int = 1
    last: int | None = None
    commitments: bool = False

    def wants(self, identity: bytes, task: Task) -> bool:
        wanted = self.task.removeprefix("0x").lower()
        return not wanted or task.spec.name == self.task or identity.hex().startswith(wanted)

    def covers(self, number: int) -> bool:
        return self.first <= number and (self.last is None or number <= self.last)


def examine(
    evidence: Evidence,
    history: History,
    selection: Selection | None = None,
    watch: Callable[[Line], None] | None = None,
) -> Report:
    """Make every check that the evidence allows. `history` is `replay` of its logs. Never raises for bad evidence."""
    chosen = selection or Selection()
    file = evidence.federation
    report = Report(federation=file.name, chain_id=file.chain_id, watch=watch)
    if evidence.chain is not None:
        report.chain_head = (evidence.chain.head.number, evidence.chain.head.hash)
    check_network(report, evidence)
    check_log(report, evidence, history)
    check_committee(report, evidence, history)
    tasks = law_of(history).state.tasks
    wanted = {identity: task for identity, task in tasks.items() if chosen.wants(identity, task)}
    if chosen.task and not wanted:
        with report.check("task"):
            known = ", ".join(f"{task.spec.name} ({to_hex(identity)[:10]})" for identity, task in tasks.items())
            raise AuditFailure(f"no task {chosen.task} is in the log (known: {known or 'none'})")
    for identity, task in wanted.items():
        _check_rounds(report, evidence, history, identity, task, chosen)
        check_task(report, evidence, identity, task)
    check_escrow(report, evidence)
    return report


def _check_rounds(
    report: Report, evidence: Evidence, history: History, identity: bytes, task: Task, chosen: Selection
) -> None:
    submitted, completed = index_operations(history, identity)
    boards = mask_boards(history, identity)
    parent = task.spec.initial_model
    paid: dict[bytes, int] = {}
    for round_ in task.rounds:
        if round_.certificate is None:
            continue
        for node in submitted.get(round_.number, {}):
            paid[node] = paid.get(node, 0) + task.spec.reward
        if chosen.covers(round_.number):
            check_round(
                report,
                Examined(
                    evidence=evidence,
                    federation=history.committees[round_.epoch],
                    identity=identity,
                    task=task,
                    round=round_,
                    certificate=round_.certificate,
                    parent=parent,
                    paid=dict(paid),
                    submitted=submitted.get(round_.number, {}),
                    completed=completed.get(round_.number),
                    board=boards.get(round_.number),
                ),
                commitments=chosen.commitments,
            )
        parent = round_.certificate.model
