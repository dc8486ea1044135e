"""The operator's files: `config.toml` of a party's home, and the federation's public `federation.json`.

Both become frozen structs. An unknown key is an error that names the nearest known one: a typo must not become
a default.

A home is a folder: config.toml, keystore.json (keystore v3, mode 0600), password (0600), and what the party
keeps (`data/`). Paths in config.toml are relative to the home.
"""

from __future__ import annotations

import difflib
import json
import os
import threading
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from koinon.encoding import from_hex, to_hex
from koinon.epochs import Seat, faulty_max, quorum
from koinon.errors import ConfigError, KeystoreError, Malformed, UnknownKey
from koinon.keystore import unlock
from koinon.records import Contracts, Network
from koinon.rounds.state import Genesis
from koinon.signing import Domain, Signer

SCRYPT_N = 2**14
"""Cost of a keystore's password (scrypt n; r = 8, p = 1): about 50 ms and 16 MiB to unlock."""


class Setting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all settings."""


# --- the federation: public, the same file for everybody ---------------------------------------------------------


class ContractAddresses(Setting, frozen=True):
    token: str
    registry: str
    committee: str
    ledger: str
    rewards: str


class ReplicaEntry(Setting, frozen=True):
    address: str
    sealing_key: str
    url: str


class PaillierEntry(Setting, frozen=True):
    bits: int
    public_key: str


class FederationFile(Setting, frozen=True):
    """What a party must trust to take part; hexadecimal strings with 0x. `tls_ca` is a PEM text or ""."""

    version: int
    name: str
    chain_id: int
    genesis_hash: str
    rpc: str
    contracts: ContractAddresses
    registrar: str
    epoch: int
    replicas: tuple[ReplicaEntry, ...]
    paillier: PaillierEntry | None = None
    tls_ca: str = ""

    @property
    def domain(self) -> Domain:
        return Domain(self.chain_id, from_hex(self.contracts.ledger))

    @property
    def network(self) -> Network:
        """What `Ledger.connect` asks for."""
        said = self.contracts
        addresses = (said.token, said.registry, said.committee, said.ledger, said.rewards)
        return Network(
            self.rpc, self.chain_id, from_hex(self.genesis_hash), Contracts(*(from_hex(each) for each in addresses))
        )

    @property
    def genesis(self) -> Genesis:
        return Genesis(
            chain_id=self.chain_id,
            ledger=from_hex(self.contracts.ledger),
            registrar=from_hex(self.registrar),
            epoch=self.epoch,
            replicas=self.replica_addresses,
        )

    @property
    def replica_addresses(self) -> tuple[bytes, ...]:
        return tuple(from_hex(replica.address) for replica in self.replicas)

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The committee as a change of it would name it."""
        return tuple(
            Seat(address=from_hex(each.address), sealing_key=from_hex(each.sealing_key), url=each.url)
            for each in self.replicas
        )

    @property
    def faulty(self) -> int:
        """f, the number of replicas that may lie."""
        return faulty_max(len(self.replicas))

    @property
    def quorum(self) -> int:
        """2f+1 (n − f when n is no 3f+1)."""
        return quorum(len(self.replicas))

    def with_committee(self, epoch: int, seats: Sequence[Seat]) -> FederationFile:
        """The same federation in another epoch of its committee."""
        entries = tuple(
            ReplicaEntry(address=to_hex(seat.address), sealing_key=to_hex(seat.sealing_key), url=seat.url)
            for seat in seats
        )
        return msgspec.structs.replace(self, epoch=epoch, replicas=entries)


def load_federation(path: Path) -> FederationFile:
    """Read federation.json. ConfigError with what to do when it is missing or wrong."""
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"no federation file at {path}", hint="ask the registrar for it, or run koinon-provision"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="it is the registrar's public file: copy it there again"
        ) from None
    return convert(FederationFile, raw, str(path))


def save_federation(path: Path, federation: FederationFile) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(federation), indent=2) + b"\n")


# --- one party: private -----------------------------------------------------------------------------------------


class Listen(Setting, frozen=True):
    host: str = "127.0.0.1"
    port: int = 0


class Tls(Setting, frozen=True):
    certificate: str = ""
    key: str = ""


