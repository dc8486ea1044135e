"""Random histories of operations, good and bad: replicas agree, and the law's invariants hold throughout."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from koinon.errors import Rejected
from koinon.rounds.law import Federation
from koinon.rounds.operations import CloseRound, StopTask
from tests.unit.rounds.world import NODES, World

nodes = st.integers(0, 3)


class History(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(rounds=3)
        self.twin = Federation(self.world.law.genesis)
        self.twin.restore(self.world.law.snapshot())
        self.primary = self.world.law.execute
        self.world.law.execute = self.mirrored  # type: ignore[method-assign]
        self.certified: list[bytes] = []

    def mirrored(self, sender: bytes, operation: bytes, time_ms: int) -> bytes:
        answer = self.primary(sender, operation, time_ms)
        assert self.twin.execute(sender, operation, time_ms) == answer
        return answer

    def attempt(self, act) -> None:  # type: ignore[no-untyped-def]
        with contextlib.suppress(Rejected):
            act()

    def number(self) -> int:
        current = self.world.record.current()
        return current.number if current else 0

    @rule()
    def open_next(self) -> None:
        self.attempt(lambda: self.world.open(self.number() + 1))

    @rule(node=nodes, examples=st.integers(0, 120), content=st.sampled_from([b"", b"x"]))
    def submit(self, node: int, examples: int, content: bytes) -> None:
        world, who = self.world, NODES[node]
        self.attempt(
            lambda: world.do(who, world.update(who, max(self.number(), 1), examples=examples, content=content))
        )

    @rule(wait=st.integers(0, 15_000))
    def pass_time(self, wait: int) -> None:
        self.world.now += wait

    @rule()
    def close(self) -> None:
        self.attempt(lambda: self.world.do(NODES[0], CloseRound(task=self.world.task, round=self.number())))

    @rule()
    def complete(self) -> None:
        self.attempt(lambda: self.world.complete(self.number()))

    @rule(node=nodes, accuracy=st.integers(0, 1_000_000))
    def evaluate(self, node: int, accuracy: int) -> None:
        self.attempt(
            lambda: self.world.do(NODES[node], self.world.evaluation(max(self.number(), 1), accuracy=accuracy))
        )

    @rule(node=st.sampled_from([1, 2, 3]))
    def stop_by_a_stranger_to_the_task(self, node: int) -> None:
        self.attempt(lambda: self.world.do(NODES[node], StopTask(task=self.world.task)))

    @invariant()
    def replicas_agree(self) -> None:
        assert self.twin.root() == self.world.law.root()

    @invariant()
    def rewards_count_accepted_updates_of_certified_rounds(self) -> None:
        record = self.world.record
        accepted = [node for each in record.rounds if each.phase == "certified" for node in each.submissions]
        assert sum(record.rewards.values()) == record.spec.reward * len(accepted)

    @invariant()
    def models_form_one_chain(self) -> None:
        model = self.world.spec.initial_model
        for each in self.world.record.rounds:
            assert each.parent_model == model
            if each.certificate is not None:
                model = each.certificate.model
        assert self.world.record.model == model

    @invariant()
    def only_a_certified_round_has_a_certificate_and_enough_updates(self) -> None:
        for each in self.world.record.rounds:
            assert (each.certificate is not None) == (each.phase == "certified")
            if each.phase in ("closed", "certified"):
                assert len(each.submissions) >= self.world.spec.cohort_min
                assert each.updates_root == each.rebuilt_updates_root(self.world.task)

    @invariant()
    def at_most_one_round_is_open(self) -> None:
        assert sum(each.phase in ("training", "closed") for each in self.world.record.rounds) <= 1


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
