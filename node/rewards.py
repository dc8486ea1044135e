"""Claiming credits: the Merkle proof of what a node earned up to the last round that the chain holds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from koinon import merkle
from koinon.errors import ConfigError, UncertifiedModel
from koinon.rounds.state import Task, rewards_root

if TYPE_CHECKING:
    from koinon.ledger import Ledger


def earned_until(task: Task, last: int) -> dict[bytes, int]:
    """Cumulative rewards by address once round `last` is certified (`task` with all its rounds)."""
    amounts: dict[bytes, int] = {}
    for round_ in task.rounds:
        if round_.phase == "certified" and round_.number <= last:
            for node in round_.submissions:
                amounts[node] = amounts.get(node, 0) + task.spec.reward
    return amounts


def proof_for(task: bytes, amounts: dict[bytes, int], account: bytes) -> tuple[bytes, ...]:
    """The proof of `account`'s leaf among `amounts`, by ascending address."""
    accounts = sorted(amounts)
    leaves = [merkle.reward_leaf(task, each, amounts[each]) for each in accounts]
    return merkle.proof(leaves, accounts.index(account))


def claim_rewards(ledger: Ledger, account: bytes, identity: bytes, task: Task) -> dict[str, Any]:
    """Claim what is due to `account`; what happened, in credits. Blocks. LedgerError when the chain refuses."""
    record = ledger.task(identity)
    if record is None:
        raise ConfigError(
            "the chain does not know this task",
            hint="it is opened by the aggregator: wait for it, and look at koinon status",
        )
    last = record.last_committed
    amounts = earned_until(task, last)
    earned, before = amounts.get(account, 0), ledger.claimed(identity, account)
    if earned > before:
        held = ledger.round(identity, last)
        if held is None or held.rewards_root != rewards_root(identity, amounts):
            raise UncertifiedModel(f"the chain certifies other rewards for round {last}", hint="run koinon-audit")
        ledger.claim(identity, account, earned, proof_for(identity, amounts, account))
    returned = 0
    due = record.closable_at and record.closable_at <= time.time()
    if account == record.submitter and due and not record.closed:
        had = ledger.balance(account)
        ledger.close_task(identity)
        returned = ledger.balance(account) - had
    claimed = max(0, earned - before)
    return {"claimed": claimed, "earned": earned, "returned": returned, "balance": ledger.balance(account)}
