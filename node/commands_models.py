"""The commands about models: export one, measure them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from koinon.errors import ConfigError

from .commands_tasks import TaskArgument
from .console import HomeOption, JsonOption, command, emit, home_of, percent, say, short, table


@command
async def model(
    task: TaskArgument = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="FILE.safetensors, FILE.pt or FILE.npz")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="Which round's model; the last certified one.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a certified model to a file, once its digest is what the committee signed and the chain holds.

    .pt is a torch state dict, .npz a numpy archive.

    [bold]Examples[/bold]

    koinon model --output digits.safetensors

    koinon model digits --round 3 --output digits.pt
    """
    from .exporting import export, require_format
    from .fetching import certified_models
    from .finding import find

    place = home_of(home)
    target = output or Path("model.safetensors")
    require_format(target)
    async with place.committee() as committee:
        identity, found = await find(committee, task)
        wanted = certified_rounds(found.rounds, round_)[-1:]
        number, certificate, parameters = (await certified_models(place, committee, identity, wanted))[0]
    export(parameters, target)
    about = {
        "task": identity,
        "round": number,
        "model": certificate.model,
        "parameters": parameters.dimension,
        "file": str(target),
        "bytes": os.path.getsize(target),
        "certified": "committee and chain",
    }
    if as_json:
        emit(about)
        return
    say(f"round {number} of {found.spec.name} {short(identity)}: model 0x{certificate.model.hex()}")
    say(f"signed by the committee, held by the chain; {parameters.dimension} parameters in {target}")


@command
async def evaluate(
    task: TaskArgument = None,
    round_: Annotated[int | None, typer.Option("--round", help="Only this round; all certified ones.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure certified models on this node's own held-out data. With --json: one JSON line a round.

    [bold]Examples[/bold]

    koinon evaluate

    koinon evaluate digits --round 5 --json
    """
    from koinon.threads import in_thread

    from .apps import App, scalar
    from .fetching import certified_models
    from .finding import find
    from .participation import fit_config

    place = home_of(home)
    async with place.committee() as committee:
        identity, found = await find(committee, task)
        models = await certified_models(place, committee, identity, certified_rounds(found.rounds, round_))
    spec, node = found.spec, place.config.node
    config = {key: scalar(text) for key, text in spec.config}
    app = await in_thread(lambda: App.build(spec.app, node, place.path, node=place.signer.address, config=config))
    rows = []
    for number, certificate, parameters in models:
        told = fit_config(spec, number)
        seen = await in_thread(lambda given=parameters, told=told: app.evaluate(given, told))
        about = {"task": identity, "round": number, "model": certificate.model, "examples": seen.examples}
        if as_json:
            emit({**about, "accuracy": seen.accuracy, "loss": seen.loss})
        rows.append((number, percent(seen.accuracy), f"{seen.loss:.4f}", seen.examples, certificate.model.hex()[:12]))
    if not as_json:
        table(("round", "accuracy", "loss", "examples", "model"), rows, empty="nothing to measure")


def certified_rounds(rounds: list[Any], wanted: int | None) -> list[Any]:
    """The certified rounds, or only number `wanted`; ConfigError when there is none."""
    certified = [each for each in rounds if each.phase == "certified"]
    if wanted is not None:
        certified = [each for each in certified if each.number == wanted]
    if not certified:
        what = "no round is certified yet" if wanted is None else f"round {wanted} is not certified"
        raise ConfigError(what, hint="koinon status")
    return certified
