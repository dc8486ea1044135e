"""`koinon-committee`: the registrar changes the committee, and operators make the seats that it is changed to.

    koinon-committee seat --home DIR --federation FILE --url URL     an operator's new replica: its home and its seat
    koinon-committee request | certify                               TLS: an operator asks, the registrar certifies
    koinon-committee show | add | remove | replace | rotate          the registrar
    koinon-committee anchor                                          anybody: tell the chain of handovers

A change is checked by the law's own rule before it is sent, is ordered like any operation, and takes effect at the next
checkpoint, which the committee reaches by itself. Progress goes to standard error.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from koinon.client import CommitteeClient
from koinon.committees import HANDOVERS_FILE, Committees
from koinon.config import load_federation, load_party, party_signer, save_federation, write_atomically
from koinon.encoding import to_hex
from koinon.epochs import Seat
from koinon.errors import ConfigError
from koinon.privacy import SealingKey
from koinon.signing import Signer

from ._committee import (
    added,
    change,
    load_seat,
    removed,
    replaced,
    require_fits,
    require_index,
    require_new,
    save_seat,
    seat_text,
    seats_of,
    standings,
)
from ._entry import run
from ._homes import (
    CERTIFICATE,
    CERTIFICATE_KEY,
    CERTIFICATE_REQUEST,
    CONFIG,
    FEDERATION,
    authority_of,
    certificate_request,
    make_replica_home,
    party_key,
    require_scheme,
)
from .tls import REQUEST_HINT, expiry
from .tls import certify as issue_for

CHANGE_SECONDS = 120.0

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="The committee of replicas: who is in it, and how it changes.",
)  # fmt: skip

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="KOINON_HOME", help="The registrar's home.", show_default=False)
]
AnyHome = Annotated[Path, typer.Option("--home", envvar="KOINON_HOME", help="Any party's home.", show_default=False)]
SeatOption = Annotated[Path, typer.Option("--seat", help="The seat file that its operator made.", show_default=False)]
Index = Annotated[int, typer.Argument(help="The replica's place in the committee, from 0.", show_default=False)]
Seconds = Annotated[float, typer.Option("--seconds", help="How long to wait for the new epoch.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the change, and send nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output and nothing else there.")]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@app.command()
def show(
    home: AnyHome,
    out: Annotated[
        Path | None,
        typer.Option(help="Write federation.json with the present committee there, as the ceremony wants it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The present committee: seats, epoch, and what each replica says of itself.

    [bold]Examples[/bold]

    koinon-committee show --home fed/node-0

    koinon-committee show --home fed/registrar --out federation-now.json
    """
    committees = _committees(home)

    async def ask() -> list[dict[str, Any]]:
        async with CommitteeClient(committees) as client:
            await client.refresh()
            return await standings(client)

    found = asyncio.run(ask())
    file = committees.federation
    if out is not None:
        save_federation(out, file)
    seats = [
        {
            **{key: each.get(key) for key in ("state", "epoch", "view", "sequence", "checkpoint", "lag", "reason")},
            "seat": number, "address": entry.address, "url": entry.url, "sealing_key": entry.sealing_key,
        }
        for number, (entry, each) in enumerate(zip(file.replicas, found, strict=True))
    ]  # fmt: skip
    if as_json:
        changing = any(each.get("changing") for each in found)
        print(
            json.dumps({"epoch": file.epoch, "quorum": file.quorum, "changing": changing, "replicas": seats}, indent=2)
        )
        return
    print(f"epoch {file.epoch}: {len(file.replicas)} replicas, of which {file.quorum} speak for the committee")
    for each in seats:
        state = each["state"] or f"unreachable: {each['reason']}"
        print(f"  {each['seat']}  {each['address']}  {each['url']}  {state}")


@app.command()
def seat(
    home: Annotated[Path, typer.Option("--home", help="The replica's home; made if there is none.")],
    federation: Annotated[Path | None, typer.Option(help="The registrar's federation.json, for a new home.")] = None,
    url: Annotated[str, typer.Option(help="Where the others will reach this replica, for a new home.")] = "",
    host: Annotated[str, typer.Option(help="The address that it listens on.")] = "127.0.0.1",
    out: Annotated[Path | None, typer.Option(help="Where the seat file is written (default: standard output).")] = None,
) -> None:
    """As an operator: make a replica's home (once), and the seat to hand to the registrar.

    The replica can be started at once: it stands by until the registrar seats it. A new key of the same operator is a
    new home.

    [bold]Example[/bold]

    koinon-committee seat --home replica-4 --federation federation.json --url http://10.0.0.5:7004 --out seat-4.json
    """
    if not (home / CONFIG).exists():
        if federation is None or not url:
            raise ConfigError(f"{home} is no home yet", hint="--federation FILE --url URL make one")
        _make_home(home, federation, url.rstrip("/"), host)
    signer, made = _own_seat(home)
    domain = load_federation(home / load_party(home).federation).domain
    if out is None:
        print(seat_text(signer, domain, made), end="")
    else:
        save_seat(out, signer, domain, made)
        say(f"hand {out} to the registrar, and start: koinon-replica --home {home}")


