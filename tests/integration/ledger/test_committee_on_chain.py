"""Epochs, handovers and convictions through the ledger client, on real chains."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from koinon.encoding import keccak
from koinon.epochs import Handover, Seat, epoch_change
from koinon.errors import ContractReverted, LedgerError
from koinon.ledger import CommitteeMember, Ledger, Network
from koinon.records import (
    EpochHandedOver,
    ReplicaConvicted,
)
from koinon.wire import (
    Checkpoint,
    CheckpointCertificate,
    Equivocation,
    Role,
    Vote,
)

from .world import INITIAL, MEMBERS, OPERATOR, REPLICAS, admit, new_task


def test_next_epoch_is_installed_and_both_are_known(network: Network) -> None:
    made = Ledger.deploy(network.rpc, OPERATOR, OPERATOR.address, MEMBERS)
    operator = Ledger.connect(replace(network, contracts=made.contracts), OPERATOR)
    operator.install_epoch(MEMBERS[:1])
    assert operator.epoch() == 1
    assert operator.committee().members == tuple(MEMBERS[:1])
    assert operator.committee(0).members == tuple(MEMBERS)


def fresh(network: Network) -> Ledger:
    """Other contracts on the same chain, in epoch 0."""
    made = Ledger.deploy(network.rpc, OPERATOR, OPERATOR.address, MEMBERS)
    return Ledger.connect(replace(network, contracts=made.contracts), OPERATOR)


def seat(member: CommitteeMember) -> Seat:
    return Seat(address=member.address, sealing_key=member.sealing_key, url=member.url)


def handover(ledger: Ledger, following: tuple[int, ...], signers: tuple[int, ...], epoch: int = 0) -> Handover:
    """The committee of REPLICAS names those of `following` to come after `epoch`."""
    seats = tuple(seat(MEMBERS[index]) for index in following)
    checkpoint = Checkpoint(
        epoch=epoch, sequence=64, state=keccak(b"state"), next=epoch_change(epoch + 1, seats).struct_hash()
    )
    signatures = tuple(REPLICAS[index].sign(ledger.domain(), checkpoint) for index in signers)
    return Handover(certificate=CheckpointCertificate(checkpoint=checkpoint, signatures=signatures), seats=seats)


def equivocation(ledger: Ledger, index: int, epoch: int = 0, *, signer: int | None = None) -> Equivocation:
    first, second = (Vote(phase=2, epoch=epoch, view=1, sequence=9, digest=keccak(each)) for each in (b"one", b"other"))
    key, domain = REPLICAS[index if signer is None else signer], ledger.domain()
    return Equivocation(
        index=index,
        first=first,
        first_signature=key.sign(domain, first),
        second=second,
        second_signature=key.sign(domain, second),
    )


def test_handover_is_recorded_once_with_signatures_in_any_order(network: Network) -> None:
    operator = fresh(network)
    proof = handover(operator, (3, 0, 1), (3, 1, 0))
    done = operator.install_epoch_by_certificate(proof)
    assert done is not None
    assert operator.install_epoch_by_certificate(proof) is None
    assert operator.committee().members == tuple(MEMBERS[index] for index in (3, 0, 1))
    found = [each for each in operator.events(done.block, done.block) if isinstance(each, EpochHandedOver)]
    assert [(each.epoch, each.sequence, each.state, each.signers) for each in found] == [
        (1, 64, keccak(b"state"), 0b1011)
    ]


def test_handover_without_a_quorum_or_out_of_order_is_refused(network: Network) -> None:
    operator = fresh(network)
    with pytest.raises(ContractReverted, match="Committee__NoQuorum"):
        operator.install_epoch_by_certificate(handover(operator, (0, 1), (0, 1)))
    with pytest.raises(LedgerError, match="the chain is in epoch 0, and this is the handover of epoch 1"):
        operator.install_epoch_by_certificate(handover(operator, (0, 1), (0, 1, 2), epoch=1))


def test_another_committee_under_the_same_number_is_named(network: Network) -> None:
    operator = fresh(network)
    operator.install_epoch(MEMBERS[:1])
    with pytest.raises(LedgerError, match="another committee of epoch 1"):
        operator.install_epoch_by_certificate(handover(operator, (0, 1, 2), (0, 1, 2)))


def test_equivocation_convicts_once(network: Network) -> None:
    operator = fresh(network)
    assert not operator.convicted(REPLICAS[2].address)
    evidence = equivocation(operator, 2)
    done = operator.report_equivocation(evidence)
    assert done is not None
    assert operator.convicted(REPLICAS[2].address)
    assert operator.report_equivocation(evidence) is None
    (event,) = (each for each in operator.events(done.block, done.block) if isinstance(each, ReplicaConvicted))
    assert (event.epoch, event.index, event.member) == (0, 2, REPLICAS[2].address)
    assert (event.first, event.second) == (evidence.first, evidence.second)
    assert event.signatures == evidence.first_signature + evidence.second_signature


def test_false_evidence_convicts_nobody(network: Network) -> None:
    operator = fresh(network)
    with pytest.raises(ContractReverted, match="Committee__BadSignature"):
        operator.report_equivocation(equivocation(operator, 2, signer=3))
    with pytest.raises(LedgerError, match="does not know epoch 1"):
        operator.report_equivocation(equivocation(operator, 2, epoch=1))
    with pytest.raises(ContractReverted, match="Committee__IndexOutOfRange"):
        operator.report_equivocation(msgspec.structs.replace(equivocation(operator, 2), index=9))
    assert not operator.convicted(REPLICAS[2].address)


def test_round_is_pinned_to_the_epoch_that_is_named(network: Network) -> None:
    operator = fresh(network)
    admit(operator, OPERATOR.address, Role.AGGREGATOR)
    task = new_task(operator)
    with pytest.raises(ContractReverted, match="RoundLedger__EpochNotInForce"):
        operator.open_round(task, 1, INITIAL, 1_000, epoch=1)
    operator.install_epoch_by_certificate(handover(operator, (0, 1, 2), (0, 1, 2)))
    operator.open_round(task, 1, INITIAL, 1_000, epoch=0)
    found = operator.round(task, 1)
    assert found is not None
    assert found.epoch == 0
