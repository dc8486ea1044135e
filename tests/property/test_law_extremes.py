"""Whatever is ordered, the law answers and its state still encodes: an exception would stop every replica at once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.encoding import Message, encode
from koinon.epochs import Seat
from koinon.rounds.law import Federation
from koinon.rounds.operations import (
    ChangeCommittee,
    CloseRound,
    CompleteRound,
    CreateTask,
    Enrol,
    OpenRound,
    ReportEvaluation,
    Revoke,
    StopTask,
    SubmitUpdate,
    TaskSpec,
)
from koinon.signing import Signer
from koinon.wire import Admission, Receipt, Revocation, RoundCertificate
from tests.unit.rounds.world import AGGREGATOR, MODEL, NODES, REGISTRAR, REPLICAS, STRANGER, World

LOSS_MAX, EXAMPLES_MAX = 1_000_000_000, 2**32 - 1
PARTIES = [*NODES, AGGREGATOR, REGISTRAR, STRANGER]

u32 = st.sampled_from([0, 1, 2, 40, 2**32 - 1])
u63 = st.sampled_from([0, 1, 2, 3, 2**62, 2**63 - 1])
millionths = st.sampled_from([-(2**62), -1, 0, 500_000, LOSS_MAX, 2**62])
parties = st.sampled_from(PARTIES)


def admitted(world: World, member: Signer, roles: int, examples_max: int, serial: int) -> Enrol:
    admission = Admission(
        member=member.address, roles=roles, examples_max=examples_max, sealing_key=bytes(32), serial=serial
    )
    return Enrol(admission=admission, signature=REGISTRAR.sign(world.law.domain, admission))


def revoked(world: World, member: Signer, serial: int) -> Revoke:
    revocation = Revocation(member=member.address, serial=serial)
    return Revoke(revocation=revocation, signature=REGISTRAR.sign(world.law.domain, revocation))


def test_evaluations_of_the_largest_loss_and_sample_count_leave_a_state_that_encodes() -> None:
    world = World(rounds=1)
    nodes = sorted((Signer(bytes(31) + bytes([one])) for one in range(1, 9)), key=lambda one: one.address)
    for node in nodes:
        world.do(node, admitted(world, node, 1, EXAMPLES_MAX, 1))
    world.open(cohort=nodes)
    for node in nodes:
        world.do(node, world.update(node))
    world.complete()
    for node in nodes:
        report = ReportEvaluation(task=world.task, round=1, loss=LOSS_MAX, accuracy=1_000_000, examples=EXAMPLES_MAX)
        world.do(node, report)
    evaluation = world.record.rounds[0].evaluation
    assert evaluation.loss_sum / evaluation.examples == LOSS_MAX
    assert world.record.rounds[0].accuracy() == 1.0
    twin = Federation(world.law.genesis)
    twin.restore(world.law.snapshot())
    assert twin.root() == world.law.root()


def submission(world: World, node: Signer, number: int, examples: int, loss: int, holders: list[int]) -> SubmitUpdate:
    update = bytes(32)
    receipt = Receipt(task=world.task, round=number, node=node.address, update=update, examples=examples)
    signatures = world.signatures(receipt, tuple(one for one in holders if one < len(REPLICAS)))
    return SubmitUpdate(
        task=world.task, round=number, parent_model=world.record.model, update=update, examples=examples,
        loss=loss, receipts=signatures,
    )  # fmt: skip


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Signer, list[int]]:
    kind = draw(
        st.sampled_from(
            ["admit", "revoke", "open", "submit", "close", "complete", "evaluate", "stop", "create", "raw", "seats"]
        )
    )
    return kind, draw(parties), draw(st.lists(st.one_of(u32, u63, millionths), min_size=4, max_size=4))


def operation(world: World, kind: str, who: Signer, numbers: list[int]) -> Message | bytes:
    first, second, third, fourth = numbers
    current = world.record.current()
    number = current.number if current and second % 4 else abs(first) % 2**32
    examples = abs(third) % 2**32
    match kind:
        case "admit":
            return admitted(world, who, abs(second) % 256, examples, abs(first) % 2**63)
        case "revoke":
            return revoked(world, who, abs(first) % 2**63)
        case "open":
            cohort = tuple(node.address for node in NODES)
            next_ = number + 1 if current else 1
            return OpenRound(task=world.task, round=next_ % 2**32, parent_model=world.record.model, cohort=cohort)
        case "submit":
            return submission(world, who, number, examples, fourth, [0, 1, 2, abs(first) % 9])
        case "close":
            return CloseRound(task=world.task, round=number)
        case "complete":
            return completion(world, number, abs(first) % 2**63)
        case "evaluate":
            return ReportEvaluation(task=world.task, round=number, loss=first, accuracy=fourth, examples=examples)
        case "stop":
            return StopTask(task=bytes(32) if third % 2 else world.task)
        case "create":
            return CreateTask(spec=TaskSpec(
                name="n", app="a", mode="unheard-of", strategy="unheard-of", rounds=100_000, initial_model=MODEL,
                dimension=2**28, clip=1, bits=24, cohort_max=1024, round_ms=7 * 86_400_000, reward=2**32 - 1,
                nonce=abs(second) % 2**63,
            ))  # fmt: skip
        case "seats":
            epoch = abs(third) % 2**32 if fourth % 2 else world.law.epoch + 1
            members = (*REPLICAS[abs(first) % 4 :], *NODES[: abs(second) % 9])
            return ChangeCommittee(epoch=epoch, seats=tuple(_seat(one, first, fourth) for one in members))
    return encode(first) + encode(second)


def _seat(member: Signer, first: int, fourth: int) -> Seat:
    sealing_key = bytes([abs(fourth) % 256]) + member.address + bytes(11)
    return Seat(address=member.address, sealing_key=sealing_key, url="u" * 256 if first % 3 == 0 else str(member))


def completion(world: World, number: int, total: int) -> CompleteRound:
    current = world.record.current()
    if current is not None and current.phase == "closed" and world.record.status == "active":
        certificate = world.certificate(current.number)
    else:
        digest = bytes(32)
        certificate = RoundCertificate(
            task=world.task, round=number, epoch=2**32 - 1, parent_model=digest, model=digest, updates_root=digest,
            opening=digest, rewards_root=digest, rewards_total=total, participants=2**32 - 1,
        )  # fmt: skip
    return CompleteRound(certificate=certificate, signatures=world.signatures(certificate))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(steps(), st.sampled_from([0, 1, 10_001, 2**61])), max_size=40))
def test_no_ordered_operation_of_extreme_values_makes_the_law_raise(history: list[object]) -> None:
    world = World(rounds=2, reward=2**32 - 1)
    for (kind, who, numbers), wait in history:  # type: ignore[misc]
        world.now = min(world.now + wait, 2**63 - 1)
        asked = operation(world, kind, who, numbers)
        data = asked if isinstance(asked, bytes) else encode(asked)
        sender = REGISTRAR if kind == "seats" and numbers[0] % 5 else who
        answer = world.law.execute(sender.address, data, world.now)
        if numbers[1] % 3 == 0:  # a checkpoint
            world.law.hand_over()
        assert encode(world.law.state) == world.law.snapshot()
        assert isinstance(answer, bytes)
    twin = Federation(world.law.genesis)
    twin.restore(world.law.snapshot())
    assert twin.snapshot() == world.law.snapshot()
