"""The rule book: each operation is checked in full, then changes the state.

Deterministic: the only inputs are the state, the genesis, the operation, its sender and the agreed time. A
broken rule raises `Rejected` before anything changed; `Federation.execute` turns that into an `Outcome`, counts
it, and goes on.
"""

from __future__ import annotations

import msgspec

from koinon.encoding import UNREADABLE, encode, keccak
from koinon.errors import Malformed, Rejected
from koinon.wire import Receipt, Role, RoundCertificate

from . import masks
from .membership import MembershipLaw
from .operations import (
    AnnounceMasks,
    ChangeCommittee,
    CloseRound,
    CompleteRound,
    ConfirmSet,
    CreateTask,
    Enrol,
    OpenRound,
    Operation,
    Outcome,
    ReportEvaluation,
    ReportFault,
    RevealShares,
    Revoke,
    StopTask,
    SubmitUpdate,
    decode_operation,
)
from .rules import refuse, task_identity
from .state import OPEN_PHASES, Round, State, Submission, Task, rewards_root
from .validity import bar, is_complete, previous_model, require_provable

TASKS_ACTIVE_MAX = 64
TASKS_ACTIVE_PER_SUBMITTER_MAX = 16
"""One member must not take all the places."""
TASKS_KEPT_MAX = 1024
"""Beyond, the oldest finished task leaves the state (the ordered log keeps it): a snapshot stays bounded."""

ABORTED_ROUNDS_MAX = 3
"""So many rounds in a row without a quorum of updates end a task: it cannot be reached."""
EVALUATION_WEIGHT_MAX = 2**23
"""The most samples that one report counts for: COHORT_MAX reports of the largest loss then sum to less than 2^63, and
a sum that no longer encodes would stop every replica at its next checkpoint."""


