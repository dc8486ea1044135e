"""What provisioning writes on disk: the plan, the keys, and every party's home (docs/architecture.md).

The plan is written first and never changed: it fixes ports and sizes, so that an interrupted run can be finished by
the same command. Every file is written once; a step whose file exists is over. `federation.json` comes last into a
home and marks it complete.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from koinon.admission import ADMISSION_FILE, load_admission, save_admission
from koinon.config import (
    JOURNAL_FILE,
    FederationFile,
    ReplicaEntry,
    Setting,
    convert,
    create_keystore,
    load_federation,
    open_keystore,
    save_federation,
    write_atomically,
)
from koinon.encoding import to_hex
from koinon.errors import ConfigError
from koinon.privacy import SealingKey
from koinon.rounds.operations import Enrol
from koinon.signing import Domain, Signer
from koinon.wire import Admission, Role

from .tls import Certified, issue, make_authority, make_key, make_request

EPOCH = 0
HOSTS = ("local", "compose")
PARTIES_MAX = 500
AGGREGATOR_OFFSET = 100
NODE_OFFSET = 200
PORT_BASE_DEFAULT = 7000

PLAN, FEDERATION, KEYSTORE, PASSWORD, CONFIG, DATA = (
    "plan.json",
    "federation.json",
    "keystore.json",
    "password",
    "config.toml",
    "data",
)
AUTHORITY_CERTIFICATE, AUTHORITY_KEY = "ca.pem", "ca.key"
CERTIFICATE, CERTIFICATE_KEY, CERTIFICATE_REQUEST = "tls.pem", "tls.key", "tls.csr"


class Plan(Setting, frozen=True):
    """What was asked for, with the ports that were chosen; `apps` maps names to "path:attribute"."""

    name: str
    rpc: str
    hosts: str
    replicas: int
    nodes: int
    paillier_bits: int
    tls: bool
    examples_max: int
    credits: int
    apps: dict[str, str]
    ports: dict[str, int]
    password_file: str = ""
    data_dir: str = ""

    @property
    def replica_names(self) -> list[str]:
        return [f"replica-{index}" for index in range(self.replicas)]

    @property
    def node_names(self) -> list[str]:
        return [f"node-{index}" for index in range(self.nodes)]

    @property
    def listeners(self) -> list[str]:
        return [*self.replica_names, "aggregator", *self.node_names]

    @property
    def parties(self) -> list[str]:
        return ["registrar", "deployer", *self.listeners]

    def host(self, party: str) -> str:
        """The name under which others reach `party`."""
        return party if self.hosts == "compose" else "127.0.0.1"

    def url(self, party: str) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host(party)}:{self.ports[party]}"


def settle_plan(folder: Path, wanted: Plan, port_base: int) -> Plan:
    """The plan of `folder`: the kept one, which must ask for the same, or `wanted` with ports, now kept."""
    path = folder / PLAN
    if path.exists():
        try:
            kept = convert(Plan, json.loads(path.read_text()), str(path))
        except ValueError as error:
            raise ConfigError(f"{path} cannot be read: {error}", hint="restore it, or choose another --out") from None
        for name in Plan.__struct_fields__:
            if name != "ports" and getattr(kept, name) != getattr(wanted, name):
                raise ConfigError(
                    f"{folder} was planned with {name} = {getattr(kept, name)!r}, not {getattr(wanted, name)!r}",
                    hint="repeat the first command to finish or check it, or choose another --out",
                )
        return kept
    if any((folder / party / KEYSTORE).exists() for party in wanted.parties):
        raise ConfigError(f"{folder} holds homes but no {PLAN}", hint="choose another --out; keys are never replaced")
    _require_sane(wanted)
    plan = msgspec.structs.replace(wanted, ports=choose_ports(wanted, port_base))
    write_atomically(path, _json(plan))
    return plan


def _require_sane(plan: Plan) -> None:
    if plan.hosts not in HOSTS:
        raise ConfigError(f"--hosts {plan.hosts!r}", hint=f"one of: {', '.join(HOSTS)}")
    if plan.replicas < 1 or plan.nodes < 0 or plan.replicas + plan.nodes > PARTIES_MAX:
        raise ConfigError(
            f"{plan.replicas} replicas and {plan.nodes} nodes: 1 to {PARTIES_MAX} parties in all",
            hint="--replicas and --nodes",
        )
    if plan.replicas > AGGREGATOR_OFFSET:
        raise ConfigError(f"at most {AGGREGATOR_OFFSET} replicas", hint="--replicas")
    if plan.examples_max < 1:
        raise ConfigError(
            "--examples-max is at least 1: a node's largest sample count in a round", hint="--examples-max"
        )


def choose_ports(plan: Plan, base: int) -> dict[str, int]:
    """base + i for replicas, + 100 for the aggregator, + 200 + i for nodes; free ports when `base` is 0."""
    if base:
        ports = {party: base + index for index, party in enumerate(plan.replica_names)}
        ports["aggregator"] = base + AGGREGATOR_OFFSET
        ports |= {party: base + NODE_OFFSET + index for index, party in enumerate(plan.node_names)}
        if max(ports.values()) > 65535 or base < 0:
            raise ConfigError(
                f"--port-base {base} leads to ports above 65535", hint="a lower --port-base, or 0 for free ports"
            )
        return ports
    with ExitStack() as stack:  # all are held until all are chosen, so that none is chosen twice
        return {party: _free_port(stack) for party in plan.listeners}


def _free_port(stack: ExitStack) -> int:
    probe = stack.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    return int(probe.getsockname()[1])


# --- keys -------------------------------------------------------------------------------------------------------


def party_key(home: Path, password_file: str) -> Signer:
    """The key of `home`, made when there is none: under the password in `password_file`, or a random one beside it."""
    make_private(home)
    if not password_file and not (home / PASSWORD).exists():
        write_atomically(home / PASSWORD, secrets.token_urlsafe(24).encode() + b"\n", mode=0o600)
    secret = read_password(home / (password_file or PASSWORD))
    if (home / KEYSTORE).exists():
        return open_keystore(home / KEYSTORE, secret)
    return create_keystore(home / KEYSTORE, secret)


def read_password(file: Path) -> str:
    """What a password file holds; ConfigError when that is nothing."""
    try:
        text = file.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the password file cannot be read: {error}",
            hint="--password-file, or password_file in config.toml, names a file with one line",
        ) from None
    if not text:
        raise ConfigError(
            f"the password file {file} is empty",
            hint="--password-file, or password_file in config.toml, names a file with one line",
        )
    return text


def make_private(home: Path) -> None:
    """Make the folder, open to its owner only (a mounted volume of somebody else keeps its own mode)."""
    home.mkdir(parents=True, exist_ok=True)
    if home.stat().st_uid == os.getuid():
        home.chmod(0o700)


def sealing_key(signer: Signer) -> SealingKey:
    return SealingKey.derive(signer.secret, EPOCH)


def replica_entries(plan: Plan, keys: dict[str, Signer]) -> tuple[ReplicaEntry, ...]:
    """The committee by index, as federation.json and the chain announce it."""
    return tuple(
        ReplicaEntry(
            address=to_hex(keys[party].address),
            sealing_key=to_hex(sealing_key(keys[party]).public),
            url=plan.url(party),
        )
        for party in plan.replica_names
    )


# --- TLS --------------------------------------------------------------------------------------------------------


def authority(folder: Path, name: str) -> Certified:
    """The authority in the registrar's home, made when there is none."""
    home = folder / "registrar"
    certificate, key = home / AUTHORITY_CERTIFICATE, home / AUTHORITY_KEY
    if not certificate.exists():
        made = make_authority(name)
        write_atomically(key, made.key, mode=0o600)
        write_atomically(certificate, made.certificate)
    return Certified(certificate.read_bytes(), key.read_bytes())


