"""The audit of what the chain says of the committee: each epoch is the log's, each conviction is proved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from koinon.audit import Evidence, ReplicaLog, Report
from koinon.audit.chain import ChainFacts, from_json, to_json
from koinon.audit.committee import check_committee
from koinon.audit.history import replay
from koinon.audit.report import FAIL, PASS, SKIP
from koinon.encoding import ZERO_DIGEST, keccak
from koinon.epochs import epoch_change
from koinon.records import BlockRecord, CommitteeMember, CommitteeRecord, EpochHandedOver, ReplicaConvicted
from koinon.signing import Signer
from koinon.wire import Checkpoint, Phase, Vote
from tests.unit.audit.story import FEDERATION, REPLICAS, key
from tests.unit.audit.test_epochs import FIVE, FOUR, INTERVAL, log, seats

STATE = keccak(b"state")
PLACE: dict[str, Any] = {
    "contract": b"\x03" * 20,
    "block": 7,
    "block_hash": bytes(32),
    "transaction": keccak(b"transaction"),
    "log_index": 0,
}


def committee(epoch: int, members: list[Signer]) -> CommitteeRecord:
    named = FEDERATION.seats if epoch == 0 else seats(members)
    return CommitteeRecord(epoch, tuple(CommitteeMember(each.address, each.sealing_key, each.url) for each in named), 0)


def handed_over(
    epoch: int, sequence: int, members: list[Signer], following: list[Signer], *, state: bytes = STATE
) -> EpochHandedOver:
    """The event of an epoch whose first members of the one before signed."""
    checkpoint = Checkpoint(
        epoch=epoch - 1, sequence=sequence, state=STATE, next=epoch_change(epoch, seats(following)).struct_hash()
    )
    count = len(members) - (len(members) - 1) // 3
    signatures = b"".join(each.sign(FEDERATION.domain, checkpoint) for each in members[:count])
    return EpochHandedOver(
        epoch=epoch, sequence=sequence, state=state, signers=(1 << count) - 1, signatures=signatures, **PLACE
    )


FIRST, SECOND = handed_over(1, 4, REPLICAS, FIVE), handed_over(2, 8, FIVE, FOUR)
VOTE = Vote(phase=Phase.COMMIT, epoch=1, view=0, sequence=6, digest=keccak(b"one"))


def convicted(index: int, liar: Signer, second: Vote, *, member: Signer | None = None) -> ReplicaConvicted:
    domain = FEDERATION.domain
    return ReplicaConvicted(
        epoch=1, index=index, member=(member or liar).address, reporter=bytes(20), first=VOTE, second=second,
        signatures=liar.sign(domain, VOTE) + liar.sign(domain, second), **PLACE,
    )  # fmt: skip


PROVED = convicted(4, FIVE[4], msgspec.structs.replace(VOTE, digest=keccak(b"other")))
HONEST = ChainFacts(
    head=BlockRecord(9, bytes(32), bytes(32), 1),
    epoch=2,
    committees=(committee(0, REPLICAS), committee(1, FIVE), committee(2, FOUR)),
    events=(FIRST, SECOND, PROVED),
)


def lines(facts: ChainFacts | None, *, entries: int = 9) -> list[tuple[str, str, str]]:
    logs = (ReplicaLog(0, tuple(log()[:entries])),)
    history = replay(FEDERATION, logs, checkpoint_interval=INTERVAL)
    report = Report(federation="test", chain_id=1)
    check_committee(report, Evidence(FEDERATION, logs, facts), history)
    return [(each.check, each.verdict, each.detail) for each in report.lines]


def with_event(*events: EpochHandedOver | ReplicaConvicted) -> ChainFacts:
    return replace(HONEST, events=events)


def test_epochs_of_the_chain_are_the_handovers_of_the_log_and_convictions_are_named() -> None:
    first, second, conviction = lines(HONEST)
    assert first == ("handover", PASS, "epoch 1: 3 members of epoch 0 signed, at log entry 4")
    assert second == ("handover", PASS, "epoch 2: 4 members of epoch 1 signed, at log entry 8")
    assert conviction[:2] == ("conviction", PASS)
    assert conviction[2].startswith(f"replica 4 of epoch 1 (0x{FIVE[4].address.hex()}) signed two commit votes")


def test_nothing_to_say_is_said() -> None:
    quiet = replace(HONEST, committees=HONEST.committees[:1], epoch=0, events=())
    assert [each[:2] for each in lines(quiet)] == [("handovers", PASS), ("convictions", PASS)]
    assert [each[:2] for each in lines(None)] == [("handovers", SKIP), ("convictions", SKIP)]


def test_facts_with_these_events_are_kept_as_json() -> None:
    assert from_json(to_json(HONEST)) == HONEST


def test_epoch_that_nobody_handed_over_to_is_a_lie() -> None:
    found = lines(with_event(FIRST, PROVED))
    assert found[1] == ("handover", FAIL, "epoch 2 was installed without a certificate of the committee before it")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (handed_over(1, 8, REPLICAS, FIVE), "epoch 0 ends at entry 4 of the log, at 8 on chain"),
        (handed_over(1, 4, REPLICAS, FIVE, state=keccak(b"another")), "who is no member"),
        (handed_over(1, 4, REPLICAS, FOUR), "who is no member"),
        (handed_over(1, 4, [key("a"), key("b"), key("c"), key("d")], FIVE), "who is no member"),
        (handed_over(1, 4, REPLICAS[:2], FIVE), "2 members signed, 3 are needed"),
        (replace(FIRST, signers=0b1011), "the event names other signers"),
        (replace(FIRST, signatures=FIRST.signatures[:-1]), "64 bytes"),
        (replace(FIRST, signatures=b""), "0 members signed, 3 are needed"),
    ],
)
def test_false_handover_is_a_lie(event: EpochHandedOver, why: str) -> None:
    found = lines(with_event(event, SECOND))
    assert found[0][:2] == ("handover", FAIL)
    assert why in found[0][2]
    assert found[1][:2] == ("handover", PASS)


def test_another_committee_than_the_log_names_is_a_lie() -> None:
    false = replace(HONEST, committees=(HONEST.committees[0], committee(1, FOUR), HONEST.committees[2]))
    assert "another committee of epoch 1" in lines(false)[0][2]
    assert lines(false)[0][1] == FAIL


def test_epoch_that_the_log_does_not_lead_to_is_a_lie_and_a_short_log_decides_nothing() -> None:
    third = replace(HONEST, committees=(*HONEST.committees, committee(3, FIVE)))
    early = replace(handed_over(3, 12, FOUR, FIVE), sequence=9)
    assert lines(replace(third, events=(FIRST, SECOND, early)))[2] == (
        "handover", FAIL, "the chain has an epoch 3, and the log does not lead to it"
    )  # fmt: skip
    assert lines(HONEST, entries=5)[1][1] == SKIP


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (convicted(4, FIVE[4], VOTE), "one digest"),
        (convicted(3, FIVE[4], PROVED.second), "not of replica 3"),
        (convicted(4, FIVE[4], PROVED.second, member=FIVE[3]), "who is not replica 4"),
        (convicted(9, FIVE[4], PROVED.second), "replica 9 of a committee of 5"),
        (convicted(4, FIVE[4], msgspec.structs.replace(PROVED.second, view=3)), "not for one slot"),
        (replace(PROVED, epoch=7), "which nobody knows"),
        (replace(PROVED, signatures=b""), "64 bytes"),
    ],
)
def test_unproved_conviction_is_a_lie(event: ReplicaConvicted, why: str) -> None:
    found = lines(with_event(FIRST, SECOND, event))
    assert found[2][:2] == ("conviction", FAIL)
    assert why in found[2][2]


def test_handover_of_no_change_proves_nothing() -> None:
    checkpoint = Checkpoint(epoch=0, sequence=4, state=STATE, next=ZERO_DIGEST)
    signatures = b"".join(each.sign(FEDERATION.domain, checkpoint) for each in REPLICAS[:3])
    assert lines(with_event(replace(FIRST, signatures=signatures), SECOND))[0][1] == FAIL
