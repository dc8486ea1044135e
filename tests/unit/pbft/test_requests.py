"""Requests that wait: how long is usual, and which of them are handed on."""

from __future__ import annotations

from pbft.events import Settings
from pbft.messages import PrePrepare, Relay, Status
from pbft.requests import Pool
from tests.unit.pbft.bench import Bench, said

SETTINGS = Settings(batch_requests_max=8)
CLIENTS = range(8)


def pool(*numbers: int, now_ms: int = 0) -> Pool:
    made = Pool(total_max=100, per_client_max=100)
    for number in numbers:
        made.add(b"client", number, b"request", now_ms)
    return made


def test_the_usual_wait_follows_what_others_propose_and_nothing_else() -> None:
    waiting = pool(*range(60))
    waiting.take(20, 1 << 20)
    assert waiting.usual_ms == 0
    for number in range(60):
        waiting.propose((b"client", number), 400)
    assert 350 < waiting.usual_ms <= 400
    waiting.propose((b"client", 59), 9_000)
    waiting.propose((b"stranger", 1), 9_000)
    assert waiting.usual_ms <= 400


def test_a_new_view_begins_without_a_usual_wait_and_counts_none_of_the_time_before() -> None:
    waiting = pool(1, 2)
    waiting.propose((b"client", 1), 4_000)
    waiting.reset(5_000)
    assert waiting.usual_ms == 0
    waiting.propose((b"client", 2), 5_080)
    assert waiting.usual_ms == 10


def test_what_nobody_proposes_is_handed_on_ever_later() -> None:
    waiting = pool(1)
    told = [now_ms for now_ms in range(0, 3_001, 50) if waiting.unproposed(now_ms, 250, 8)]
    assert told == [250, 500, 1_000, 1_750, 2_750]


def relays_after(bench: Bench, ms: int) -> int:
    return len(said(Relay, bench.wait(ms)))


def test_a_request_is_relayed_after_the_status_period_where_none_usually_waits() -> None:
    bench = Bench(settings=SETTINGS)
    bench.ask(bench.request())
    assert relays_after(bench, 300) == 1


def test_a_request_is_relayed_later_where_a_queue_is_usual() -> None:
    bench = Bench(settings=SETTINGS)
    batch = bench.batch(*(bench.request(client=client) for client in CLIENTS))
    for data in batch.requests:
        bench.ask(data)
    bench.wait(200)
    bench.now_ms += 40
    bench.receive(0, bench.pre_prepare(1, batch))
    assert 2 * bench.replica.pool.usual_ms > 300
    bench.ask(bench.request(number=2))
    assert relays_after(bench, 300) == 0
    assert relays_after(bench, 300) == 1


def test_however_long_requests_wait_they_are_relayed_within_half_a_view_timeout() -> None:
    bench = Bench(settings=SETTINGS)
    bench.replica.pool.usual_ms = 60_000
    bench.ask(bench.request())
    assert relays_after(bench, bench.replica.settings.view_timeout_ms // 2 + bench.replica.settings.status_ms) == 1


def test_a_slot_on_its_way_is_not_sent_again_to_a_peer_that_waits_for_it() -> None:
    bench = Bench(settings=SETTINGS)
    bench.receive(0, bench.pre_prepare(1, bench.batch()))
    stuck = Status(epoch=0, view=0, active=True, stable=0, executed=0)
    assert not said(PrePrepare, bench.receive(3, stuck))
    bench.now_ms += bench.replica.settings.status_ms
    assert said(PrePrepare, bench.receive(3, stuck))