class Federation(MembershipLaw):
    """The replicated application: the state under the law. With `keeps_all_rounds` (audits) outcomes are the same."""

    keeps_all_rounds = False

    # --- what the ordered log asks ---------------------------------------------------------------------------

    def execute(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        """Apply one ordered operation and answer with the bytes of an `Outcome`; never raises on bad input."""
        self.state.time_ms = max(self.state.time_ms, time_ms)
        try:
            outcome = self.apply(sender, decode_operation(operation))
            masks.forget_over(self.state)
            return encode(outcome)
        except Malformed as error:
            return self._refused("malformed", error.message)
        except Rejected as error:  # kept in a local variable it would be a cycle with its own frame
            return self._refused(error.rule, error.message)

    def _refused(self, rule: str, detail: str) -> bytes:
        self.state.refusals[rule] = self.state.refusals.get(rule, 0) + 1
        return encode(Outcome(rule=rule, detail=detail[:1024]))

    def root(self) -> bytes:
        return keccak(self.snapshot())

    def snapshot(self) -> bytes:
        return encode(self.state)

    def restore(self, snapshot: bytes) -> None:
        try:
            self.state = msgspec.msgpack.decode(snapshot, type=State)
        except UNREADABLE as error:
            raise Malformed(f"not a snapshot of the federation: {error}") from None

    # --- the rules -------------------------------------------------------------------------------------------

    def apply(self, sender: bytes, operation: Operation) -> Outcome:
        """Check and apply; raises Rejected and leaves the state alone when a rule is broken."""
        match operation:
            case Enrol():
                return self._enrol(sender, operation)
            case Revoke():
                return self._revoke(operation)
            case StopTask() if sender == self.genesis.registrar:
                return self._stop_task(sender, operation)
            case ChangeCommittee():
                return self._change_committee(sender, operation)
        self._require_member(sender)
        match operation:
            case CreateTask():
                return self._create_task(sender, operation)
            case StopTask():
                return self._stop_task(sender, operation)
            case OpenRound():
                return self._open_round(sender, operation)
            case SubmitUpdate():
                return self._submit_update(sender, operation)
            case ReportFault():
                return self._report_fault(operation)
            case CloseRound():
                return self._close_round(operation)
            case CompleteRound():
                return self._complete_round(operation)
            case ReportEvaluation():
                return self._report_evaluation(sender, operation)
            case AnnounceMasks() | ConfirmSet() | RevealShares():
                return self._mask(sender, operation)

    def _create_task(self, sender: bytes, operation: CreateTask) -> Outcome:
        identity = task_identity(sender, operation)
        if identity in self.state.tasks:
            refuse("task-exists", "the same task exists: change its name to run it again")
        masks.require_fits(operation.spec)
        active = sum(task.status == "active" for task in self.state.tasks.values())
        if active >= TASKS_ACTIVE_MAX:
            refuse("too-many-tasks", f"{active} tasks are active")
        theirs = sum(task.status == "active" and task.submitter == sender for task in self.state.tasks.values())
        if theirs >= TASKS_ACTIVE_PER_SUBMITTER_MAX:
            refuse("too-many-tasks", f"{theirs} tasks of this submitter are active")
        require_provable(operation.spec, len(self.committee))
        if len(self.state.tasks) >= TASKS_KEPT_MAX:
            del self.state.tasks[next(each for each, task in self.state.tasks.items() if task.status != "active")]
        self.state.tasks[identity] = Task(
            spec=operation.spec,
            submitter=sender,
            created_ms=self.state.time_ms,
            status="active",
            model=operation.spec.initial_model,
        )
        return Outcome(subject=identity)

    def _stop_task(self, sender: bytes, operation: StopTask) -> Outcome:
        task = self._active_task(operation.task)
        if sender not in (task.submitter, self.genesis.registrar):
            refuse("not-the-submitter", "only the submitter stops a task")
        self._finish(task, "stopped", "stopped by its submitter")
        return Outcome()

    def _open_round(self, sender: bytes, operation: OpenRound) -> Outcome:
        self._require_role(sender, Role.AGGREGATOR)
        task, spec = self._active_task(operation.task), self._active_task(operation.task).spec
        last = task.current()
        if last is not None and last.phase in OPEN_PHASES:
            refuse("round-open", f"round {last.number} is {last.phase}")
        if operation.round != (last.number if last else 0) + 1:
            refuse("unknown-round", f"the next round is {(last.number if last else 0) + 1}")
        if operation.parent_model != task.model:
            refuse("stale-model", "the round does not start from the last certified model")
        cohort = operation.cohort
        if list(cohort) != sorted(set(cohort)) or not spec.cohort_min <= len(cohort) <= spec.cohort_max:
            refuse("cohort", f"a cohort is ascending and has {spec.cohort_min}..{spec.cohort_max} nodes")
        members = [self.state.members.get(node) for node in cohort]
        for node, member in zip(cohort, members, strict=True):
            if member is None or not member.active or not member.roles & Role.NODE or not member.examples_max:
                refuse("cohort", f"0x{node.hex()} is not an active node")
            if node in task.barred:
                refuse("barred", f"0x{node.hex()} handed in a false update in round {task.barred[node]}")
        require_provable(spec, len(self.committee))  # which may have grown
        task.rounds.append(
            Round(
                number=operation.round,
                phase=masks.first_phase(self.state, operation.task, task, cohort),
                parent_model=operation.parent_model,
                cohort=cohort,
                examples_cap=max(member.examples_max for member in members if member),
                opened_ms=self.state.time_ms,
                deadline_ms=self.state.time_ms + spec.round_ms,
                epoch=self.epoch,
                previous=previous_model(task),
            )
        )
        if not self.keeps_all_rounds:
            task.forget_old_rounds()
        task.version += 1
        return Outcome()

    def _submit_update(self, sender: bytes, operation: SubmitUpdate) -> Outcome:
        self._require_role(sender, Role.NODE)
        task = self._active_task(operation.task)
        round_ = self._current_round(task, operation.round)
        if sender not in round_.cohort:
            refuse("not-invited", f"0x{sender.hex()} is not in the cohort of round {round_.number}")
        if sender in task.barred:
            refuse("barred", f"0x{sender.hex()} handed in a false update in round {task.barred[sender]}")
        if sender in round_.submissions:
            refuse("duplicate-update", f"an update for round {round_.number} is already there")
        if round_.phase != "training" or self.state.time_ms > round_.deadline_ms:
            refuse("round-closed", f"round {round_.number} takes no more updates")
        if task.spec.mode == masks.MODE and sender not in round_.announced:
            refuse("masks", f"0x{sender.hex()} announced no masks for round {round_.number}")
        if operation.parent_model != round_.parent_model:
            refuse("stale-model", "the update was trained from another model")
        most = min(self.state.members[sender].examples_max, round_.examples_cap)
        if not 0 < operation.examples <= most:
            refuse("examples", f"a sample count lies in 1..{most}")
        receipt = Receipt(
            task=operation.task,
            round=operation.round,
            node=sender,
            update=operation.update,
            examples=operation.examples,
        )
        self._require_quorum("receipts", receipt, operation.receipts)
        round_.submissions[sender] = Submission(
            update=operation.update,
            examples=operation.examples,
            loss=operation.loss,
            time_ms=self.state.time_ms,
            holders=tuple(each.replica for each in operation.receipts),
        )
        task.version += 1
        self._fix_if_complete(operation.task, task, round_)
        return Outcome()

    def _report_fault(self, operation: ReportFault) -> Outcome:
        fault = operation.fault
        task = self._active_task(fault.task)
        round_ = self._current_round(task, fault.round)
        self._require_one_honest("fault", fault, operation.signatures)
        bar(task, round_, fault, self.epoch)
        self._fix_if_complete(fault.task, task, round_)
        return Outcome()

    def _close_round(self, operation: CloseRound) -> Outcome:
        task = self._active_task(operation.task)
        round_ = self._current_round(task, operation.round)
        if round_.phase == "announcing":
            enough = masks.end_announcing(self.state, operation.task, round_)
            task.version += 1
            return Outcome() if enough else self._abort_round(task, round_)
        if round_.phase not in ("training", "closed"):
            refuse("round-closed", f"round {round_.number} is {round_.phase}")
        deadline_ms = round_.deadline_ms if round_.phase == "training" else task.opening_deadline_ms(round_)
        if self.state.time_ms <= deadline_ms:
            refuse("too-early", f"{deadline_ms - self.state.time_ms} ms to the deadline")
        task.version += 1
        if round_.phase == "closed":  # nobody opened it in all that time
            return self._abort_round(task, round_)
        if len(round_.submissions) >= masks.updates_needed(task, round_):
            self._fix_accepted(operation.task, round_)
            return Outcome()
        return self._abort_round(task, round_)

    def _abort_round(self, task: Task, round_: Round) -> Outcome:
        round_.phase, round_.closed_ms = "aborted", self.state.time_ms
        task.aborted_in_a_row += 1
        if task.aborted_in_a_row >= ABORTED_ROUNDS_MAX:
            reason = "had too few updates, or could not be opened"
            self._finish(task, "failed", f"{ABORTED_ROUNDS_MAX} rounds in a row {reason}")
        return Outcome()

    def _complete_round(self, operation: CompleteRound) -> Outcome:
        task = self._active_task(operation.certificate.task)
        round_ = self._current_round(task, operation.certificate.round)
        if round_.phase != "closed":
            refuse("round-closed", f"round {round_.number} is {round_.phase}")
        self.require_certificate_fits(operation.certificate)
        self._require_quorum("quorum", operation.certificate, operation.signatures)
        round_.phase, round_.certified_ms = "certified", self.state.time_ms
        round_.certificate, round_.signatures = operation.certificate, operation.signatures
        task.rewards = task.rewards_after(round_)
        task.model = operation.certificate.model
        task.certified += 1
        task.aborted_in_a_row = 0
        task.version += 1
        if task.certified == task.spec.rounds:
            self._finish(task, "completed", "")
        return Outcome()

    def _report_evaluation(self, sender: bytes, operation: ReportEvaluation) -> Outcome:
        task = self._task(operation.task)
        round_ = task.round(operation.round)
        if round_ is None or round_.phase != "certified" or not task.remembers(operation.round):
            refuse("evaluation", f"round {operation.round} is not certified")
        seen = round_.evaluation
        if sender not in round_.cohort or sender in seen.reporters:
            refuse("evaluation", "one evaluation for each node of the cohort")
        if not 0 < operation.examples <= self.state.members[sender].examples_max:
            refuse("examples", f"a sample count lies in 1..{self.state.members[sender].examples_max}")
        if not 0 <= operation.accuracy <= 1_000_000 or not 0 <= operation.loss <= 1_000_000_000:
            refuse("evaluation", "accuracy lies in 0..1 and loss in 0..1000 (both in millionths)")
        seen.reporters.append(sender)
        weight = min(operation.examples, EVALUATION_WEIGHT_MAX)
        seen.examples += weight
        seen.loss_sum += operation.loss * weight
        seen.accuracy_sum += operation.accuracy * weight
        task.version += 1
        return Outcome()

    def _mask(self, sender: bytes, operation: AnnounceMasks | ConfirmSet | RevealShares) -> Outcome:
        self._require_role(sender, Role.NODE)
        task = self._active_task(operation.task)
        round_ = self._current_round(task, operation.round)
        match operation:
            case AnnounceMasks():
                masks.announce(self.state, self.domain, task, round_, sender, operation)
            case ConfirmSet():
                masks.confirm(self.state, self.domain, task, round_, sender, operation)
            case RevealShares():
                masks.reveal(self.state, task, round_, sender, operation)
        return Outcome()

    # --- helpers ---------------------------------------------------------------------------------------------

    def require_certificate_fits(self, certificate: RoundCertificate) -> None:
        """Rejected unless all but `model` and `opening` follow from the records of the closed round."""
        task = self._active_task(certificate.task)
        round_ = self._current_round(task, certificate.round)
        rewards = task.rewards_after(round_)
        expected = {
            "epoch": round_.epoch,
            "parent_model": round_.parent_model,
            "updates_root": round_.updates_root,
            "rewards_root": rewards_root(certificate.task, rewards),
            "rewards_total": sum(rewards.values()),
            "participants": len(round_.submissions),
        }
        for name, value in expected.items():
            if getattr(certificate, name) != value:
                refuse("certificate", f"{name} of the certificate differs from the round's records")

    def draft_certificate(self, task: bytes, number: int, *, model: bytes, opening: bytes) -> RoundCertificate:
        """The certificate that the records of a closed round call for, given what its opening yielded."""
        kept = self._active_task(task)
        round_ = self._current_round(kept, number)
        if round_.phase != "closed":
            refuse("round-closed", f"round {number} is {round_.phase}")
        rewards = kept.rewards_after(round_)
        return RoundCertificate(
            task=task,
            round=number,
            epoch=round_.epoch,
            parent_model=round_.parent_model,
            model=model,
            updates_root=round_.updates_root,
            opening=opening,
            rewards_root=rewards_root(task, rewards),
            rewards_total=sum(rewards.values()),
            participants=len(round_.submissions),
        )

    def _fix_accepted(self, identity: bytes, round_: Round) -> None:
        """From here on the accepted set never changes: it is what the committee opens, once."""
        round_.phase, round_.closed_ms = "closed", self.state.time_ms
        round_.updates_root = round_.rebuilt_updates_root(identity)
        opened, accepted = self.state.tasks[identity].opened, len(round_.submissions)
        opened[accepted] = opened.get(accepted, 0) + 1

    def _fix_if_complete(self, identity: bytes, task: Task, round_: Round) -> None:
        """Waits for nobody from whom no update can come any more."""
        if round_.phase == "training" and is_complete(task, round_, needed=masks.updates_needed(task, round_)):
            self._fix_accepted(identity, round_)

    def _finish(self, task: Task, status: str, reason: str) -> None:
        last = task.current()
        if last is not None and last.phase in OPEN_PHASES:
            last.phase = "aborted"
        task.status, task.reason = status, reason
        task.version += 1

    def _task(self, identity: bytes) -> Task:
        task = self.state.tasks.get(identity)
        if task is None:
            refuse("unknown-task", f"no task 0x{identity.hex()}")
        return task

    def _active_task(self, identity: bytes) -> Task:
        task = self._task(identity)
        if task.status != "active":
            refuse("task-over", f"the task is {task.status}")
        return task

    def _current_round(self, task: Task, number: int) -> Round:
        round_ = task.current()
        if round_ is None or round_.number != number:
            refuse("unknown-round", f"round {number} is not the current round")
        return round_
