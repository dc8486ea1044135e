"""Messages that do not count, by reason and kind: replicas with a past, and what they are told about slots.

Each case makes a replica and the event that it must ignore. `ignored_state` has more, and `test_ignored` the claims.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from koinon.encoding import Message, encode, keccak
from koinon.wire import Batch, Phase
from pbft.certificates import batch_digest
from pbft.events import Event, Received
from pbft.messages import (
    Body,
    Fetch,
)
from tests.simulation.members import seats
from tests.simulation.world import Ledger
from tests.unit.pbft.bench import Bench, said, voted, with_settings
from tests.unit.pbft.hostile import VIEW, busy

CHANGE = Ledger.change(seats(range(5)))
Case = Callable[[], tuple[Bench, Event]]
CASES: dict[tuple[str, str], Case] = {}


def case(reason: str, what: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        assert (reason, what) not in CASES
        CASES[reason, what] = case
        return case

    return register


def heard(bench: Bench, message: Message, sender: int = 3) -> tuple[Bench, Event]:
    return bench, Received(bench.now_ms, sender, encode(message))


PHASES = ("pre-prepare", "prepare", "commit")


def _said(bench: Bench, what: str, sequence: int, view: int) -> Message:
    batch = bench.batch(bench.request(8))
    if what == "pre-prepare":
        return bench.pre_prepare(sequence, batch, view=view)
    return (bench.prepare if what == "prepare" else bench.commit)(3, sequence, batch, view=view)


def _three_phases(reason: str, make: Callable[[], Bench], sequence: int, view: int, *, full: bool = False) -> None:
    """A case for each of the phases; `full`: what came before fills the place for messages that come too early."""

    def register(what: str) -> None:
        @case(reason, what)
        def _() -> tuple[Bench, Event]:
            bench = make()
            if full:
                bench.receive(3, *(_said(bench, each, sequence, view) for each in PHASES))
            return heard(bench, _said(bench, what, sequence, view))

    for what in PHASES:
        register(what)


# --- replicas with a past


def four_slots(bench: Bench) -> bytes:
    """Four slots are executed; their snapshot."""
    for number in range(1, 5):
        bench.order(number, bench.batch(bench.request(number)))
    return bench.replica.execution.snapshot()


def stable() -> Bench:
    """Replica 2 with a stable checkpoint at 4."""
    bench = Bench(2)
    state = keccak(four_slots(bench))
    bench.receive(0, bench.checkpoint(0, 4, state), bench.checkpoint(1, 4, state))
    assert bench.replica.stable == 4
    return bench


def changing() -> Bench:
    """A change of the committee is executed in slot 1: the handover is due at 4."""
    bench = Bench(2)
    bench.order(1, bench.batch(bench.request(1, CHANGE)))
    return bench


def handed_over() -> Bench:
    """The handover is executed, and not yet stable."""
    bench = changing()
    for sequence in (2, 3, 4):
        bench.order(sequence, replace(bench.batch(), requests=()))
    assert bench.replica.handed_over
    return bench


def small() -> Bench:
    """One message that comes too early is kept."""
    return Bench(2, settings=with_settings(future_messages_max=1))


def fetching() -> tuple[Bench, Batch]:
    """Replica 2 in view 1, which proposes a batch again that never came here."""
    bench = Bench(2)
    batch = bench.batch(bench.request(1))
    changes = [bench.view_change(who, VIEW, bench.proof(1, batch)) for who in (0, 1, 3)]
    effects = bench.receive(1, bench.new_view(VIEW, *changes))
    assert said(Fetch, effects) == [Fetch(sequence=1, digest=batch_digest(batch))]
    return bench, batch


# --- the three phases

_three_phases("old-view", busy, 4, 0)
_three_phases("below-window", stable, 3, 0)
_three_phases("early-view-deferred", busy, 4, 5)
_three_phases("early-view-overflow", small, 4, 5, full=True)
_three_phases("above-window-deferred", busy, 9, VIEW)
_three_phases("above-window-overflow", small, 9, 0, full=True)
_three_phases("above-handover", changing, 5, 0)


@case("duplicate", "pre-prepare")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.pre_prepare(3, bench.batch(bench.request(3)), view=VIEW))


@case("duplicate", "prepare")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    vote = bench.prepare(3, 1, bench.batch())
    bench.receive(3, vote)
    return heard(bench, vote)


@case("duplicate", "commit")
def _() -> tuple[Bench, Event]:
    bench = busy()
    vote = bench.commit(3, 3, bench.batch(bench.request(3)), view=VIEW)
    bench.receive(3, vote)
    return heard(bench, vote)


@case("early-empty-deferred", "pre-prepare")
def _() -> tuple[Bench, Event]:
    bench = Bench(2)
    return heard(bench, bench.pre_prepare(2, replace(bench.batch(), requests=())))


@case("early-empty-overflow", "pre-prepare")
def _() -> tuple[Bench, Event]:
    bench = small()
    bench.receive(3, bench.pre_prepare(9, bench.batch()))
    return heard(bench, bench.pre_prepare(2, replace(bench.batch(), requests=())))


@case("late-vote", "prepare")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.prepare(3, 2, bench.batch(bench.request(2)), view=VIEW))


@case("late-vote", "commit")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, bench.commit(3, 1, bench.batch(bench.request(1)), view=VIEW))


def _contradicting(what: str) -> tuple[Bench, Event]:
    bench = busy()
    phase = Phase.PREPARE if what == "prepare" else Phase.COMMIT
    *before, last = [bench.vote(3, phase, VIEW, 3, bytes([digest]) * 32) for digest in (1, 2, 3)]
    bench.receive(3, *before)
    return heard(bench, last)


case("more-evidence", "prepare")(lambda: _contradicting("prepare"))
case("more-evidence", "commit")(lambda: _contradicting("commit"))


@case("more-evidence", "pre-prepare")
def _() -> tuple[Bench, Event]:
    bench = busy()
    second, third = (bench.pre_prepare(3, bench.batch(bench.request(number)), view=VIEW) for number in (7, 8))
    bench.receive(1, second)
    return heard(bench, third, sender=1)


# --- batches that are fetched


@case("unknown-body", "fetch of another batch")
def _() -> tuple[Bench, Event]:
    return heard(busy(), Fetch(sequence=2, digest=b"\1" * 32))


@case("unknown-body", "fetch of no slot")
def _() -> tuple[Bench, Event]:
    return heard(busy(), Fetch(sequence=7, digest=b"\1" * 32))


@case("fetch-too-soon", "fetch")
def _() -> tuple[Bench, Event]:
    bench = busy()
    fetch = Fetch(sequence=2, digest=batch_digest(bench.batch(bench.request(2))))
    bench.receive(3, *[fetch] * bench.settings.resend_slots_max)
    return heard(bench, fetch)


@case("unwanted-body", "body of no slot")
def _() -> tuple[Bench, Event]:
    bench = busy()
    return heard(bench, Body(sequence=7, batch=bench.batch(bench.request(7))))


@case("unwanted-body", "body during a view change")
def _() -> tuple[Bench, Event]:
    bench, batch = fetching()
    bench.receive(0, bench.view_change(0, 3))
    bench.receive(3, bench.view_change(3, 3))
    assert not bench.replica.active
    return heard(bench, Body(sequence=1, batch=batch))


@case("duplicate", "body that was wanted")
def _() -> tuple[Bench, Event]:
    bench, batch = fetching()
    body = Body(sequence=1, batch=batch)
    assert [vote.sequence for vote in voted(Phase.PREPARE, bench.receive(3, body))] == [1]
    return heard(bench, body)
