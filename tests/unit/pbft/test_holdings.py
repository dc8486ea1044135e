"""The book on stored bytes: quotas that outlive restarts, and blobs that go because no log names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from koinon.blobs import BlobStore
from koinon.encoding import Message, decode, encode, keccak
from koinon.errors import QuotaExceeded
from koinon.rounds.operations import CompleteRound, CreateTask, OpenRound, SubmitUpdate, TaskSpec
from koinon.signing import Signed, Signer, seal
from koinon.wire import (
    Batch,
    CommittedBatch,
    Contribution,
    Opening,
    Request,
    RoundCertificate,
    SignedReceipt,
)
from pbft.archive import Archive
from pbft.holdings import UNNAMED_SECONDS, Holdings, piece_name
from tests.simulation.world import DOMAIN

NODE, OTHER, TASK = b"\x02" * 20, b"\x03" * 20, b"\x01" * 32
KEY = Signer(b"\x07" * 32)


class Desk:
    """A book with its blobs, its archive and a clock."""

    def __init__(self, folder: Path, quota: int = 1_000) -> None:
        self.folder, self.quota, self.now = folder, quota, 1_000_000.0
        self.blobs = BlobStore(folder / "blobs")
        self.archive = Archive(folder / "archive")
        self.holdings = self.open()

    def open(self) -> Holdings:
        return Holdings(self.folder / "holdings", self.blobs, clock=lambda: self.now, bytes_per_member_max=self.quota)

    def upload(self, content: bytes, member: bytes = NODE) -> bytes:
        digest = self.blobs.put(content)
        self.holdings.charge(member, digest, len(content))
        return digest

    def order(self, *operations: Message, sequence: int = 0) -> None:
        requests = tuple(seal(KEY, DOMAIN, Request(number=1, operation=encode(each))) for each in operations)
        sequence = sequence or self.archive.last + 1
        entry = CommittedBatch(
            epoch=1,
            view=0,
            sequence=sequence,
            batch=Batch(time_ms=1, requests=(*requests, b"rubbish")),
            signatures=(b"\1" * 64,),
        )
        self.archive.append(entry)

    def collect(self) -> int:
        self.holdings.follow(self.archive)
        return self.holdings.collect()

    def close(self) -> None:
        self.holdings.close()
        self.archive.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.close()


def _submit(update: bytes) -> SubmitUpdate:
    return SubmitUpdate(task=TASK, round=1, parent_model=bytes(32), update=update, examples=1, loss=0, receipts=())


def _complete(model: bytes, opening: bytes) -> CompleteRound:
    certificate = RoundCertificate(
        task=TASK,
        round=1,
        epoch=1,
        parent_model=bytes(32),
        model=model,
        updates_root=bytes(32),
        opening=opening,
        rewards_root=bytes(32),
        rewards_total=0,
        participants=1,
    )
    return CompleteRound(certificate=certificate, signatures=(SignedReceipt(replica=0, signature=bytes(64)),))


def _opening(witness: bytes, *components: bytes) -> bytes:
    contribution = Contribution(
        task=TASK, round=1, updates_root=bytes(32), replica=0, components=tuple(enumerate(components))
    )
    return encode(
        Opening(task=TASK, round=1, contributions=(decode(Signed, seal(KEY, DOMAIN, contribution)),), witness=witness)
    )


def test_a_member_stores_no_more_than_its_quota_across_restarts(desk: Desk) -> None:
    desk.upload(bytes(600))
    desk.holdings.close()
    desk.holdings = desk.open()
    desk.holdings.require_room(NODE, 400)
    desk.holdings.require_room(OTHER, 1_000)
    with pytest.raises(QuotaExceeded):
        desk.holdings.require_room(NODE, 401)


def test_the_same_blob_is_charged_once_and_to_who_brought_it_first(desk: Desk) -> None:
    desk.upload(bytes(600))
    desk.upload(bytes(600))
    desk.upload(bytes(600), OTHER)
    assert (desk.holdings.used(NODE), desk.holdings.used(OTHER)) == (600, 0)


def test_pieces_are_charged_until_their_round_is_over(desk: Desk) -> None:
    for round_ in (1, 2, 256):
        desk.holdings.charge(NODE, piece_name(TASK, round_, NODE), 100)
    desk.holdings.release_pieces(TASK, 1)
    assert desk.holdings.used(NODE) == 200
    desk.now += 2 * UNNAMED_SECONDS
    assert desk.collect() == 0, "pieces are no blobs"
    desk.holdings.release_pieces(TASK, 256)
    assert desk.holdings.used(NODE) == 100


def test_a_blob_that_nobody_names_goes_after_its_time_and_its_charge_with_it(desk: Desk) -> None:
    digest = desk.upload(b"unnamed")
    desk.now += UNNAMED_SECONDS - 1
    assert desk.collect() == 0
    desk.now += 2
    assert desk.collect() == 1
    assert digest not in desk.blobs
    assert desk.holdings.used(NODE) == 0


def test_a_blob_that_is_stored_again_is_young_again(desk: Desk) -> None:
    digest = desk.upload(b"unnamed")
    desk.now += UNNAMED_SECONDS - 1
    desk.holdings.touch(digest)
    desk.now += 2
    assert desk.collect() == 0
    assert desk.holdings.used(NODE) == len(b"unnamed")


def test_what_the_log_names_stays_and_stays_charged(desk: Desk) -> None:
    spec = TaskSpec(
        name="t", app="none", mode="plain", strategy="fedavg", rounds=1, initial_model=keccak(b"initial"), dimension=1
    )
    opening = _opening(keccak(b"witness"), keccak(b"component"))
    desk.order(CreateTask(spec=spec), _submit(keccak(b"update")))
    desk.order(OpenRound(task=TASK, round=1, parent_model=keccak(b"parent"), cohort=(NODE,)))
    desk.order(_complete(keccak(b"model"), keccak(opening)))
    contents = (b"initial", b"update", b"parent", b"model", b"witness", b"component", opening)
    kept = [desk.upload(content) for content in contents]
    lost = desk.upload(b"other")
    desk.now += 10 * UNNAMED_SECONDS
    assert desk.collect() == 1
    assert lost not in desk.blobs
    assert all(digest in desk.blobs for digest in kept)
    assert desk.holdings.used(NODE) == sum(map(len, contents))


def test_names_are_remembered_across_restarts(desk: Desk) -> None:
    update = desk.upload(b"update")
    desk.order(_submit(update))
    desk.holdings.follow(desk.archive)
    desk.holdings.close()
    desk.holdings = desk.open()
    desk.now += 10 * UNNAMED_SECONDS
    assert desk.collect() == 0
    assert update in desk.blobs


def test_behind_a_gap_of_the_archive_everything_of_that_time_is_kept(desk: Desk) -> None:
    old = desk.upload(b"named in the gap, perhaps")
    desk.order(_submit(keccak(b"x")), sequence=65)
    desk.holdings.follow(desk.archive)
    new = desk.upload(b"after it")
    desk.now += 10 * UNNAMED_SECONDS
    assert desk.collect() == 1
    assert old in desk.blobs
    assert new not in desk.blobs


def test_nothing_goes_while_an_opening_is_missing_that_may_name_it(desk: Desk) -> None:
    component = desk.upload(b"component")
    desk.now += 2 * UNNAMED_SECONDS
    opening = _opening(bytes(32), component)
    desk.order(_complete(keccak(b"model"), keccak(opening)))
    assert desk.collect() == 0
    assert desk.holdings.missing_openings() == [keccak(opening)]
    desk.blobs.put(opening)
    assert desk.collect() == 0
    assert component in desk.blobs
    assert not desk.holdings.missing_openings()


def test_an_opening_that_nobody_has_does_not_keep_everything_for_ever(desk: Desk) -> None:
    desk.order(_complete(keccak(b"model"), keccak(b"a lie")))
    desk.holdings.follow(desk.archive)
    digest = desk.upload(b"unnamed")
    desk.now += UNNAMED_SECONDS + 1
    assert desk.collect() == 1
    assert digest not in desk.blobs


def test_what_this_replica_computed_is_never_collected(desk: Desk) -> None:
    digest = desk.upload(b"component")
    desk.holdings.keep([digest])
    desk.now += 10 * UNNAMED_SECONDS
    assert desk.collect() == 0