def _make_home(home: Path, federation: Path, url: str, host: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ConfigError(f"--url {url!r}", hint="http://HOST:PORT or https://HOST:PORT")
    file = load_federation(federation)
    require_scheme(file, url)
    party_key(home, "")
    make_replica_home(home, file, url=url, host=host, port=parts.port, tls=parts.scheme == "https")
    save_federation(home / FEDERATION, file)
    say(f"{home} is a replica's home")
    if parts.scheme == "https":
        _ask_for_certificate(home, parts.hostname)


def _ask_for_certificate(home: Path, name: str) -> None:
    path = certificate_request(home)
    say(f"{path} asks for a TLS certificate: send it to the registrar, who answers with tls.pem for {home}:")
    say(f"  koinon-committee certify {CERTIFICATE_REQUEST} {name} --home DIR/registrar --out {CERTIFICATE}")


def _own_seat(home: Path) -> tuple[Signer, Seat]:
    config, committees = load_party(home), _committees(home)
    if config.role != "replica":
        raise ConfigError(f"{home} is the home of a {config.role}", hint='a replica\'s home has role = "replica"')
    signer = party_signer(home, config)
    known = {each.address: each for each in seats_of(committees.federation)}.get(signer.address)
    url = config.public_url or (known.url if known else "")
    if not url:
        raise ConfigError(f"{home} does not say where others reach it", hint="public_url in its config.toml")
    epoch = committees.federation.epoch
    return signer, Seat(address=signer.address, sealing_key=SealingKey.derive(signer.secret, epoch).public, url=url)


@app.command()
def request(
    name: Annotated[str, typer.Argument(help="The host by which others reach this party.", show_default=False)],
    home: Annotated[Path, typer.Option("--home", help="The party's home.")],
) -> None:
    """As an operator: ask for a TLS certificate of a home, for the first time or again. Its key stays in the home.

    [bold]Example[/bold]

    koinon-committee request 10.0.0.5 --home replica-4
    """
    if not (home / CONFIG).exists():
        raise ConfigError(
            f"{home} is no home yet", hint="koinon-committee seat makes a replica's, koinon init a node's"
        )
    _ask_for_certificate(home, name)
    if not load_party(home).tls.certificate:
        say(f'{home / CONFIG} does not ask for TLS yet: add [tls] with certificate = "{CERTIFICATE}", '
            f'key = "{CERTIFICATE_KEY}"')  # fmt: skip


@app.command()
def certify(
    file: Annotated[Path, typer.Argument(metavar="REQUEST", help="The party's tls.csr.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The host by which others reach the party.", show_default=False)],
    home: HomeOption,
    out: Annotated[Path, typer.Option(help="Where the certificate is written: tls.pem of the party's home.")],
) -> None:
    """As the registrar: a TLS certificate from the federation's authority, for a key that its party made.

    It is for NAME and nothing else that the request may ask for. Everybody trusts it at once: federation.json holds
    the authority.

    [bold]Example[/bold]

    koinon-committee certify tls.csr 10.0.0.5 --home fed/registrar --out tls.pem
    """
    issuer = authority_of(home)
    try:
        asked = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}", hint=REQUEST_HINT) from None
    made = issue_for(issuer, asked, name, [name])
    write_atomically(out, made)
    say(f"{out}: a certificate for {name}, until {expiry(made):%Y-%m-%d}")
    say("it goes into its party's home, which is then started (again)")


# --- changes ------------------------------------------------------------------------------------------------------

Alter = Callable[[Sequence[Seat], Any], tuple[Seat, ...]]
"""The seats of the next committee, from the present ones and the seat that was given, if any."""