def authority_of(home: Path) -> Certified:
    """The authority that a registrar's home holds; ConfigError in a federation without TLS."""
    try:
        return Certified((home / AUTHORITY_CERTIFICATE).read_bytes(), (home / AUTHORITY_KEY).read_bytes())
    except OSError:
        hint = "it is in the registrar's home of a federation that was provisioned with --tls: --home DIR/registrar"
        raise ConfigError(f"{home} holds no authority for TLS certificates (ca.pem, ca.key)", hint=hint) from None


def certify_listener(home: Path, issuer: Certified, party: str, host: str) -> None:
    """tls.pem and tls.key of `party`, unless they are there."""
    if (home / CERTIFICATE).exists():
        return
    issued = issue(issuer, party, [host])
    write_atomically(home / CERTIFICATE_KEY, issued.key, mode=0o600)
    write_atomically(home / CERTIFICATE, issued.certificate)


def certificate_request(home: Path) -> Path:
    """tls.csr of `home`, for its tls.key, which is made when there is none and never leaves the home."""
    if not (home / CERTIFICATE_KEY).exists():
        write_atomically(home / CERTIFICATE_KEY, make_key(), mode=0o600)
    path = home / CERTIFICATE_REQUEST
    write_atomically(path, make_request((home / CERTIFICATE_KEY).read_bytes(), home.resolve().name))
    return path


