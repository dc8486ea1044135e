"""The law of mode masked: who announces, when a round goes on, who reveals, and what is kept."""

from __future__ import annotations

import secrets

import msgspec
import pytest

from koinon.errors import Rejected
from koinon.privacy import SealingKey
from koinon.privacy.masking import Masks, announce, reveal, threshold
from koinon.rounds.law import ABORTED_ROUNDS_MAX
from koinon.rounds.masks import announcement_deadline_ms
from koinon.rounds.operations import AnnounceMasks, CloseRound, ConfirmSet, CreateTask, ReportFault, RevealShares
from koinon.rounds.state import Round
from koinon.rounds.vouching import accepted_set, mask_notice
from koinon.signing import Signer
from koinon.wire import Fault, MaskAnnouncement, MaskReveal, Role

from .world import AGGREGATOR, NODES, World, key


def sealing(node: Signer) -> SealingKey:
    return SealingKey.derive(node.secret, 0)


class Masked(World):
    def __init__(self, *more: Signer) -> None:
        super().__init__(mode="masked")
        self.invited = [*NODES, *more]
        for node in more:
            self.enrol(node, Role.NODE)
        self.open(cohort=self.invited)

    @property
    def round(self) -> Round:
        return self.record.rounds[-1]

    def announcement(self, node: Signer) -> AnnounceMasks:
        cohort = {each.address: sealing(each).public for each in self.invited}
        _, said = announce(self.task, self.round.number, node.address, cohort, secrets.token_bytes)
        return self.signed(node, said)

    def signed(self, node: Signer, said: MaskAnnouncement, **other: int | bytes) -> AnnounceMasks:
        board = self.law.state.boards[self.task]
        notice = msgspec.structs.replace(mask_notice(self.task, self.round, board.cohort, said), **other)
        signature = node.sign(self.law.domain, notice)
        return AnnounceMasks(task=self.task, round=self.round.number, announcement=said, signature=signature)

    def announce(self, *nodes: Signer) -> None:
        for node in nodes:
            self.do(node, self.announcement(node))

    def submit(self, *nodes: Signer) -> None:
        for node in nodes:
            self.do(node, self.update(node, self.round.number))

    def confirmation(self, node: Signer) -> ConfirmSet:
        said = accepted_set(self.task, self.round, self.law.state.boards[self.task].fixed)
        signature = node.sign(self.law.domain, said)
        return ConfirmSet(task=self.task, round=self.round.number, signature=signature)

    def confirm(self, *nodes: Signer) -> None:
        for node in nodes:
            self.do(node, self.confirmation(node))

    def reveal(self, node: Signer) -> RevealShares:
        board, round_ = self.law.state.boards[self.task], self.round
        masks = Masks(self.task, round_.number, round_.cohort, board.announced)
        said = reveal(masks, node.address, sealing(node), sorted(round_.submissions))
        return RevealShares(task=self.task, round=round_.number, reveal=said)


@pytest.fixture
def world() -> Masked:
    return Masked()


def refused(
    world: Masked, sender: Signer, operation: AnnounceMasks | ConfirmSet | RevealShares, rule: str = "masks"
) -> None:
    before = world.law.snapshot()
    with pytest.raises(Rejected) as error:
        world.do(sender, operation)
    assert error.value.rule == rule
    counted = msgspec.msgpack.decode(before, type=type(world.law.state))
    counted.refusals = world.law.state.refusals
    assert world.law.state == counted


def test_training_begins_when_all_have_announced(world: Masked) -> None:
    world.announce(*NODES[:3])
    assert world.round.phase == "announcing"
    world.announce(NODES[3])
    assert world.round.phase == "training"


def test_nobody_trains_before_the_masks_are_known(world: Masked) -> None:
    world.announce(*NODES[:3])
    with pytest.raises(Rejected, match="takes no more updates"):
        world.submit(NODES[0])


def test_the_round_goes_on_without_nodes_that_stay_silent(world: Masked) -> None:
    world.announce(*NODES[:3])
    with pytest.raises(Rejected, match="to the deadline of announcements"):
        world.close()
    world.now = announcement_deadline_ms(world.round) + 1
    world.close()
    assert world.round.phase == "training"
    with pytest.raises(Rejected, match="announced no masks"):
        world.submit(NODES[3])
    world.submit(*NODES[:3])
    assert world.round.phase == "closed"


def test_too_few_announcements_end_the_round_and_at_last_the_task(world: Masked) -> None:
    for number in range(1, ABORTED_ROUNDS_MAX + 1):
        world.announce(*NODES[: threshold(4) - 1])
        world.now = announcement_deadline_ms(world.round) + 1
        world.close(number)
        assert world.round.phase == "aborted"
        assert not world.law.state.boards
        if number < ABORTED_ROUNDS_MAX:
            world.open(number + 1)
    assert world.record.status == "failed"


def test_fewer_updates_than_can_be_unmasked_never_close_a_round(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES[:2])
    world.now = world.round.deadline_ms + 1
    world.close()
    assert world.round.phase == "aborted"


