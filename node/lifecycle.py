"""The life of a node as a table: pure, no I/O. Who writes it to disk and logs it is `node/agent.py`.

    NotReady ──enrolled──► Online ──invited──► ReadyForLearning ──began──► Running
        ▲                    ▲  ▲                   │  ▲                      │
        └──── revoked ───────┘  └────── released ───┘  └─────── ended ────────┘
    lost: any state but NotReady ──► Offline;   found: Offline ──► Online

NotReady has no membership yet, Offline cannot reach the committee or the chain, ReadyForLearning serves at least one
active task, Running trains or sends an update. A pair that the table lacks is our own bug.
"""

from __future__ import annotations

from enum import StrEnum

from koinon.errors import InvariantBroken


class State(StrEnum):
    NOT_READY = "NotReady"
    ONLINE = "Online"
    OFFLINE = "Offline"
    READY = "ReadyForLearning"
    RUNNING = "Running"


class Event(StrEnum):
    STARTED = "started"
    ENROLLED = "enrolled"
    REVOKED = "revoked"
    INVITED = "invited"
    RELEASED = "released"
    BEGAN = "began"
    ENDED = "ended"
    LOST = "lost"
    FOUND = "found"


TABLE: dict[State, dict[Event, State]] = {
    State.NOT_READY: {
        Event.ENROLLED: State.ONLINE,
        Event.REVOKED: State.NOT_READY,
        Event.LOST: State.NOT_READY,
        Event.FOUND: State.NOT_READY,
        Event.ENDED: State.NOT_READY,
        Event.RELEASED: State.NOT_READY,
    },
    State.ONLINE: {
        Event.ENROLLED: State.ONLINE,
        Event.INVITED: State.READY,
        Event.RELEASED: State.ONLINE,
        Event.BEGAN: State.RUNNING,
        Event.ENDED: State.ONLINE,
        Event.FOUND: State.ONLINE,
    },
    State.READY: {
        Event.ENROLLED: State.READY,
        Event.INVITED: State.READY,
        Event.RELEASED: State.ONLINE,
        Event.BEGAN: State.RUNNING,
        Event.ENDED: State.READY,
        Event.FOUND: State.READY,
    },
    State.RUNNING: {
        Event.ENROLLED: State.RUNNING,
        Event.INVITED: State.RUNNING,
        Event.RELEASED: State.RUNNING,
        Event.BEGAN: State.RUNNING,
        Event.ENDED: State.READY,
        Event.FOUND: State.RUNNING,
    },
    State.OFFLINE: {
        Event.ENROLLED: State.OFFLINE,
        Event.INVITED: State.OFFLINE,
        Event.RELEASED: State.OFFLINE,
        Event.BEGAN: State.RUNNING,
        Event.ENDED: State.OFFLINE,
        Event.FOUND: State.ONLINE,
    },
}


def advance(state: State, event: Event) -> State:
    """The state after `event`. InvariantBroken for an event that cannot happen in `state`."""
    if event is Event.STARTED or event is Event.REVOKED:
        return State.NOT_READY
    if event is Event.LOST and state is not State.NOT_READY:
        return State.OFFLINE
    try:
        return TABLE[state][event]
    except KeyError:
        raise InvariantBroken(f"a node that is {state} cannot have {event}") from None
