"""The book on peers: when one is barred, for how long, and how it comes back."""

from __future__ import annotations

import pytest

from koinon.errors import Barred
from koinon.wire import Batch
from pbft.conduct import BAR_SECONDS, BAR_SECONDS_MAX, BLAMES_BURST, GOOD_BARS, Conduct
from pbft.deferred import MESSAGE_BYTES, Deferred
from pbft.messages import Fetch, PrePrepare


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def _until_barred(conduct: Conduct, peer: int = 1) -> int:
    return next(count for count in range(1, 10_000) if conduct.blame(peer))


def test_a_few_rejected_messages_bar_nobody() -> None:
    clock = Clock()
    conduct = Conduct(clock)
    for _ in range(1_000):
        clock.seconds += 3
        assert not conduct.blame(1)
    conduct.require_good(1)


def test_a_burst_bars_the_peer_that_sent_it_and_no_other() -> None:
    conduct = Conduct(Clock())
    assert _until_barred(conduct) == BLAMES_BURST
    assert conduct.barred() == {1: round(BAR_SECONDS)}
    with pytest.raises(Barred):
        conduct.require_good(1)
    conduct.require_good(2)


def test_bars_double_up_to_a_cap() -> None:
    clock = Clock()
    conduct = Conduct(clock)
    lengths = []
    for _ in range(12):
        _until_barred(conduct)
        lengths.append(conduct.barred_seconds(1))
        clock.seconds += lengths[-1]
        conduct.require_good(1)
    assert lengths[:3] == [BAR_SECONDS, 2 * BAR_SECONDS, 4 * BAR_SECONDS]
    assert lengths[-1] == BAR_SECONDS_MAX


def test_good_conduct_shortens_the_next_bar() -> None:
    clock = Clock()
    conduct = Conduct(clock)
    for _ in range(5):
        _until_barred(conduct)
        clock.seconds += conduct.barred_seconds(1)
    clock.seconds += GOOD_BARS * BAR_SECONDS * 1_000
    _until_barred(conduct)
    assert conduct.barred_seconds(1) == BAR_SECONDS


def test_what_comes_while_barred_does_not_lengthen_the_bar() -> None:
    conduct = Conduct(Clock())
    _until_barred(conduct)
    for _ in range(1_000):
        assert not conduct.blame(1)
    assert conduct.barred_seconds(1) == BAR_SECONDS


def test_deferred_messages_are_bounded_in_bytes_for_each_peer() -> None:
    deferred = Deferred(messages_max=100, bytes_max=10_000)
    early = [
        PrePrepare(
            epoch=1, view=1, sequence=number, batch=Batch(time_ms=1, requests=(bytes(3_000),)), signature=bytes(64)
        )
        for number in range(1, 8)
    ]
    fitted = [deferred.add(1, message) for message in early]
    assert fitted == [True, True, False, False, False, False, False]
    small = Fetch(sequence=1, digest=bytes(32))
    assert deferred.add(2, small)
    assert deferred.take() == [(1, early[-2]), (1, early[-1]), (2, small)]
    assert not deferred


def test_deferred_messages_are_bounded_in_number() -> None:
    deferred = Deferred(messages_max=2, bytes_max=10 * MESSAGE_BYTES)
    messages = [Fetch(sequence=number, digest=bytes(32)) for number in range(3)]
    assert [deferred.add(0, message) for message in messages] == [True, True, False]
    assert [message for _, message in deferred.take()] == messages[1:]
