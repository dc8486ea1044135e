"""Castro & Liskov 1999, sections 3 to 4.2: sizes, clients, the three phases. One test a rule, section in its name."""

from __future__ import annotations

import pytest

from koinon.errors import BadSignature, Malformed, Replayed, UnknownSigner
from koinon.signing import authenticate
from koinon.wire import Phase, Reply
from pbft.certificates import batch_digest
from pbft.events import (
    Committed,
    Evidence,
    Ignored,
    Misbehaved,
    Persist,
    Refuse,
    Respond,
    Send,
)
from pbft.messages import (
    PreparedProof,
    PrePrepare,
    Relay,
)
from pbft.quorum import Committee, faulty_max, quorum
from tests.simulation.byzantine import LIARS
from tests.simulation.world import DOMAIN, World, committee

from .bench import Bench, of, persisted, said, voted

# --- section 3 and 4: sizes and primaries


@pytest.mark.parametrize("n", range(1, 40))
def test_section_3_two_quorums_share_an_honest_replica_and_the_faulty_cannot_stop_one(n: int) -> None:
    assert 2 * quorum(n) - n >= faulty_max(n) + 1
    assert n - faulty_max(n) >= quorum(n)


def test_section_3_four_replicas_tolerate_one_and_need_three() -> None:
    assert (committee(4).f, committee(4).quorum, committee(4).weak) == (1, 3, 2)
    assert (committee(7).f, committee(7).quorum, committee(7).weak) == (2, 5, 3)


def test_section_4_1_the_primary_is_view_modulo_n() -> None:
    assert [committee(4).primary(view) for view in range(6)] == [0, 1, 2, 3, 0, 1]


def test_a_member_is_found_by_address_and_a_stranger_is_not() -> None:
    members = committee(4)
    assert [members.index_of(address) for address in members.members] == [0, 1, 2, 3]
    with pytest.raises(UnknownSigner):
        members.index_of(b"\0" * 20)


def test_a_committee_counts_nobody_twice() -> None:
    with pytest.raises(Exception, match="distinct"):
        Committee((b"\x01" * 20, b"\x01" * 20))


# --- section 4.1: the client


def test_section_4_1_an_executed_request_is_answered_with_a_signed_reply() -> None:
    bench = Bench()
    (respond,) = of(Respond, bench.order(1, bench.batch(bench.request(7))))
    reply = authenticate(Reply, bench.replica.seal(respond.reply), DOMAIN)
    assert reply.sender == bench.committee.members[1]
    assert (reply.message.number, reply.message.result) == (7, b"\0\0\0\1do")


def test_section_4_1_a_retransmitted_request_gets_the_cached_reply_and_is_not_executed_again() -> None:
    bench = Bench()
    request = bench.request(7)
    first = of(Respond, bench.order(1, bench.batch(request)))
    again = bench.ask(request)
    assert of(Respond, again) == first
    assert len(bench.ledger.entries) == 1


def test_section_4_1_an_older_request_is_refused_with_a_reason() -> None:
    bench = Bench()
    bench.order(1, bench.batch(bench.request(7)))
    (refuse,) = of(Refuse, bench.ask(bench.request(6)))
    assert isinstance(refuse.error, Replayed)


def test_section_4_1_a_request_ordered_twice_is_executed_once() -> None:
    bench = Bench()
    request = bench.request(1)
    bench.order(1, bench.batch(request))
    (committed,) = of(Committed, bench.order(2, bench.batch(request)))
    assert committed.results == ()
    assert len(bench.ledger.entries) == 1


# --- section 4.2: normal operation


def test_section_4_2_the_primary_assigns_the_next_number_and_multicasts_a_pre_prepare() -> None:
    bench = Bench(0)
    request = bench.request()
    (pre_prepare,) = said(PrePrepare, bench.ask(request))
    assert (pre_prepare.view, pre_prepare.sequence, pre_prepare.batch.requests) == (0, 1, (request,))


def test_section_4_2_a_backup_relays_a_request_to_the_primary() -> None:
    bench = Bench(1)
    request = bench.request()
    effects = bench.ask(request) + bench.wait(500)
    assert said(Relay, effects)[0].request == request
    assert {effect.to for effect in of(Send, effects) if isinstance(effect.message, Relay)} == {0}


def test_section_4_2_a_backup_accepts_a_pre_prepare_and_multicasts_prepare() -> None:
    bench = Bench()
    batch = bench.batch()
    (vote,) = voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(1, batch)))
    assert (vote.view, vote.sequence, vote.digest) == (0, 1, batch_digest(batch))


def test_section_4_2_a_backup_rejects_a_pre_prepare_that_the_primary_did_not_sign() -> None:
    bench = Bench()
    (misbehaved,) = of(Misbehaved, bench.receive(0, bench.pre_prepare(1, bench.batch(), who=2)))
    assert isinstance(misbehaved.error, BadSignature)


def test_section_4_2_a_backup_rejects_a_pre_prepare_of_an_unsigned_request() -> None:
    bench = Bench()
    effects = bench.receive(0, bench.pre_prepare(1, bench.batch(b"no request")))
    assert isinstance(of(Misbehaved, effects)[0].error, Malformed)
    assert not voted(Phase.PREPARE, effects)


def test_section_4_2_a_backup_rejects_a_second_pre_prepare_for_the_same_number_and_keeps_the_evidence() -> None:
    bench = Bench()
    first, second = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    bench.receive(0, bench.pre_prepare(1, first))
    effects = bench.receive(0, bench.pre_prepare(1, second))
    (evidence,) = of(Evidence, effects)
    assert not voted(Phase.PREPARE, effects)
    assert evidence.culprit == 0
    assert evidence.first.vote.digest != evidence.second.vote.digest
    for ballot in (evidence.first, evidence.second):
        assert bench.replica.verifier.member(ballot.vote, ballot.signature) == 0


