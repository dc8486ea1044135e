from __future__ import annotations

import gc
from collections.abc import Callable

import msgspec
import pytest

from koinon.encoding import encode, keccak
from koinon.errors import Rejected, UnknownSigner
from koinon.merkle import root, update_leaf
from koinon.rounds import law
from koinon.rounds.law import ABORTED_ROUNDS_MAX, TASKS_ACTIVE_PER_SUBMITTER_MAX
from koinon.rounds.operations import (
    CloseRound,
    CompleteRound,
    CreateTask,
    Enrol,
    OpenRound,
    Revoke,
    StopTask,
)
from koinon.rounds.rules import RULES, decode_outcome
from koinon.wire import Revocation, Role
from tests.unit.rounds.world import AGGREGATOR, MODEL, NODES, REGISTRAR, STRANGER, World


def refused(rule: str, act: Callable[[], object], world: World) -> None:
    """`act` breaks `rule`: the state keeps its root, apart from time and the counter of refusals."""
    before = (encode(world.law.state.members), encode(world.law.state.tasks))
    counted = world.law.state.refusals.get(rule, 0)
    with pytest.raises(Rejected) as caught:
        act()
    assert caught.value.rule == rule
    assert (encode(world.law.state.members), encode(world.law.state.tasks)) == before
    assert world.law.state.refusals[rule] == counted + 1


def test_two_rounds_complete_a_task_and_reward_each_accepted_node() -> None:
    world = World(rounds=2, reward=5)
    world.play_round(1)
    assert world.record.status == "active"
    world.play_round(2)
    assert world.record.status == "completed"
    assert world.record.rewards == {node.address: 10 for node in NODES}
    assert world.record.model == keccak(b"model after\x02")


def test_what_single_nodes_do_changes_a_tasks_version_and_seldom_its_stage() -> None:
    world = World(rounds=2)
    stages, versions = [world.record.stage], {world.record.version}

    def look() -> None:
        stages.extend([world.record.stage] * (world.record.stage != stages[-1]))
        versions.add(world.record.version)

    for number in (1, 2):
        world.open(number)
        look()
        for node in NODES:
            world.do(node, world.update(node, number))
            look()
        world.complete(number)
        look()
        for node in NODES:
            world.do(node, world.evaluation(number))
            look()
    assert stages == [
        "active",
        *("active.1.training", "active.1.closed", "active.1.certified"),
        *("active.2.training", "active.2.closed", "completed.2.certified"),
    ]
    assert len(versions) == 1 + 2 * (2 + 2 * len(NODES))


def test_the_round_closes_by_itself_when_the_cohort_is_complete_and_fixes_the_root() -> None:
    world = World()
    world.open()
    for node in NODES:
        assert world.record.rounds[0].phase == "training"
        world.do(node, world.update(node))
    round_ = world.record.rounds[0]
    assert round_.phase == "closed"
    leaves = [update_leaf(world.task, 1, node.address, world.update(node).update, 40) for node in NODES]
    assert round_.updates_root == root(leaves)


def test_at_the_deadline_a_quorum_of_updates_is_enough() -> None:
    world = World()
    world.open()
    for node in NODES[:3]:
        world.do(node, world.update(node))
    refused("too-early", world.close, world)
    world.now += 10_001
    refused("round-closed", lambda: world.do(NODES[3], world.update(NODES[3])), world)
    world.close()
    world.complete()
    assert world.record.rewards == {node.address: 5 for node in NODES[:3]}


def test_too_few_updates_abort_the_round_and_three_in_a_row_end_the_task() -> None:
    world = World()
    for number in range(1, ABORTED_ROUNDS_MAX + 1):
        world.open(number)
        world.do(NODES[0], world.update(NODES[0], number))
        world.now += 10_001
        world.close(number)
        assert world.record.rounds[-1].phase == "aborted"
        assert world.record.model == MODEL
    assert world.record.status == "failed"
    assert "too few updates" in world.record.reason


def test_a_stranger_a_revoked_member_and_a_wrong_role_are_refused() -> None:
    world = World()
    refused("not-a-member", lambda: world.do(STRANGER, CreateTask(spec=world.spec)), world)
    with pytest.raises(Rejected):
        world.do(NODES[0], OpenRound(task=world.task, round=1, parent_model=MODEL, cohort=()))
    world.open()
    refused("role", lambda: world.do(AGGREGATOR, world.update(AGGREGATOR)), world)
    revocation = Revocation(member=NODES[1].address, serial=2)
    signed = Revoke(revocation=revocation, signature=REGISTRAR.sign(world.law.domain, revocation))
    world.do(STRANGER, signed)
    refused("not-a-member", lambda: world.do(NODES[1], world.update(NODES[1])), world)
    with pytest.raises(UnknownSigner):
        world.law.admits(NODES[1].address)
    refused("admission", lambda: world.do(STRANGER, signed), world)


