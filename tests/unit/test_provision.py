"""Provisioning against a real chain: homes that load, credentials that hold, a run that can be repeated."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from koinon.admission import load_admission
from koinon.config import (
    FederationFile,
    create_keystore,
    load_federation,
    load_party,
    open_keystore,
    party_signer,
)
from koinon.encoding import from_hex
from koinon.errors import ConfigError, ContractReverted, KoinonError, Rejected, WrongChain
from koinon.ledger import Ledger
from koinon.privacy import SealingKey
from koinon.privacy.mode import Setting
from koinon.privacy.paillier_key import parse_key, share_of
from koinon.privacy.sealing import key_share_context
from koinon.rounds.law import Federation
from koinon.service import client_tls, server_tls
from koinon.signing import Signer
from koinon.wire import Role
from scripts._homes import Plan, choose_ports, party_key, sign_admission, vouch_for_silence
from scripts.provision import main, parse_apps, parse_roles
from scripts.tls import issue, make_authority

ROOT = Path(__file__).resolve().parents[2]
NODES = 2


@dataclass
class Site:
    rpc: str
    homes: Path
    options: list[str]

    @property
    def federation(self) -> FederationFile:
        return load_federation(self.homes / "federation.json")

    def signer(self, party: str) -> Signer:
        return party_signer(self.homes / party, load_party(self.homes / party))


@dataclass
class Ran:
    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, fails: bool = False) -> Ran:
    """The command in this process: importing it again and again would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["koinon-provision", *arguments])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    assert (code != 0) == fails, err.getvalue()
    return Ran(code, out.getvalue(), err.getvalue())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_chain(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scripts.chain", "--port", str(port), "--engine", "embedded"]
    chain = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while True:
        try:
            Ledger.identify(f"http://127.0.0.1:{port}")
            return chain
        except KoinonError:
            assert time.monotonic() < end, "the chain does not start"


@pytest.fixture(scope="module")
def rpc() -> Iterator[str]:
    port = free_port()
    chain = start_chain(port)
    yield f"http://127.0.0.1:{port}"
    chain.terminate()
    chain.wait(timeout=15)


@pytest.fixture(scope="module")
def site(rpc: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    homes = tmp_path_factory.mktemp("provisioned") / "homes"
    options = [
        "--out", str(homes), "--rpc", rpc, "--nodes", str(NODES), "--port-base", "0", "--paillier-bits", "2048",
        "--tls", "--examples-max", "500", "--credits", "77", "--app", "mnist=somewhere.mnist:client_fn",
        "--data-dir", "/srv/mnist", "--name", "test", "--json",
    ]  # fmt: skip
    said = json.loads(run(*options).stdout)
    assert set(said["homes"]) >= {"replica-0", "aggregator", "node-1"}
    return Site(rpc, homes, options)


PARTIES = [f"replica-{index}" for index in range(4)] + ["aggregator", "node-0", "node-1", "registrar", "deployer"]


@pytest.mark.parametrize("party", PARTIES)
def test_every_home_loads_and_its_keystore_opens(site: Site, party: str) -> None:
    home = site.homes / party
    config = load_party(home)
    assert config.role == party.split("-")[0]
    assert load_federation(home / config.federation) == site.federation
    assert len(site.signer(party).address) == 20
    for secret in ("keystore.json", "password"):
        assert stat.S_IMODE((home / secret).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_replicas_begin_with_an_empty_journal_and_a_lost_one_is_not_made_again(site: Site, tmp_path: Path) -> None:
    """An empty journal says that the key never spoke; made for one that did, it would have it speak twice."""
    assert all((site.homes / f"replica-{index}" / "data" / "journal").read_bytes() == b"" for index in range(4))
    assert not (site.homes / "node-0" / "data").exists()
    journal = site.homes / "replica-1" / "data" / "journal"
    journal.unlink()
    try:
        run(*site.options)
        assert not journal.exists()
        vouch_for_silence(site.homes / "replica-1", site.federation)
        assert not journal.exists()
        later = replace(site.federation, chain_id=site.federation.chain_id + 1)
        vouch_for_silence(site.homes / "replica-1", later)
        assert journal.exists(), "in another federation it never spoke"
    finally:
        journal.write_bytes(b"")


def test_homes_point_to_a_given_password_file_and_keep_no_copy(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("given\n")
    key = party_key(tmp_path / "home", str(file))
    assert [each.name for each in (tmp_path / "home").iterdir()] == ["keystore.json"]
    assert open_keystore(tmp_path / "home" / "keystore.json", "given").address == key.address
    assert party_key(tmp_path / "home", str(file)).address == key.address
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        party_key(tmp_path / "other", str(file))


def test_the_committee_is_the_replicas_with_their_derived_sealing_keys(site: Site) -> None:
    federation = site.federation
    members = Ledger.connect(federation.network).committee().members
    for index, (entry, member) in enumerate(zip(federation.replicas, members, strict=True)):
        signer = site.signer(f"replica-{index}")
        config = load_party(site.homes / f"replica-{index}")
        assert config.index == index
        assert from_hex(entry.address) == signer.address == member.address
        assert from_hex(entry.sealing_key) == SealingKey.derive(signer.secret, 0).public == member.sealing_key
        assert entry.url == f"https://127.0.0.1:{config.listen.port}" == member.url


def test_nodes_know_their_partition_and_their_apps(site: Site) -> None:
    node = load_party(site.homes / "node-1").node
    assert (node.partition, node.partitions) == (1, NODES)
    assert node.apps == {"mnist": "somewhere.mnist:client_fn"}
    assert node.data_dir == "/srv/mnist"


def test_no_two_parties_listen_on_one_port(site: Site) -> None:
    ports = [load_party(site.homes / party).listen.port for party in PARTIES[:-2]]
    assert len(set(ports)) == len(ports)
    assert all(ports)


def test_everybody_who_sends_has_ether_and_nodes_have_credits(site: Site) -> None:
    ledger = Ledger.connect(site.federation.network)
    for party in ("registrar", "deployer", "aggregator", "node-0", "node-1"):
        assert ledger.wei(site.signer(party).address) > 0
    assert [ledger.balance(site.signer(f"node-{index}").address) for index in range(NODES)] == [77, 77]


def test_admissions_are_accepted_by_the_law_and_by_the_chain(site: Site) -> None:
    law = Federation(site.federation.genesis)
    for party, roles, most in (("node-0", Role.NODE, 500), ("aggregator", Role.AGGREGATOR, 0)):
        enrol = load_admission(site.homes / party / "admission.json")
        sender = site.signer(party)
        law.apply(sender.address, enrol)
        ledger = Ledger.connect(site.federation.network, sender)
        ledger.register(enrol.admission, enrol.signature)
        member = ledger.member(sender.address)
        assert (member.active, member.roles, member.examples_max) == (True, roles, most)
        assert member.sealing_key == SealingKey.derive(sender.secret, 0).public
        assert law.state.members[sender.address].active


def test_an_admission_that_somebody_else_signed_is_refused_by_both(site: Site) -> None:
    sender = site.signer("node-1")
    forged = sign_admission(
        sender, site.federation.domain, sender.address, roles=Role.NODE, examples_max=9, public=bytes(32), serial=1
    )
    with pytest.raises(Rejected, match="not the registrar"):
        Federation(site.federation.genesis).apply(sender.address, forged)
    with pytest.raises(ContractReverted, match="MemberRegistry__NotRegistrar"):
        Ledger.connect(site.federation.network, sender).register(forged.admission, forged.signature)


def test_each_replica_and_nobody_else_opens_its_paillier_share(site: Site) -> None:
    paillier = site.federation.paillier
    assert paillier is not None
    public = from_hex(paillier.public_key)
    assert (parse_key(public).bits, parse_key(public).replicas) == (2048, 4)
    for index in range(4):
        box = (site.homes / f"replica-{index}" / "paillier-share").read_bytes()
        context = key_share_context(public, index)
        share = SealingKey.derive(site.signer(f"replica-{index}").secret, 0).open(box, context)
        setting = Setting(
            task=bytes(32), round=1, replicas=4, dimension=1, bits=16, cohort=3, public_key=public, key_share=share
        )
        assert share_of(setting, index) > 0
        with pytest.raises(KoinonError, match="does not open"):
            SealingKey.derive(site.signer("aggregator").secret, 0).open(box, context)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "replica-0"])
def test_a_certificate_carries_a_tls_1_3_handshake_under_the_federations_authority(site: Site, name: str) -> None:
    home = site.homes / "replica-0"
    assert handshake(home, site.federation.tls_ca, name) == "TLSv1.3"


def test_a_certificate_fails_under_another_name_and_under_another_authority(site: Site) -> None:
    home = site.homes / "replica-0"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(home, site.federation.tls_ca, "replica-1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(home, make_authority("test").certificate.decode(), "localhost")


def handshake(home: Path, ca: str, name: str) -> str | None:
    """The protocol version that client and server agree on over a loopback socket."""
    serving, asking = server_tls(home, load_party(home)), client_tls(ca)
    assert serving is not None
    assert asking is not None
    left, right = socket.socketpair()

    def serve() -> None:
        try:
            with serving.wrap_socket(left, server_side=True) as tls:
                tls.recv(1)
        except (ssl.SSLError, OSError):
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with asking.wrap_socket(right, server_hostname=name) as tls:
            return tls.version()
    finally:
        right.close()
        thread.join()


def test_certificates_are_strict_enough_for_python_3_13() -> None:
    context = ssl.create_default_context(cadata=make_authority("strict").certificate.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    authority = make_authority("strict")
    context.load_verify_locations(cadata=authority.certificate.decode())
    issued = issue(authority, "node-0")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"koinon-{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        (folder / "tls.pem").write_bytes(issued.certificate)
        (folder / "tls.key").write_bytes(issued.key)
        server.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    finally:
        shutil.rmtree(folder)
    serving = server.wrap_bio(incoming, outgoing, server_side=True)
    asking = context.wrap_bio(outgoing, incoming, server_hostname="localhost")
    for _ in range(4):
        for side in (asking, serving):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert asking.version() == "TLSv1.3"


# --- again ------------------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_says_so(site: Site) -> None:
    before = {path: path.read_bytes() for path in site.homes.rglob("*") if path.is_file()}
    done = run(*site.options)
    assert "nothing to do" in done.stderr
    assert json.loads(done.stdout)["steps"] == []
    assert {path: path.read_bytes() for path in site.homes.rglob("*") if path.is_file()} == before


def test_other_wishes_for_the_same_folder_are_refused_by_name(site: Site) -> None:
    done = run(*site.options, "--nodes", "9", fails=True)
    assert done.returncode == 2
    assert "nodes = 2, not 9" in done.stderr


@pytest.mark.parametrize(
    "lost",
    [
        ["federation.json"],
        ["node-1/federation.json", "node-1/config.toml"],
        ["replica-2/tls.pem", "replica-2/federation.json", "node-0/admission.json", "federation.json"],
        ["deployment.json", "federation.json", "ceremony/transcript", "replica-0/paillier-share"],
    ],
    ids=["file", "home", "certificates", "contracts"],
)
def test_an_interrupted_run_is_finished_by_the_same_command(site: Site, tmp_path: Path, lost: list[str]) -> None:
    homes = tmp_path / "homes"
    shutil.copytree(site.homes, homes)
    (homes / "node-0" / "data").mkdir()  # what a party keeps is nobody else's business
    keys = {party: (homes / party / "keystore.json").read_bytes() for party in PARTIES}
    for name in lost:
        (homes / name).unlink()
    if "deployment.json" in lost:  # an interrupted first run has finished no home
        for party in PARTIES:
            (homes / party / "federation.json").unlink()
            (homes / party / "admission.json").unlink(missing_ok=True)
    options = [str(homes) if each == str(site.homes) else each for each in site.options]
    run(*options)
    assert {party: (homes / party / "keystore.json").read_bytes() for party in PARTIES} == keys
    federation = load_federation(homes / "federation.json")
    Ledger.connect(federation.network)
    law = Federation(federation.genesis)
    for party in PARTIES:
        assert load_federation(homes / party / "federation.json") == federation
        load_party(homes / party)
    law.apply(site.signer("node-0").address, load_admission(homes / "node-0" / "admission.json"))
    assert "nothing to do" in run(*options).stderr


def test_a_chain_that_was_reset_is_noticed(site: Site, tmp_path: Path) -> None:
    port = free_port()
    chain = start_chain(port)
    try:
        homes = tmp_path / "homes"
        shutil.copytree(site.homes, homes)
        other = f"http://127.0.0.1:{port}"
        for path in (homes / "plan.json", homes / "federation.json"):
            path.write_text(path.read_text().replace(site.rpc, other))
        options = [{str(site.homes): str(homes), site.rpc: other}.get(each, each) for each in site.options]
        done = run(*options, fails=True)
    finally:
        chain.terminate()
        chain.wait(timeout=15)
    assert done.returncode == WrongChain.exit_code
    assert "chain id" in done.stderr


# --- one more party ---------------------------------------------------------------------------------------------


def test_the_registrar_admits_a_stranger_and_ends_its_membership_on_chain(site: Site, tmp_path: Path) -> None:
    stranger = create_keystore(tmp_path / "keystore.json", "secret")
    registrar = str(site.homes / "registrar")
    out = tmp_path / "admission.json"
    address = "0x" + stranger.address.hex()
    run("admit", address, "--out", str(out), "--roles", "node,auditor", "--registrar", registrar)
    enrol = load_admission(out)
    ledger = Ledger.connect(site.federation.network, site.signer("deployer"))
    ledger.register(enrol.admission, enrol.signature)
    assert ledger.member(stranger.address).roles == Role.NODE | Role.AUDITOR
    Federation(site.federation.genesis).apply(stranger.address, enrol)
    done = run("revoke", address, "--registrar", registrar, "--chain-only")
    assert "revoked on chain" in done.stderr
    assert not ledger.member(stranger.address).active


def test_only_the_registrars_home_admits(site: Site, tmp_path: Path) -> None:
    done = run(
        "admit", "0x" + "11" * 20, "--out", str(tmp_path / "a.json"), "--registrar", str(site.homes / "node-0"),
        fails=True,
    )  # fmt: skip
    assert "not the registrar's home" in done.stderr


@pytest.mark.parametrize("text", ["node,king", "", "NODE"])
def test_unknown_roles_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="no role"):
        parse_roles(text)


def test_apps_are_paths_or_modules_with_an_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert parse_apps(["a=mine.py:fn", "b=pkg.mod:fn", "c=/opt/x.py:fn"]) == {
        "a": f"{tmp_path / 'mine.py'}:fn",
        "b": "pkg.mod:fn",
        "c": "/opt/x.py:fn",
    }
    for wrong in ("a", "a=mine.py", "=mine.py:fn", "a=:fn"):
        with pytest.raises(ConfigError):
            parse_apps([wrong])


def test_ports_count_from_the_base_as_the_architecture_says() -> None:
    plan = Plan(
        name="p", rpc="", hosts="compose", replicas=4, nodes=3, paillier_bits=0, tls=True, examples_max=1, credits=0,
        apps={}, ports={},
    )  # fmt: skip
    ports = choose_ports(plan, 7000)
    assert ports["replica-3"] == 7003
    assert ports["aggregator"] == 7100
    assert ports["node-2"] == 7202
    with pytest.raises(ConfigError, match="65535"):
        choose_ports(plan, 65400)
