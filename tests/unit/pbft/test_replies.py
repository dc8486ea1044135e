"""Who waits for a reply: what a replica says to those whom a later request of the same client overtook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from koinon.errors import Overtaken, Replayed
from pbft.events import Executed
from pbft.replies import Future, Replies

CLIENT = bytes(20)


def executed(number: int) -> Executed:
    return Executed(CLIENT, number, b"done")


def within_a_loop(work: Callable[[Replies], None]) -> None:
    async def scenario() -> None:
        work(Replies())

    asyncio.run(scenario())


def error_of(future: Future) -> type[BaseException]:
    return type(future.exception())


def test_who_waited_since_before_any_execution_learns_that_his_request_never_was_executed() -> None:
    def work(replies: Replies) -> None:
        future = replies.wait(CLIENT, 1, fresh=True)
        replies.refuse_overtaken([executed(2)])
        assert error_of(future) is Overtaken

    within_a_loop(work)


@pytest.mark.parametrize("fresh", [True, False])
def test_who_may_have_been_answered_before_learns_no_more_than_that(fresh: bool) -> None:
    """He asked again after it was executed, or the state came as a whole while he waited."""

    def work(replies: Replies) -> None:
        future = replies.wait(CLIENT, 1, fresh=fresh)
        if fresh:
            replies.doubt()
        replies.refuse_overtaken([executed(2)])
        assert error_of(future) is Replayed

    within_a_loop(work)


def test_a_request_that_was_executed_in_the_same_batch_as_a_later_one_is_answered() -> None:
    def work(replies: Replies) -> None:
        future = replies.wait(CLIENT, 1, fresh=True)
        replies.refuse_overtaken([executed(1), executed(2)])
        assert not future.done()

    within_a_loop(work)
