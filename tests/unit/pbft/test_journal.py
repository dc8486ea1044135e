"""What the disk gives back: after a torn tail the whole records before it, after a bit flip a loud error."""

from __future__ import annotations

from pathlib import Path

import pytest

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.errors import InvariantBroken, StorageDamaged
from koinon.wire import Batch, CommittedBatch
from pbft.archive import Archive
from pbft.frames import HEADER_BYTES, pack, read_payload
from pbft.journal import Journal, Snapshots
from pbft.messages import Checkpoint, CheckpointCertificate, PreparedProof, Record, ViewRecord

RECORDS: list[Record] = [
    ViewRecord(epoch=0, view=1),
    PreparedProof(epoch=0, view=1, sequence=1, digest=b"\1" * 32, pre_prepare=b"\2" * 64, prepares=(b"\3" * 64,)),
    ViewRecord(epoch=0, view=300),
]


def _written(folder: Path) -> bytes:
    journal = Journal(folder / "journal")
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return (folder / "journal").read_bytes()


def _certificate(sequence: int) -> CheckpointCertificate:
    checkpoint = Checkpoint(epoch=0, next=ZERO_DIGEST, sequence=sequence, state=keccak(b"state %d" % sequence))
    return CheckpointCertificate(checkpoint=checkpoint, signatures=(b"\1" * 64,))


def _entry(sequence: int) -> CommittedBatch:
    batch = Batch(time_ms=sequence, requests=(b"r" * sequence,))
    return CommittedBatch(epoch=0, view=0, sequence=sequence, batch=batch, signatures=(b"\1" * 64,))


def test_a_journal_gives_back_its_records_in_order(tmp_path: Path) -> None:
    _written(tmp_path)
    assert list(Journal(tmp_path / "journal").records) == RECORDS


def test_a_journal_truncated_at_any_byte_gives_back_the_whole_records_before_it(tmp_path: Path) -> None:
    data = _written(tmp_path)
    for length in range(len(data)):
        path = tmp_path / "torn"
        path.write_bytes(data[:length])
        journal = Journal(path)
        assert list(journal.records) == RECORDS[: len(journal.records)]
        journal.append(ViewRecord(epoch=0, view=9))
        kept = journal.records
        journal.close()
        again = Journal(path)
        assert again.records == (*kept, ViewRecord(epoch=0, view=9))
        again.close()


def test_a_journal_followed_by_zeros_that_the_file_system_left_is_cut_there(tmp_path: Path) -> None:
    data = _written(tmp_path)
    (tmp_path / "journal").write_bytes(data + bytes(HEADER_BYTES + 100))
    assert list(Journal(tmp_path / "journal").records) == RECORDS
    assert (tmp_path / "journal").stat().st_size == len(data)


def test_a_journal_with_any_bit_flipped_is_damaged_and_says_so(tmp_path: Path) -> None:
    data = _written(tmp_path)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        (tmp_path / "journal").write_bytes(flipped)
        with pytest.raises(StorageDamaged):
            Journal(tmp_path / "journal")


def test_a_rewritten_journal_holds_exactly_the_new_records_and_goes_on(tmp_path: Path) -> None:
    _written(tmp_path)
    journal = Journal(tmp_path / "journal")
    journal.rewrite(RECORDS[:1])
    journal.append(RECORDS[2])
    journal.close()
    assert Journal(tmp_path / "journal").records == (RECORDS[0], RECORDS[2])


def test_a_rewrite_that_crashed_before_its_rename_changes_nothing(tmp_path: Path) -> None:
    _written(tmp_path)
    (tmp_path / "journal.tmp").write_bytes(b"half")
    assert list(Journal(tmp_path / "journal").records) == RECORDS


def test_the_newest_snapshot_is_read_and_only_two_are_kept(tmp_path: Path) -> None:
    store = Snapshots(tmp_path)
    assert store.latest() is None
    for sequence in (4, 8, 12):
        store.save(_certificate(sequence), b"snapshot %d" % sequence)
    assert Snapshots(tmp_path).latest() == (_certificate(12), b"snapshot 12")
    assert len(list(tmp_path.glob("*.snapshot"))) == 2


def test_a_damaged_snapshot_says_so(tmp_path: Path) -> None:
    store = Snapshots(tmp_path)
    store.save(_certificate(4), b"snapshot")
    (path,) = tmp_path.glob("*.snapshot")
    data = path.read_bytes()
    for spoiled in (data[:-1], data[:-1] + b"!", b"?" + data[1:]):
        path.write_bytes(spoiled)
        with pytest.raises(StorageDamaged):
            store.latest()


def test_an_archive_reads_entries_from_a_sequence_on(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for sequence in range(1, 6):
        archive.append(_entry(sequence))
    assert archive.read(2, 3) == (_entry(2), _entry(3), _entry(4))
    assert archive.read(4, 10) == (_entry(4), _entry(5))
    assert archive.read(6, 10) == ()
    assert len(archive.read(1, 10, bytes_max=1)) == 1
    archive.close()
    again = Archive(tmp_path / "archive")
    assert (again.last, again.read(5, 1)) == (5, (_entry(5),))


def test_an_archive_stops_at_the_gap_that_a_snapshot_left(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for sequence in (1, 2, 9, 10):
        archive.append(_entry(sequence))
    assert archive.read(1, 10) == (_entry(1), _entry(2))
    assert archive.read(3, 10) == ()
    assert archive.read(9, 10) == (_entry(9), _entry(10))


def test_an_archive_refuses_to_go_backwards(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.append(_entry(2))
    with pytest.raises(InvariantBroken):
        archive.append(_entry(2))


def test_an_archive_truncated_at_any_byte_keeps_its_whole_entries(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "whole")
    for sequence in range(1, 4):
        archive.append(_entry(sequence))
    archive.close()
    data = (tmp_path / "whole").read_bytes()
    for length in range(len(data)):
        (tmp_path / "torn").write_bytes(data[:length])
        torn = Archive(tmp_path / "torn")
        assert torn.read(1, 10) == tuple(_entry(sequence) for sequence in range(1, torn.last + 1))
        torn.append(_entry(torn.last + 1))
        torn.close()


def test_an_archive_with_a_flipped_bit_says_so_at_the_latest_when_it_is_read(tmp_path: Path) -> None:
    data = pack(1, b"not an entry") + pack(2, b"neither")
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1
        (tmp_path / "archive").write_bytes(flipped)
        with pytest.raises(StorageDamaged):
            _read_all(tmp_path / "archive")


def _read_all(path: Path) -> None:
    archive = Archive(path)
    for place in archive._index.values():
        read_payload(archive._file, *place, "archive")
