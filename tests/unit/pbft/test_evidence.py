"""The evidence file: bounded, and there again after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from koinon.encoding import keccak
from koinon.errors import StorageDamaged
from koinon.evidence import PAIRS_MAX
from koinon.wire import Equivocation, Phase, Vote
from pbft.evidence import PAIRS_PER_CULPRIT_MAX, EvidenceFile

VOTE = Vote(phase=Phase.PREPARE, epoch=0, view=0, sequence=1, digest=keccak(b"one"))


def pair(index: int = 1, **changes: int) -> Equivocation:
    first = replace(VOTE, **changes)
    second = replace(first, digest=keccak(b"other"))
    return Equivocation(
        index=index, first=first, first_signature=b"\1" * 64, second=second, second_signature=b"\2" * 64
    )


def test_evidence_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    assert EvidenceFile(path).kept == ()
    assert EvidenceFile(path).keep(pair())
    assert EvidenceFile(path).keep(pair(2))
    assert EvidenceFile(path).kept == (pair(), pair(2))


def test_one_pair_for_each_culprit_phase_and_slot(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "evidence")
    assert file.keep(pair())
    assert not file.keep(replace(pair(), second=replace(VOTE, digest=keccak(b"a third"))))
    assert file.keep(pair(phase=Phase.COMMIT))
    assert file.keep(pair(view=1))
    assert file.keep(pair(2))


def test_a_culprit_fills_its_own_share_only(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "evidence")
    kept = [file.keep(pair(1, sequence=number)) for number in range(1, 3 * PAIRS_PER_CULPRIT_MAX)]
    assert sum(kept) == PAIRS_PER_CULPRIT_MAX
    assert file.keep(pair(2))
    assert file.keep(pair(1, epoch=1))


def test_the_file_is_bounded_over_all_epochs(tmp_path: Path) -> None:
    file = EvidenceFile(tmp_path / "evidence")
    file.kept = tuple(pair(epoch=number) for number in range(PAIRS_MAX))
    assert not file.keep(pair(epoch=PAIRS_MAX))


@pytest.mark.parametrize("content", [b"", b"\x93", b"not evidence" * 9])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence"
    path.write_bytes(content)
    with pytest.raises(StorageDamaged, match="evidence"):
        EvidenceFile(path)
