"""What the benchmarks promise: equal vectors for all, true sums, and rows of one form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from koinon.errors import KoinonError
from koinon.rounds.law import Federation
from koinon.rounds.operations import TaskSpec
from koinon.rounds.rules import decode_outcome
from koinon.rounds.state import Genesis, Member, Round, State, Task
from koinon.wire import Role, RoundCertificate
from pbft import floor
from scripts import _baselines, bench_consensus, bench_privacy, bench_rounds
from scripts._rounds import PHASES, RoundTimes, merge

TASK = bytes([7] * 32)
ROW = {"name", "params", "n", "clients", "client_s", "replica_s", "member_s", "open_s", "verify_s", "bytes_up"}


def test_baselines_and_modes_are_timed_on_equal_vectors() -> None:
    ours, theirs = bench_privacy.vectors(1_000), _baselines.vectors(1_000)
    assert len(ours) == len(theirs) == bench_privacy.CLIENTS
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("label", ["plain", "shares without proof", "shares"])
def test_a_row_of_a_committees_mode_has_every_figure(label: str) -> None:
    norm = bench_privacy.CLIPS * bench_privacy.LIMIT if label == "shares" else 0
    row = bench_privacy.committee_row(label, bench_privacy.setting_of(label.split()[0], 500, 4, norm=norm), (), 1)
    assert set(row) == ROW
    assert all(row[column] > 0 for column in bench_privacy.COLUMNS)


def test_a_row_of_the_nodes_mode_has_every_figure() -> None:
    row = bench_privacy.masked_row(500, 4)
    assert set(row) == ROW
    assert row["bytes_up"] > 4 * 500


@pytest.mark.parametrize("operation", [bench_consensus.operation, floor.operation])
def test_what_ordering_is_measured_with_has_200_bytes_and_is_refused_by_the_first_rules(
    operation: Callable[[], bytes],
) -> None:
    data, node = operation(), bytes(20)
    assert 200 <= len(data) <= 210
    genesis = Genesis(chain_id=1, ledger=bytes(20), registrar=bytes(20), epoch=0, replicas=(bytes([1] * 20),) * 4)
    state = State()
    state.members[node] = Member(
        roles=int(Role.NODE), examples_max=1000, sealing_key=bytes(32), serial=1, active=True, joined_ms=0
    )
    law = Federation(genesis, state)
    law.admits(node, data)
    with pytest.raises(KoinonError, match="no task 0x"):
        decode_outcome(law.execute(node, data, 1))


def test_modes_take_turns_and_each_begins_as_often() -> None:
    assert list(bench_rounds.in_turns(["a", "b"], 4)) == ["a", "b", "b", "a"] * 2


def test_a_row_of_rounds_has_medians_and_the_share_of_ordering() -> None:
    measured = bench_rounds.Measured(
        [RoundTimes(number, 3, None, seconds, dict.fromkeys(PHASES, 0.02)) for number, seconds in ((2, 1.0), (3, 4.0))],
        [{"node": 2.0}, {"node": 3.0}],
    )
    row = bench_rounds.row("shares", measured, 2.0)
    assert (row["seconds"], row["ratio"], row["cpu_s"]) == (2.5, 1.25, 2.5)
    assert row["order_percent"] == pytest.approx((2 + 0.5) / 2)
    assert {"train", "protect", "deliver", "order", "open", "chain"} <= set(row)


def test_a_rounds_phases_are_those_of_the_node_that_came_last() -> None:
    task = certified_task()
    about = {"task": "0x" + "07" * 32, "round": 1}
    early = {**about, "train": 9.0, "protect": 9.0, "deliver": 9.0, "submit": 9.0, "time_ms": 1}
    late = {**about, "train": 1.0, "protect": 0.5, "deliver": 0.25, "submit": 0.125, "time_ms": 2}
    steered = {**about, "open_round": 0.1, "open": 0.2, "certify": 0.3, "complete": 0.4, "chain": 0.5}
    (row,) = merge(TASK, task, [late, early], [steered])
    assert row.phases == pytest.approx(
        {"train": 1.0, "protect": 0.5, "deliver": 0.25, "order": 0.625, "open": 0.5, "chain": 0.5, "other": 6.625}
    )


def certified_task() -> Task:
    """One certified round of nine and a half seconds until it was certified."""
    certificate = RoundCertificate(
        task=TASK, round=1, epoch=0, parent_model=TASK, model=TASK, updates_root=TASK, opening=TASK, rewards_root=TASK,
        rewards_total=0, participants=2,
    )  # fmt: skip
    done = Round(
        number=1, phase="certified", parent_model=TASK, cohort=(), examples_cap=1, opened_ms=1_000, deadline_ms=20_000,
        certified_ms=10_500, certificate=certificate,
    )  # fmt: skip
    spec = TaskSpec(
        name="t", app="a", mode="plain", strategy="fedavg", rounds=1, initial_model=TASK, dimension=4, clip=1,
        bits=16, cohort_min=2, cohort_max=2, round_ms=60_000, reward=0, nonce=0, config=(),
    )  # fmt: skip
    return Task(spec=spec, submitter=bytes(20), created_ms=0, status="active", model=TASK, rounds=[done])
