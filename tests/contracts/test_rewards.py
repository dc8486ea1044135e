"""Claims: proofs of koinon.merkle are paid, once, and never more than the certificates granted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from koinon import merkle
from koinon.encoding import keccak, to_hex
from koinon.errors import ContractReverted
from tests.contracts.conftest import Reverts
from tests.contracts.world import TASK, World, key

ALICE, BOB = key("alice").address, key("bob").address
BUDGET = 1_000


def tree(amounts: dict[bytes, int], task: bytes = TASK) -> list[bytes]:
    return [merkle.reward_leaf(task, account, amount) for account, amount in sorted(amounts.items())]


def certify(world: World, amounts: dict[bytes, int], total: int | None = None, number: int = 1) -> None:
    parent = world.view("RoundLedger", "task", TASK)[2]
    world.open_round(number, parent)
    world.commit(
        world.certificate(
            round=number,
            parent_model=parent,
            model=keccak(b"model %d" % number),
            rewards_root=merkle.root(tree(amounts)),
            rewards_total=sum(amounts.values()) if total is None else total,
        )
    )


def claim(world: World, account: bytes, amounts: dict[bytes, int], cumulative: int | None = None) -> Any:
    proof = merkle.proof(tree(amounts), sorted(amounts).index(account))
    amount = amounts[account] if cumulative is None else cumulative
    return world.send(world.node, "Rewards", "claim", TASK, account, amount, list(proof))


@pytest.fixture
def funded(world: World) -> World:
    world.create_task(budget=BUDGET)
    return world


@pytest.mark.parametrize("accounts", [1, 2, 3, 7, 8, 33])
def test_every_leaf_of_any_tree_is_paid(funded: World, accounts: int) -> None:
    amounts = {key(f"account {index}").address: index + 1 for index in range(accounts)}
    certify(funded, amounts)
    for account, amount in amounts.items():
        done = claim(funded, account, amounts)
        assert ("RewardClaimed", (TASK, account, amount, amount)) in done.events
        assert funded.view("CreditToken", "balanceOf", account) == amount
    assert funded.view("Rewards", "escrowOf", TASK)[3] == sum(amounts.values())


def test_second_claim_of_the_same_rewards_is_refused(funded: World, reverts: Reverts) -> None:
    amounts = {ALICE: 10, BOB: 20}
    certify(funded, amounts)
    claim(funded, ALICE, amounts)
    with reverts("Rewards__NothingToClaim", to_hex(TASK), to_hex(ALICE), 10):
        claim(funded, ALICE, amounts)


def test_later_claim_pays_the_difference(funded: World) -> None:
    certify(funded, {ALICE: 10, BOB: 20})
    claim(funded, ALICE, {ALICE: 10, BOB: 20})
    certify(funded, {ALICE: 15, BOB: 40}, number=2)
    done = claim(funded, ALICE, {ALICE: 15, BOB: 40})
    assert ("RewardClaimed", (TASK, ALICE, 5, 15)) in done.events
    assert funded.view("Rewards", "claimed", TASK, ALICE) == 15


def test_proof_of_a_replaced_root_is_refused(funded: World, reverts: Reverts) -> None:
    certify(funded, {ALICE: 10, BOB: 20})
    certify(funded, {ALICE: 15, BOB: 40}, number=2)
    with reverts("Rewards__BadProof"):
        claim(funded, BOB, {ALICE: 10, BOB: 20})


def test_wrong_amount_account_task_or_proof_is_refused(funded: World, reverts: Reverts) -> None:
    amounts = {ALICE: 10, BOB: 20}
    certify(funded, amounts)
    with reverts("Rewards__BadProof", to_hex(TASK), to_hex(ALICE), 11):
        claim(funded, ALICE, amounts, cumulative=11)
    proof = list(merkle.proof(tree(amounts), sorted(amounts).index(ALICE)))
    with reverts("Rewards__BadProof"):
        funded.send(funded.node, "Rewards", "claim", TASK, BOB, 10, proof)
    with reverts("Rewards__BadProof"):
        funded.send(funded.node, "Rewards", "claim", keccak(b"another"), ALICE, 10, proof)
    with reverts("Rewards__BadProof"):
        funded.send(funded.node, "Rewards", "claim", TASK, ALICE, 10, [])


def test_root_that_promises_more_than_the_total_pays_no_more_than_the_total(funded: World, reverts: Reverts) -> None:
    amounts = {ALICE: 10, BOB: 20}
    certify(funded, amounts, total=25)
    claim(funded, BOB, amounts)
    with reverts("Rewards__TotalExceeded", 30, 25):
        claim(funded, ALICE, amounts)


def test_claims_continue_after_the_task_is_closed(funded: World) -> None:
    amounts = {ALICE: 10, BOB: 20}
    certify(funded, amounts)
    funded.send(funded.user, "RoundLedger", "stopTask", TASK)
    funded.at_time(funded.now + 10_000)
    funded.send(funded.user, "RoundLedger", "closeTask", TASK)
    claim(funded, ALICE, amounts)
    claim(funded, BOB, amounts)
    assert funded.view("CreditToken", "balanceOf", funded.addresses["Rewards"]) == 0


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("escrow", (TASK, ALICE, 1)),
        ("certify", (TASK, bytes(32), 1)),
        ("release", (TASK, ALICE)),
    ],
)
def test_only_the_ledger_moves_escrows(
    funded: World, reverts: Reverts, function: str, arguments: tuple[Any, ...]
) -> None:
    with reverts("Rewards__NotLedger", to_hex(funded.registrar.address)):
        funded.send(funded.registrar, "Rewards", function, *arguments)


def test_escrow_guards_itself_even_against_its_ledger(world: World, reverts: Reverts) -> None:
    """With a plain account in the ledger's place: the second line of defence, which RoundLedger never reaches."""
    ledger = key("a plain account as ledger")
    rewards = world.create("Rewards", world.addresses["CreditToken"], ledger.address)
    world.send(world.user, "CreditToken", "approve", rewards, 100)
    world.send(ledger, "Rewards", "escrow", TASK, world.user.address, 50)
    with reverts("Rewards__AlreadyEscrowed", to_hex(TASK)):
        world.send(ledger, "Rewards", "escrow", TASK, world.user.address, 50)
    world.send(ledger, "Rewards", "release", TASK, world.user.address)
    with reverts("Rewards__AlreadyReleased", to_hex(TASK)):
        world.send(ledger, "Rewards", "release", TASK, world.user.address)
    with reverts("Rewards__AlreadyReleased"):
        world.send(ledger, "Rewards", "certify", TASK, bytes(32), 1)


