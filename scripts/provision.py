"""`koinon-provision`: a whole federation's keys, contracts and homes, in one resumable run.

    koinon-provision --out DIR --rpc URL            make DIR (again: finish it, or say that it is finished)
    koinon-provision admit ADDRESS --out FILE       the registrar admits a party that made its own home
    koinon-provision revoke ADDRESS                 the registrar ends a membership, on chain and in the log

Steps, each skipped when its result is there: plan, keys, TLS authority and certificates, Paillier ceremony, ether,
contracts (`deployment.json`), `federation.json`, credits, admissions, homes. Progress goes to standard error.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from koinon.admission import save_admission
from koinon.client import CommitteeClient
from koinon.config import (
    FederationFile,
    load_federation,
    load_party,
    open_keystore,
    parse_address,
    party_signer,
)
from koinon.encoding import from_hex, to_hex
from koinon.errors import ConfigError
from koinon.ledger import Ledger
from koinon.rounds.operations import Revoke
from koinon.signing import Signer
from koinon.wire import Revocation, Role

from ._entry import run
from ._homes import (
    PASSWORD,
    PORT_BASE_DEFAULT,
    Plan,
    fresh_serial,
    make_private,
    read_password,
    settle_plan,
    sign_admission,
)
from ._provisioning import Provisioning

CREDITS_DEFAULT = 1_000_000
EXAMPLES_DEFAULT = 2_000
"""Near the size of real data sets: an update of s samples is weighted s / cap before it is rounded to its bits."""
ROLES = {"node": Role.NODE, "aggregator": Role.AGGREGATOR, "auditor": Role.AUDITOR}

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Registrar = Annotated[
    Path, typer.Option("--registrar", envvar="KOINON_HOME", help="The registrar's home.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")]


@app.callback(invoke_without_command=True)
def provision(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="The federation's folder; a home for each party is made in it.")
    ] = None,
    rpc: Annotated[str, typer.Option(help="The chain's JSON-RPC address.")] = "http://127.0.0.1:8545",
    replicas: Annotated[int, typer.Option(help="Committee size n = 3f + 1.")] = 4,
    nodes: Annotated[int, typer.Option(help="How many edge nodes.")] = 5,
    name: Annotated[str, typer.Option(help="The federation's name.")] = "koinon",
    hosts: Annotated[str, typer.Option(help="local (127.0.0.1), or compose (services named after parties).")] = "local",
    port_base: Annotated[int, typer.Option(help="First port; 0 chooses free ones.")] = PORT_BASE_DEFAULT,
    paillier_bits: Annotated[int, typer.Option(help="Size of the committee's Paillier key; 0 for none.")] = 3072,
    tls: Annotated[bool, typer.Option("--tls", help="Own authority, and HTTPS between all parties.")] = False,
    examples_max: Annotated[int, typer.Option(help="The most samples a node may claim in a round.")] = EXAMPLES_DEFAULT,
    credits: Annotated[int, typer.Option(help="Credits that each node gets.")] = CREDITS_DEFAULT,
    app_option: Annotated[
        list[str] | None, typer.Option("--app", metavar="NAME=PATH:ATTR", help="A user module of every node.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Handed to every node's apps as data-dir.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="One password for all keystores; homes point to it (default: random ones).")
    ] = None,
    fund_from: Annotated[Path | None, typer.Option(help="A keystore that pays ether, on a production chain.")] = None,
    fund_password: Annotated[Path | None, typer.Option(help="The password file of --fund-from.")] = None,
    ether: Annotated[float, typer.Option(help="Ether that each sender of transactions gets.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Make a federation: keys, contracts, homes. Run again to finish what was interrupted.

    Example: koinon-provision --out fed --rpc http://127.0.0.1:8545 --tls
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise ConfigError("--out DIR is needed", hint="see: koinon-provision --help")
    wanted = Plan(
        name=name, rpc=rpc, hosts=hosts, replicas=replicas, nodes=nodes, paillier_bits=paillier_bits, tls=tls,
        examples_max=examples_max, credits=credits, apps=parse_apps(app_option or []), ports={},
        password_file=str(password_file.resolve()) if password_file else "",
        data_dir=str(data_dir.resolve()) if data_dir else "",
    )  # fmt: skip
    make_private(out)
    work = Provisioning(
        folder=out.resolve(),
        plan=settle_plan(out, wanted, port_base),
        funder=_funder(fund_from, fund_password),
        ether=ether,
        say=lambda line: print(line, file=sys.stderr),
    )
    federation = work.run()
    if as_json:
        print(json.dumps(summary(work, federation), indent=2))


def summary(work: Provisioning, federation: FederationFile) -> dict[str, Any]:
    """What `--json` prints: where everything is, and what this run did."""
    return {
        "out": str(work.folder),
        "name": federation.name,
        "chain_id": federation.chain_id,
        "rpc": federation.rpc,
        "contracts": msgspec.to_builtins(federation.contracts),
        "registrar": federation.registrar,
        "replicas": [{"address": entry.address, "url": entry.url} for entry in federation.replicas],
        "ports": work.plan.ports,
        "homes": {party: str(work.folder / party) for party in work.plan.parties},
        "steps": work.steps,
    }


@app.command()
def admit(
    address: Annotated[str, typer.Argument(help="The party's address.")],
    out: Annotated[Path, typer.Option(help="Where admission.json is written; the party puts it into its home.")],
    registrar: Registrar,
    roles: Annotated[str, typer.Option(help="node, aggregator, auditor; several with commas.")] = "node",
    examples_max: Annotated[int, typer.Option(help="The most samples it may claim in a round.")] = EXAMPLES_DEFAULT,
    sealing_key: Annotated[str, typer.Option(help="Its X25519 key, 64 hexadecimal digits.")] = "0x" + "00" * 32,
) -> None:
    """Admit a party: sign an admission that its home hands to the chain and to the committee.

    Example: koinon-provision admit ADDRESS --sealing-key KEY --out admission.json --registrar fed/registrar
    """
    signer, federation = _registrar(registrar)
    member = parse_address(address)
    last = Ledger.connect(federation.network).member(member).serial
    wanted = parse_roles(roles)
    public = from_hex(sealing_key)
    if len(public) != 32:
        raise ConfigError("--sealing-key has 64 hexadecimal digits", hint="koinon init prints it")
    enrol = sign_admission(
        signer,
        federation.domain,
        member,
        roles=wanted,
        examples_max=examples_max if wanted & Role.NODE else 0,
        public=public,
        serial=fresh_serial(last),
    )
    save_admission(out, enrol)
    if wanted & Role.NODE and not any(public):
        print("without --sealing-key (koinon init prints it) it can take no part in mode masked", file=sys.stderr)
    print(f"{to_hex(member)} is admitted as {roles}: {out}", file=sys.stderr)


@app.command()
def revoke(
    address: Annotated[str, typer.Argument(help="Whose membership ends.")],
    registrar: Registrar,
    chain_only: Annotated[bool, typer.Option("--chain-only", help="Leave the committee's log for later.")] = False,
) -> None:
    """End a membership, on chain and in the committee's log. Run it again if one of the two could not be reached.

    Example: koinon-provision revoke ADDRESS --registrar fed/registrar
    """
    signer, federation = _registrar(registrar)
    member = parse_address(address)
    ledger = Ledger.connect(federation.network, signer)
    known = ledger.member(member)
    revocation = Revocation(member=member, serial=fresh_serial(known.serial))
    signature = signer.sign(federation.domain, revocation)
    if known.active:
        ledger.revoke(revocation, signature)
        print(f"{to_hex(member)} is revoked on chain", file=sys.stderr)
    if chain_only:
        return

    async def order() -> None:
        async with CommitteeClient(federation, signer) as client:
            await client.submit(Revoke(revocation=revocation, signature=signature))

    asyncio.run(order())
    print(f"{to_hex(member)} is revoked in the committee's log", file=sys.stderr)


def parse_apps(entries: list[str]) -> dict[str, str]:
    """NAME=PATH:ATTR pairs; a relative path to a file that exists here becomes absolute, as homes lie elsewhere."""
    apps: dict[str, str] = {}
    for entry in entries:
        name, equals, target = entry.partition("=")
        module, colon, attribute = target.rpartition(":")
        if not (name and equals and module and colon and attribute):
            raise ConfigError(
                f"--app {entry!r}", hint="NAME=path/to/file.py:attribute or NAME=package.module:attribute"
            )
        path = Path(module)
        apps[name] = f"{path.resolve() if path.is_file() else module}:{attribute}"
    return apps


def parse_roles(text: str) -> Role:
    """Comma-separated names of ROLES."""
    found = Role(0)
    for word in text.split(","):
        if word.strip() not in ROLES:
            raise ConfigError(f"no role {word.strip()!r}", hint=f"roles: {', '.join(ROLES)}")
        found |= ROLES[word.strip()]
    return found


def _registrar(home: Path) -> tuple[Signer, FederationFile]:
    config = load_party(home)
    federation = load_federation(home / config.federation)
    signer = party_signer(home, config)
    if to_hex(signer.address) != federation.registrar.lower():
        raise ConfigError(f"{home} is not the registrar's home", hint="--registrar DIR/registrar")
    return signer, federation


def _funder(keystore: Path | None, password_file: Path | None) -> Signer | None:
    if keystore is None:
        return None
    return open_keystore(keystore, read_password(password_file or keystore.with_name(PASSWORD)))


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
