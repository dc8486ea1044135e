"""Shares of the inbox: a flood fills its own and takes nobody else's."""

from __future__ import annotations

import asyncio

import pytest

from koinon.errors import Unavailable
from pbft.events import Received
from pbft.inbox import CLIENTS, OWN, Inbox


def event(sender: int, number: int = 0) -> Received:
    return Received(number, sender, b"")


def test_sources_are_served_in_turn_and_each_in_its_order() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        for number in range(100):
            await inbox.put(0, event(0, number))
        for number in range(3):
            await inbox.put(1, event(1, number))
        await inbox.put(OWN, event(OWN))
        taken = await inbox.get(7)
        assert [one.sender for one in taken if isinstance(one, Received)] == [0, 1, OWN, 0, 1, 0, 1]
        rest = await inbox.get(1_000)
        assert [one.now_ms for one in rest] == list(range(3, 100))
        assert len(inbox) == 0

    asyncio.run(scenario())


def test_a_full_share_makes_its_source_wait_and_no_other() -> None:
    async def scenario() -> None:
        inbox = Inbox(events_max=2)
        await inbox.put(0, event(0))
        await inbox.put(0, event(0))
        third = asyncio.ensure_future(inbox.put(0, event(0)))
        await inbox.put(1, event(1))
        assert not third.done()
        assert inbox.waiting(0) == (2, 0)
        await inbox.get(1)
        await third
        assert inbox.waiting(0) == (2, 0)

    asyncio.run(scenario())


def test_a_share_is_bounded_in_bytes_and_one_large_message_still_passes() -> None:
    async def scenario() -> None:
        inbox = Inbox(bytes_max=100)
        await inbox.put(0, event(0), 500)
        second = asyncio.ensure_future(inbox.put(0, event(0), 1))
        await asyncio.sleep(0)
        assert not second.done()
        assert inbox.waiting(0) == (1, 500)
        await inbox.get(1)
        await second
        assert inbox.waiting(0) == (1, 1)

    asyncio.run(scenario())


def test_clients_beyond_their_share_are_refused_at_once() -> None:
    async def scenario() -> None:
        inbox = Inbox(events_max=1)
        inbox.put_nowait(CLIENTS, event(0))
        assert inbox.full(CLIENTS)
        with pytest.raises(Unavailable):
            inbox.put_nowait(CLIENTS, event(0))
        await inbox.put(3, event(3))

    asyncio.run(scenario())


def test_get_waits_for_the_first_event() -> None:
    async def scenario() -> None:
        inbox = Inbox()
        taken = asyncio.ensure_future(inbox.get(10))
        await asyncio.sleep(0)
        assert not taken.done()
        await inbox.put(2, event(2))
        assert await taken == [event(2)]

    asyncio.run(scenario())