@pytest.mark.parametrize("arguments", [(bytes(20), b"\x01" * 20), (b"\x01" * 20, bytes(20))])
def test_rewards_without_token_or_ledger_cannot_be_deployed(
    world: World, reverts: Reverts, arguments: tuple[bytes, bytes]
) -> None:
    with reverts("Rewards__ZeroAddress"):
        world.create("Rewards", *arguments)


def test_nothing_can_be_claimed_before_the_first_certificate(funded: World, reverts: Reverts) -> None:
    with reverts("Rewards__BadProof"):
        funded.send(funded.node, "Rewards", "claim", TASK, ALICE, 1, [])


class Claims(RuleBasedStateMachine):
    """Honest and lying certificates, claims in any order, against a model of three numbers an account."""

    ACCOUNTS = tuple(key(f"account {index}").address for index in range(4))

    @initialize()
    def begin(self) -> None:
        self.world = World(1)
        self.world.create_task(budget=BUDGET)
        self.amounts: dict[bytes, int] = {}
        self.claimed = dict.fromkeys(self.ACCOUNTS, 0)
        self.total, self.number, self.closed = 0, 0, False

    @rule(
        amounts=st.lists(st.integers(0, 400), min_size=4, max_size=4),
        total=st.integers(0, 2 * BUDGET),
    )
    def certify(self, amounts: list[int], total: int) -> None:
        """The committee may sign any nonsense: leaves and total need not agree."""
        proposed = dict(zip(self.ACCOUNTS, amounts, strict=True))
        allowed = not self.closed and self.total <= total <= BUDGET
        try:
            certify(self.world, proposed, total, self.number + 1)
        except ContractReverted:
            assert not allowed
            if not self.closed:  # the round was opened nevertheless
                self.number += 1
            return
        assert allowed
        self.amounts, self.total, self.number = proposed, total, self.number + 1

    @precondition(lambda self: self.amounts)
    @rule(index=st.integers(0, 3))
    def claim(self, index: int) -> None:
        account = self.ACCOUNTS[index]
        due = self.amounts[account] - self.claimed[account]
        allowed = due > 0 and sum(self.claimed.values()) + due <= self.total
        try:
            claim(self.world, account, self.amounts)
        except ContractReverted:
            assert not allowed
            return
        assert allowed
        self.claimed[account] += due

    @precondition(lambda self: not self.closed and self.number > 3)
    @rule()
    def close(self) -> None:
        self.world.send(self.world.user, "RoundLedger", "stopTask", TASK)
        self.world.at_time(self.world.now + 10_000)
        self.world.send(self.world.user, "RoundLedger", "closeTask", TASK)
        self.closed = True

    @invariant()
    def paid_is_what_the_model_says_and_never_more_than_granted_or_escrowed(self) -> None:
        paid = sum(self.world.view("CreditToken", "balanceOf", account) for account in self.ACCOUNTS)
        assert paid == sum(self.claimed.values()) <= self.total <= BUDGET
        held = self.world.view("CreditToken", "balanceOf", self.world.addresses["Rewards"])
        assert held == (self.total if self.closed else BUDGET) - paid


TestClaims = Claims.TestCase
TestClaims.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
