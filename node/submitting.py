"""Submitting a task in steps that may be repeated: model, blob, escrow, operation.

The draft (the exact TaskSpec and its budget) is on disk before anything leaves. A submission that was cut off is
finished by the same command, with the same identity; each step is skipped where it is done already.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from koinon.client import CommitteeClient
from koinon.config import write_atomically
from koinon.encoding import U63, Message, decode, digest, encode, keccak
from koinon.errors import ContractReverted, Rejected, TrainingError
from koinon.learning import strategy
from koinon.learning.parameters import PARAMETERS_BYTES_MAX, Parameters
from koinon.opening import committee_key
from koinon.rounds.operations import CreateTask
from koinon.rounds.rules import task_identity
from koinon.threads import in_thread
from koinon.wire import Role

from .apps import App, scalar
from .home import Home, register
from .taskfile import TaskFile

if TYPE_CHECKING:
    from koinon.ledger import Ledger

BUILD_SECONDS_MAX = 600.0
Say = Callable[[str], None]


class Draft(Message, frozen=True):
    """A submission in progress; `model` is the initial model's blob."""

    operation: CreateTask
    budget: U63
    model: bytes


async def submit(home: Home, task: TaskFile, say: Say) -> tuple[bytes, CreateTask, int]:
    """Have `task` created on chain and by the committee: (identity, operation, budget).

    ConfigError, TrainingError (the app), LedgerError (escrow) or Rejected (the law) say what stands in the way.
    """
    home.require_node()
    task.require_sane()
    path = home.data / "drafts" / f"{keccak(repr(task).encode()).hex()}.bin"
    kept = decode(Draft, path.read_bytes(), bytes_max=PARAMETERS_BYTES_MAX) if path.exists() else None
    async with home.committee(signing=True) as committee:
        members = await committee.members()
        mine = members.get(home.signer.address)
        if mine is None or not mine.active:
            say("registering this node first")
            await register(home)
            members = await committee.members()
        active = sum(1 for each in members.values() if each.active and each.roles & Role.NODE)
        if task.mode == "paillier":
            committee_key(committee.federation)  # KeyOutdated: its rounds would not be opened
        ledger = await in_thread(lambda: home.ledger(signing=True))
        if kept is None:
            kept = await _draft(home, task, ledger, active)
            write_atomically(path, encode(kept), mode=0o600)
        else:
            say("finishing a submission that was cut off")
        await _create(home, committee, ledger, kept)
    path.unlink(missing_ok=True)
    return task_identity(home.signer.address, kept.operation), kept.operation, kept.budget


async def _draft(home: Home, task: TaskFile, ledger: Ledger, active: int) -> Draft:
    """The exact task: its initial model, a nonce that tells it from earlier runs, and the budget it needs."""
    model = await _initial_model(home, task)
    balance = await in_thread(lambda: ledger.balance(home.signer.address)) if task.reward else 0
    cohort_max, budget = task.cohort(active, balance)
    blob, nonce = model.blob(), time.time_ns() // 1_000_000
    spec = task.spec(keccak(blob), model.dimension, cohort_max=cohort_max, nonce=nonce)
    return Draft(operation=CreateTask(spec=spec), budget=budget, model=blob)


async def _create(home: Home, committee: CommitteeClient, ledger: Ledger, draft: Draft) -> None:
    """Blob, escrow, operation: each is skipped by whom it is known to already."""
    spec = draft.operation.spec
    identity = task_identity(home.signer.address, draft.operation)
    await committee.put_blob(draft.model)

    def escrow() -> None:
        if ledger.task(identity) is None:
            try:
                ledger.create_task(identity, digest(spec), spec.initial_model, draft.budget)
            except ContractReverted as error:
                hint = "is this node registered on chain, and are its credits enough?"
                raise ContractReverted(error.name, error.arguments, hint=hint) from None

    await in_thread(escrow)
    try:
        await committee.submit(draft.operation)
    except Rejected as error:
        if error.rule != "task-exists":
            raise


async def _initial_model(home: Home, task: TaskFile) -> Parameters:
    """What the app's `get_parameters` gives for round 0."""
    config = {key: scalar(text) for key, text in task.texts().items()}
    told = {**config, **strategy(task.strategy, task.texts()).fit_config(), "server_round": 0}

    def build() -> Parameters:
        app = App.build(task.app, home.config.node, home.path, node=home.signer.address, config=config)
        return app.initial(told)

    try:
        return await in_thread(build, timeout_seconds=BUILD_SECONDS_MAX)
    except TimeoutError:
        raise TrainingError(f"app {task.app}: no initial model within {BUILD_SECONDS_MAX:g} s") from None
