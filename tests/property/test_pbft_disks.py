"""Damaged files: each that a replica reads at its start is read as it was written, or is StorageDamaged.

Also where its checksums are right and what they protect is not: another version wrote it, or somebody with an editor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koinon.committees import Committees
from koinon.encoding import ZERO_DIGEST, encode, keccak
from koinon.errors import BlobMismatch, InvariantBroken, Malformed, StorageDamaged
from koinon.frames import pack
from koinon.wire import Batch, Checkpoint, CheckpointCertificate, CommittedBatch
from pbft.archive import Archive
from pbft.events import CatchUp, Misbehaved
from pbft.evidence import EvidenceFile
from pbft.faults import FaultFile
from pbft.journal import Journal, Snapshots
from pbft.messages import Recovering, ViewRecord
from tests.property.damage import damaged
from tests.simulation.world import DOMAIN, signer
from tests.unit.pbft.bench import Bench, of
from tests.unit.pbft.hostile import remembers
from tests.unit.pbft.test_evidence import pair
from tests.unit.pbft.test_faults import fault
from tests.unit.test_epochs import FIRST, SECOND, federation

CERTIFICATE = CheckpointCertificate(
    checkpoint=Checkpoint(epoch=0, sequence=4, state=keccak(b"state"), next=ZERO_DIGEST), signatures=(b"\1" * 64,)
)
RECORDS = [encode(ViewRecord(epoch=0, view=3)), encode(Recovering(epoch=0, view=0, over=True))]
ENTRIES = [
    CommittedBatch(epoch=0, view=0, sequence=number, batch=Batch(time_ms=1, requests=(b"r",)), signatures=())
    for number in (1, 2)
]


def _journal(path: Path) -> object:
    journal = Journal(path)
    journal.close()
    return journal.records


def _archive(path: Path) -> object:
    archive = Archive(path)
    try:
        return archive.read(1, 10)
    finally:
        archive.close()


def _snapshots(path: Path) -> object:
    return Snapshots(path.parent).latest()


Read = Callable[[Path], object]
FILES: dict[str, tuple[str, Read, bytes]] = {
    "evidence": ("evidence", lambda path: EvidenceFile(path).kept, encode((pair(), pair(2)))),
    "faults": ("faults", lambda path: FaultFile(path).rounds(), encode((fault(1), fault(2)))),
    "handovers": ("handovers", lambda path: Committees(federation(), path).epochs, encode((FIRST, SECOND))),
    "journal": ("journal", _journal, b"".join(pack(1, encode([record])) for record in RECORDS)),
    "archive": ("archive", _archive, b"".join(pack(entry.sequence, encode(entry)) for entry in ENTRIES)),
    "snapshot": (f"{4:019d}.snapshot", _snapshots, pack(4, encode(CERTIFICATE)) + pack(4, b"state")),
}
FRAMED = ("journal", "archive", "snapshot")


def _readable(name: str, content: bytes) -> object:
    """What is read of a file with this content; None where it is damaged, and its operator is told what to do."""
    file, read, _ = FILES[name]
    with TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.write_bytes(content)
        try:
            return read(path)
        except StorageDamaged as error:
            return None if error.hint else error


@pytest.mark.parametrize("name", sorted(FILES))
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_bytes_on_the_disk_are_read_or_said_to_be_damaged(name: str, data: st.DataObject) -> None:
    whole = FILES[name][2]
    hostile = data.draw(st.one_of(st.binary(max_size=300), damaged(whole)))
    assert not isinstance(_readable(name, hostile), Exception)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_as_it_was_written_is_read(name: str) -> None:
    assert _readable(name, FILES[name][2])


@pytest.mark.parametrize("name", FRAMED)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_whole_frames_around_what_is_none_are_read_or_said_to_be_damaged(name: str, data: st.DataObject) -> None:
    """Their checksums are right: another version wrote them."""
    inside = {
        "journal": damaged(RECORDS[0]).map(lambda record: encode([record])),
        "archive": damaged(encode(ENTRIES[0])),
        "snapshot": damaged(encode(CERTIFICATE)),
    }[name]
    frame = pack(1, data.draw(st.one_of(st.binary(max_size=100), inside)))
    assert not isinstance(_readable(name, _with_state(name, frame)), Exception)


def _with_state(name: str, frame: bytes) -> bytes:
    return frame + pack(4, b"state") if name == "snapshot" else frame


@pytest.mark.parametrize("name", FRAMED)
def test_a_whole_frame_around_rubbish_is_damage_and_not_somebody_elses_lie(name: str, tmp_path: Path) -> None:
    file, read, _ = FILES[name]
    (tmp_path / file).write_bytes(_with_state(name, pack(1, b"rubbish")))
    with pytest.raises(StorageDamaged, match=file):
        read(tmp_path / file)


# --- a certificate is right, and what it certifies is not


def _certified(snapshot: bytes, sequence: int = 4) -> CheckpointCertificate:
    checkpoint = Checkpoint(epoch=0, sequence=sequence, state=keccak(snapshot), next=ZERO_DIGEST)
    signatures = tuple(signer("replica", who).sign(DOMAIN, checkpoint) for who in (0, 2, 3))
    return CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)


def _snapshot() -> bytes:
    """After four slots."""
    bench = Bench()
    for number in range(1, 5):
        bench.order(number, bench.batch(bench.request(number)))
    return bench.replica.execution.snapshot()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_damaged_snapshot_is_refused_however_many_signed_it(data: st.DataObject) -> None:
    """A quorum that signs rubbish is beyond what the committee bears; this replica stops, or goes on as it was."""
    bench, whole = Bench(), _snapshot()
    snapshot = data.draw(damaged(whole))
    bench.replica.step(CatchUp(bench.now_ms, 2))  # whatever comes, the pace of the primary is measured anew
    before = remembers(bench)
    try:
        effects = bench.replica.step(CatchUp(bench.now_ms, 2, (), _certified(snapshot), snapshot))
    except InvariantBroken:
        return
    blamed = of(Misbehaved, effects)
    if bench.replica.executed == 4:
        assert not blamed
        assert bench.replica.execution.snapshot() == snapshot
    else:
        assert [type(effect.error) for effect in blamed] in ([Malformed], [BlobMismatch])
        assert remembers(bench) == before


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_another_snapshot_than_the_certified_one_is_its_senders_fault_and_changes_nothing(data: st.DataObject) -> None:
    bench, whole = Bench(), _snapshot()
    snapshot = data.draw(damaged(whole))
    if snapshot == whole:
        return
    bench.replica.step(CatchUp(bench.now_ms, 2))  # whatever comes, the pace of the primary is measured anew
    before = remembers(bench)
    effects = bench.replica.step(CatchUp(bench.now_ms, 2, (), _certified(whole), snapshot))
    assert [(effect.sender, type(effect.error)) for effect in of(Misbehaved, effects)] == [(2, BlobMismatch)]
    assert remembers(bench) == before
