"""The ledger client against real chains: every claim on anvil and on the embedded engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

import koinon.reading
from koinon import merkle
from koinon.encoding import keccak
from koinon.errors import ChainUnreachable, ContractMissing, ContractReverted, LedgerError, WrongChain
from koinon.ledger import Ledger, Network
from koinon.records import (
    BudgetEscrowed,
    EpochInstalled,
    MemberRegistered,
    RewardClaimed,
    RoundCommitted,
    RoundOpened,
    TaskCreated,
)
from koinon.signing import Signer, recover, signing_digest
from koinon.wire import (
    Revocation,
    Role,
)
from tests.integration.chains import free_port

from .world import INITIAL, MEMBERS, OPERATOR, SPEC, admit, certificate, new_task, serials, signed

# --- recognising the network -----------------------------------------------------------------------------------


def test_connect_refuses_another_chain_id(network: Network) -> None:
    with pytest.raises(WrongChain, match="chain id"):
        Ledger.connect(replace(network, chain_id=network.chain_id + 1))


def test_connect_refuses_another_genesis(network: Network) -> None:
    with pytest.raises(WrongChain, match="genesis"):
        Ledger.connect(replace(network, genesis_hash=keccak(b"another")))


def test_connect_refuses_an_address_without_code(network: Network) -> None:
    with pytest.raises(ContractMissing, match="no contract"):
        Ledger.connect(replace(network, contracts=replace(network.contracts, rewards=b"\x01" * 20)))


def test_connect_refuses_other_code(network: Network) -> None:
    swapped = replace(network.contracts, rewards=network.contracts.token)
    with pytest.raises(ContractMissing, match="not this version's Rewards"):
        Ledger.connect(replace(network, contracts=swapped))


def test_connect_refuses_contracts_that_do_not_belong_together(network: Network) -> None:
    other = Ledger.deploy(network.rpc, OPERATOR, OPERATOR.address, MEMBERS).contracts
    for field in ("token", "registry", "committee", "rewards", "ledger"):
        mixed = replace(network.contracts, **{field: getattr(other, field)})
        with pytest.raises(ContractMissing, match="belong together"):
            Ledger.connect(replace(network, contracts=mixed))


def test_nobody_at_the_address_is_unreachable_with_a_hint(network: Network) -> None:
    with pytest.raises(ChainUnreachable) as caught:
        Ledger.connect(replace(network, rpc=f"http://127.0.0.1:{free_port()}"))
    assert caught.value.hint


def test_server_that_is_no_chain_is_unreachable(network: Network) -> None:
    class Website(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Website) as website:
        thread = threading.Thread(target=website.serve_forever)
        thread.start()
        try:
            with pytest.raises(ChainUnreachable):
                Ledger.connect(replace(network, rpc=f"http://127.0.0.1:{website.server_address[1]}"))
        finally:
            website.shutdown()
            thread.join()


def test_reading_ledger_does_not_write(network: Network) -> None:
    reader = Ledger.connect(network)
    assert reader.epoch() == 0
    with pytest.raises(LedgerError, match="reading only"):
        reader.transfer(b"\x01" * 20, 1)
    with pytest.raises(LedgerError, match="reading only"):
        reader.create_task(keccak(b"a task"), SPEC, INITIAL, 1)


# --- membership ------------------------------------------------------------------------------------------------


def test_committee_is_found_by_its_event(ledger: Ledger) -> None:
    committee = ledger.committee(0)
    assert committee.members == tuple(MEMBERS)
    assert committee.quorum == 3
    with pytest.raises(ContractReverted, match="Committee__UnknownEpoch"):
        ledger.committee(99)


def test_member_is_admitted_and_revoked(ledger: Ledger) -> None:
    member = keccak(b"a member")[:20]
    assert not ledger.member(member).active
    admission = admit(ledger, member, Role.NODE | Role.AUDITOR)
    known = ledger.member(member)
    assert (known.active, known.roles, known.examples_max) == (True, Role.NODE | Role.AUDITOR, 600)
    with pytest.raises(ContractReverted) as caught:
        ledger.register(admission, OPERATOR.sign(ledger.domain(), admission))
    assert caught.value.name == "MemberRegistry__StaleSerial"
    assert caught.value.arguments == ("0x" + member.hex(), admission.serial, admission.serial)
    revocation = Revocation(member=member, serial=next(serials))
    ledger.revoke(revocation, OPERATOR.sign(ledger.domain(), revocation))
    assert not ledger.member(member).active


# --- tasks and rounds ------------------------------------------------------------------------------------------


def test_task_is_created_with_its_budget_by_permit(ledger: Ledger) -> None:
    before = ledger.balance(OPERATOR.address)
    task = new_task(ledger, budget=500)
    assert ledger.balance(OPERATOR.address) == before - 500
    record = ledger.task(task)
    assert record is not None
    assert (record.submitter, record.model, record.budget) == (OPERATOR.address, INITIAL, 500)
    assert ledger.latest_model(task) == INITIAL


def test_what_is_not_there_is_none(ledger: Ledger) -> None:
    nothing = keccak(b"nothing")
    assert ledger.task(nothing) is None
    assert ledger.latest_model(nothing) is None
    assert ledger.round(nothing, 1) is None
    assert ledger.anchored(nothing, 1) is None


def test_revert_comes_by_name_with_its_arguments_from_any_contract(ledger: Ledger) -> None:
    with pytest.raises(ContractReverted) as caught:
        ledger.transfer(b"\x01" * 20, 10**18)
    assert caught.value.name == "ERC20InsufficientBalance"
    assert caught.value.arguments[2] == 10**18
    with pytest.raises(ContractReverted, match="RoundLedger__UnknownTask"):
        ledger.open_round(keccak(b"nothing"), 1, INITIAL, 1)


def test_round_is_opened_once_however_often_it_is_asked_for(ledger: Ledger) -> None:
    task = new_task(ledger)
    assert ledger.open_round(task, 1, INITIAL, 1_000) is not None
    assert ledger.open_round(task, 1, INITIAL, 1_000) is None
    record = ledger.round(task, 1)
    assert record is not None
    assert (record.aggregator, record.epoch, record.deadline_ms, record.committed) == (
        OPERATOR.address, 0, 1_000, False
    )  # fmt: skip


def test_certificate_is_anchored_once_and_read_back_with_its_signatures(ledger: Ledger) -> None:
    task = new_task(ledger)
    ledger.open_round(task, 1, INITIAL, 1_000)
    assert ledger.anchored(task, 1) is None
    said = certificate(task)
    assert ledger.commit_round(said, signed(ledger, said)) is not None
    assert ledger.commit_round(said, signed(ledger, said)) is None
    assert ledger.latest_model(task) == said.model
    record = ledger.round(task, 1)
    assert record is not None
    assert (record.committed, record.certificate, record.model) == (True, said.struct_hash(), said.model)
    anchored = ledger.anchored(task, 1)
    assert anchored is not None
    assert anchored.certificate == said
    digest = signing_digest(ledger.domain(), said)
    assert [index for index, _ in anchored.signatures] == [0, 1, 3]
    for index, signature in anchored.signatures:
        assert recover(digest, signature) == anchored.members[index]


def test_another_certificate_for_a_committed_round_is_refused_loudly(ledger: Ledger) -> None:
    task = new_task(ledger)
    ledger.open_round(task, 1, INITIAL, 1_000)
    ledger.commit_round(certificate(task), signed(ledger, certificate(task)))
    other = certificate(task, model=keccak(b"another model"))
    with pytest.raises(ContractReverted, match="RoundLedger__AlreadyCommitted"):
        ledger.commit_round(other, signed(ledger, other))


def test_certificate_of_too_few_is_refused(ledger: Ledger) -> None:
    task = new_task(ledger)
    ledger.open_round(task, 1, INITIAL, 1_000)
    said = certificate(task)
    with pytest.raises(ContractReverted, match="Committee__NoQuorum"):
        ledger.commit_round(said, signed(ledger, said, (0, 1)))


def test_two_outboxes_racing_with_one_certificate_anchor_it_once(ledger: Ledger, network: Network) -> None:
    """An aggregator that restarts while its former self still sends: both return, one transaction wins."""
    task = new_task(ledger)
    ledger.open_round(task, 1, INITIAL, 1_000)
    said = certificate(task)
    other = Ledger.connect(network, OPERATOR)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(each.commit_round, said, signed(ledger, said)) for each in (ledger, other)]
        for each in running:
            each.result(timeout=30)
    committed = [
        event
        for event in ledger.events(0, ledger.block_number())
        if isinstance(event, RoundCommitted) and event.task == task
    ]
    assert len(committed) == 1


def test_direct_update_stop_and_close_reach_the_contract(ledger: Ledger) -> None:
    task = new_task(ledger)
    ledger.open_round(task, 1, INITIAL, 1_000)
    ledger.submit_update(task, 1, keccak(b"update"), 600)
    ledger.stop_task(task)
    record = ledger.task(task)
    assert record is not None
    assert record.closable_at > ledger.block(ledger.block_number()).time_s
    with pytest.raises(ContractReverted, match="RoundLedger__NotClosable"):
        ledger.close_task(task)


def test_closed_task_returns_its_budget(network: Network) -> None:
    made = Ledger.deploy(network.rpc, OPERATOR, OPERATOR.address, MEMBERS, close_delay_s=0)
    operator = Ledger.connect(replace(network, contracts=made.contracts), OPERATOR)
    admit(operator, OPERATOR.address, Role.NODE)
    before = operator.balance(OPERATOR.address)
    task = new_task(operator, budget=70)
    operator.stop_task(task)
    operator.close_task(task)
    assert operator.balance(OPERATOR.address) == before
    record = operator.task(task)
    assert record is not None
    assert record.closed


# --- credits ---------------------------------------------------------------------------------------------------


def test_rewards_are_claimed_with_a_proof_of_koinon_merkle(ledger: Ledger) -> None:
    task = new_task(ledger, budget=100)
    accounts = [keccak(b"account %d" % index)[:20] for index in range(3)]
    leaves = [merkle.reward_leaf(task, account, 10) for account in accounts]
    ledger.open_round(task, 1, INITIAL, 1_000)
    said = certificate(task, rewards_root=merkle.root(leaves), rewards_total=30)
    ledger.commit_round(said, signed(ledger, said))
    before = ledger.balance(accounts[2])
    ledger.claim(task, accounts[2], 10, merkle.proof(leaves, 2))
    assert ledger.balance(accounts[2]) == before + 10
    assert ledger.claimed(task, accounts[2]) == 10
    with pytest.raises(ContractReverted, match="Rewards__NothingToClaim"):
        ledger.claim(task, accounts[2], 10, merkle.proof(leaves, 2))
    with pytest.raises(ContractReverted, match="Rewards__BadProof"):
        ledger.claim(task, accounts[1], 10, merkle.proof(leaves, 2))


def test_fund_gives_ether_for_gas(ledger: Ledger) -> None:
    somebody = keccak(b"somebody in need")[:20]
    ledger.fund([somebody], 12_345)
    assert ledger.wei(somebody) == 12_345


# --- events and blocks -----------------------------------------------------------------------------------------


def test_events_come_typed_and_in_chain_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ledger.block_number() + 1
    account = keccak(b"an account")[:20]
    admit(ledger, account, Role.NODE)
    task = new_task(ledger, budget=100)
    ledger.open_round(task, 1, INITIAL, 1_000)
    root = merkle.reward_leaf(task, account, 100)
    said = certificate(task, rewards_root=root, rewards_total=100)
    ledger.commit_round(said, signed(ledger, said))
    ledger.claim(task, account, 100, ())
    monkeypatch.setattr(koinon.reading, "LOG_BLOCKS_MAX", 2)
    events = ledger.events(first, ledger.block_number())
    assert [(event.block, event.log_index) for event in events] == sorted(
        (event.block, event.log_index) for event in events
    )
    ours = (MemberRegistered, TaskCreated, BudgetEscrowed, RoundOpened, RoundCommitted, RewardClaimed)
    assert [type(event) for event in events if isinstance(event, ours)] == list(ours)
    committed = next(event for event in events if isinstance(event, RoundCommitted))
    assert (committed.certificate, committed.signers) == (said, 0b1011)
    assert ledger.block(committed.block).hash == committed.block_hash
    claimed = next(event for event in events if isinstance(event, RewardClaimed))
    assert (claimed.account, claimed.amount) == (account, 100)


def test_first_event_of_the_committee_names_all_replicas(ledger: Ledger) -> None:
    installed = [each for each in ledger.events(0, ledger.block_number()) if isinstance(each, EpochInstalled)]
    assert len(installed) == 1
    assert installed[0].urls == tuple(member.url for member in MEMBERS)


def test_blocks_are_linked_to_their_parents(ledger: Ledger) -> None:
    height = ledger.block_number()
    assert ledger.block(height).parent == ledger.block(height - 1).hash
    with pytest.raises(LedgerError, match="no block"):
        ledger.block(height + 1_000)


# --- sending ---------------------------------------------------------------------------------------------------


def test_threads_share_one_key_without_losing_a_transaction(ledger: Ledger) -> None:
    target = keccak(b"a target of many")[:20]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda _: ledger.transfer(target, 1), range(24)))
    assert ledger.balance(target) == 24
    assert len({record.hash for record in records}) == 24


def test_two_processes_with_one_key_catch_up_with_the_nonce(ledger: Ledger, network: Network) -> None:
    other = Ledger.connect(network, OPERATOR)
    target = keccak(b"a target of two")[:20]
    for sender in (ledger, other, other, ledger, other):
        sender.transfer(target, 1)
    assert ledger.balance(target) == 5


@pytest.mark.parametrize("lost", ["request", "answer", "receipt"])
def test_transaction_is_sent_once_though_its_answer_got_lost(network: Network, lost: str) -> None:
    """The chain is real; the wire is cut for one request, before or after the chain has seen it, or later."""
    sender = Ledger.connect(network, OPERATOR)
    assert sender._sender is not None
    real, cuts = sender._sender._rpc, iter([True])

    def cut(method: str, *params: Any) -> Any:
        watched = "eth_getTransactionReceipt" if lost == "receipt" else "eth_sendRawTransaction"
        if method == watched and next(cuts, False):
            if lost == "answer":
                real(method, *params)
            raise ChainUnreachable("the wire was cut")
        return real(method, *params)

    sender._sender._rpc = cut
    target = keccak(b"a target behind a cut wire " + lost.encode())[:20]
    sender.transfer(target, 1)
    sender.transfer(target, 1)
    assert sender.balance(target) == 2


def test_transaction_that_reverts_when_mined_is_reported(ledger: Ledger) -> None:
    """Two transfers of all credits both pass the trial run; the second one must not look like a success."""
    poor = Signer(keccak(b"a poor account"))
    ledger.fund([poor.address])
    ledger.transfer(poor.address, 10)
    mine = Ledger.connect(ledger.network, poor)
    barrier = threading.Barrier(2)
    assert mine._sender is not None
    real = mine._sender._rpc

    def in_step(method: str, *params: Any) -> Any:
        result = real(method, *params)
        if method == "eth_estimateGas":
            barrier.wait(timeout=20)
        return result

    mine._sender._rpc = in_step
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(mine.transfer, keccak(b"target")[:20], 10) for _ in range(2)]
        failures = [each.exception(timeout=30) for each in running]
    assert sorted(type(failure).__name__ for failure in failures) == ["ContractReverted", "NoneType"]
    assert mine.balance(poor.address) == 0
