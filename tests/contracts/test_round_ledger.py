"""Tasks and rounds: what the ledger accepts, in which order, from whom."""

from __future__ import annotations

from typing import Any

import pytest

from koinon.encoding import keccak, to_hex
from koinon.signing import Signer
from koinon.wire import Role
from tests.contracts.conftest import Reverts
from tests.contracts.world import CLOSE_DELAY_S, INITIAL, SPEC, START_S, SUPPLY, TASK, World, fields, key

MODEL_1, MODEL_2 = keccak(b"model 1"), keccak(b"model 2")
OTHER = keccak(b"another task")


@pytest.fixture
def opened(world: World) -> World:
    """A task with a budget of 1,000 whose round 1 is open."""
    world.create_task()
    world.open_round()
    return world


def members(world: World) -> list[bytes]:
    return [replica.address for replica in world.replicas]


# --- tasks -----------------------------------------------------------------------------------------------------


def test_created_task_starts_from_its_initial_model_with_its_budget_in_escrow(world: World) -> None:
    done = world.create_task(budget=1_000)
    assert ("TaskCreated", (TASK, world.user.address, SPEC, INITIAL, 1_000)) in done.events
    assert ("BudgetEscrowed", (TASK, world.user.address, 1_000)) in done.events
    assert world.view("RoundLedger", "task", TASK) == (world.user.address, SPEC, INITIAL, 1_000, 0, 0, 0, 0, False)
    assert world.view("CreditToken", "balanceOf", world.addresses["Rewards"]) == 1_000


def test_task_without_budget_escrows_nothing(world: World) -> None:
    done = world.send(world.user, "RoundLedger", "createTask", TASK, SPEC, INITIAL, 0)
    assert [name for name, _ in done.events] == ["TaskCreated"]


def test_stranger_cannot_create_a_task(world: World, reverts: Reverts) -> None:
    stranger = key("stranger")
    with reverts("RoundLedger__NotMember", to_hex(stranger.address)):
        world.send(stranger, "RoundLedger", "createTask", TASK, SPEC, INITIAL, 0)


def test_revoked_member_cannot_create_a_task(world: World, reverts: Reverts) -> None:
    world.revoke(world.user, serial=2)
    with reverts("RoundLedger__NotMember"):
        world.create_task()


def test_task_is_created_once(world: World, reverts: Reverts) -> None:
    world.create_task()
    with reverts("RoundLedger__TaskExists", to_hex(TASK)):
        world.create_task()


