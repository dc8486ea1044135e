"""The garbage collector of a process that holds thousands of requests at a time."""

from __future__ import annotations

import gc

GARBAGE_OBJECTS = 50_000


def collect_garbage_seldom() -> None:
    """What was loaded stays, and thousands of requests that wait are no garbage: looking through all of it every few
    hundred objects finds nothing. Cycles are few (exceptions, closed connections)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