def changes(command: Callable[..., tuple[Alter, Path | None]]) -> Callable[..., None]:
    """A command that has the committee changed: its own arguments say how, and to them come those that all share."""

    def run(
        *,
        home: HomeOption,
        seconds: Seconds = CHANGE_SECONDS,
        dry_run: DryRun = False,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        alter, file = command(**own)
        _change(home, alter, file, seconds, dry_run, as_json)

    mine, shared = inspect.signature(command, eval_str=True), inspect.signature(run, eval_str=True)
    also = [each for each in shared.parameters.values() if each.name != "own"]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in mine.parameters.values()]
    run.__signature__ = shared.replace(parameters=[*own, *also])  # type: ignore[attr-defined]
    run.__annotations__ = {**run.__annotations__, **command.__annotations__, "return": None}
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return app.command()(run)


@changes
def add(seat: SeatOption) -> tuple[Alter, Path | None]:
    """Seat one more replica, at the end.

    [bold]Example[/bold]

    koinon-committee add --home fed/registrar --seat seat-4.json
    """
    return added, seat


@changes
def remove(index: Index) -> tuple[Alter, Path | None]:
    """Unseat a replica; those after it move up by one.

    [bold]Example[/bold]

    koinon-committee remove 2 --home fed/registrar
    """
    return lambda seats, _: removed(seats, index), None


@changes
def replace(index: Index, seat: SeatOption) -> tuple[Alter, Path | None]:
    """Seat another replica in the place of one, dead or alive.

    [bold]Example[/bold]

    koinon-committee replace 2 --home fed/registrar --seat seat-new.json
    """
    return lambda seats, given: replaced(seats, index, given), seat


@changes
def rotate(index: Index, seat: SeatOption) -> tuple[Alter, Path | None]:
    """Give an operator's replica a new key: the seat of its new home takes the place of the old one.

    Every change renews the sealing keys of the replicas that answer; this one renews the signing key, too.

    [bold]Example[/bold]

    koinon-committee rotate 1 --home fed/registrar --seat seat-1-new.json
    """

    def turned(seats: Sequence[Seat], given: Seat) -> tuple[Seat, ...]:
        require_index(seats, index)
        if given.address == seats[index].address:
            raise ConfigError("the seat has the key that is to be rotated", hint="make a new home for the new key")
        return replaced(seats, index, given)

    return turned, seat


@app.command()
def anchor(home: AnyHome, as_json: AsJson = False) -> None:
    """Tell the chain of handovers that it lacks, as any party with ether for gas; the aggregator does it by itself.

    [bold]Example[/bold]

    koinon-committee anchor --home fed/registrar
    """
    committees = _committees(home)

    async def follow() -> None:
        async with CommitteeClient(committees) as client:
            await client.refresh()

    asyncio.run(follow())
    from koinon.ledger import Ledger  # on demand: web3 takes a second to import

    ledger = Ledger.connect(committees.given.network, party_signer(home, load_party(home)))
    sent = []
    while (reached := ledger.epoch()) < committees.federation.epoch:
        (handover,) = committees.since(reached, limit=1)
        record = ledger.install_epoch_by_certificate(handover)
        say(f"the chain is in epoch {reached + 1}")
        sent.append({"epoch": reached + 1, "transaction": to_hex(record.hash) if record else None})
    if not sent:
        say(f"the chain is in epoch {reached} already")
    if as_json:
        print(json.dumps({"epoch": ledger.epoch(), "recorded": sent}, indent=2))


def _change(home: Path, alter: Alter, file: Path | None, seconds: float, dry_run: bool, as_json: bool) -> None:
    committees, signer = _committees(home), party_signer(home, load_party(home))
    if to_hex(signer.address) != committees.given.registrar.lower():
        raise ConfigError(f"{home} is not the registrar's home", hint="--home DIR/registrar")
    given = load_seat(file, committees.given.domain) if file is not None else None
    if given is not None:
        require_scheme(committees.given, given.url)

    async def go() -> list[dict[str, Any]]:
        async with CommitteeClient(committees, signer) as client:
            await client.refresh()
            require_new(committees, given)
            seats = alter(seats_of(client.federation), given)
            if dry_run:
                operation = require_fits(client.federation, seats)
                say(f"epoch {operation.epoch} may have these {len(seats)} replicas; nothing was sent")
                return await standings(client)
            return await change(client, seats, seconds_max=seconds, say=say)

    standing = asyncio.run(go())
    file_now = committees.federation
    if file_now.paillier is not None and not dry_run:
        say("rounds in mode paillier are refused until a new key ceremony: docs/operating.md, Changing the committee")
    if as_json:
        print(json.dumps({"epoch": file_now.epoch, "replicas": standing}, indent=2))


def _committees(home: Path) -> Committees:
    config = load_party(home)
    return Committees(load_federation(home / config.federation), home / config.data / HANDOVERS_FILE)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
