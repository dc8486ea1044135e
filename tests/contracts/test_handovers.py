"""What the committee says of itself on chain: handovers by checkpoint certificate, and convictions of liars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from koinon.encoding import ZERO_DIGEST, keccak, to_hex
from koinon.epochs import members_hash
from koinon.errors import ContractReverted
from koinon.signing import Domain, Signer
from koinon.wire import Vote
from tests.contracts.conftest import Reverts
from tests.contracts.world import (
    START_S,
    STATE,
    Done,
    World,
    checkpoint,
    fields,
    key,
    quorum,
    sealing_keys,
    seats,
    urls,
)

WEEK_S = 7 * 86_400
VOTE = Vote(phase=3, epoch=0, view=2, sequence=77, digest=keccak(b"one"))
OTHER = replace(VOTE, digest=keccak(b"other"))


def newcomers(count: int) -> list[Signer]:
    return [key(f"next {index}") for index in range(count)]


# --- handovers -------------------------------------------------------------------------------------------------


def test_committee_hands_over_by_certificate_without_the_owner(world: World) -> None:
    world.send(world.registrar, "Committee", "renounceOwnership")
    following = newcomers(5)
    done = world.hand_over(following, bitmap=0b1101)
    members = [each.address for each in following]
    assert world.view("Committee", "epochInfo", 1) == (members_hash(members), 5, 1, START_S)
    signatures = world.signatures(checkpoint(1, following), [0, 2, 3])
    assert done.events == [
        ("EpochInstalled", (1, members_hash(members), tuple(members), tuple(sealing_keys(5)), tuple(urls(5)))),
        ("EpochHandedOver", (1, 64, STATE, 0b1101, signatures)),
    ]


@pytest.mark.parametrize("replicas", [1, 4, 7, 31])
def test_exactly_a_quorum_hands_over(replicas: int, reverts: Reverts) -> None:
    world = World(replicas)
    needed = quorum(replicas)
    with reverts("Committee__NoQuorum", needed - 1, needed):
        world.hand_over(newcomers(4), bitmap=(1 << needed - 1) - 1)
    world.hand_over(newcomers(4))
    assert world.view("Committee", "epoch") == 1


def test_handovers_follow_one_another(world: World, reverts: Reverts) -> None:
    first, second = newcomers(5), newcomers(7)
    with reverts("Committee__WrongMembers"):
        world.hand_over(second, first, epoch=2)
    world.hand_over(first)
    world.hand_over(second, first, epoch=2)
    with reverts("Committee__WrongMembers"):
        world.hand_over(first)
    assert world.view("Committee", "epoch") == 2


@pytest.mark.parametrize(
    "change",
    [{"epoch": 1}, {"sequence": 65}, {"state": keccak(b"another")}, {"next": ZERO_DIGEST}],
    ids=lambda change: next(iter(change)),
)
def test_certificate_of_another_checkpoint_is_refused(
    world: World, reverts: Reverts, change: dict[str, int | bytes]
) -> None:
    with reverts("Committee__BadSignature"):
        world.hand_over(newcomers(4), signed=replace(checkpoint(1, newcomers(4)), **change))


@pytest.mark.parametrize("change", [{"sealing_key": b"\x09" * 32}, {"url": "https://elsewhere.example"}])
def test_certificate_names_keys_and_addresses_too(world: World, reverts: Reverts, change: dict[str, str]) -> None:
    false = seats(newcomers(4))
    false[2] = replace(false[2], **change)
    with reverts("Committee__BadSignature"):
        world.hand_over(newcomers(4), seats=false)


def test_certificate_of_another_network_is_refused(world: World, reverts: Reverts) -> None:
    foreign = Domain(world.domain.chain_id + 1, world.domain.contract)
    signatures = b"".join(each.sign(foreign, checkpoint(1, newcomers(4))) for each in world.replicas[:3])
    columns = [list(column) for column in zip(*map(fields, seats(newcomers(4))), strict=True)]
    proof = (64, STATE, [each.address for each in world.replicas], 0b111, signatures)
    with reverts("Committee__BadSignature"):
        world.send(world.node, "Committee", "installEpochByCertificate", *columns, proof)


def test_quorum_cannot_install_what_is_no_committee(world: World, reverts: Reverts) -> None:
    one = key("one")
    with reverts("Committee__BadSize", 0):
        world.hand_over([])
    with reverts("Committee__DuplicateMember", to_hex(one.address)):
        world.hand_over([one, key("two"), one])


def test_round_certified_before_a_handover_can_follow_it_for_a_week(world: World, reverts: Reverts) -> None:
    world.create_task()
    world.hand_over(newcomers(4))
    assert world.view("Committee", "inForce", 0)
    world.at_time(START_S + WEEK_S - 1)
    world.open_round(1, epoch=0)
    world.commit(world.certificate())
    world.at_time(START_S + WEEK_S)
    assert not world.view("Committee", "inForce", 0)
    with reverts("RoundLedger__EpochNotInForce", 0):
        world.open_round(2, world.certificate().model, epoch=0)
    world.open_round(2, world.certificate().model, epoch=1)


def test_the_week_begins_with_the_handover_however_old_the_epoch_is(world: World) -> None:
    world.create_task()
    world.at_time(START_S + 10 * WEEK_S)
    world.hand_over(newcomers(4))
    assert world.view("Committee", "inForce", 0)
    world.open_round(1, epoch=0)
    world.commit(world.certificate())


def test_round_of_an_epoch_to_come_waits_for_its_handover(world: World, reverts: Reverts) -> None:
    world.create_task()
    with reverts("RoundLedger__EpochNotInForce", 1):
        world.open_round(1, epoch=1)
    world.hand_over(newcomers(4))
    world.open_round(1, epoch=1)


# --- convictions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [1, 2, 3])
def test_two_votes_for_one_slot_convict(world: World, phase: int) -> None:
    first, second = replace(VOTE, phase=phase), replace(OTHER, phase=phase)
    culprit = world.replicas[1]
    assert not world.view("Committee", "convicted", culprit.address)
    done = world.report(1, first, second)
    signatures = culprit.sign(world.domain, first) + culprit.sign(world.domain, second)
    said = (0, 1, culprit.address, world.node.address, fields(first), fields(second), signatures)
    assert done.events == [("ReplicaConvicted", said)]
    assert world.view("Committee", "convicted", culprit.address)
    assert not world.view("Committee", "convicted", world.replicas[0].address)


def test_one_conviction_is_enough(world: World, reverts: Reverts) -> None:
    world.report(1, VOTE, OTHER)
    with reverts("Committee__AlreadyConvicted", to_hex(world.replicas[1].address)):
        world.report(1, replace(VOTE, sequence=78), replace(OTHER, sequence=78))


def test_votes_for_one_digest_convict_nobody(world: World, reverts: Reverts) -> None:
    with reverts("Committee__SameDigest", to_hex(VOTE.digest)):
        world.report(1, VOTE, VOTE)


@pytest.mark.parametrize("change", [{"phase": 2}, {"epoch": 1}, {"view": 3}, {"sequence": 78}], ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_votes_for_different_slots_convict_nobody(
    world: World, reverts: Reverts, change: dict[str, int], swapped: bool
) -> None:
    pair = [VOTE, replace(OTHER, **change)]
    with reverts("Committee__DifferentSlot"):
        world.report(1, *(reversed(pair) if swapped else pair))


def test_votes_of_another_epoch_than_named_convict_nobody(world: World, reverts: Reverts) -> None:
    with reverts("Committee__DifferentSlot"):
        world.report(1, replace(VOTE, epoch=1), replace(OTHER, epoch=1))


@pytest.mark.parametrize("phase", [0, 4, 255])
def test_votes_out_of_phase_convict_nobody(world: World, reverts: Reverts, phase: int) -> None:
    with reverts("Committee__PhaseOutOfRange", phase):
        world.report(1, replace(VOTE, phase=phase), replace(OTHER, phase=phase))


def test_nobody_is_convicted_by_the_votes_of_another(world: World, reverts: Reverts) -> None:
    with reverts("Committee__BadSignature", 0, to_hex(world.replicas[1].address)):
        world.report(1, VOTE, OTHER, index=0)
    honest, liar = world.replicas[0], world.replicas[1]
    mixed = honest.sign(world.domain, VOTE) + liar.sign(world.domain, OTHER)
    with reverts("Committee__BadSignature", 0, to_hex(liar.address)):
        world.report(1, VOTE, OTHER, index=0, signatures=mixed)
    with reverts("Committee__BadSignature", 1, to_hex(honest.address)):
        world.report(1, VOTE, OTHER, signatures=mixed)
    with reverts("Committee__BadSignature", 1, to_hex(bytes(20))):
        world.report(1, VOTE, OTHER, signatures=bytes(128))


@pytest.mark.parametrize("length", [0, 64, 127, 129, 192])
def test_two_signatures_have_128_bytes(world: World, reverts: Reverts, length: int) -> None:
    with reverts("Committee__SignatureLength", length, 128):
        world.report(1, VOTE, OTHER, signatures=bytes(length))


def test_only_members_of_an_installed_epoch_are_convicted(world: World, reverts: Reverts) -> None:
    with reverts("Committee__IndexOutOfRange", 4, 4):
        world.report(1, VOTE, OTHER, index=4)
    with reverts("Committee__WrongMembers"):
        world.report(1, VOTE, OTHER, members=[each.address for each in newcomers(4)])
    with reverts("Committee__UnknownEpoch", 1):
        world.report(1, replace(VOTE, epoch=1), replace(OTHER, epoch=1), epoch=1)


def test_member_of_a_past_epoch_is_still_convicted(world: World) -> None:
    world.hand_over(newcomers(4))
    world.report(3, VOTE, OTHER)
    assert world.view("Committee", "convicted", world.replicas[3].address)


def test_convicted_replica_is_not_appointed_and_does_not_come_back(world: World, reverts: Reverts) -> None:
    liar = world.replicas[1]
    world.report(1, VOTE, OTHER)
    with reverts("Committee__ConvictedMember", to_hex(liar.address)):
        world.send(world.registrar, "Committee", "installEpoch", [liar.address], sealing_keys(1), urls(1))
    without = [*newcomers(1), *world.replicas[2:]]
    world.hand_over(without)
    with reverts("Committee__ConvictedMember", to_hex(liar.address)):
        world.hand_over([*without, liar], without, epoch=2)


def test_liar_cannot_stop_a_handover_by_its_own_conviction(world: World) -> None:
    """The log is in the next epoch already: refusing to record it would cut the chain off for good."""
    following = [*world.replicas, key("next 0")]
    world.report(1, VOTE, OTHER)
    world.hand_over(following)
    world.hand_over([each for each in following if each is not world.replicas[1]], following, epoch=2)
    assert world.view("Committee", "epoch") == 2


# --- any order of both ------------------------------------------------------------------------------------------


class History(RuleBasedStateMachine):
    """Handovers, appointments and reports in any order, against a model in Python."""

    keys = tuple(key(f"seat {index}") for index in range(6))

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.epochs: list[list[Signer]] = [list(self.world.replicas)]
        self.convicted: set[bytes] = set()

    committees = st.lists(st.sampled_from(range(6)), min_size=1, max_size=6, unique=True)

    @rule(chosen=committees, stay=st.booleans(), missing=st.integers(0, 2))
    def hand_over(self, chosen: list[int], stay: bool, missing: int) -> None:
        current = self.epochs[-1]
        fresh = [each for each in (self.keys[index] for index in chosen) if each not in current]
        following = [*current[:3], *fresh] if stay else fresh
        signers = quorum(len(current)) - missing
        bars = {each.address for each in following} - {each.address for each in current}
        allowed = bool(following) and missing == 0 and not bars & self.convicted
        bitmap = (1 << max(0, signers)) - 1
        refused = self._refused(self.world.hand_over, following, current, epoch=len(self.epochs), bitmap=bitmap)
        assert (refused == "") == allowed
        if allowed:
            self.epochs.append(following)

    @rule(chosen=committees)
    def appoint(self, chosen: list[int]) -> None:
        following = [self.keys[index] for index in chosen]
        columns = [each.address for each in following], sealing_keys(len(following)), urls(len(following))
        refused = self._refused(self.world.send, self.world.registrar, "Committee", "installEpoch", *columns)
        if {each.address for each in following} & self.convicted:
            assert refused == "Committee__ConvictedMember"
        else:
            assert refused == ""
            self.epochs.append(following)

    def _refused(self, action: Callable[..., Done], *arguments: Any, **named: Any) -> str:
        """The error's name, or "" when it was done."""
        try:
            action(*arguments, **named)
        except ContractReverted as error:
            return error.name
        return ""

    @rule(data=st.data(), honest=st.booleans())
    def report(self, data: st.DataObject, honest: bool) -> None:
        epoch = data.draw(st.integers(0, len(self.epochs) - 1))
        members = self.epochs[epoch]
        index = data.draw(st.integers(0, len(members) - 1))
        first = replace(VOTE, epoch=epoch)
        second = first if honest else replace(OTHER, epoch=epoch)
        culprit = members[index]
        both = culprit.sign(self.world.domain, first) + culprit.sign(self.world.domain, second)
        addresses = [each.address for each in members]
        given = {"epoch": epoch, "members": addresses, "index": index, "signatures": both}
        refused = self._refused(self.world.report, 0, first, second, **given)
        if culprit.address in self.convicted:
            assert refused == "Committee__AlreadyConvicted"
        else:
            assert refused == ("Committee__SameDigest" if honest else "")
            self.convicted |= set() if honest else {culprit.address}

    @invariant()
    def chain_knows_exactly_these(self) -> None:
        last = [each.address for each in self.epochs[-1]]
        assert self.world.view("Committee", "epoch") == len(self.epochs) - 1
        assert self.world.view("Committee", "epochInfo", len(self.epochs) - 1)[0] == members_hash(last)
        everybody = (*self.keys, *self.epochs[0])
        found = {each.address for each in everybody if self.world.view("Committee", "convicted", each.address)}
        assert found == self.convicted


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