def test_an_admission_is_valid_once_for_its_member_and_from_the_registrar_only() -> None:
    world = World()
    refused("admission", lambda: world.enrol(NODES[0], Role.NODE, serial=1), world)
    theirs = world.admission(NODES[0], Role.NODE, serial=2)
    refused("admission", lambda: world.do(STRANGER, theirs), world)
    forged = world.admission(STRANGER, Role.NODE, by=STRANGER)
    refused("admission", lambda: world.do(STRANGER, forged), world)
    world.do(NODES[0], theirs)
    assert world.law.state.members[NODES[0].address].serial == 2


def test_a_second_update_of_a_node_is_refused_even_if_it_is_the_same() -> None:
    world = World()
    world.open()
    world.do(NODES[0], world.update(NODES[0]))
    for content in (b"", b"another"):
        refused("duplicate-update", lambda c=content: world.do(NODES[0], world.update(NODES[0], content=c)), world)


def test_stale_models_wrong_rounds_and_unknown_tasks_are_refused() -> None:
    world = World()
    refused("unknown-round", lambda: world.do(NODES[0], world.update(NODES[0])), world)
    cohort = tuple(node.address for node in NODES)
    stale = OpenRound(task=world.task, round=1, parent_model=bytes(32), cohort=cohort)
    refused("stale-model", lambda: world.do(AGGREGATOR, stale), world)
    world.open()
    refused("round-open", lambda: world.open(2), world)
    old = msgspec.structs.replace(world.update(NODES[0]), parent_model=bytes(32))
    refused("stale-model", lambda: world.do(NODES[0], old), world)
    lost = msgspec.structs.replace(world.update(NODES[0]), task=bytes(32))
    refused("unknown-task", lambda: world.do(NODES[0], lost), world)
    early = msgspec.structs.replace(world.update(NODES[0]), round=2)
    refused("unknown-round", lambda: world.do(NODES[0], early), world)


def test_a_cohort_is_sorted_large_enough_and_made_of_nodes() -> None:
    world = World()
    good = [node.address for node in NODES]
    for cohort in (good[::-1], good[:2], [*good[:3], good[2]], sorted([*good, AGGREGATOR.address]),
                   sorted([*good, STRANGER.address])):  # fmt: skip
        open_ = OpenRound(task=world.task, round=1, parent_model=MODEL, cohort=tuple(cohort))
        refused("cohort", lambda o=open_: world.do(AGGREGATOR, o), world)
    world.open(cohort=NODES[:3])
    refused("not-invited", lambda: world.do(NODES[3], world.update(NODES[3])), world)


def test_sample_counts_are_bounded_by_the_admission() -> None:
    world = World()
    world.open()
    for examples in (0, 101):
        refused("examples", lambda e=examples: world.do(NODES[0], world.update(NODES[0], examples=e)), world)


def test_a_sample_count_above_the_rounds_cap_is_refused_even_of_a_node_that_was_admitted_with_more_since() -> None:
    world = World()
    world.open()
    larger = msgspec.structs.replace(world.admission(NODES[0], Role.NODE, serial=2).admission, examples_max=5000)
    world.do(NODES[0], Enrol(admission=larger, signature=REGISTRAR.sign(world.law.domain, larger)))
    refused("examples", lambda: world.do(NODES[0], world.update(NODES[0], examples=101)), world)
    world.do(NODES[0], world.update(NODES[0], examples=100))


def test_receipts_for_another_sample_count_are_none() -> None:
    world = World()
    world.open()
    for examples in (1, 39, 41, 100):
        bad = msgspec.structs.replace(world.update(NODES[0]), examples=examples)
        refused("receipts", lambda b=bad: world.do(NODES[0], b), world)
    world.do(NODES[0], world.update(NODES[0]))


def test_an_update_needs_2f_plus_1_receipts_for_itself() -> None:
    world = World()
    world.open()
    good, other = world.update(NODES[0]), world.update(NODES[1])
    first, second, third = good.receipts
    for receipts in ((), (first, second), (first, second, second), (third, second, first), other.receipts,
                     (first, second, msgspec.structs.replace(third, replica=3)),
                     (first, second, msgspec.structs.replace(third, replica=9)),
                     (first, second, msgspec.structs.replace(third, signature=bytes(64)))):  # fmt: skip
        bad = msgspec.structs.replace(good, receipts=receipts)
        refused("receipts", lambda b=bad: world.do(NODES[0], b), world)
    world.do(NODES[0], good)


def test_a_certificate_must_say_what_the_records_say_and_carry_a_quorum() -> None:
    world = World()
    world.open()
    for node in NODES:
        world.do(node, world.update(node))
    good = world.certificate()
    for change in ({"epoch": 1}, {"parent_model": bytes(32)}, {"updates_root": bytes(32)}, {"rewards_root": bytes(32)},
                   {"rewards_total": 21}, {"participants": 3}):  # fmt: skip
        bad = msgspec.structs.replace(good, **change)
        operation = CompleteRound(certificate=bad, signatures=world.signatures(bad))
        refused("certificate", lambda o=operation: world.do(AGGREGATOR, o), world)
    other = msgspec.structs.replace(good, model=bytes(32))
    for signatures in (world.signatures(good, (0, 1)), world.signatures(other), world.signatures(good, (0, 0, 1))):
        operation = CompleteRound(certificate=good, signatures=signatures)
        refused("quorum", lambda o=operation: world.do(AGGREGATOR, o), world)
    world.complete()
    refused("round-closed", lambda: world.do(AGGREGATOR, operation), world)


