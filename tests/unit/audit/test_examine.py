"""The audit believes nobody: an honest past passes every check, and each lie is named with its place."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from koinon.audit import Evidence, ReplicaLog, Report, Selection, examine
from koinon.audit.chain import ChainFacts, Claim, from_json, to_json
from koinon.audit.evidence import BlobCopy
from koinon.audit.history import replay
from koinon.audit.report import FAIL, PASS, SKIP, canonical_json
from koinon.encoding import encode, keccak
from koinon.errors import Malformed
from koinon.learning.parameters import from_arrays
from koinon.opening import ClosedRound
from koinon.records import RewardClaimed
from koinon.wire import Batch
from tests.unit.audit.story import FEDERATION, NODES, REPLICAS, REWARD, Story, certified, key

HONEST = Story()


def audit(evidence: Evidence, selection: Selection | None = None) -> Report:
    return examine(evidence, replay(evidence.federation, evidence.logs), selection)


def lie(evidence: Evidence) -> tuple[str, int | None, str]:
    """Check, round and detail of the first FAIL."""
    report = audit(evidence)
    assert not report.passed
    found = report.first_lie
    assert found is not None
    return found.check, found.round, found.detail


def with_log(evidence: Evidence, index: int, sequence: int, **changes: object) -> Evidence:
    """Replica `index` keeps entry `sequence` with other fields."""
    logs = list(evidence.logs)
    entries = list(logs[index].entries)
    entries[sequence - 1] = msgspec.structs.replace(entries[sequence - 1], **changes)
    logs[index] = replace(logs[index], entries=tuple(entries))
    return replace(evidence, logs=tuple(logs))


def with_chain(evidence: Evidence, **changes: object) -> Evidence:
    assert evidence.chain is not None
    return replace(evidence, chain=replace(evidence.chain, **changes))  # type: ignore[arg-type]


def certificate_of(story: Story, number: int):  # type: ignore[no-untyped-def]
    return story.anchored[number - 1].certificate


# --- honesty -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["shares", "plain"])
def test_an_honest_past_passes_every_check_in_every_round(mode: str) -> None:
    report = audit(Story(rounds=2, mode_name=mode).evidence())
    assert report.passed, report.summary()
    assert {line.verdict for line in report.lines} == {PASS}
    assert [line.round for line in report.lines if line.check == "aggregate"] == [1, 2]
    assert report.lines[-1].detail == "1000 escrowed − 0 claimed − 0 returned = 1000 held"


def test_every_round_line_names_task_and_the_chain_line_names_block_and_transaction() -> None:
    report = audit(HONEST.evidence())
    assert all(line.task for line in report.lines if line.round is not None)
    line = next(line for line in report.lines if line.check == "certificate on chain" and line.round == 2)
    assert (line.block, line.transaction) == (12, "0x" + keccak(b"transaction\x02").hex())


def test_a_selection_of_rounds_reports_those_only_but_replays_all() -> None:
    report = audit(HONEST.evidence(), Selection(first=2, last=2))
    assert report.passed
    assert {line.round for line in report.lines if line.round is not None} == {2}


@pytest.mark.parametrize("name", ["digits", HONEST.task.hex()[:8], "0x" + HONEST.task.hex()])
def test_a_task_is_found_by_its_name_or_by_digits_of_its_identity(name: str) -> None:
    assert any(line.round for line in audit(HONEST.evidence(), Selection(task=name)).lines)


def test_a_task_that_is_not_in_the_log_fails_and_names_those_that_are() -> None:
    report = audit(HONEST.evidence(), Selection(task="mnist"))
    assert report.first_lie is not None
    assert "digits" in report.first_lie.detail


def test_without_the_chain_the_rest_is_checked_and_what_is_missing_is_said() -> None:
    report = audit(replace(HONEST.evidence(), chain=None))
    assert report.passed
    assert {line.check for line in report.lines if line.verdict == SKIP} == {
        "chain id and genesis", "deployed contracts", "committee on chain", "certificate on chain", "task on chain",
        "claims", "escrow", "handovers", "convictions",
    }  # fmt: skip


def test_a_replica_that_is_down_is_no_lie() -> None:
    evidence = HONEST.evidence()
    silent = ReplicaLog(2, absent="replica 2 does not answer")
    report = audit(replace(evidence, logs=(*evidence.logs[:2], silent, evidence.logs[3])))
    assert report.passed
    assert any("replica 2 is not heard" in line.detail for line in report.lines)


def test_nothing_is_proved_when_nobody_keeps_a_log() -> None:
    logs = tuple(ReplicaLog(index, absent=f"replica {index} does not answer") for index in range(4))
    assert lie(replace(HONEST.evidence(), logs=logs))[0] == "log certificates"


# --- lies in the log -----------------------------------------------------------------------------------------------


def test_a_changed_time_in_a_log_entry_names_replica_and_entry() -> None:
    entry = HONEST.entries[6]
    altered = msgspec.structs.replace(entry.batch, time_ms=entry.batch.time_ms + 1)
    check, _, detail = lie(with_log(HONEST.evidence(), 1, 7, batch=altered))
    assert check == "log certificates"
    assert detail.startswith("replica 1, log entry 7")


def test_an_entry_that_too_few_members_signed_is_named() -> None:
    check, _, detail = lie(with_log(HONEST.evidence(), 0, 3, signatures=HONEST.entries[2].signatures[:2]))
    assert check == "log certificates"
    assert detail == "replica 0, log entry 3: 2 members signed, 3 are needed"


def test_one_member_signing_thrice_is_no_quorum() -> None:
    check, _, detail = lie(with_log(HONEST.evidence(), 0, 3, signatures=HONEST.entries[2].signatures[:1] * 3))
    assert check == "log certificates"
    assert "1 members signed" in detail


def test_a_gap_that_all_replicas_share_is_found() -> None:
    evidence = HONEST.evidence()
    logs = tuple(replace(log, entries=log.entries[:4] + log.entries[5:]) for log in evidence.logs)
    check, _, detail = lie(replace(evidence, logs=logs))
    assert check == "log certificates"
    assert "log entry 6: stands where entry 5 is due" in detail


def test_a_replica_that_joined_late_leaves_no_gap_in_the_merged_log() -> None:
    evidence = HONEST.evidence()
    late = replace(evidence.logs[0], entries=evidence.logs[0].entries[5:])
    assert audit(replace(evidence, logs=(late, *evidence.logs[1:]))).passed


def test_two_certified_batches_at_one_entry_are_a_disagreement() -> None:
    other = certified(Batch(time_ms=1, requests=()), 4, who=(0, 1, 2))
    check, _, detail = lie(
        with_log(HONEST.evidence(), 3, 4, batch=other.batch, signatures=other.signatures, view=other.view)
    )
    assert check == "replicas agree"
    assert detail == "replica 3 has another certified batch at log entry 4"


def test_a_request_that_its_sender_did_not_sign_is_named_even_in_a_certified_batch() -> None:
    story = Story(rounds=1)
    story.append(Batch(time_ms=story.time_ms + 1, requests=(b"\x93nonsense",)))
    check, _, detail = lie(story.evidence())
    assert check == "log requests"
    assert f"log entry {len(story.entries)}, request 0" in detail


def test_a_request_ordered_twice_takes_effect_once() -> None:
    story = Story(rounds=1)
    story.append(story.entries[0].batch)
    assert audit(story.evidence()).passed


def test_a_log_that_cannot_be_decoded_is_a_finding() -> None:
    evidence = HONEST.evidence()
    broken = replace(evidence.logs[2], problem="log entry 9 is damaged on disk (its checksum differs)")
    check, _, detail = lie(replace(evidence, logs=(*evidence.logs[:2], broken, evidence.logs[3])))
    assert check == "log certificates"
    assert detail == "replica 2: log entry 9 is damaged on disk (its checksum differs)"


def test_a_state_that_replicas_report_but_the_log_does_not_yield_is_a_lie() -> None:
    evidence = HONEST.evidence()
    state = replay(FEDERATION, evidence.logs).federation
    assert state is not None
    said = msgspec.structs.replace(certificate_of(HONEST, 2), model=keccak(b"another"))
    state.state.tasks[HONEST.task].rounds[1].certificate = said
    check, _, detail = lie(replace(evidence, tasks=state.state.tasks))
    assert check == "replay under the law"
    assert "round 2" in detail


# --- lies in blobs -------------------------------------------------------------------------------------------------


def test_a_flipped_byte_in_an_update_blob_names_node_and_holder() -> None:
    evidence = HONEST.evidence()
    submission = HONEST.law.state.tasks[HONEST.task].rounds[1].submissions[NODES[1].address]
    false = BlobCopy(HONEST.blobs[submission.update], ("replica 3 has a false copy (it does not hash to its name)",))
    check, number, detail = lie(replace(evidence, blobs={**evidence.blobs, submission.update: false}))
    assert (check, number) == ("update blobs", 2)
    assert NODES[1].address.hex() in detail
    assert "replica 3" in detail


@pytest.mark.parametrize(
    ("field", "what"), [("opening", "opening"), ("model", "model"), ("parent_model", "parent model")]
)
def test_a_blob_that_nobody_has_fails_the_aggregate_and_is_named(field: str, what: str) -> None:
    evidence = HONEST.evidence()
    missing = getattr(certificate_of(HONEST, 1), field)
    blobs = {name: copy for name, copy in evidence.blobs.items() if name != missing}
    check, number, detail = lie(replace(evidence, blobs=blobs))
    assert (check, number) == ("aggregate", 1)
    assert f"{what}: nobody has blob" in detail


def test_a_missing_component_sum_is_named() -> None:
    evidence = HONEST.evidence()
    kept = {blob for blob in evidence.blobs if len(HONEST.blobs[blob]) != 40}
    check, _, detail = lie(replace(evidence, blobs={name: evidence.blobs[name] for name in kept}))
    assert check == "aggregate"
    assert "component 0: the bytes of" in detail


def test_replicas_that_certify_another_model_than_the_sum_are_caught() -> None:
    class Colluding(Story):
        def finish(self, closed: ClosedRound, model, opening: bytes) -> None:  # type: ignore[no-untyped-def]
            if closed.round.number == 2:
                model = from_arrays([np.full((2, 5), 0.5, dtype=np.float32)])
            super().finish(closed, model, opening)

    check, number, detail = lie(Colluding(rounds=2).evidence())
    assert (check, number) == ("aggregate", 2)
    assert "the updates sum up to model" in detail


# --- lies on chain -------------------------------------------------------------------------------------------------


def facts() -> ChainFacts:
    return HONEST.chain()


def test_a_chain_of_another_genesis_is_named_first() -> None:
    evidence = with_chain(HONEST.evidence(), refusal=("wrong-chain", "genesis 0xaa where the federation has 0xbb"))
    assert lie(evidence) == ("chain id and genesis", None, "genesis 0xaa where the federation has 0xbb")


def test_other_code_at_a_contracts_address_is_named() -> None:
    message = "the code at 0x05 is not this version's Rewards"
    evidence = with_chain(HONEST.evidence(), refusal=("contract-missing", message))
    assert lie(evidence) == ("deployed contracts", None, message)


def test_a_committee_on_chain_that_is_not_the_federations_is_named() -> None:
    committee = facts().committees[0]
    members = (replace(committee.members[0], address=bytes(20)), *committee.members[1:])
    check, _, detail = lie(with_chain(HONEST.evidence(), committees=(replace(committee, members=members),)))
    assert check == "committee on chain"
    assert detail.startswith("replica 0 is 0x00")


@pytest.mark.parametrize("field", ["model", "updates_root", "rewards_root", "opening", "parent_model"])
def test_a_certificate_field_that_differs_on_chain_is_named(field: str) -> None:
    events = list(facts().events)
    said = msgspec.structs.replace(certificate_of(HONEST, 2), **{field: bytes(32)})
    events[-1] = replace(events[-1], certificate=said)  # type: ignore[call-arg]
    check, number, detail = lie(with_chain(HONEST.evidence(), events=tuple(events)))
    assert (check, number) == ("certificate on chain", 2)
    assert detail.startswith(f"{field} of the certificate on chain differs")


def test_a_round_that_the_chain_never_committed_is_named() -> None:
    check, number, detail = lie(with_chain(HONEST.evidence(), events=facts().events[:-1]))
    assert (check, number) == ("certificate on chain", 2)
    assert "0 RoundCommitted events" in detail


def test_contract_storage_that_contradicts_its_event_is_named() -> None:
    rounds = (facts().rounds[0], replace(facts().rounds[1], rewards_root=bytes(32)))
    check, number, detail = lie(with_chain(HONEST.evidence(), rounds=rounds))
    assert (check, number) == ("certificate on chain", 2)
    assert detail.startswith("rewards_root in the contract's storage")


def test_a_quorum_in_calldata_that_strangers_signed_is_named() -> None:
    anchored = list(facts().anchored)
    forged = tuple((index, key("stranger").sign(FEDERATION.domain, certificate_of(HONEST, 1))) for index in range(3))
    anchored[0] = replace(anchored[0], signatures=forged)
    check, number, _ = lie(with_chain(HONEST.evidence(), anchored=tuple(anchored)))
    assert (check, number) == ("certificate on chain", 1)


def test_a_newest_model_on_chain_that_no_round_certified_is_named() -> None:
    tasks = (replace(facts().tasks[0], model=bytes(32)),)
    check, _, detail = lie(with_chain(HONEST.evidence(), tasks=tasks))
    assert check == "task on chain"
    assert "newest model on chain" in detail


def test_a_task_with_another_spec_on_chain_is_named() -> None:
    tasks = (replace(facts().tasks[0], spec=bytes(32)),)
    assert lie(with_chain(HONEST.evidence(), tasks=tasks))[0] == "task on chain"


# --- lies about credits --------------------------------------------------------------------------------------------


def claim(amount: int, cumulative: int) -> RewardClaimed:
    return RewardClaimed(
        contract=FEDERATION.network.contracts.rewards, block=15, block_hash=bytes(32), transaction=bytes(32),
        log_index=0, task=HONEST.task, account=NODES[0].address, amount=amount, cumulative=cumulative,
    )  # fmt: skip


def claimed(amount: int, *, held: int | None = None, escrow: int | None = None) -> Evidence:
    return with_chain(
        HONEST.evidence(),
        events=(*facts().events, claim(amount, amount)),
        claims=(Claim(HONEST.task, NODES[0].address, amount if held is None else held),),
        escrow=1000 - amount if escrow is None else escrow,
    )


def test_a_claim_of_what_was_earned_passes() -> None:
    assert audit(claimed(2 * REWARD)).passed


def test_a_claim_above_what_was_earned_names_account_and_amounts() -> None:
    check, _, detail = lie(claimed(2 * REWARD + 1))
    assert check == "claims"
    assert detail == f"0x{NODES[0].address.hex()} claimed 11 and earned 10"


def test_a_contract_that_remembers_another_claim_than_its_events_is_named() -> None:
    assert "is 4 in the contract, 5 by its events" in lie(claimed(5, held=4))[2]


def test_missing_credits_in_the_escrow_are_found() -> None:
    check, _, detail = lie(claimed(5, escrow=994))
    assert check == "escrow"
    assert detail == "the contract holds 994 credits and owes 995"


def test_credits_that_somebody_gave_to_the_contract_are_no_lie() -> None:
    assert audit(claimed(5, escrow=1001)).passed


def test_a_reward_for_a_node_that_took_no_part_is_found_in_the_certificate() -> None:
    class Generous(Story):
        def finish(self, closed: ClosedRound, model, opening: bytes) -> None:  # type: ignore[no-untyped-def]
            self.law.state.tasks[self.task].rewards[REPLICAS[0].address] = 7
            super().finish(closed, model, opening)

    # the log's replay under the law refuses such a certificate: the round is not certified for an auditor
    story = Generous(rounds=1)
    report = audit(story.evidence())
    assert not report.passed
    assert report.first_lie is not None
    assert report.first_lie.check == "task on chain"


# --- the report ----------------------------------------------------------------------------------------------------


def test_the_report_hash_covers_every_other_byte_and_equal_evidence_gives_equal_reports() -> None:
    first, second = audit(HONEST.evidence()).as_json(), audit(HONEST.evidence()).as_json()
    assert canonical_json(first) == canonical_json(second)
    stated = first.pop("report_hash")
    assert stated == "0x" + keccak(canonical_json(first)).hex()
    assert (first["schema_version"], first["verdict"]) == (1, PASS)
    assert first["chain_head"] == {"number": 20, "hash": "0x" + keccak(b"head").hex()}


def test_the_facts_of_a_chain_survive_being_kept_as_json() -> None:
    assert from_json(to_json(claimed(5).chain)) == claimed(5).chain  # type: ignore[arg-type]
    with pytest.raises(Malformed):
        from_json(b'{"head": 1}')


def test_corrupt_evidence_of_any_field_never_stops_the_audit() -> None:
    evidence = HONEST.evidence()
    for name in evidence.blobs:
        for content in (b"", b"\x90", HONEST.blobs[name][:-1], encode(("x",))):
            report = audit(replace(evidence, blobs={**evidence.blobs, name: BlobCopy(content)}))
            assert {line.verdict for line in report.lines} <= {PASS, FAIL}


def test_a_certified_round_that_waits_for_its_block_is_no_lie_but_is_said() -> None:
    tasks = (replace(facts().tasks[0], model=certificate_of(HONEST, 1).model, last_committed=1),)
    report = audit(with_chain(HONEST.evidence(), events=facts().events[:-1], rounds=facts().rounds[:1], tasks=tasks))
    assert report.passed
    skipped = [line for line in report.lines if line.verdict == SKIP]
    assert [(line.check, line.round) for line in skipped] == [("certificate on chain", 2)]
    assert "holds rounds up to 1" in skipped[0].detail
