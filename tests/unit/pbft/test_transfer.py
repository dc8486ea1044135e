"""State transfer against peers that are slow, silent, junk or gone: what arrives is right, and junk is not followed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from koinon.encoding import encode, keccak
from koinon.errors import BadSignature, Missing, Unavailable
from koinon.wire import Batch, Checkpoint, CheckpointCertificate, CommittedBatch
from pbft.archive import Archive
from pbft.journal import Snapshots
from pbft.shelf import OPEN_MAX, OPEN_SECONDS, Shelf
from pbft.transfer import CHUNK_BYTES, Order, StateTransfer, announce

SNAPSHOT = b"".join(number.to_bytes(4, "big") for number in range(CHUNK_BYTES))  # four chunks
FORGED = b"\xff" * 64


def certificate(snapshot: bytes, sequence: int = 64) -> CheckpointCertificate:
    checkpoint = Checkpoint(epoch=1, sequence=sequence, state=keccak(snapshot), next=bytes(32))
    return CheckpointCertificate(checkpoint=checkpoint, signatures=(b"\1" * 64,))


def digests(snapshot: bytes) -> list[bytes]:
    return [keccak(snapshot[first : first + CHUNK_BYTES]) for first in range(0, len(snapshot), CHUNK_BYTES)]


def entry(sequence: int, time_ms: int = 7) -> CommittedBatch:
    batch = Batch(time_ms=time_ms, requests=(b"r",))
    return CommittedBatch(epoch=1, view=0, sequence=sequence, batch=batch, signatures=(b"\1" * 64,))


class Peer:
    """A peer that serves `snapshot` and `log`; subclasses do it badly."""

    def __init__(self, snapshot: bytes = SNAPSHOT, *, sequence: int = 64, log: range = range(0)) -> None:
        self.snapshot = snapshot
        self.certificate = certificate(snapshot, sequence)
        self.log = log
        self.asked: list[str] = []

    def checkpoint(self) -> bytes:
        return announce(self.certificate, len(self.snapshot), digests(self.snapshot))

    def chunk(self, first: int) -> bytes:
        return self.snapshot[first : first + CHUNK_BYTES]

    def page(self, first: int) -> bytes:
        return encode([entry(sequence) for sequence in self.log if first <= sequence < first + 128])

    def answer(self, path: str) -> bytes:
        self.asked.append(path)
        if path == "/v1/checkpoint":
            return self.checkpoint()
        numbers = [int(number) for number in re.findall(r"[/=](\d+)", path)]
        return self.chunk(numbers[1]) if "snapshots" in path else self.page(numbers[0])


class Dies(Peer):
    """Gives one chunk, then nothing."""

    def chunk(self, first: int) -> bytes:
        if sum("snapshots" in path for path in self.asked) > 1:
            raise Unavailable("gone")
        return super().chunk(first)


class Lies(Peer):
    """Gives other bytes than those that the certificate is about."""

    def chunk(self, first: int) -> bytes:
        return bytes(min(CHUNK_BYTES, len(self.snapshot) - first))


class Forges(Peer):
    """Shows a certificate that nobody signed, for a state far ahead."""

    def __init__(self) -> None:
        super().__init__(b"junk", sequence=10**6)
        self.certificate = CheckpointCertificate(checkpoint=self.certificate.checkpoint, signatures=(FORGED,))


class Bench:
    def __init__(self, folder: Path, *peers: Peer, weak: int = 99) -> None:
        """Without `weak` no two peers agree on chunks."""
        self.peers = dict(enumerate(peers, start=1))
        self.order = Order(len(peers) + 1, 0)
        self.executed = 0
        self.believed = 10**9
        self.transfer = StateTransfer(self.order, self.ask, self.take, self.verify, folder / "incoming", weak=weak)

    async def ask(self, peer: int, path: str, *, bytes_max: int) -> bytes:
        answer = self.peers[peer].answer(path)
        assert len(answer) <= bytes_max
        return answer

    async def take(
        self,
        peer: int,
        entries: tuple[CommittedBatch, ...],
        certificate: CheckpointCertificate | None,
        snapshot: bytes | None,
    ) -> int:
        if certificate is not None and snapshot is not None:
            assert keccak(snapshot) == certificate.checkpoint.state
            self.executed = certificate.checkpoint.sequence
        for one in entries:
            if one.sequence <= self.believed:
                self.executed = one.sequence
        return self.executed

    @staticmethod
    def verify(certificate: CheckpointCertificate) -> None:
        if certificate.signatures == (FORGED,):
            raise BadSignature("nobody signed this")

    def bring(self, first: int = 1) -> None:
        asyncio.run(self.transfer.bring(first))

    def chunks(self, peer: int) -> int:
        return sum("snapshots" in path for path in self.peers[peer].asked)


def test_a_log_comes_page_by_page(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Peer(log=range(1, 400)))
    bench.bring()
    assert bench.executed == 399
    assert bench.chunks(1) == 0


def test_a_peer_that_never_gives_the_rest_of_an_old_snapshot_keeps_nobody_from_a_newer_one(tmp_path: Path) -> None:
    """What was begun goes first, but not for ever: a liar may show its valid certificate as long as it likes."""
    stingy = Dies()
    first = Bench(tmp_path, stingy)
    first.bring()
    assert (first.executed, list((tmp_path / "incoming").glob("64-*"))) != (64, [])
    later = Bench(tmp_path, stingy, Peer(sequence=128))
    later.bring()
    assert later.executed == 128


def test_entries_that_the_core_refuses_send_their_peer_to_the_end_of_the_row(tmp_path: Path) -> None:
    junk, good = Peer(log=range(1, 10**4)), Peer(log=range(1, 200))
    bench = Bench(tmp_path, junk, good)
    bench.believed = 0
    bench.bring()
    assert len([path for path in junk.asked if "log" in path]) == 1, "it was followed"
    assert bench.order.peers()[-1] in (1, 2)


def test_a_page_that_is_not_what_was_asked_for_is_not_handed_in(tmp_path: Path) -> None:
    class Elsewhere(Peer):
        def page(self, first: int) -> bytes:
            return encode([entry(first + 5)])

    bench = Bench(tmp_path, Elsewhere(), Peer(log=range(1, 10)))
    bench.bring()
    assert bench.executed == 9


def test_archives_that_begin_above_lead_to_the_snapshot(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Peer(log=range(65, 80)), Peer(log=range(65, 80)))
    bench.bring()
    assert bench.executed == 64
    bench.bring(65)
    assert bench.executed == 79


def test_a_snapshot_goes_on_at_another_peer_where_it_broke_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, *[Dies(), Peer()])
    bench.order.failed(2, "so that 1 is asked first")
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) == 2, "one chunk, and one that did not come"
    assert bench.chunks(2) == 3


def test_a_snapshot_goes_on_after_a_restart(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Dies())
    bench.bring()
    assert bench.executed == 0
    again = Bench(tmp_path, Peer())
    again.bring()
    assert again.executed == 64
    assert again.chunks(1) == 3
    assert not list((tmp_path / "incoming").iterdir())


def test_a_part_of_an_older_snapshot_is_finished_while_somebody_has_it(tmp_path: Path) -> None:
    Bench(tmp_path, Dies()).bring()
    newer = Peer(b"new" * 10, sequence=128)
    bench = Bench(tmp_path, newer, Peer())
    bench.bring()
    assert bench.executed == 64
    Bench(tmp_path, Dies()).bring()
    bench = Bench(tmp_path, newer)
    bench.bring()
    assert bench.executed == 128


@pytest.mark.parametrize("first", [1, 2])
def test_a_liar_in_the_middle_costs_one_more_transfer_and_is_named(tmp_path: Path, first: int) -> None:
    bench = Bench(tmp_path, *([Lies(), Peer()] if first == 1 else [Peer(), Lies()]))
    liar = first
    bench.order.failed(3 - liar, "so that the liar is asked first")
    bench.bring()
    assert bench.executed == 64
    bench.order.served(3 - liar)
    assert bench.order.peers()[-1] == liar


def test_when_a_liars_bytes_were_mixed_in_an_honest_peer_is_asked_for_all(tmp_path: Path) -> None:
    class LiesAndDies(Dies):
        def chunk(self, first: int) -> bytes:
            return bytes(len(super().chunk(first)))

    bench = Bench(tmp_path, LiesAndDies(), Peer())
    bench.order.failed(2, "so that the liar is asked first")
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(2) == 3 + 4


def test_nothing_is_fetched_for_a_forged_certificate(tmp_path: Path) -> None:
    forger = Forges()
    bench = Bench(tmp_path, forger, Peer())
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) == 0


def test_without_a_newer_checkpoint_nothing_happens(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Peer())
    bench.bring(65)
    assert bench.executed == 0


# --- chunks that f+1 peers show alike


class Garbles(Peer):
    """Gives true chunks but for the second one."""

    def chunk(self, first: int) -> bytes:
        chunk = super().chunk(first)
        return bytes(len(chunk)) if first == CHUNK_BYTES else chunk


class ShowsOthers(Lies):
    """Shows the chunks that it gives."""

    def checkpoint(self) -> bytes:
        return announce(self.certificate, len(self.snapshot), digests(bytes(len(self.snapshot))))


def _asked_first(bench: Bench, peer: int) -> None:
    for other in bench.peers:
        if other != peer:
            bench.order.failed(other, f"so that {peer} is asked first")


def test_the_first_false_chunk_ends_its_peers_part_and_what_was_true_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Garbles(), Peer(), Peer(), weak=2)
    _asked_first(bench, 1)
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) == 2, "the first, and the false one"
    assert bench.chunks(2) + bench.chunks(3) == 3
    assert bench.order._failures[1] == 1


def test_who_shows_other_chunks_than_f_plus_1_others_is_asked_for_none(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ShowsOthers(), Peer(), Peer(), weak=2)
    _asked_first(bench, 1)
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) == 0


def test_chunks_that_fewer_than_f_plus_1_show_are_believed_by_nobody(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ShowsOthers(), Peer(), weak=2)
    _asked_first(bench, 1)
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) == 4, "the whole decides"


def test_a_peer_that_dawdles_gives_one_chunk_and_the_last_in_the_row_gives_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pbft.transfer.SLOW_SECONDS", -1.0)
    bench = Bench(tmp_path, Peer(), Peer(), Peer(), weak=2)
    bench.bring()
    assert bench.executed == 64
    assert sorted(bench.chunks(peer) for peer in bench.peers) == [1, 1, 2]


@pytest.mark.parametrize("cut", [0, 1, CHUNK_BYTES])
def test_what_an_earlier_run_left_is_kept_as_far_as_it_is_true(tmp_path: Path, cut: int) -> None:
    bench = Bench(tmp_path, Peer(), Peer(), weak=2)
    folder = tmp_path / "incoming"
    folder.mkdir()
    state = certificate(SNAPSHOT).checkpoint.state
    (folder / f"64-{state.hex()}.part").write_bytes(SNAPSHOT[:CHUNK_BYTES] + bytes(2 * CHUNK_BYTES - cut))
    bench.bring()
    assert bench.executed == 64
    assert bench.chunks(1) + bench.chunks(2) == 3


# --- the side that shows


def test_a_shelf_shows_pages_checkpoints_and_chunks(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    snapshots = Snapshots(tmp_path / "snapshots")
    clock = [0.0]
    shelf = Shelf(archive, tmp_path / "snapshots", clock=lambda: clock[0])

    async def scenario() -> None:
        with pytest.raises(Missing):
            await shelf.checkpoint()
        archive.append(entry(1))
        assert await shelf.page(1, 10) == encode([entry(1)])
        snapshots.save(certificate(SNAPSHOT), SNAPSHOT)
        shown = announce(certificate(SNAPSHOT), len(SNAPSHOT), digests(SNAPSHOT))
        assert await shelf.checkpoint() == await shelf.checkpoint() == shown
        assert await shelf.chunk(64, 0) == SNAPSHOT[:CHUNK_BYTES]
        for sequence in (128, 192, 256):
            snapshots.save(certificate(b"s%d" % sequence, sequence), b"s%d" % sequence)
        assert await shelf.chunk(64, CHUNK_BYTES) == SNAPSHOT[CHUNK_BYTES : 2 * CHUNK_BYTES], "gone while fetched"
        assert await shelf.chunk(64, len(SNAPSHOT) + 5) == b""
        clock[0] += OPEN_SECONDS + 1
        assert await shelf.chunk(256, 0) == b"s256"
        with pytest.raises(Missing):
            await shelf.chunk(64, 0)
        for sequence in range(320, 1280, 64):
            snapshots.save(certificate(b"t", sequence), b"t")
            await shelf.chunk(sequence, 0)
        assert len(shelf._open) <= OPEN_MAX + 1

    asyncio.run(scenario())
    shelf.stop()
    archive.close()
