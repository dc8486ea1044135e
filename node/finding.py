"""Which task the user means: a hex prefix, a name, or the latest."""

from __future__ import annotations

from koinon.client import CommitteeClient
from koinon.errors import ConfigError
from koinon.rounds.state import Task

from .console import short

PREFIX_DIGITS_MIN = 4


def choose(tasks: dict[bytes, Task], given: str | None, *, sure: bool = False) -> bytes:
    """The identity of the task called `given`; with None the one that was created last.

    Several tasks may have one name: the latest is meant, unless `sure` asks for no doubt. ConfigError otherwise.
    """
    if not tasks:
        raise ConfigError("the federation has no tasks yet", hint="koinon submit")
    latest_first = sorted(tasks, key=lambda identity: (tasks[identity].created_ms, identity), reverse=True)
    if given is None:
        if sure and len(tasks) > 1:
            raise ConfigError("several tasks are possible", hint=_listed(latest_first, tasks))
        return latest_first[0]
    named = [identity for identity in latest_first if tasks[identity].spec.name == given]
    if named and (len(named) == 1 or not sure):
        return named[0]
    digits = given.removeprefix("0x").lower()
    begins = [each for each in latest_first if len(digits) >= PREFIX_DIGITS_MIN and each.hex().startswith(digits)]
    found = named or begins
    if not found:
        raise ConfigError(f"no task is called {given!r} or begins with it", hint=_listed(latest_first, tasks))
    if len(found) > 1:
        raise ConfigError(f"{given!r} fits {len(found)} tasks", hint=_listed(found, tasks))
    return found[0]


def _listed(identities: list[bytes], tasks: dict[bytes, Task]) -> str:
    shown = ", ".join(f"{short(each)} ({tasks[each].spec.name}, {tasks[each].status})" for each in identities[:5])
    return f"one of: {shown}{', ... see koinon list' if len(identities) > 5 else ''}"


async def find(committee: CommitteeClient, given: str | None, *, rounds: int = 0) -> tuple[bytes, Task]:
    """The task that `given` means, with its last `rounds` rounds (0: all)."""
    identity = choose(await committee.tasks(), given)
    return identity, await committee.task(identity, rounds=rounds)
