"""What the disk gives back: after a torn tail the whole records before it, after a bit flip a loud error."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from koinon.encoding import ZERO_DIGEST, keccak
from koinon.errors import InvariantBroken, StorageDamaged
from koinon.frames import SECTOR_BYTES, frame_bytes, pack, read_payload
from koinon.wire import Batch, Checkpoint, CheckpointCertificate, CommittedBatch
from pbft.archive import Archive
from pbft.journal import Journal, Snapshots, mark_loss
from pbft.messages import PreparedProof, PrePrepare, Record, Recovering, ViewRecord

RECORDS: list[Record] = [
    ViewRecord(epoch=0, view=1),
    PreparedProof(epoch=0, view=1, sequence=1, digest=b"\1" * 32, pre_prepare=b"\2" * 64, prepares=(b"\3" * 64,)),
    ViewRecord(epoch=0, view=300),
]
BIG = PrePrepare(
    epoch=0, view=1, sequence=2, batch=Batch(time_ms=1, requests=(b"r" * 1800, bytes(100))), signature=b"\4" * 64
)


def _written(folder: Path, *groups: list[Record]) -> bytes:
    """The bytes that hold records, after one sync a group (or one a record of RECORDS)."""
    journal = Journal(folder / "journal")
    for group in groups or [[record] for record in RECORDS]:
        for record in group:
            journal.append(record)
        journal.sync()
    size = journal.size_bytes
    journal.close()
    return (folder / "journal").read_bytes()[:size]


def _read(path: Path) -> list[Record]:
    journal = Journal(path)
    journal.close()
    return list(journal.records)


def _certificate(sequence: int) -> CheckpointCertificate:
    checkpoint = Checkpoint(epoch=0, next=ZERO_DIGEST, sequence=sequence, state=keccak(b"state %d" % sequence))
    return CheckpointCertificate(checkpoint=checkpoint, signatures=(b"\1" * 64,))


def _entry(sequence: int, *, requests: tuple[bytes, ...] | None = None) -> CommittedBatch:
    batch = Batch(time_ms=sequence, requests=requests or (b"r" * sequence,))
    return CommittedBatch(epoch=0, view=0, sequence=sequence, batch=batch, signatures=(b"\1" * 64,))


def test_a_journal_gives_back_its_records_in_order(tmp_path: Path) -> None:
    _written(tmp_path)
    assert _read(tmp_path / "journal") == RECORDS


def test_a_journal_that_is_missing_says_from_then_on_that_it_was_lost_and_an_empty_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "data" / "journal"
    assert mark_loss(path)
    assert not mark_loss(path), "once"
    for _ in range(2):
        assert _read(path) == [Recovering(epoch=0, view=0, over=False)]
    path.write_bytes(b"")
    assert not mark_loss(path)
    assert _read(path) == []


def test_a_journal_truncated_at_any_byte_gives_back_the_whole_records_before_it(tmp_path: Path) -> None:
    data = _written(tmp_path)
    for length in range(len(data) + 2):
        path = tmp_path / "torn"
        path.write_bytes((data + b"\0")[:length])
        journal = Journal(path)
        assert list(journal.records) == RECORDS[: len(journal.records)]
        journal.append(ViewRecord(epoch=0, view=9))
        kept = journal.records
        journal.close()
        assert _read(path) == [*kept, ViewRecord(epoch=0, view=9)]


def test_what_one_sync_writes_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    data = _written(tmp_path, RECORDS[:1], RECORDS[1:])
    first = len(_written(tmp_path / "first", RECORDS[:1]))
    for length in range(first, len(data)):
        (tmp_path / "journal").write_bytes(data[:length])
        assert _read(tmp_path / "journal") == RECORDS[:1]


def test_a_journal_goes_on_over_its_zeros_and_beyond_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    size = (tmp_path / "journal").stat().st_size
    count = 0
    while journal.size_bytes <= size:
        journal.append(BIG)
        journal.sync()
        count += 1
        assert (tmp_path / "journal").stat().st_size >= journal.size_bytes
    journal.close()
    assert _read(tmp_path / "journal") == [BIG] * count


def test_a_last_write_of_which_any_sectors_are_missing_is_cut_off(tmp_path: Path) -> None:
    for lead in range(1, 40, 3):  # so that headers, too, lie across the end of a sector
        folder = tmp_path / str(lead)
        before: list[Record] = [ViewRecord(epoch=0, view=view) for view in range(lead)]
        kept = len(_written(folder, before))
        data = _written(folder / "whole", before, [BIG, RECORDS[0]])
        first = kept // SECTOR_BYTES
        sectors = range(first, (len(data) - 1) // SECTOR_BYTES + 1)
        assert len(sectors) > 3
        for missing in range(1, 1 << len(sectors)):
            torn = bytearray(data + bytes(SECTOR_BYTES))
            for place, sector in enumerate(sectors):
                if missing >> place & 1:
                    start = max(sector * SECTOR_BYTES, kept)
                    stop = (sector + 1) * SECTOR_BYTES
                    torn[start:stop] = bytes(stop - start)
            (folder / "journal").write_bytes(torn)
            assert _read(folder / "journal") == before


def test_a_client_cannot_make_a_torn_tail_look_like_damage(tmp_path: Path) -> None:
    """Its requests lie in the journal: one that looks like a frame is none, wherever the last write is torn."""
    bait = b"r" * 700 + pack(1, b"a frame within a frame") + b"r" * 1400
    big = msgspec.structs.replace(BIG, batch=Batch(time_ms=1, requests=(bait,)))
    whole, kept = _written(tmp_path / "written", [RECORDS[0]], [big]), _written(tmp_path / "kept", [RECORDS[0]])
    start = len(kept) + SECTOR_BYTES - len(kept) % SECTOR_BYTES
    for torn in range(start + 2 * SECTOR_BYTES, len(whole), SECTOR_BYTES):
        path = tmp_path / str(torn)
        path.write_bytes(whole[:torn] + bytes(len(whole) - torn + 4096))
        assert _read(path) == [RECORDS[0]]


def test_a_missing_sector_before_the_last_write_is_damage(tmp_path: Path) -> None:
    data = _written(tmp_path, [BIG], [BIG], RECORDS)
    last = len(data) - len(_written(tmp_path / "last", RECORDS))
    for sector in range(last // SECTOR_BYTES):
        spoiled = bytearray(data)
        spoiled[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)
        (tmp_path / "journal").write_bytes(spoiled + bytes(3 * SECTOR_BYTES))
        with pytest.raises(StorageDamaged):
            Journal(tmp_path / "journal")


@pytest.mark.parametrize("zeros", [0, 5000])
def test_a_journal_with_any_bit_flipped_is_damaged_and_says_so(tmp_path: Path, zeros: int) -> None:
    for groups in ([[record] for record in RECORDS], [[BIG], RECORDS], [RECORDS, [BIG]]):
        data = _written(tmp_path, *groups)
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            (tmp_path / "journal").write_bytes(flipped + bytes(zeros))
            with pytest.raises(StorageDamaged):
                Journal(tmp_path / "journal")
        (tmp_path / "journal").unlink()


def test_a_rewritten_journal_holds_exactly_the_new_records_and_goes_on(tmp_path: Path) -> None:
    _written(tmp_path)
    journal = Journal(tmp_path / "journal")
    journal.append(RECORDS[0])
    journal.rewrite(RECORDS[:2])
    journal.append(RECORDS[2])
    journal.close()
    assert _read(tmp_path / "journal") == RECORDS


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
    assert [archive.after(sequence) for sequence in (0, 2, 5, 9, 10)] == [1, 9, 9, 10, None]


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


def _long_archive(path: Path) -> list[tuple[int, int]]:
    """Five entries of more than a page each; where their frames begin and end."""
    archive = Archive(path)
    for sequence in range(1, 6):
        archive.append(_entry(sequence, requests=(b"r" * 9000,)))
    held = [place for sequence in range(1, 6) if (place := archive._places.get(sequence)) is not None]
    places = [(offset, offset + frame_bytes(length)) for offset, length in held]
    archive.close()
    return places


@pytest.mark.parametrize("settled", range(6))
def test_a_page_that_a_power_cut_took_ends_the_archive_above_what_was_synced_and_is_damage_below(
    tmp_path: Path, settled: int
) -> None:
    path = tmp_path / "archive"
    places = _long_archive(path)
    whole = path.read_bytes()
    for page in range(0, len(whole), 4096):
        path.write_bytes(whole[:page] + bytes(len(whole[page : page + 4096])) + whole[page + 4096 :])
        hit = next(number for number, (_, end) in enumerate(places, start=1) if page < end)
        if hit <= settled:
            with pytest.raises(StorageDamaged):
                Archive(path, settled=settled).read(1, 10)
            continue
        archive = Archive(path, settled=settled)
        assert archive.last == hit - 1
        assert len(archive.read(1, 10)) == hit - 1
        archive.append(_entry(hit))
        archive.close()
        again = Archive(path, settled=settled)
        assert again.last == hit, "nothing of what was behind the hole is left"
        again.close()


def test_entries_behind_the_gap_that_a_snapshot_left_are_judged_by_their_own_numbers(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    archive = Archive(path)
    for sequence in (1, 2, 9, 10, 11):
        archive.append(_entry(sequence, requests=(b"r" * 900,)))
    place = archive._places.get(9)
    assert place is not None
    offset, length = place
    archive.close()
    data = bytearray(path.read_bytes())
    data[offset + frame_bytes(length) - 9] ^= 1
    path.write_bytes(data)
    archive = Archive(path, settled=8)
    assert archive.last == 2
    archive.close()


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
    for sequence in (1, 2):
        if (place := archive._places.get(sequence)) is not None:
            read_payload(archive._file, *place, "archive")