def test_member_cannot_take_the_identity_of_another_members_task(world: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__ForeignTask", to_hex(TASK), to_hex(world.node.address)):
        world.send(world.node, "RoundLedger", "createTask", TASK, SPEC, INITIAL, 0)


def test_task_needs_an_initial_model(world: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__ZeroDigest"):
        world.send(world.user, "RoundLedger", "createTask", TASK, SPEC, bytes(32), 0)


def test_budget_without_allowance_or_funds_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("ERC20InsufficientAllowance"):
        world.send(world.user, "RoundLedger", "createTask", TASK, SPEC, INITIAL, 1)
    with reverts("ERC20InsufficientBalance"):
        world.create_task(budget=10_001)


def permit(world: World, owner: Signer, amount: int, deadline: int) -> bytes:
    kind = keccak(b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)")
    nonce = world.view("CreditToken", "nonces", owner.address)
    addresses = [address.rjust(32, b"\0") for address in (owner.address, world.addresses["Rewards"])]
    words = addresses + [number.to_bytes(32, "big") for number in (amount, nonce, deadline)]
    separator = world.view("CreditToken", "DOMAIN_SEPARATOR")
    return owner.sign_digest(keccak(b"\x19\x01" + separator + keccak(kind + b"".join(words))))


def create_with_permit(world: World, signature: bytes, deadline: int = START_S + 60) -> Any:
    return world.send(world.user, "RoundLedger", "createTaskWithPermit", TASK, SPEC, INITIAL, 500, deadline, signature)


def test_permit_escrows_the_budget_in_the_same_transaction(world: World) -> None:
    done = create_with_permit(world, permit(world, world.user, 500, START_S + 60))
    assert ("BudgetEscrowed", (TASK, world.user.address, 500)) in done.events


def test_permit_that_somebody_handed_in_before_still_works(world: World) -> None:
    signature = permit(world, world.user, 500, START_S + 60)
    v, s = 27 + (signature[32] >> 7), bytes([signature[32] & 0x7F]) + signature[33:]
    arguments = (world.user.address, world.addresses["Rewards"], 500, START_S + 60, v, signature[:32], s)
    world.send(world.node, "CreditToken", "permit", *arguments)
    create_with_permit(world, signature)


@pytest.mark.parametrize("case", ["late", "another's", "another amount"])
def test_bad_permit_escrows_nothing(world: World, reverts: Reverts, case: str) -> None:
    owner = world.node if case == "another's" else world.user
    deadline = START_S - 1 if case == "late" else START_S + 60
    signature = permit(world, owner, 501 if case == "another amount" else 500, deadline)
    with reverts("ERC20InsufficientAllowance"):
        create_with_permit(world, signature, deadline)


def test_permit_of_the_wrong_length_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("CompactSignatures__BadLength", 65):
        create_with_permit(world, bytes(65))


# --- opening ---------------------------------------------------------------------------------------------------


def test_opened_round_pins_the_epoch(world: World) -> None:
    world.create_task()
    done = world.open_round()
    assert done.events == [("RoundOpened", (TASK, 1, world.aggregator.address, 0, INITIAL, 123_456))]
    zero = bytes(32)
    assert world.view("RoundLedger", "round", TASK, 1) == (
        world.aggregator.address, 0, 123_456, zero, zero, zero, zero
    )  # fmt: skip


def test_only_aggregators_open_rounds(world: World, reverts: Reverts) -> None:
    world.create_task()
    with reverts("RoundLedger__MissingRole", to_hex(world.node.address), int(Role.AGGREGATOR)):
        world.send(world.node, "RoundLedger", "openRound", TASK, 1, 0, INITIAL, 1)


def test_round_of_no_task_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__UnknownTask", to_hex(TASK)):
        world.open_round()


@pytest.mark.parametrize("number", [0, 1, 3, 3 + 1_025, 2**32 - 1])
def test_round_numbers_grow_and_leave_gaps_of_at_most_1024(world: World, reverts: Reverts, number: int) -> None:
    world.create_task()
    world.open_round(3)
    with reverts("RoundLedger__RoundOutOfOrder", number, 3):
        world.open_round(number)
    world.open_round(3 + 1_024)


def test_round_must_start_from_the_last_certified_model(opened: World, reverts: Reverts) -> None:
    opened.commit(opened.certificate())
    with reverts("RoundLedger__WrongParent", to_hex(INITIAL), to_hex(MODEL_1)):
        opened.open_round(2, INITIAL)
    opened.open_round(2, MODEL_1)


# --- committing ------------------------------------------------------------------------------------------------


def test_commit_records_the_certificate_and_moves_the_model(opened: World) -> None:
    certificate = opened.certificate(rewards_total=30)
    done = opened.commit(certificate, [0, 1, 3])
    assert done.events == [
        ("RoundCommitted", (TASK, 1, MODEL_1, fields(certificate), 0b1011)),
        ("RewardsCertified", (TASK, certificate.rewards_root, 30)),
    ]
    assert opened.view("RoundLedger", "task", TASK)[2:7] == (MODEL_1, 1_000, 30, 1, 1)
    assert opened.view("RoundLedger", "round", TASK, 1)[3:] == (
        MODEL_1, certificate.updates_root, certificate.rewards_root, certificate.struct_hash()
    )  # fmt: skip


@pytest.mark.parametrize("replicas", [4, 7, 31])
def test_commit_of_any_committee_size(replicas: int) -> None:
    world = World(replicas)
    world.create_task()
    world.open_round()
    world.commit(world.certificate())
    assert world.view("RoundLedger", "task", TASK)[2] == MODEL_1


def test_commit_needs_a_quorum(opened: World, reverts: Reverts) -> None:
    with reverts("Committee__NoQuorum", 2, 3):
        opened.commit(opened.certificate(), [0, 1])


def test_signatures_of_another_certificate_are_refused(opened: World, reverts: Reverts) -> None:
    other = opened.signatures(opened.certificate(model=MODEL_2), [0, 1, 2])
    with reverts("Committee__BadSignature"):
        opened.commit(opened.certificate(), signatures=other)


@pytest.mark.parametrize(
    "change",
    ["model", "updates_root", "opening", "rewards_root", "rewards_total", "participants"],
)
def test_every_field_of_the_certificate_is_signed(opened: World, reverts: Reverts, change: str) -> None:
    value: Any = 7 if change in ("rewards_total", "participants") else keccak(b"forged")
    signatures = opened.signatures(opened.certificate(), [0, 1, 2])
    with reverts("Committee__BadSignature"):
        opened.commit(opened.certificate(**{change: value}), signatures=signatures)


def test_certificate_of_a_round_that_was_never_opened_is_refused(opened: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__UnknownRound", to_hex(TASK), 2):
        opened.commit(opened.certificate(round=2))
    with reverts("RoundLedger__UnknownTask", to_hex(OTHER)):
        opened.commit(opened.certificate(task=OTHER))


def test_round_is_committed_once(opened: World, reverts: Reverts) -> None:
    opened.commit(opened.certificate())
    with reverts("RoundLedger__AlreadyCommitted", 1, 1):
        opened.commit(opened.certificate())
    with reverts("RoundLedger__AlreadyCommitted", 1, 1):
        opened.commit(opened.certificate(parent_model=MODEL_1, model=MODEL_2))


def test_certificate_with_another_parent_is_refused(opened: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__WrongParent", to_hex(MODEL_2), to_hex(INITIAL)):
        opened.commit(opened.certificate(parent_model=MODEL_2))


def test_certificate_of_another_epoch_is_refused(opened: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__WrongEpoch", 1, 0):
        opened.commit(opened.certificate(epoch=1))


def test_certificate_without_a_model_is_refused(opened: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__ZeroDigest"):
        opened.commit(opened.certificate(model=bytes(32)))


def test_round_belongs_to_the_epoch_in_which_it_was_opened(opened: World, reverts: Reverts) -> None:
    opened.send(
        opened.registrar, "Committee", "installEpoch", [key("next").address], [b"\x01" * 32], ["https://next.example"]
    )
    opened.commit(opened.certificate())
    opened.open_round(2, MODEL_1, epoch=1)
    later = opened.certificate(round=2, parent_model=MODEL_1, model=MODEL_2)
    with reverts("RoundLedger__WrongEpoch", 0, 1):
        opened.commit(later)
    with reverts("Committee__WrongMembers"):
        opened.commit(opened.certificate(round=2, parent_model=MODEL_1, model=MODEL_2, epoch=1))


def test_later_round_does_not_take_away_an_earlier_open_one(opened: World) -> None:
    opened.open_round(2)
    opened.commit(opened.certificate())
    assert opened.view("RoundLedger", "task", TASK)[2] == MODEL_1


def test_earlier_round_is_out_once_a_later_one_is_committed(opened: World, reverts: Reverts) -> None:
    opened.open_round(2)
    opened.commit(opened.certificate(round=2))
    with reverts("RoundLedger__AlreadyCommitted", 1, 2):
        opened.commit(opened.certificate(parent_model=MODEL_1, model=MODEL_2))


def test_rewards_above_the_budget_undo_the_commit(opened: World, reverts: Reverts) -> None:
    with reverts("Rewards__BudgetExceeded", 1_001, 1_000):
        opened.commit(opened.certificate(rewards_total=1_001))
    assert opened.view("RoundLedger", "task", TASK)[2] == INITIAL
    opened.commit(opened.certificate(rewards_total=1_000))


def test_rewards_never_fall(opened: World, reverts: Reverts) -> None:
    opened.commit(opened.certificate(rewards_total=30))
    opened.open_round(2, MODEL_1)
    later = {"round": 2, "parent_model": MODEL_1, "model": MODEL_2}
    with reverts("Rewards__TotalFell", 29, 30):
        opened.commit(opened.certificate(rewards_total=29, **later))
    opened.commit(opened.certificate(rewards_total=30, **later))


# --- the way around the committee ------------------------------------------------------------------------------


def test_node_can_put_its_update_on_chain_itself(opened: World) -> None:
    done = opened.send(opened.node, "RoundLedger", "submitUpdate", TASK, 1, keccak(b"update"), 600)
    assert done.events == [("UpdateSubmitted", (TASK, 1, opened.node.address, keccak(b"update"), 600))]


def test_direct_update_needs_a_node_and_an_open_round(opened: World, reverts: Reverts) -> None:
    update = keccak(b"update")
    with reverts("RoundLedger__MissingRole", to_hex(opened.user.address), int(Role.NODE)):
        opened.send(opened.user, "RoundLedger", "submitUpdate", TASK, 1, update, 600)
    with reverts("RoundLedger__UnknownRound"):
        opened.send(opened.node, "RoundLedger", "submitUpdate", TASK, 2, update, 600)
    with reverts("RoundLedger__UnknownTask"):
        opened.send(opened.node, "RoundLedger", "submitUpdate", OTHER, 1, update, 600)
    opened.commit(opened.certificate())
    with reverts("RoundLedger__AlreadyCommitted"):
        opened.send(opened.node, "RoundLedger", "submitUpdate", TASK, 1, update, 600)


# --- ending ----------------------------------------------------------------------------------------------------


def test_stopped_task_opens_no_round_but_commits_the_open_one(opened: World, reverts: Reverts) -> None:
    done = opened.send(opened.user, "RoundLedger", "stopTask", TASK)
    assert done.events == [("TaskStopped", (TASK, START_S + CLOSE_DELAY_S))]
    with reverts("RoundLedger__TaskStopped", to_hex(TASK)):
        opened.open_round(2)
    with reverts("RoundLedger__TaskStopped"):
        opened.send(opened.user, "RoundLedger", "stopTask", TASK)
    opened.commit(opened.certificate(rewards_total=30))


def test_budget_returns_only_after_the_delay_and_only_the_unearned_part(opened: World, reverts: Reverts) -> None:
    with reverts("RoundLedger__NotClosable", to_hex(TASK), 0):
        opened.send(opened.user, "RoundLedger", "closeTask", TASK)
    opened.send(opened.user, "RoundLedger", "stopTask", TASK)
    opened.commit(opened.certificate(rewards_total=30))
    opened.at_time(START_S + CLOSE_DELAY_S - 1)
    with reverts("RoundLedger__NotClosable", to_hex(TASK), START_S + CLOSE_DELAY_S):
        opened.send(opened.user, "RoundLedger", "closeTask", TASK)
    opened.at_time(START_S + CLOSE_DELAY_S)
    before = opened.view("CreditToken", "balanceOf", opened.user.address)
    done = opened.send(opened.user, "RoundLedger", "closeTask", TASK)
    assert ("TaskClosed", (TASK, opened.user.address, 970)) in done.events
    assert opened.view("CreditToken", "balanceOf", opened.user.address) == before + 970
    assert opened.view("CreditToken", "balanceOf", opened.addresses["Rewards"]) == 30


def test_closed_task_takes_nothing_more(opened: World, reverts: Reverts) -> None:
    opened.send(opened.user, "RoundLedger", "stopTask", TASK)
    opened.at_time(START_S + CLOSE_DELAY_S)
    opened.send(opened.user, "RoundLedger", "closeTask", TASK)
    with reverts("RoundLedger__TaskClosed", to_hex(TASK)):
        opened.commit(opened.certificate())
    with reverts("RoundLedger__TaskClosed"):
        opened.send(opened.user, "RoundLedger", "closeTask", TASK)
    with reverts("RoundLedger__TaskClosed"):
        opened.send(opened.node, "RoundLedger", "submitUpdate", TASK, 1, keccak(b"update"), 600)


def test_only_the_submitter_ends_a_task(opened: World, reverts: Reverts) -> None:
    for function in ("stopTask", "closeTask"):
        with reverts("RoundLedger__NotSubmitter", to_hex(opened.aggregator.address)):
            opened.send(opened.aggregator, "RoundLedger", function, TASK)
        with reverts("RoundLedger__UnknownTask"):
            opened.send(opened.user, "RoundLedger", function, OTHER)


# --- deployment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", ["MemberRegistry", "Committee", "Rewards"])
def test_contracts_that_point_elsewhere_are_refused(world: World, reverts: Reverts, stray: str) -> None:
    """The ledger to be deployed next has the deployer's nonce 8: one contract is told another address."""
    from koinon.ledger import _created_address

    right, wrong = _created_address(world.deployer.address, 8), b"\x01" * 20

    def told(name: str) -> bytes:
        return wrong if name == stray else right

    registry = world.create("MemberRegistry", told("MemberRegistry"), world.registrar.address)
    committee = world.create(
        "Committee", told("Committee"), world.registrar.address, members(world), [b"\x01" * 32] * 4, ["u"] * 4
    )
    rewards = world.create("Rewards", world.addresses["CreditToken"], told("Rewards"))
    with reverts("RoundLedger__Miswired"):
        world.create("RoundLedger", registry, committee, rewards, 1)


def test_supply_beyond_64_bits_is_refused(world: World, reverts: Reverts) -> None:
    with reverts("CreditToken__SupplyTooLarge", 2**63):
        world.create("CreditToken", world.user.address, 2**63)
    world.create("CreditToken", world.user.address, 2**63 - 1)


def test_credits_are_whole_and_minted_once(world: World) -> None:
    assert world.view("CreditToken", "decimals") == 0
    assert world.view("CreditToken", "totalSupply") == SUPPLY