def require_scheme(federation: FederationFile, url: str) -> None:
    """ConfigError for http in a federation with TLS, and for https where nobody could check whom it leads to."""
    if federation.tls_ca and not url.startswith("https://"):
        raise ConfigError(f"{url}: this federation uses TLS", hint="https://HOST:PORT")
    if not federation.tls_ca and not url.startswith("http://"):
        hint = "http://HOST:PORT; a federation gets an authority when it is made: koinon-provision --tls"
        raise ConfigError(f"{url}: this federation has no authority for TLS certificates", hint=hint)


# --- admissions -------------------------------------------------------------------------------------------------


def sign_admission(
    registrar: Signer, domain: Domain, member: bytes, *, roles: Role, examples_max: int, public: bytes, serial: int
) -> Enrol:
    """The registrar's word that `member` may take part."""
    admission = Admission(member=member, roles=int(roles), examples_max=examples_max, sealing_key=public, serial=serial)
    return Enrol(admission=admission, signature=registrar.sign(domain, admission))


def fresh_serial(last: int = 0) -> int:
    """A serial above `last`: the time in milliseconds, so that the registrar needs no counter."""
    return max(time.time_ns() // 1_000_000, last + 1)


def admit_home(home: Path, registrar: Signer, domain: Domain, key: Signer, roles: Role, examples_max: int) -> None:
    """admission.json of a provisioned party, unless a good one is there."""
    path = home / ADMISSION_FILE
    if path.exists() and load_admission(path).admission.member == key.address:
        return
    enrol = sign_admission(
        registrar,
        domain,
        key.address,
        roles=roles,
        examples_max=examples_max,
        public=sealing_key(key).public,
        serial=fresh_serial(),
    )
    save_admission(path, enrol)


# --- homes ------------------------------------------------------------------------------------------------------


def party_config(plan: Plan, party: str) -> dict[str, Any]:
    """config.toml of `party` as a table."""
    role, _, number = party.partition("-")
    table: dict[str, Any] = {"role": role}
    if number:
        table["index"] = int(number)
    if plan.password_file:
        table["password_file"] = plan.password_file
    if party in plan.ports:
        everywhere = plan.hosts == "compose"
        table["listen"] = {"host": "0.0.0.0" if everywhere else "127.0.0.1", "port": plan.ports[party]}
        if plan.tls:
            table["tls"] = {"certificate": CERTIFICATE, "key": CERTIFICATE_KEY}
    if role == "node":
        table["node"] = {"apps": plan.apps, "partition": int(number), "partitions": plan.nodes}
        if plan.data_dir:
            table["node"]["data_dir"] = plan.data_dir
    return table


def vouch_for_silence(home: Path, federation: FederationFile) -> None:
    """The empty journal of a replica's home that is being made: this key has signed nothing for this federation.

    Without a journal a replica takes it for lost, and waits for a view in which it cannot have spoken.
    """
    known = load_federation(home / FEDERATION).domain if (home / FEDERATION).exists() else None
    if not (home / CONFIG).exists() or known not in (None, federation.domain):
        make_private(home / DATA)
        if not (home / DATA / JOURNAL_FILE).exists():
            write_atomically(home / DATA / JOURNAL_FILE, b"", mode=0o600)


def make_replica_home(home: Path, federation: FederationFile, *, url: str, host: str, port: int, tls: bool) -> None:
    """config.toml of a replica that federation.json does not name."""
    table: dict[str, Any] = {"role": "replica", "index": -1, "public_url": url, "listen": {"host": host, "port": port}}
    if tls:
        table["tls"] = {"certificate": CERTIFICATE, "key": CERTIFICATE_KEY}
    vouch_for_silence(home, federation)
    write_atomically(home / CONFIG, tomli_w.dumps(table).encode())


def write_home(folder: Path, plan: Plan, party: str, federation: FederationFile) -> bool:
    """The last two files of a home; whether anything was missing."""
    home = folder / party
    if home_complete(home, federation):
        return False
    if party in plan.replica_names:
        vouch_for_silence(home, federation)
    if not (home / CONFIG).exists():
        write_atomically(home / CONFIG, tomli_w.dumps(party_config(plan, party)).encode())
    save_federation(home / FEDERATION, federation)
    return True


def home_complete(home: Path, federation: FederationFile) -> bool:
    return (home / FEDERATION).exists() and load_federation(home / FEDERATION) == federation


def _json(value: Setting) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
