"""What the benchmarks promise: equal vectors for all, true sums, and rows of one form."""

from __future__ import annotations

import numpy as np
import pytest

from scripts import _baselines, bench_privacy

ROW = {"name", "params", "n", "clients", "client_s", "replica_s", "open_s", "verify_s", "bytes_up"}


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