def test_section_4_2_a_pre_prepare_outside_the_watermarks_is_not_accepted() -> None:
    bench = Bench()
    assert not voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(9, bench.batch())))
    assert voted(Phase.PREPARE, bench.receive(0, bench.pre_prepare(8, bench.batch())))


def test_section_4_2_a_message_of_another_view_has_no_effect_in_this_one() -> None:
    bench = Bench(2)
    effects = bench.receive(1, bench.pre_prepare(1, bench.batch(), view=1))
    assert [type(effect) for effect in effects] == [Ignored]


def test_section_4_2_the_primary_sends_no_prepare_and_none_is_counted() -> None:
    primary, bench = Bench(0), Bench(1)
    assert not voted(Phase.PREPARE, primary.ask(primary.request()))
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    assert of(Misbehaved, bench.receive(0, bench.prepare(0, 1, batch)))
    assert not bench.replica.log.slot(1).prepared


def test_section_4_2_prepared_needs_the_pre_prepare_and_2f_matching_prepares_then_commit_is_multicast() -> None:
    bench = Bench()
    batch, other = bench.batch(), bench.batch(bench.request(2))
    assert not voted(Phase.COMMIT, bench.receive(0, bench.pre_prepare(1, batch)))
    assert not voted(Phase.COMMIT, bench.receive(2, bench.prepare(2, 1, other)))
    (vote,) = voted(Phase.COMMIT, bench.receive(3, bench.prepare(3, 1, batch)))
    assert vote.digest == batch_digest(batch)


def test_section_4_2_prepares_may_come_before_the_pre_prepare() -> None:
    bench = Bench()
    batch = bench.batch()
    bench.receive(2, bench.prepare(2, 1, batch))
    assert voted(Phase.COMMIT, bench.receive(0, bench.pre_prepare(1, batch)))


def test_section_4_2_one_replica_is_one_prepare_however_often_it_is_sent() -> None:
    bench = Bench(1, 7)
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    for _ in range(5):
        effects = bench.receive(2, bench.prepare(2, 1, batch))
    assert not voted(Phase.COMMIT, effects)


def test_section_4_2_committed_local_needs_2f_plus_1_commits() -> None:
    bench = Bench()
    batch = bench.batch()
    bench.receive(0, bench.pre_prepare(1, batch))
    bench.receive(2, bench.prepare(2, 1, batch))
    assert not of(Committed, bench.receive(2, bench.commit(2, 1, batch)))
    (committed,) = of(Committed, bench.receive(3, bench.commit(3, 1, batch)))
    bench.replica.verifier.entry(committed.entry, 0)
    assert len(committed.entry.signatures) == 3


def test_section_4_2_commits_alone_do_not_commit_what_is_not_prepared() -> None:
    bench = Bench()
    batch = bench.batch()
    for who in (0, 2, 3):
        bench.receive(who, bench.commit(who, 1, batch))
    assert not of(Committed, bench.receive(0, bench.pre_prepare(1, batch)))
    assert of(Committed, bench.receive(2, bench.prepare(2, 1, batch)))


def test_section_4_2_requests_are_executed_in_the_order_of_their_numbers() -> None:
    bench = Bench()
    first, second = bench.batch(bench.request(1)), bench.batch(bench.request(2))
    assert not of(Committed, bench.order(2, second))
    assert [one.entry.sequence for one in of(Committed, bench.order(1, first))] == [1, 2]


@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.COMMIT])
def test_section_4_2_two_votes_of_one_replica_are_evidence_and_the_first_counts(phase: Phase) -> None:
    bench = Bench()
    bench.receive(2, bench.vote(2, phase, 0, 1, b"\1" * 32))
    (evidence,) = of(Evidence, bench.receive(2, bench.vote(2, phase, 0, 1, b"\2" * 32)))
    assert (evidence.culprit, evidence.first.vote.digest) == (2, b"\1" * 32)
    assert bench.replica.log.slot(1).votes(phase)[2].vote.digest == b"\1" * 32
    assert bench.receive(2, bench.vote(2, phase, 0, 1, b"\3" * 32)) == [Ignored(2, "more-evidence")]


def test_a_word_is_written_down_before_it_is_said() -> None:
    """Not in the paper, which lets replicas keep their memory; ours are restarted."""
    bench = Bench()
    batch = bench.batch()
    accepted = bench.receive(0, bench.pre_prepare(1, batch))
    assert [type(effect) for effect in accepted] == [Persist, Send]
    prepared = bench.receive(2, bench.prepare(2, 1, batch))
    assert [type(effect) for effect in prepared] == [Persist, Send]
    assert isinstance(persisted(prepared)[0], PreparedProof)


@pytest.mark.parametrize("n", [4, 7])
def test_section_4_1_a_client_believes_f_plus_1_equal_replies_and_f_liars_cannot_make_one(n: int) -> None:
    world = World(n, seed=1)
    liars = range(1, 1 + world.committee.f)
    world.byzantine = dict.fromkeys(liars, LIARS["two-faced"])
    key = world.request(0, 1, b"x")
    assert world.run_until(lambda: len(world.replies.get(key, {})) == n, 10_000)
    believed = {result for result in world.replies[key].values() if not result.startswith(b"lie")}
    assert world.believed(key) == believed
    assert len(believed) == 1


def test_section_4_1_a_client_that_hears_nothing_sends_to_all_and_is_answered() -> None:
    world = World(4, seed=2)
    world.crash(1)
    key = world.request(0, 1, b"x", to=1)
    assert world.run_until(lambda: world.answered(key), 10_000)
