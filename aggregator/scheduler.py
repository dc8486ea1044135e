"""What a task needs next, and who is invited: pure functions of what the committee and the chain say.

Nothing here is remembered: after a crash the same records lead to the same step. The order of steps is that of
docs/architecture.md, "A round".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from koinon.encoding import keccak
from koinon.learning import strategy
from koinon.privacy.masking import threshold
from koinon.rounds.masks import MODE as MASKED
from koinon.rounds.masks import announcement_deadline_ms
from koinon.rounds.operations import TaskSpec
from koinon.rounds.state import Member, Round, Task
from koinon.wire import Role

REVEAL_WATCH_MS = 10_000
"""How long the reveals of a closed round are watched for before the task is looked at again."""


@dataclass(frozen=True)
class OpenNext:
    """The chain has to hold round `after`'s certificate (0: none); then round `number` may start."""

    number: int
    after: int


@dataclass(frozen=True)
class Wait:
    """Announcements, updates or reveals may still arrive until `deadline_ms`."""

    number: int
    deadline_ms: int


@dataclass(frozen=True)
class Close:
    """A deadline has passed: ask the law to fix the accepted set, or to abort."""

    number: int


@dataclass(frozen=True)
class Aggregate:
    """The accepted set is fixed: open it, and have the result certified."""

    number: int


@dataclass(frozen=True)
class Over:
    """No more rounds; what is certified still has to reach the chain."""

    status: str


Step = OpenNext | Wait | Close | Aggregate | Over


def next_step(task: Task, now_ms: int) -> Step:
    """The one thing to do for `task` at the time `now_ms`."""
    if task.status != "active":
        return Over(task.status)
    last = task.current()
    if last is None:
        return OpenNext(number=1, after=0)
    match last.phase:
        case "announcing" if now_ms <= announcement_deadline_ms(last):
            return Wait(last.number, announcement_deadline_ms(last))
        case "announcing":
            return Close(last.number)
        case "training" if now_ms <= last.deadline_ms:
            return Wait(last.number, last.deadline_ms)
        case "training":
            return Close(last.number)
        case "closed" if task.spec.mode == MASKED and len(last.revealed) < threshold(len(last.cohort)):
            if now_ms > task.opening_deadline_ms(last):
                return Close(last.number)
            return Wait(last.number, now_ms + REVEAL_WATCH_MS)
        case "closed":
            return Aggregate(last.number)
    return OpenNext(number=last.number + 1, after=last_certified(task))


def last_certified(task: Task) -> int:
    """The highest certified round among those that `task` carries; 0 when there is none."""
    return max((each.number for each in task.rounds if each.phase == "certified"), default=0)


def certified_after(task: Task, number: int) -> list[Round]:
    """The certified rounds above `number`, ascending (of a task that was asked for with all its rounds)."""
    return [each for each in task.rounds if each.phase == "certified" and each.number > number]


def eligible(members: Mapping[bytes, Member]) -> list[bytes]:
    """Who may be invited: active nodes that were admitted with a sample count, ascending."""
    return sorted(
        address
        for address, member in members.items()
        if member.active and member.roles & Role.NODE and member.examples_max
    )


def select_cohort(
    task: bytes, number: int, spec: TaskSpec, members: Mapping[bytes, Member], barred: Collection[bytes] = ()
) -> tuple[bytes, ...]:
    """The cohort of a round, ascending, without `barred` nodes; () while there are fewer than `cohort_min` others.

    The strategy says how many. Who is decided by the order of Keccak-256(task, round, address): anybody can repeat
    the draw, and neither the aggregator nor a node (whose address is fixed before the task exists) can steer it.
    """
    nodes = [node for node in eligible(members) if node not in barred]
    if len(nodes) < spec.cohort_min:
        return ()
    wanted = strategy(spec.strategy, dict(spec.config)).cohort_size(len(nodes))
    size = min(max(wanted, spec.cohort_min), spec.cohort_max, len(nodes))
    draw = b"koinon cohort" + task + number.to_bytes(4, "big")
    return tuple(sorted(sorted(nodes, key=lambda address: keccak(draw + address))[:size]))
