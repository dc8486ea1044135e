"""The commands without a federation: what they make, and how they fail."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from koinon.config import (
    ContractAddresses,
    FederationFile,
    ReplicaEntry,
    load_party,
    open_keystore,
    save_federation,
)
from koinon.encoding import to_hex
from koinon.privacy import SealingKey
from koinon.signing import Signer
from node.cli import app

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "digits" / "client.py"
NOWHERE = "http://127.0.0.1:9"


def koinon(*arguments: str, home: Path | None = None) -> Result:
    chosen = ["--home", str(home)] if home else []
    return CliRunner().invoke(app, [*arguments, *chosen])


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """A federation whose chain and replicas are not there."""
    addresses = (to_hex(bytes([number]) * 20) for number in range(1, 6))
    signers = [Signer(bytes([number]) * 32) for number in range(1, 5)]
    replicas = tuple(
        ReplicaEntry(
            address=to_hex(signer.address), sealing_key=to_hex(SealingKey.derive(signer.secret, 0).public), url=NOWHERE
        )
        for signer in signers
    )
    file = FederationFile(
        version=1,
        name="test",
        chain_id=31337,
        genesis_hash=to_hex(bytes(32)),
        rpc=NOWHERE,
        contracts=ContractAddresses(*addresses),  # type: ignore[misc]
        registrar=to_hex(bytes(20)),
        epoch=0,
        replicas=replicas,
    )
    path = tmp_path / "federation.json"
    save_federation(path, file)
    return path


@pytest.fixture
def home(tmp_path: Path, federation: Path) -> Path:
    place = tmp_path / "home"
    made = koinon("init", "--federation", str(federation), "--app", f"digits={EXAMPLE}:client_fn", home=place)
    assert made.exit_code == 0, made.output
    return place


# --- init --------------------------------------------------------------------------------------------------------


def test_init_makes_a_home_that_opens(home: Path) -> None:
    config = load_party(home)
    assert (config.role, config.listen.port, config.node.apps) == ("node", 7200, {"digits": f"{EXAMPLE}:client_fn"})
    assert stat.S_IMODE((home / "keystore.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert len(open_keystore(home / "keystore.json", (home / "password").read_text().strip()).address) == 20


def test_init_prints_the_address_and_the_sealing_key_for_the_registrar(home: Path, federation: Path) -> None:
    again = koinon("init", "--federation", str(federation), "--json", home=home)
    said = json.loads(again.stdout)
    signer = open_keystore(home / "keystore.json", (home / "password").read_text().strip())
    assert said["address"] == to_hex(signer.address)
    assert said["sealing_key"] == to_hex(SealingKey.derive(signer.secret, 0).public)


def test_init_again_changes_nothing(home: Path, federation: Path) -> None:
    before = {path.name: path.read_bytes() for path in home.iterdir()}
    again = koinon("init", "--federation", str(federation), "--threads", "7", "--json", home=home)
    assert json.loads(again.stdout)["made"] == []
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_init_with_a_wrong_federation_file_makes_nothing(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"version": 1, "nmae": "x"}')
    result = koinon("init", "--federation", str(wrong), home=tmp_path / "home")
    assert result.exit_code == 2
    assert "did you mean name?" in result.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("entry", ["digits", "digits=client.py", "=x:y", "digits=no-such-file.py:client_fn"])
def test_init_refuses_an_app_that_cannot_be(tmp_path: Path, entry: str) -> None:
    result = koinon("init", "--app", entry, home=tmp_path / "home")
    assert result.exit_code == 2
    assert "--app" in result.stderr


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["register", "start", "submit", "list", "status", "log", "stop", "claim", "model"])
def test_a_command_without_a_home_says_how_to_make_one(tmp_path: Path, command: str) -> None:
    result = koinon(command, home=tmp_path / "nothing")
    assert result.exit_code == 2
    assert "no config.toml" in result.stderr
    assert "koinon init" in result.stderr
    assert "Traceback" not in result.output


def test_an_error_with_json_is_one_object_on_standard_output(tmp_path: Path) -> None:
    result = koinon("list", "--json", home=tmp_path / "nothing")
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["error"] == "config"
    assert "koinon init" in json.loads(line)["hint"]


def test_an_unreachable_committee_is_exit_code_4_and_names_the_next_step(home: Path) -> None:
    result = koinon("nodes", home=home)
    assert result.exit_code == 4
    assert "replica 0 does not answer" in result.stderr
    assert "koinon replicas" in result.stderr


def test_unreachable_replicas_are_shown(home: Path) -> None:
    result = koinon("replicas", "--json", home=home)
    assert result.exit_code == 0
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["index"], each["reachable"]) for each in said] == [(0, False), (1, False), (2, False), (3, False)]
    assert koinon("replicas", home=home).stdout.count("unreachable") == 4


def test_register_without_an_admission_names_the_registrar(home: Path) -> None:
    result = koinon("register", home=home)
    assert result.exit_code == 2
    assert "admission" in result.stderr
    assert "registrar" in result.stderr


def test_a_task_with_an_unknown_key_is_exit_code_2(home: Path, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text('app = "digits"\nrouns = 3\n')
    result = koinon("submit", str(tmp_path / "task.toml"), home=home)
    assert result.exit_code == 2
    assert "did you mean rounds?" in result.stderr


@pytest.mark.parametrize(("option", "value"), [("--mode", "secret"), ("--rounds", "0"), ("--rounds", "-3")])
def test_a_wrong_option_of_submit_fails_before_anything_is_asked(home: Path, option: str, value: str) -> None:
    result = koinon("submit", option, value, home=home)
    assert result.exit_code == 2
    assert not (home / "data").exists()


def test_an_export_format_that_is_none_is_refused_before_anything_is_asked(home: Path) -> None:
    result = koinon("model", "--output", "model.onnx", home=home)
    assert result.exit_code == 2
    assert ".safetensors" in result.stderr


def test_a_wrong_password_is_told_as_such(home: Path) -> None:
    (home / "password").write_text("another one\n")
    result = koinon("claim", "digits", home=home)
    assert result.exit_code in (2, 4)  # the committee may be asked first
    result = koinon("submit", home=home)
    assert result.exit_code == 2
    assert "is the password file right?" in result.stderr


def test_the_home_of_another_role_is_refused_by_the_agent(home: Path) -> None:
    (home / "config.toml").write_text('role = "replica"\n')
    result = koinon("start", home=home)
    assert result.exit_code == 2
    assert "home of a replica" in result.stderr


def test_a_mistyped_command_names_the_nearest_one() -> None:
    result = koinon("submti")
    assert result.exit_code == 2
    assert "submit" in result.stderr


# --- as a process ------------------------------------------------------------------------------------------------


def test_the_home_comes_from_the_environment(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node", "init", "--json"],
        cwd=ROOT,
        env={**os.environ, "KOINON_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["home"] == str(home)


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'web3', 'sklearn', 'eth_account', 'aiohttp'}"
    code = f"import sys, node.cli; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_command_that_only_looks_imports_no_key_chain_or_model_library(home: Path) -> None:
    code = (
        "import sys\nfrom node.cli import app\n"
        f"try: app(['replicas', '--json', '--home', {str(home)!r}])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'web3', 'sklearn', 'eth_account'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("set()")
