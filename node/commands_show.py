"""The commands that only look: list, status, nodes, replicas. They need no key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from koinon.encoding import ZERO_DIGEST
from koinon.errors import KoinonError
from koinon.quantising import privacy_spent
from koinon.rounds.operations import MILLION
from koinon.rounds.state import Round, Task
from koinon.wire import Role

from .commands_tasks import TaskArgument
from .console import HomeOption, JsonOption, clock, command, emit, home_of, out, percent, say, short, table

if TYPE_CHECKING:
    from koinon.client import CommitteeClient

STATUS_TIMEOUT_SECONDS = 4.0


@command
async def list_tasks(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All tasks, the newest first. With --json: one JSON line a task.

    [bold]Examples[/bold]

    koinon list

    koinon list --json
    """
    from .following import describe_task

    async with home_of(home).committee() as committee:
        tasks = await committee.tasks()
    newest = sorted(tasks.items(), key=lambda item: (item[1].created_ms, item[0]), reverse=True)
    if as_json:
        for identity, task in newest:
            emit(describe_task(identity, task))
        return
    rows = []
    for identity, task in newest:
        progress, spec = f"{task.certified}/{task.spec.rounds}", task.spec
        rows.append(
            (short(identity), spec.name, task.status, progress, spec.mode, spec.strategy, clock(task.created_ms))
        )
    columns = ("task", "name", "status", "rounds", "mode", "strategy", "created (UTC)")
    table(columns, rows, empty="no tasks yet; submit one with: koinon submit")


@command
async def status(task: TaskArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """One task with its rounds (the latest task without a name).

    [bold]Examples[/bold]

    koinon status

    koinon status digits --json
    """
    from .finding import find
    from .following import describe, describe_task

    async with home_of(home).committee() as committee:
        identity, found = await find(committee, task)
    spec = found.spec
    rounds = [describe(each) | {"epsilon": _epsilon(found, each)} for each in found.rounds]
    spent = privacy_spent(spec, found.opened)
    if as_json:
        rewards = {f"0x{node.hex()}": amount for node, amount in sorted(found.rewards.items())}
        barred = {f"0x{node.hex()}": number for node, number in found.barred.items()}
        budget = None if spent is None else {"epsilon": _plain(spent), "delta": spec.delta / MILLION}
        about = {"rewards": rewards, "barred": barred, "privacy": budget}
        history = [each | {"epsilon": _plain(each["epsilon"])} for each in rounds]
        emit({**describe_task(identity, found), **about, "history": history})
        return
    reason = f" ({found.reason})" if found.reason else ""
    console = out()
    console.print(f"{spec.name}  {identity.hex()}", soft_wrap=True)
    console.print(f"{found.status}{reason}, {found.certified}/{spec.rounds} rounds certified", soft_wrap=True)
    settings = ", ".join(f"{key}={value}" for key, value in spec.config)
    console.print(f"{spec.strategy}, {spec.mode}, {spec.dimension} parameters  {settings}", soft_wrap=True)
    columns: tuple[str, ...] = ("round", "phase", "updates", "accuracy", "loss", "seconds", "model")
    if spent is not None:
        console.print(
            f"differential privacy: epsilon {spent:.2f} at delta {spec.delta / MILLION:g} for a node of all rounds",
            soft_wrap=True,
        )
        columns += ("epsilon",)
    table(columns, [_row(each)[: len(columns)] for each in rounds], empty="no round was opened yet")
    for node, number in found.barred.items():
        console.print(f"0x{node.hex()} is barred: its update of round {number} was provably false", soft_wrap=True)


def _epsilon(task: Task, round_: Round) -> float | None:
    """What the opening of this round alone costs a node of its cohort; None without noise, or before it is fixed."""
    opened = round_.updates_root != ZERO_DIGEST
    return privacy_spent(task.spec, {len(round_.submissions): 1}) if opened else None


def _plain(epsilon: float | None) -> float | str | None:
    """For JSON, which has no infinity."""
    return "infinite" if epsilon == float("inf") else epsilon


def _row(about: dict[str, Any]) -> tuple[object, ...]:
    return (
        about["round"],
        about["phase"],
        f"{about['updates']}/{about['cohort']}",
        percent(about["accuracy"]),
        "" if about["loss"] is None else f"{about['loss']:.3f}",
        "" if about["seconds"] is None else f"{about['seconds']:.1f}",
        about["model"].hex()[:12] if about["model"] else "",
        "" if about["epsilon"] is None else f"{about['epsilon']:.2f}",
    )


@command
async def nodes(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The members of the federation. With --json: one JSON line a member.

    [bold]Examples[/bold]

    koinon nodes

    koinon nodes --json
    """
    place = home_of(home)
    async with place.committee() as committee:
        members = await committee.members()
    rows = []
    for address, member in sorted(members.items(), key=lambda item: (item[1].joined_ms, item[0])):
        roles = [role.name.lower() for role in Role if member.roles & role and role.name]
        about = {
            "address": address,
            "roles": roles,
            "active": member.active,
            "examples_max": member.examples_max,
            "joined_ms": member.joined_ms,
        }
        if as_json:
            emit(about)
        else:
            state = "active" if member.active else "revoked"
            joined = clock(member.joined_ms)
            rows.append((f"0x{address.hex()}", ", ".join(roles), state, member.examples_max, joined))
    if not as_json:
        table(("address", "roles", "state", "examples at most", "joined (UTC)"), rows, empty="no members yet")


@command
async def replicas(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """The present committee, and what each replica says of itself. With --json: one JSON line a replica.

    The state is active, catching up, view change in progress, no quorum of links, recovering (it lost its data folder,
    and says what it waits for), clock is wrong, standby (it runs, and knows of no seat of its own yet), or unreachable.

    [bold]Examples[/bold]

    koinon replicas

    koinon replicas --json
    """
    async with home_of(home).committee() as committee:
        await committee.refresh()
        urls = [replica.url for replica in committee.federation.replicas]
        found = await asyncio.gather(*(_standing(committee, index, url) for index, url in enumerate(urls)))
        epoch, quorum = committee.federation.epoch, committee.federation.quorum
    if as_json:
        for each in found:
            emit(each)
        return
    keys = ("epoch", "view", "primary", "sequence", "checkpoint", "lag", "evidence")
    rows = [
        (
            each["index"],
            each["state"],
            *(each.get(key, "") for key in keys),
            each["url"] if each["reachable"] else f"{each['url']} ({each['reason']})",
        )
        for each in found
    ]
    table(("replica", "state", *keys, "address"), rows, empty="the federation has no replicas")
    able = sum(each["state"] == "active" for each in found)
    say(f"epoch {epoch}: {able} of {len(found)} replicas are active, {quorum} are needed")


async def _standing(committee: CommitteeClient, index: int, url: str) -> dict[str, Any]:
    """What replica `index` says of itself; its place and address are the committee's word, not its own."""
    about: dict[str, Any] = {"index": index, "url": url}
    try:
        said = await asyncio.wait_for(committee.status(index), STATUS_TIMEOUT_SECONDS)
    except TimeoutError:
        reason = f"no answer within {STATUS_TIMEOUT_SECONDS:g} s"
    except KoinonError as error:
        reason = error.message
    else:
        return {"state": "active", **said, **about, "reachable": True}
    return {**about, "state": "unreachable", "reachable": False, "reason": reason}
