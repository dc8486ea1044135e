"""When the primary cuts a batch: by count, by bytes, by time; and what it takes no more of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from koinon.encoding import decode
from koinon.errors import Unavailable
from koinon.service import application
from koinon.wire import Refusal
from pbft.events import Effect, Refuse, Tick
from pbft.messages import PrePrepare
from tests.unit.pbft.bench import Bench, of, said, with_settings
from tests.unit.pbft.hostile import Shell, counters, risen

DELAY_MS = 20


def _primary(**settings: int) -> Bench:
    """Replica 0, with one slot in flight, so that what comes next has to wait for a batch."""
    bench = Bench(0, settings=with_settings(**{"batch_delay_ms": DELAY_MS, "pending_per_client_max": 64, **settings}))
    assert _sizes(bench.ask(bench.request(1))) == [1], "an idle pipeline takes what is there at once"
    return bench


def _sizes(effects: list[Effect]) -> list[int]:
    """The requests in each batch that was proposed."""
    return [len(proposal.batch.requests) for proposal in said(PrePrepare, effects)]


def _after(bench: Bench, ms: int) -> list[Effect]:
    bench.now_ms += ms
    return bench.replica.step(Tick(bench.now_ms))


def test_a_busy_pipeline_proposes_when_the_batch_is_full_and_not_one_request_earlier() -> None:
    bench = _primary(batch_requests_max=3)
    proposed = [_sizes(bench.ask(bench.request(number))) for number in range(2, 9)]
    assert proposed == [[], [], [3], [], [], [3], []]


@pytest.mark.parametrize("waiting", [1, 3])
def test_a_busy_pipeline_proposes_when_the_delay_is_over_and_not_one_millisecond_earlier(waiting: int) -> None:
    bench = _primary()
    for number in range(waiting):
        assert not _sizes(bench.ask(bench.request(2 + number)))
    assert not _sizes(_after(bench, DELAY_MS - 1))
    assert _sizes(_after(bench, 1)) == [waiting]


def test_the_delay_runs_from_the_batch_before() -> None:
    bench = _primary()
    bench.now_ms += DELAY_MS
    assert _sizes(bench.ask(bench.request(2))) == [1]
    assert not _sizes(bench.ask(bench.request(3)))
    assert not _sizes(_after(bench, DELAY_MS - 1))
    assert _sizes(_after(bench, 1)) == [1]


def test_a_batch_is_cut_before_it_has_more_bytes_than_are_allowed() -> None:
    each = len(Bench(0).request(2, bytes(200)))
    bench = _primary(batch_bytes_max=3 * each - 1, pipeline_slots_max=4)
    for number in range(2, 7):
        assert not _sizes(bench.ask(bench.request(number, bytes(200))))
    first = said(PrePrepare, _after(bench, DELAY_MS))
    second = said(PrePrepare, _after(bench, DELAY_MS))
    third = said(PrePrepare, _after(bench, DELAY_MS))
    batches = [proposal.batch.requests for proposal in (*first, *second, *third)]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [request for batch in batches for request in batch] == [
        bench.request(number, bytes(200)) for number in range(2, 7)
    ]


def test_what_fits_exactly_is_one_batch_and_one_byte_more_is_two() -> None:
    each = len(Bench(0).request(2, bytes(200)))
    for bytes_max, sizes in ((2 * each, [2]), (2 * each - 1, [1])):
        bench = _primary(batch_bytes_max=bytes_max)
        bench.ask(bench.request(2, bytes(200)))
        bench.ask(bench.request(3, bytes(200)))
        assert _sizes(_after(bench, DELAY_MS)) == sizes


def test_a_request_that_is_larger_than_a_batch_goes_alone() -> None:
    bench = _primary(batch_bytes_max=400, request_bytes_max=2_000)
    bench.ask(bench.request(2, bytes(1_000)))
    bench.ask(bench.request(3))
    assert _sizes(_after(bench, DELAY_MS)) == [1]
    assert _sizes(_after(bench, DELAY_MS)) == [1]


def test_a_full_pipeline_proposes_nothing_until_a_slot_is_executed() -> None:
    bench = _primary(pipeline_slots_max=1, batch_requests_max=2)
    (first,) = [slot.bodies for slot in bench.replica.log]
    for number in range(2, 6):
        assert not _sizes(bench.ask(bench.request(number)))
    assert not _sizes(_after(bench, 10 * DELAY_MS))
    (batch,) = first.values()
    effects: list[Effect] = []
    for who in (1, 2, 3):
        effects += bench.receive(who, bench.prepare(who, 1, batch))
    for who in (1, 2, 3):
        effects += bench.receive(who, bench.commit(who, 1, batch))
    assert _sizes(effects) == [2], "a full batch, and the rest when that one is executed"


# --- what waits is bounded


@pytest.mark.parametrize("index", [0, 1])
def test_beyond_the_quota_of_all_clients_a_request_is_refused_and_those_before_it_stay(index: int) -> None:
    bench = Bench(index, settings=with_settings(pending_requests_max=3))
    for client in range(3):
        assert not of(Refuse, bench.ask(bench.request(1, client=client)))
    for client in (0, 7):
        (refused,) = of(Refuse, bench.ask(bench.request(2, client=client)))
        assert isinstance(refused.error, Unavailable)
        assert refused.error.hint
        assert refused.number == 2
    assert len(bench.replica.pool) == 3


def test_a_request_that_waits_already_is_taken_again_when_the_quota_is_used_up() -> None:
    bench = Bench(settings=with_settings(pending_requests_max=1))
    bench.ask(bench.request(1))
    assert not of(Refuse, bench.ask(bench.request(1)))


def test_an_executed_request_makes_room() -> None:
    bench = Bench(settings=with_settings(pending_requests_max=1))
    bench.ask(bench.request(1))
    assert of(Refuse, bench.ask(bench.request(1, client=1)))
    bench.order(1, bench.batch(bench.request(1)))
    assert not of(Refuse, bench.ask(bench.request(1, client=1)))


def test_who_is_refused_for_the_quota_is_told_so_and_counted(tmp_path: Path) -> None:
    bench = Bench(settings=with_settings(pending_requests_max=1))
    shell = Shell(tmp_path, bench.replica)

    async def order(request: web.Request) -> web.Response:
        await shell.engine.ask(await request.read())
        return web.Response()

    async def scenario() -> None:
        app = application("pbft")
        app.router.add_post("/", order)
        running = asyncio.create_task(shell.engine.run())
        async with TestClient(TestServer(app)) as client:
            waiting = asyncio.create_task(client.post("/", data=bench.request(1)))
            while not len(bench.replica.pool):
                await asyncio.sleep(0)
            before = counters()
            answer = await client.post("/", data=bench.request(1, client=1))
            assert answer.status == 503
            assert decode(Refusal, await answer.read()).code == Unavailable.code
            assert risen(before) == {Unavailable.code: 1}
            waiting.cancel()
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)

    asyncio.run(scenario())
    shell.close()