def test_only_the_submitter_stops_a_task_and_then_it_is_over() -> None:
    world = World()
    refused("not-the-submitter", lambda: world.do(NODES[1], StopTask(task=world.task)), world)
    world.open()
    world.do(NODES[0], StopTask(task=world.task))
    assert (world.record.status, world.record.rounds[0].phase) == ("stopped", "aborted")
    refused("task-over", lambda: world.do(NODES[0], world.update(NODES[0])), world)
    refused("task-over", lambda: world.do(AGGREGATOR, CloseRound(task=world.task, round=1)), world)


def test_the_same_task_twice_is_refused_and_another_nonce_is_another_task() -> None:
    world = World()
    refused("task-exists", lambda: world.do(NODES[0], CreateTask(spec=world.spec)), world)
    again = msgspec.structs.replace(world.spec, nonce=1)
    assert world.do(NODES[0], CreateTask(spec=again)).subject != world.task


def test_the_oldest_finished_task_leaves_the_state_when_too_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law, "TASKS_KEPT_MAX", 3)
    world = World()
    created = [world.task]
    for nonce in range(1, 5):
        if nonce != 2:
            world.do(NODES[0], StopTask(task=created[-1]))
        spec = msgspec.structs.replace(world.spec, nonce=nonce)
        created.append(world.do(NODES[0], CreateTask(spec=spec)).subject)
    assert list(world.law.state.tasks) == [created[1], created[3], created[4]]


def test_evaluations_average_by_examples_and_count_once_a_node() -> None:
    world = World()
    refused("evaluation", lambda: world.do(NODES[0], world.evaluation()), world)
    world.play_round()
    world.do(NODES[0], world.evaluation(accuracy=900_000, examples=30))
    world.do(NODES[1], world.evaluation(accuracy=500_000, examples=10))
    assert world.record.rounds[0].accuracy() == pytest.approx(0.8)
    refused("evaluation", lambda: world.do(NODES[0], world.evaluation()), world)
    refused("evaluation", lambda: world.do(NODES[2], world.evaluation(accuracy=1_000_001)), world)
    refused("evaluation", lambda: world.do(AGGREGATOR, world.evaluation()), world)


def test_bytes_that_are_no_operation_are_counted_and_change_nothing_else() -> None:
    world = World()
    with pytest.raises(Rejected, match="not a"):
        decode_outcome(world.law.execute(NODES[0].address, b"\x00garbage", world.now))
    assert world.law.state.refusals["malformed"] == 1


def test_time_never_runs_backwards() -> None:
    world = World()
    world.now -= 500_000
    world.open()
    assert world.record.rounds[0].opened_ms == 1_000_000


def test_a_snapshot_restores_to_the_same_root_and_goes_on() -> None:
    world, copy = World(), World()
    world.play_round(1)
    copy.law.restore(world.law.snapshot())
    assert copy.law.root() == world.law.root()
    for each in (world, copy):
        each.play_round(2)
    assert copy.law.root() == world.law.root()


def test_every_rule_has_a_sentence() -> None:
    assert all(RULES.values())


def test_one_member_does_not_take_the_places_of_all_tasks() -> None:
    world = World()
    for nonce in range(1, TASKS_ACTIVE_PER_SUBMITTER_MAX):
        world.do(NODES[0], CreateTask(spec=msgspec.structs.replace(world.spec, nonce=nonce)))
    one_more = CreateTask(spec=msgspec.structs.replace(world.spec, nonce=99))
    refused("too-many-tasks", lambda: world.do(NODES[0], one_more), world)
    world.do(NODES[1], one_more)
    world.do(NODES[0], StopTask(task=world.task))
    world.do(NODES[0], one_more)


def test_the_registrar_who_is_no_member_stops_the_task_of_a_revoked_submitter_and_does_nothing_else() -> None:
    world = World()
    stop = StopTask(task=world.task)
    world.law.admits(REGISTRAR.address, encode(stop))
    with pytest.raises(UnknownSigner):
        world.law.admits(REGISTRAR.address, encode(CreateTask(spec=world.spec)))
    refused("not-a-member", lambda: world.do(REGISTRAR, CreateTask(spec=world.spec)), world)
    refused("not-a-member", lambda: world.do(STRANGER, stop), world)
    world.do(REGISTRAR, stop)
    assert world.record.status == "stopped"


def test_a_refusal_leaves_no_cycle_behind() -> None:
    """An exception in a local variable of its own frame keeps all frames below it for the collector to find: that
    was a sixth of a replica's time."""
    world = World()
    operation = encode(OpenRound(task=bytes(32), round=1, parent_model=MODEL, cohort=(NODES[0].address,)))
    gc.collect()
    for content in (operation, b"no operation"):
        with pytest.raises(Rejected):
            decode_outcome(world.law.execute(AGGREGATOR.address, content, world.now))
        assert gc.collect() == 0
