from __future__ import annotations

import pytest

from koinon.errors import InvariantBroken
from node.lifecycle import TABLE, Event, State, advance


def test_a_node_walks_from_admission_through_a_round() -> None:
    state = State.NOT_READY
    seen = []
    for event in (Event.ENROLLED, Event.INVITED, Event.BEGAN, Event.ENDED, Event.RELEASED):
        state = advance(state, event)
        seen.append(state)
    assert seen == [State.ONLINE, State.READY, State.RUNNING, State.READY, State.ONLINE]


@pytest.mark.parametrize("state", [each for each in State if each is not State.NOT_READY])
def test_losing_the_committee_takes_every_admitted_node_offline(state: State) -> None:
    assert advance(state, Event.LOST) is State.OFFLINE


def test_a_node_without_membership_stays_not_ready_when_the_committee_is_lost() -> None:
    assert advance(State.NOT_READY, Event.LOST) is State.NOT_READY


@pytest.mark.parametrize("state", State)
def test_a_start_and_a_revocation_make_any_node_not_ready(state: State) -> None:
    assert advance(state, Event.STARTED) is State.NOT_READY
    assert advance(state, Event.REVOKED) is State.NOT_READY


def test_a_round_that_ends_while_offline_does_not_bring_the_node_online() -> None:
    assert advance(State.OFFLINE, Event.ENDED) is State.OFFLINE
    assert advance(State.OFFLINE, Event.FOUND) is State.ONLINE


def test_training_before_admission_is_a_bug() -> None:
    with pytest.raises(InvariantBroken, match="NotReady cannot have began"):
        advance(State.NOT_READY, Event.BEGAN)


def test_every_state_has_its_row() -> None:
    assert set(TABLE) == set(State)