def test_barred_nodes_close_no_round_that_the_others_cannot_open() -> None:
    world = Masked(key("fifth"), key("sixth"))
    world.announce(*world.invited)
    world.submit(*world.invited[:4])
    assert threshold(6) == 5
    for node in world.invited[4:]:
        fault = Fault(task=world.task, round=1, node=node.address)
        world.do(NODES[0], ReportFault(fault=fault, signatures=world.signatures(fault, (0, 1))))
    assert world.round.phase == "training"  # nobody is awaited, but four reveals would open nothing
    world.now = world.round.deadline_ms + 1
    world.do(NODES[0], CloseRound(task=world.task, round=1))
    assert world.round.phase == "aborted"


def test_accepted_nodes_reveal_once_and_the_board_is_dropped_with_the_certificate(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES)
    world.confirm(*NODES[:2])
    refused(world, NODES[0], world.reveal(NODES[0]))  # two of four say that this is the set
    assert world.record.stage == "active.1.closed"
    world.confirm(NODES[2])
    assert world.record.stage == "active.1.closed.agreed"
    for node in NODES:
        world.do(node, world.reveal(node))
    assert world.round.revealed == tuple(node.address for node in NODES)
    refused(world, NODES[0], world.reveal(NODES[0]))
    assert set(world.law.state.boards) == {world.task}
    world.complete()
    assert not world.law.state.boards
    assert not world.round.confirmed


def test_nobody_confirms_or_reveals_before_the_accepted_set_is_fixed(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES[:3])
    refused(world, NODES[0], RevealShares(task=world.task, round=1, reveal=MaskReveal(shares=(b"",) * 4)))
    refused(world, NODES[0], world.confirmation(NODES[0]))


def test_a_set_is_confirmed_once_by_the_accepted_in_their_own_name(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES[:3])
    partial = world.confirmation(NODES[0])  # of a set that may still grow
    world.now = world.round.deadline_ms + 1
    world.close()
    assert partial == world.confirmation(NODES[0])
    refused(world, NODES[3], world.confirmation(NODES[3]))
    refused(world, NODES[0], world.confirmation(NODES[1]))
    world.confirm(NODES[0])
    refused(world, NODES[0], world.confirmation(NODES[0]))


def test_a_confirmation_of_another_set_is_refused(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES[:3])
    stale = world.confirmation(NODES[0])
    world.submit(NODES[3])
    refused(world, NODES[0], stale)


def test_a_node_that_dropped_out_has_nothing_to_reveal(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES[:3])
    world.now = world.round.deadline_ms + 1
    world.close()
    world.confirm(*NODES[:3])
    refused(world, NODES[3], world.reveal(NODES[3]))


def test_a_second_announcement_is_refused(world: Masked) -> None:
    world.announce(NODES[0])
    refused(world, NODES[0], world.announcement(NODES[0]))


def test_an_announcement_after_training_began_is_refused(world: Masked) -> None:
    world.announce(*NODES[:3])
    world.now = announcement_deadline_ms(world.round) + 1
    world.close()
    refused(world, NODES[3], world.announcement(NODES[3]))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"round": 2}, id="round"),
        pytest.param({"epoch": 1}, id="epoch"),
        pytest.param({"task": bytes(32)}, id="task"),
        pytest.param({"cohort": bytes(32)}, id="cohort"),
        pytest.param({"announcement": bytes(32)}, id="announcement"),
    ],
)
def test_an_announcement_that_was_signed_for_something_else_is_refused(
    world: Masked, other: dict[str, int | bytes]
) -> None:
    said = world.announcement(NODES[0]).announcement
    refused(world, NODES[0], world.signed(NODES[0], said, **other))


def test_an_announcement_of_another_node_is_refused(world: Masked) -> None:
    refused(world, NODES[0], world.announcement(NODES[1]))


@pytest.mark.parametrize("change", ["too few shares", "a key of small order"])
def test_a_malformed_announcement_is_refused(world: Masked, change: str) -> None:
    said = world.announcement(NODES[0]).announcement
    bad = {
        "too few shares": msgspec.structs.replace(said, shares=said.shares[:-1]),
        "a key of small order": msgspec.structs.replace(said, public_key=bytes(32)),
    }[change]
    refused(world, NODES[0], world.signed(NODES[0], bad))


def test_a_reveal_with_the_wrong_number_of_shares_is_refused(world: Masked) -> None:
    world.announce(*NODES)
    world.submit(*NODES)
    world.confirm(*NODES)
    refused(world, NODES[0], RevealShares(task=world.task, round=1, reveal=MaskReveal(shares=(b"",) * 3)))


def test_who_was_not_invited_and_who_does_not_train_are_refused(world: Masked) -> None:
    refused(world, AGGREGATOR, world.announcement(NODES[0]), rule="role")


def test_a_task_for_more_nodes_than_an_announcement_carries_is_refused() -> None:
    world = Masked()
    spec = msgspec.structs.replace(world.spec, cohort_max=257, name="large")
    with pytest.raises(Rejected, match="invites at most 256"):
        world.do(NODES[0], CreateTask(spec=spec))


def test_other_modes_have_no_masks() -> None:
    world = World()
    world.open()
    assert world.record.rounds[0].phase == "training"
    assert not world.law.state.boards


def test_a_snapshot_carries_the_masks(world: Masked) -> None:
    world.announce(*NODES[:2])
    snapshot = world.law.snapshot()
    world.law.restore(snapshot)
    assert world.law.snapshot() == snapshot
    assert set(world.law.state.boards[world.task].announced) == {node.address for node in NODES[:2]}
