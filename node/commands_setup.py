"""The commands that make a node: init, register, start."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from koinon.errors import ConfigError

from .console import HomeOption, JsonOption, command, emit, home_of, say
from .home import Home, register

AppOption = Annotated[
    list[str] | None,
    typer.Option("--app", help="NAME=FILE.py:client_fn or NAME=package.module:client_fn; repeat for several."),
]


@command
def init(
    federation: Annotated[
        Path | None, typer.Option(help="The federation's public file, as the registrar hands it out.")
    ] = None,
    app: AppOption = None,
    host: Annotated[str, typer.Option(help="Where health and metrics are served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port; 0 takes a free one.")] = 7200,
    partition: Annotated[int, typer.Option(help="Handed to the app as partition-id.")] = 0,
    partitions: Annotated[int, typer.Option(help="Handed to the app as num-partitions.")] = 1,
    data_dir: Annotated[str, typer.Option(help="Handed to the app as data-dir.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads for training.")] = 1,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a home: configuration, a new key, and its password file.

    The address that it prints goes to the federation's registrar, whose answer (admission.json) goes into the home.
    Running it again changes nothing that is there.

    [bold]Examples[/bold]

    koinon init --federation federation.json --app digits=examples/digits/client.py:client_fn

    koinon init --home /srv/koinon --federation federation.json --app mine=mycompany.model:client_fn --threads 4
    """
    place = home_of(home)
    apps = parse_apps(app or [])
    made = _write_home(
        place,
        federation,
        {
            "role": "node",
            "listen": {"host": host, "port": port},
            "node": {
                "apps": apps,
                "partition": partition,
                "partitions": partitions,
                "data_dir": str(Path(data_dir).expanduser().resolve()) if data_dir else "",
                "threads": threads,
            },
        },
    )
    result: dict[str, Any] = {"home": str(place.path), "address": f"0x{place.signer.address.hex()}", "made": made}
    result["sealing_key"] = _sealing_key(place)
    if as_json:
        emit(result)
        return
    say(f"{'made' if made else 'nothing to make in'} {place.path}{': ' + ', '.join(made) if made else ''}")
    say(f"address     {result['address']}")
    say(f"sealing key {result['sealing_key'] or '(once federation.json is here)'}")
    if not place.admission.exists():
        say("next: hand both to the registrar, put the admission.json that you get into the home, then: koinon start")


def parse_apps(entries: list[str]) -> dict[str, str]:
    """NAME=TARGET:ATTRIBUTE pairs; a path to a file that exists here becomes absolute."""
    apps = {}
    for entry in entries:
        name, equals, target = entry.partition("=")
        module, colon, attribute = target.rpartition(":")
        if not (name and equals and module and colon and attribute):
            raise ConfigError(f"--app {entry!r}", hint="NAME=file.py:client_fn or NAME=package.module:client_fn")
        if module.endswith(".py"):
            path = Path(module).expanduser().resolve()
            if not path.is_file():
                raise ConfigError(
                    f"--app {name}: no file {path}", hint="NAME=file.py:client_fn, with a file that exists"
                )
            module = str(path)
        apps[name] = f"{module}:{attribute}"
    return apps


def _write_home(place: Home, federation: Path | None, table: dict[str, Any]) -> list[str]:
    """Write what is missing; the names of the files."""
    import tomli_w

    from koinon.config import create_keystore, load_federation, write_atomically

    if federation is not None:
        load_federation(federation)  # refuse a wrong one before anything is made
    place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = []
    if not (place.path / "config.toml").exists():
        write_atomically(place.path / "config.toml", tomli_w.dumps(table).encode())
        made.append("config.toml")
    config = place.config
    password_file = place.path / config.password_file
    if not password_file.exists():
        if (place.path / config.keystore).exists():
            raise ConfigError(
                f"{place.path} has a keystore but no password file {config.password_file}",
                hint="put the password into that file, or name another one in config.toml (password_file)",
            )
        write_atomically(password_file, secrets.token_hex(32).encode() + b"\n", mode=0o600)
        made.append(config.password_file)
    if not (place.path / config.keystore).exists():
        create_keystore(place.path / config.keystore, password_file.read_text().rstrip("\n"))
        made.append(config.keystore)
    target = place.path / config.federation
    if federation is not None and not target.exists():
        shutil.copyfile(federation, target)
        made.append(config.federation)
    return made


def _sealing_key(place: Home) -> str:
    from koinon.privacy.sealing import SealingKey

    if not (place.path / place.config.federation).exists():
        return ""
    return "0x" + SealingKey.derive(place.signer.secret, place.federation.epoch).public.hex()


@command
async def register_home(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Hand the home's admission.json to the chain and to the committee.

    Running it again is harmless; `koinon start` does it by itself.

    [bold]Examples[/bold]

    koinon register

    koinon register --home /srv/koinon --json
    """
    done = await register(home_of(home))
    if as_json:
        emit(done)
        return
    say(f"{done['address']}: {done['chain']} on chain, {done['committee']} in the committee's log")


@command
def start(home: HomeOption = None) -> None:
    """Run the agent: take part in every active task whose app this node offers.

    It logs JSON lines to standard error, serves /healthz, /readyz and /metrics, and ends on SIGTERM or Ctrl-C. After a
    crash, start it again: an update that was under way is sent again as it was.

    [bold]Examples[/bold]

    koinon start

    KOINON_HOME=/srv/koinon koinon start 2> agent.log
    """
    from .agent import run_agent

    run_agent(home_of(home))
