from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from koinon.encoding import encode, keccak
from koinon.errors import Malformed, PrivacyError
from koinon.rounds.operations import SubmitUpdate, decode_operation
from node.submissions import Submission, Submissions

TASK = keccak(b"task")


def record(round_: int = 1) -> Submission:
    return Submission(
        task=TASK,
        round=round_,
        parent_model=keccak(b"model"),
        examples=7,
        loss=123,
        update=b"the update",
        sealed=(b"a", b"b", b"c", b"d"),
    )


def test_a_record_is_read_back_as_the_same_bytes(tmp_path: Path) -> None:
    Submissions(tmp_path).save(record())
    again = Submissions(tmp_path).load(TASK, 1)
    assert again is not None
    assert encode(again) == encode(record())


def test_a_record_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    kept = Submissions(tmp_path)
    kept.save(record())
    assert stat.S_IMODE(kept.path(TASK, 1).stat().st_mode) == 0o600


def test_a_second_update_for_a_round_is_refused_and_the_first_one_stays(tmp_path: Path) -> None:
    kept = Submissions(tmp_path)
    kept.save(record())
    with pytest.raises(PrivacyError, match="made before"):
        kept.save(msgspec.structs.replace(record(), update=b"another"))
    bound = record().bind({0: b"\0" * 64})
    kept.save(bound)
    assert kept.load(TASK, 1) == bound


def test_no_record_is_none(tmp_path: Path) -> None:
    assert Submissions(tmp_path).load(TASK, 1) is None


def test_binding_names_the_kept_update_and_orders_the_receipts() -> None:
    bound = record().bind({2: b"\2" * 64, 0: b"\0" * 64, 1: b"\1" * 64})
    operation = decode_operation(bound.operation)
    assert isinstance(operation, SubmitUpdate)
    assert operation.update == keccak(b"the update")
    assert [each.replica for each in operation.receipts] == [0, 1, 2]
    assert (bound.update, bound.sealed) == (record().update, record().sealed)


@pytest.mark.parametrize("content", [b"", b"not a record", encode(record())[:-1]])
def test_a_torn_record_is_refused(tmp_path: Path, content: bytes) -> None:
    kept = Submissions(tmp_path)
    kept.path(TASK, 1).write_bytes(content)
    with pytest.raises(Malformed):
        kept.load(TASK, 1)


def test_a_record_under_another_rounds_name_is_refused(tmp_path: Path) -> None:
    kept = Submissions(tmp_path)
    kept.path(TASK, 2).write_bytes(encode(record(1)))
    with pytest.raises(Malformed, match="another round"):
        kept.load(TASK, 2)


def test_records_of_rounds_that_are_over_are_removed_and_no_others(tmp_path: Path) -> None:
    kept = Submissions(tmp_path)
    for number in (1, 2, 3):
        kept.save(record(number))
    (tmp_path / f"{keccak(b'other').hex()}-1.bin").write_bytes(b"x")
    assert kept.discard_before(TASK, 3) == 2
    assert kept.load(TASK, 3) is not None
    assert len(list(tmp_path.iterdir())) == 2
