"""The parts of custody that need no peers: pieces on disk, quotas, bounded waiting, bounded queues."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from koinon.blobs import BlobStore
from koinon.bundle import Outbox, unbundle
from koinon.encoding import encode
from koinon.errors import Malformed, Rejected, Unavailable
from pbft.pieces import Kept, PieceStore
from pbft.waiting import SHOWN_MAX, Budget, Changes, Shares, Shown, SingleFlight, Workers, client_of

TASK, NODE, OTHER = b"\x01" * 32, b"\x02" * 20, b"\x03" * 20


def kept(number: int) -> Kept:
    return Kept(update=bytes([number]) * 32, examples=number, piece=b"piece" + bytes([number]))


# --- pieces ------------------------------------------------------------------------------------------------------


def test_a_kept_piece_is_found_again_after_a_restart_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    PieceStore(tmp_path / "pieces").keep(TASK, 1, NODE, kept(1))
    store = PieceStore(tmp_path / "pieces")
    assert store.find(TASK, 1, NODE) == kept(1)
    assert store.find(TASK, 2, NODE) is None
    assert store.find(TASK, 1, OTHER) is None
    files = [path for path in (tmp_path / "pieces").rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]


def test_the_same_update_is_kept_again_and_another_one_of_the_node_is_not(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)
    store.keep(TASK, 1, NODE, kept(1))
    store.keep(TASK, 1, NODE, kept(1))
    with pytest.raises(Rejected) as caught:
        store.keep(TASK, 1, NODE, kept(2))
    assert caught.value.rule == "duplicate-update"
    assert store.checked(TASK, 1, NODE, kept(1).update) == kept(1)
    assert store.checked(TASK, 1, OTHER, kept(1).update) is None
    with pytest.raises(Rejected):
        store.checked(TASK, 1, NODE, kept(2).update)
    assert store.find(TASK, 1, NODE) == kept(1)
    store.keep(TASK, 1, OTHER, kept(2))
    store.keep(TASK, 2, NODE, kept(2))


def test_of_two_updates_handed_in_at_once_exactly_one_is_kept(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)

    def attempt(number: int) -> bool:
        try:
            store.keep(TASK, 1, NODE, kept(number))
        except Rejected:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(attempt, range(16)))
    assert sum(won) == 1
    assert store.find(TASK, 1, NODE) == kept(won.index(True))


def test_erasing_a_round_leaves_the_others(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)
    for number in (1, 2):
        store.keep(TASK, number, NODE, kept(number))
    assert store.rounds() == {(TASK, 1), (TASK, 2)}
    store.erase(TASK, 1)
    assert store.rounds() == {(TASK, 2)}
    store.erase(TASK, 2)
    assert store.rounds() == set()
    assert store.find(TASK, 1, NODE) is None


def test_a_piece_that_was_altered_on_disk_is_malformed(tmp_path: Path) -> None:
    store = PieceStore(tmp_path)
    store.keep(TASK, 1, NODE, kept(1))
    next(tmp_path.rglob("*.piece")).write_bytes(b"something else")
    with pytest.raises(Malformed):
        store.find(TASK, 1, NODE)


def test_threads_that_store_the_same_blob_at_once_do_not_disturb_one_another(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    contents = [bytes([number]) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        digests = [list(pool.map(store.put, [content] * 8)) for content in contents]
    assert [store.get(same[0]) for same in digests] == contents
    assert not list(tmp_path.rglob("*.tmp"))


# --- quotas ------------------------------------------------------------------------------------------------------


def test_bodies_beyond_the_budget_are_refused_until_others_are_done() -> None:
    async def scenario() -> None:
        budget = Budget(100, sender_bytes_max=70)
        async with budget.reserve(NODE, 60):
            for sender, size in ((OTHER, 41), (NODE, 11)):
                with pytest.raises(Unavailable):
                    async with budget.reserve(sender, size):
                        raise AssertionError("reserved beyond the budget")
            async with budget.reserve(OTHER, 40):
                pass
        async with budget.reserve(NODE, 70):
            pass

    asyncio.run(scenario())


def test_one_client_holds_its_share_of_places_and_no_more() -> None:
    shares = Shares("polls", all_max=3, each_max=2)
    with ExitStack() as held:
        held.enter_context(shares.hold("stranger"))
        held.enter_context(shares.hold("stranger"))
        with pytest.raises(Unavailable), shares.hold("stranger"):
            raise AssertionError("a third place")
        held.enter_context(shares.hold("node"))
        with pytest.raises(Unavailable), shares.hold("other"):
            raise AssertionError("a fourth place")
    assert len(shares) == 0
    with shares.hold("other"):
        assert len(shares) == 1


def test_addresses_of_one_network_count_as_one_client() -> None:
    assert client_of("10.0.0.1") != client_of("10.0.0.2")
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1")
    assert client_of("2001:db8::1") != client_of("2001:db8:0:1::1")
    assert client_of("::ffff:10.0.0.1") == client_of("10.0.0.1")
    assert client_of(None) == client_of("")


# --- waiting -----------------------------------------------------------------------------------------------------


def test_one_who_waits_for_a_change_is_woken_by_it_and_gives_up_in_time() -> None:
    async def scenario() -> None:
        changes, version = Changes(waiting_max=1), 0
        waiting = asyncio.create_task(changes.until(lambda: version == 2, 5))
        for _ in range(2):
            await asyncio.sleep(0)
            version += 1
            changes.notify()
        assert await waiting
        assert not await changes.until(lambda: version == 3, 0.01)

    asyncio.run(scenario())


def test_too_many_who_wait_are_refused() -> None:
    async def scenario() -> None:
        changes = Changes(waiting_max=1)
        first = asyncio.create_task(changes.until(lambda: False, 5))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await changes.until(lambda: False, 5)
        first.cancel()

    asyncio.run(scenario())


def test_heavy_work_beyond_the_bound_is_refused_instead_of_queued() -> None:
    async def scenario() -> None:
        workers, gate = Workers("test", threads=1, waiting_max=2), threading.Event()
        busy = [asyncio.create_task(workers.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await workers.run(gate.wait)
        gate.set()
        assert await asyncio.gather(*busy) == [True, True]
        workers.stop()

    asyncio.run(scenario())


def test_many_askers_share_one_computation_and_one_that_leaves_does_not_end_it() -> None:
    async def scenario() -> None:
        flight, begun, gate = SingleFlight(), 0, asyncio.Event()

        async def compute() -> str:
            nonlocal begun
            begun += 1
            await gate.wait()
            return "done"

        first, second = (asyncio.create_task(flight.share("key", compute)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await second == "done"
        assert begun == 1
        assert await flight.share("key", compute) == "done"
        assert begun == 2

    asyncio.run(scenario())


@pytest.mark.parametrize(("messages_max", "bytes_max"), [(3, 99), (99, 3)])
def test_a_full_outbox_gives_up_the_oldest_message(messages_max: int, bytes_max: int) -> None:
    async def scenario() -> None:
        outbox = Outbox(messages_max=messages_max, bytes_max=bytes_max)
        for number in range(5):
            outbox.put(bytes([number]))
        assert outbox.dropped == 2
        assert unbundle(await outbox.take(), bytes_max=99) == (b"\x02", b"\x03", b"\x04")

    asyncio.run(scenario())


def test_what_is_shown_is_encoded_once_for_each_state_and_never_that_of_an_older_one() -> None:
    made: list[int] = []

    def make(value: int) -> list[int]:
        made.append(value)
        return [value]

    shown = Shown()
    assert [shown.get(1, "tasks", lambda: make(1)) for _ in range(5)] == [encode([1])] * 5
    assert shown.get(2, "tasks", lambda: make(2)) == encode([2])
    assert shown.get(2, "other", lambda: make(3)) == encode([3])
    assert made == [1, 2, 3]
    for number in range(3 * SHOWN_MAX):
        shown.get(2, number, lambda: make(4))
        assert len(shown._encoded) <= SHOWN_MAX
