"""The audit follows the committee through its epochs from the log alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from koinon.audit.evidence import ReplicaLog
from koinon.audit.history import History, replay
from koinon.encoding import digest, encode, keccak
from koinon.epochs import Seat
from koinon.rounds.operations import ChangeCommittee, Operation
from koinon.signing import Signer, seal
from koinon.wire import Batch, CommittedBatch, Phase, Request, Vote
from tests.unit.audit.story import FEDERATION, REGISTRAR, REPLICAS, key

INTERVAL = 4
NEWCOMERS = [key(f"newcomer {index}") for index in range(2)]
FIVE = [*REPLICAS, NEWCOMERS[0]]
FOUR = [NEWCOMERS[0], *REPLICAS[:2], NEWCOMERS[1], REPLICAS[3]]


def seats(members: Sequence[Signer]) -> tuple[Seat, ...]:
    return tuple(
        Seat(address=one.address, sealing_key=keccak(one.address), url=f"http://{one.address.hex()}") for one in members
    )


def entry(sequence: int, epoch: int, signers: Sequence[Signer], *requests: bytes) -> CommittedBatch:
    batch = Batch(time_ms=1_000 + sequence, requests=requests)
    vote = Vote(phase=Phase.COMMIT, epoch=epoch, view=0, sequence=sequence, digest=digest(batch))
    signatures = tuple(one.sign(FEDERATION.domain, vote) for one in signers)
    return CommittedBatch(epoch=epoch, view=0, sequence=sequence, batch=batch, signatures=signatures)


def request(number: int, operation: Operation) -> bytes:
    return seal(REGISTRAR, FEDERATION.domain, Request(number=number, operation=encode(operation)))


def log() -> list[CommittedBatch]:
    """Two changes: the first is taken up at 4, the second, ordered at 8, at 8 itself."""
    first, second = ChangeCommittee(epoch=1, seats=seats(FIVE)), ChangeCommittee(epoch=2, seats=seats(FOUR))
    return [
        entry(1, 0, REPLICAS[:3]),
        entry(2, 0, REPLICAS[:3], request(1, first)),
        entry(3, 0, REPLICAS[1:4]),
        entry(4, 0, REPLICAS[:3]),
        entry(5, 1, FIVE[:4]),
        entry(6, 1, FIVE[1:]),
        entry(7, 1, FIVE[1:]),
        entry(8, 1, FIVE[1:], request(2, second)),
        entry(9, 2, FOUR[:4]),
    ]


def replayed(entries: list[CommittedBatch]) -> History:
    return replay(FEDERATION, [ReplicaLog(0, tuple(entries))], checkpoint_interval=INTERVAL)


def test_the_log_names_the_committees_that_certify_it() -> None:
    history = replayed(log())
    assert not history.certificates
    assert len(history.entries) == 9
    assert [file.replica_addresses for file in history.committees.values()] == [
        tuple(one.address for one in members) for members in (REPLICAS, FIVE, FOUR)
    ]


@pytest.mark.parametrize(
    ("at", "lie", "finding"),
    [
        (5, entry(5, 0, REPLICAS), "an entry of epoch 0, where the committee of epoch 1 orders"),
        (4, entry(4, 1, FIVE), "an entry of epoch 1, where the committee of epoch 0 orders"),
        (5, entry(5, 1, REPLICAS[:3]), "3 members signed, 4 are needed"),
        (4, entry(4, 0, [*REPLICAS[:2], NEWCOMERS[0]]), "is no member's"),
        (9, entry(9, 2, FIVE[:4]), "is no member's"),
        (9, entry(9, 1, FIVE), "an entry of epoch 1, where the committee of epoch 2 orders"),
    ],
)
def test_each_entry_needs_a_quorum_of_its_own_epochs_committee(at: int, lie: CommittedBatch, finding: str) -> None:
    entries = log()
    entries[at - 1] = lie
    history = replayed(entries)
    assert len(history.entries) == at - 1
    assert f"log entry {at}: " in history.certificates[0]
    assert finding in history.certificates[0]


def test_a_change_that_the_law_refuses_leaves_the_committee_as_it_is() -> None:
    stranger = seal(NEWCOMERS[0], FEDERATION.domain, Request(number=1, operation=encode(
        ChangeCommittee(epoch=1, seats=seats(FIVE)))))  # fmt: skip
    skipped = ChangeCommittee(epoch=2, seats=seats(FIVE))
    entries = [
        entry(1, 0, REPLICAS, stranger),
        entry(2, 0, REPLICAS, request(1, skipped)),
        *[entry(sequence, 0, REPLICAS) for sequence in range(3, 7)],
    ]
    history = replayed(entries)
    assert not history.certificates
    assert list(history.committees) == [0]
