"""`koinon`: the command line of an edge node. Each command's help holds examples; docs/cli.md lists them all."""

from __future__ import annotations

import typer

from . import commands_ceremony, commands_models, commands_setup, commands_show, commands_tasks

app = typer.Typer(
    name="koinon",
    help="Train one model with others, without showing anybody your data.",
    epilog="Start with: koinon init --federation federation.json. Exit codes are listed in docs/cli.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = {
    "init": (commands_setup.init, "Set up"),
    "register": (commands_setup.register_home, "Set up"),
    "start": (commands_setup.start, "Set up"),
    "submit": (commands_tasks.submit, "Tasks"),
    "list": (commands_show.list_tasks, "Tasks"),
    "status": (commands_show.status, "Tasks"),
    "log": (commands_tasks.log, "Tasks"),
    "stop": (commands_tasks.stop, "Tasks"),
    "claim": (commands_tasks.claim, "Tasks"),
    "model": (commands_models.model, "Models"),
    "evaluate": (commands_models.evaluate, "Models"),
    "nodes": (commands_show.nodes, "Federation"),
    "replicas": (commands_show.replicas, "Federation"),
}

for _name, (_function, _panel) in COMMANDS.items():
    app.command(_name, rich_help_panel=_panel)(_function)


app.add_typer(commands_ceremony.app, name="ceremony", rich_help_panel="Federation")


def main() -> None:
    app()
