"""The commands that change or watch a task: submit, log, stop, claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from koinon.errors import ConfigError

from .console import HomeOption, JsonOption, command, emit, home_of, out, say, short

TaskArgument = Annotated[
    str | None, typer.Argument(metavar="[TASK]", help="A task's name or the first digits of its identity.")
]


@command
async def submit(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TASK.toml]", help="Without a file: the first configured app, with the task.toml beside it."
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Certified rounds until the task is complete.")] = None,
    mode: Annotated[str | None, typer.Option(help="shares, paillier, masked or plain.")] = None,
    name: Annotated[str | None, typer.Option(help="The task's name.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Watch it until it is over.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a task: its initial model, its budget on chain, and its order to the committee.

    Options win over the file. A submission that was cut off is finished by the same command. With --follow the exit
    code is 0 when the task completes and 8 when it fails or is stopped; Ctrl-C leaves it running.

    [bold]Examples[/bold]

    koinon submit --rounds 5 --follow

    koinon submit examples/digits/task.toml --mode paillier

    koinon submit task.toml --json
    """
    from .following import follow as watch
    from .submitting import submit as create
    from .taskfile import changed, default_task, load_task

    place = home_of(home)
    task = load_task(file) if file is not None else default_task(place.config.node.apps, place.path)
    task = changed(task, rounds=rounds, mode=mode, name=name)
    identity, operation, budget = await create(place, task, say)
    spec = operation.spec
    if as_json:
        about = {"task": identity, "name": spec.name, "rounds": spec.rounds, "mode": spec.mode, "budget": budget}
        emit({**about, "event": "submitted"} if follow else about)
    else:
        say(f"submitted {spec.name} as {short(identity)}: {spec.rounds} rounds, {spec.mode}, budget {budget} credits")
        if not follow:
            out().print(identity.hex(), soft_wrap=True)
            say(f"next: koinon log {short(identity)} --follow")
    if follow:
        async with place.committee() as committee:
            code = await watch(committee, identity, as_json=as_json)
        raise typer.Exit(code)


@command
async def log(
    task: TaskArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is over.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """What happened in a task, event by event (the latest task without a name). With --json: JSON lines.

    [bold]Examples[/bold]

    koinon log

    koinon log digits --follow

    koinon log 3fa1c0 --json
    """
    from .finding import find
    from .following import History, line
    from .following import follow as watch

    async with home_of(home).committee() as committee:
        identity, found = await find(committee, task)
        if follow:
            raise typer.Exit(await watch(committee, identity, as_json=as_json))
        for event in History(identity).events(found):
            if as_json:
                emit(event)
            else:
                out().print(line(event), soft_wrap=True)
        if not as_json and not found.rounds:
            say("no round was opened yet")


@command
async def stop(task: TaskArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop a task that this node submitted; what its budget did not pay can be claimed back after a delay.

    Without a name there must be exactly one of yours that is active.

    [bold]Examples[/bold]

    koinon stop digits

    koinon stop 3fa1c0 --json
    """
    from koinon.rounds.operations import StopTask
    from koinon.threads import in_thread

    from .finding import choose

    place = home_of(home)
    mine = place.signer.address
    async with place.committee(signing=True) as committee:
        tasks = await committee.tasks()
        candidates = {key: each for key, each in tasks.items() if each.status == "active" and each.submitter == mine}
        if task is None and not candidates:
            raise ConfigError("no active task of this node", hint="koinon list")
        identity = choose(candidates if task is None else tasks, task, sure=True)
        if tasks[identity].status == "active":
            await committee.submit(StopTask(task=identity))

    def on_chain() -> bool:
        ledger = place.ledger(signing=True)
        record = ledger.task(identity)
        if record is None or record.closable_at or record.submitter != mine:
            return False
        ledger.stop_task(identity)
        return True

    stopped = await in_thread(on_chain)
    if as_json:
        emit({"task": identity, "status": "stopped", "chain": "stopped" if stopped else "already stopped"})
        return
    say(f"stopped {tasks[identity].spec.name} {short(identity)}")


@command
async def claim(task: TaskArgument = None, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Claim what this node earned in a task; for its submitter also what is left of a stopped task's budget.

    [bold]Examples[/bold]

    koinon claim

    koinon claim digits --json
    """
    from koinon.threads import in_thread

    from .finding import find
    from .rewards import claim_rewards

    place = home_of(home)
    async with place.committee() as committee:
        identity, found = await find(committee, task, rounds=0)
    done: dict[str, Any] = await in_thread(
        lambda: claim_rewards(place.ledger(signing=True), place.signer.address, identity, found)
    )
    if as_json:
        emit({"task": identity, **done})
        return
    say(f"claimed {done['claimed']} credits of {found.spec.name} ({done['earned']} earned so far)")
    if done["returned"]:
        say(f"the rest of the budget, {done['returned']} credits, came back")
    say(f"balance {done['balance']} credits")
