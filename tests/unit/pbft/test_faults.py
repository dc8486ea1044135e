"""The faults that a replica keeps: there after a restart, bounded, erased with their round."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from koinon.errors import StorageDamaged
from koinon.wire import Fault
from pbft import faults
from pbft.faults import FAULTS_BYTES_MAX, FAULTS_KEPT_MAX, FaultFile

TASK = b"\x01" * 32


def fault(number: int, round: int = 1) -> Fault:
    return Fault(task=TASK, round=round, node=number.to_bytes(20, "big"))


def test_faults_are_there_after_a_restart_once_each_by_ascending_node(tmp_path: Path) -> None:
    file = FaultFile(tmp_path / "faults")
    for number in (3, 1, 2, 1):
        file.keep(fault(number))
    file.keep(fault(1, round=2))
    again = FaultFile(tmp_path / "faults")
    assert again.of(TASK, 1) == (fault(1), fault(2), fault(3))
    assert again.of(TASK, 2) == (fault(1, round=2),)
    assert again.of(bytes(32), 1) == ()
    assert again.rounds() == {(TASK, 1), (TASK, 2)}


def test_a_round_that_is_over_is_erased_on_disk_too(tmp_path: Path) -> None:
    file = FaultFile(tmp_path / "faults")
    file.keep(fault(1))
    file.keep(fault(1, round=2))
    file.erase(TASK, 1)
    file.erase(TASK, 7)
    assert file.rounds() == FaultFile(tmp_path / "faults").rounds() == {(TASK, 2)}


def test_beyond_the_bound_the_oldest_round_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FAULTS_KEPT_MAX", 4)
    file = FaultFile(tmp_path / "faults")
    for round in (5, 3, 4):
        for number in (1, 2):
            file.keep(fault(number, round))
    assert file.rounds() == {(TASK, 3), (TASK, 4)}


def test_as_many_as_are_kept_fit_into_what_is_read(tmp_path: Path) -> None:
    largest = Fault(task=b"\xff" * 32, round=2**32 - 1, node=b"\xff" * 20)
    assert FAULTS_KEPT_MAX * len(faults.encode(largest)) + 16 < FAULTS_BYTES_MAX


def test_threads_that_keep_at_once_lose_nothing(tmp_path: Path) -> None:
    file = FaultFile(tmp_path / "faults")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: file.keep(fault(number)), range(40)))
    assert FaultFile(tmp_path / "faults").of(TASK, 1) == tuple(fault(number) for number in range(40))


def test_a_damaged_file_is_reported_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "faults"
    path.write_bytes(b"\x93nothing")
    with pytest.raises(StorageDamaged) as caught:
        FaultFile(path)
    assert str(path) in (caught.value.hint or "")