class NodeSettings(Setting, frozen=True):
    """`apps` maps a task's app name to the user's module: "path/to/file.py:client_fn" or "package.module:client_fn".

    `partition` of `partitions` and `data_dir` are handed to the app as Flower's node_config. Of tasks, the node follows
    those in one of `modes` (all, when there are none) that open no sum of fewer than `cohort_min` updates.
    """

    apps: dict[str, str] = msgspec.field(default_factory=dict)
    partition: int = 0
    partitions: int = 1
    data_dir: str = ""
    threads: int = 1
    modes: tuple[str, ...] = ()
    cohort_min: int = 3


class PartyConfig(Setting, frozen=True):
    """config.toml. `index` is a replica's place in the committee of federation.json, -1 for a newcomer; `public_url` is
    where others reach a replica that federation.json does not name."""

    role: str
    index: int = 0
    federation: str = "federation.json"
    keystore: str = "keystore.json"
    password_file: str = "password"
    data: str = "data"
    log_level: str = "info"
    public_url: str = ""
    listen: Listen = Listen()
    tls: Tls = Tls()
    node: NodeSettings = NodeSettings()


JOURNAL_FILE = "journal"
"""In a replica's data folder: what it signed. Made empty together with the home; a missing one is a lost one."""


def load_party(home: Path) -> PartyConfig:
    """Read `home`/config.toml. ConfigError or UnknownKey with what to do."""
    path = home / "config.toml"
    try:
        raw = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no config.toml in {home}", hint="make one with: koinon init --home DIR") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="it is a TOML file; koinon init makes one") from None
    return convert(PartyConfig, raw, str(path))


# --- keystores --------------------------------------------------------------------------------------------------


def create_keystore(path: Path, password: str, secret: bytes | None = None) -> Signer:
    """Write a keystore v3 (mode 0600) with a fresh key or `secret`; KeystoreError if the file exists."""
    if path.exists():
        raise KeystoreError(f"{path} exists; a key is never overwritten")
    from eth_account import Account  # on demand: it takes 0.5 s to import, and keys are made once

    signer = Signer(secret or os.urandom(32))
    sealed = Account.encrypt(signer.secret, password, kdf="scrypt", iterations=SCRYPT_N)
    write_atomically(path, json.dumps(sealed, indent=2).encode() + b"\n", mode=0o600)
    return signer


def open_keystore(path: Path, password: str) -> Signer:
    """Unlock a keystore v3; KeystoreError when it is missing, malformed or the password is wrong."""
    try:
        return Signer(unlock(json.loads(path.read_text()), password))
    except FileNotFoundError:
        raise KeystoreError(f"no keystore at {path}", hint="make one with: koinon init") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeystoreError(f"{path} does not open: {error}", hint="is the password file right?") from None


def party_signer(home: Path, config: PartyConfig) -> Signer:
    """The key of the party that lives in `home`."""
    password_file = home / config.password_file
    try:
        password = password_file.read_text().rstrip("\n")
    except OSError as error:
        raise KeystoreError(f"the password file cannot be read: {error}") from None
    return open_keystore(home / config.keystore, password)


# --- helpers ----------------------------------------------------------------------------------------------------

S = TypeVar("S", bound=Setting)


def convert(kind: type[S], raw: object, where: str) -> S:
    """Turn parsed TOML or JSON into `kind`; UnknownKey and ConfigError say where and what is nearest."""
    _require_known(kind, raw, where, "")
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}", hint="docs/cli.md and docs/operating.md describe the file") from None


def _require_known(kind: type[Setting], raw: object, where: str, prefix: str) -> None:
    if not isinstance(raw, dict):
        return
    fields: dict[str, Any] = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.4)
            known = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(fields))}"
            raise UnknownKey(f"{where}: unknown key {prefix}{key}", hint=known)
        if isinstance(fields[key], type) and issubclass(fields[key], Setting):
            _require_known(fields[key], value, where, f"{prefix}{key}.")


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` as a whole and durably: a crash leaves the old file or the new one, and once this returned the
    new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` survive a power cut."""
    if os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_address(text: str) -> bytes:
    """20 bytes of a hexadecimal address; ConfigError otherwise."""
    try:
        raw = from_hex(text)
    except Malformed:
        raw = b""
    if len(raw) != 20:
        raise ConfigError(f"not an address: {text!r}", hint="0x and 40 hexadecimal digits, as koinon init prints it")
    return raw
