"""What a party keeps of the committees that it followed, and what it refuses to believe of its own disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from koinon.committees import Committees
from koinon.encoding import encode
from koinon.errors import BadSignature, StorageDamaged, WrongEpoch
from tests.unit.test_epochs import FIRST, SECOND, federation, handover, members, seats


def test_handovers_are_followed_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "handovers"
    committees = Committees(federation(), path)
    assert committees.add([FIRST])
    assert not committees.add([FIRST])
    assert committees.add([FIRST, SECOND])
    again = Committees(federation(), path)
    assert again.federation.epoch == 2
    assert again.federation.replica_addresses == tuple(members(0, 1, 2, 3, 5))
    assert [each.epoch for each in again.epochs] == [0, 1, 2]
    assert again.last == SECOND
    assert again.since(0) == (FIRST, SECOND)
    assert again.since(1) == (SECOND,)
    assert again.since(2) == ()


def test_a_party_that_was_given_a_later_file_follows_from_there(tmp_path: Path) -> None:
    later = federation().with_committee(1, seats(0, 1, 2, 3, 4))
    committees = Committees(later, tmp_path / "handovers")
    assert committees.add([FIRST, SECOND])
    assert committees.since(0) == committees.since(1) == (SECOND,)


def test_a_lie_is_refused_and_what_was_proved_before_it_is_kept(tmp_path: Path) -> None:
    false = handover(1, seats(0, 1, 2, 9), (0, 1, 9))
    committees = Committees(federation(), tmp_path / "handovers")
    with pytest.raises(BadSignature):
        committees.add([FIRST, false])
    assert committees.federation.epoch == 1
    assert Committees(federation(), tmp_path / "handovers").federation.epoch == 1


def test_an_epoch_that_is_not_known_is_refused() -> None:
    committees = Committees(federation())
    committees.add([FIRST])
    assert committees.at(1).epoch == 1
    for epoch in (-1, 2):
        with pytest.raises(WrongEpoch):
            committees.at(epoch)


@pytest.mark.parametrize("damage", ["cut", "flipped", "another federation's", "a gap"])
def test_damaged_handovers_are_not_believed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "handovers"
    Committees(federation(), path).add([FIRST, SECOND])
    raw = path.read_bytes()
    given = federation()
    match damage:
        case "cut":
            path.write_bytes(raw[:-1])
        case "flipped":
            path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        case "another federation's":
            given = replace(given, chain_id=1)
        case "a gap":
            path.write_bytes(encode((SECOND,)))
    with pytest.raises(StorageDamaged, match="handovers"):
        Committees(given, path)
