"""healthz means it: a loop that stands still, and a disk that takes nothing, are told."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from pbft import health
from pbft.engine import Disk
from pbft.health import Health


def test_a_replica_whose_loop_turns_and_whose_disk_writes_is_well(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    try:
        watched = Health(disk)
        watched.turned()
        assert asyncio.run(watched.problems()) == []
    finally:
        disk.close()


def test_a_loop_that_stands_still_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "TURN_SECONDS_MAX", -1.0)
    disk = Disk(tmp_path)
    try:
        assert "has not turned" in asyncio.run(Health(disk).problems())[0]
    finally:
        disk.close()


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "data")
    try:
        shutil.rmtree(tmp_path / "data")
        assert "the disk refuses" in asyncio.run(Health(disk).problems())[0]
    finally:
        disk.close()
