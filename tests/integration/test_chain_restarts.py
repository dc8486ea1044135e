"""The development chain over several restarts: a second one shows what a first does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from koinon.errors import ConfigError
from koinon.ledger import Ledger
from koinon.signing import Signer
from scripts import chain
from tests.integration.chains import require_engine, running_chain

PAYER = Signer(b"\x07" * 32)


def test_anvil_keeps_its_genesis_over_many_restarts(tmp_path: Path) -> None:
    require_engine("anvil")
    found = []
    for _ in range(5):
        with running_chain("anvil", "--data", str(tmp_path)) as rpc:
            found.append(Ledger.identify(rpc).genesis_hash)
            Ledger(Ledger.identify(rpc), PAYER).fund([PAYER.address], 10**18)
    assert found == found[:1] * 5


def state(*blocks: tuple[int, int]) -> str:
    headers = [{"header": {"number": hex(number), "timestamp": hex(time)}} for number, time in blocks]
    return json.dumps({"blocks": headers, "best_block_number": len(blocks)})


def test_only_the_oldest_genesis_stays_in_the_state(tmp_path: Path) -> None:
    file = tmp_path / chain.STATE_FILE
    file.write_text(state((2, 12), (0, 30), (1, 11), (0, 10), (0, 20)))
    chain.keep_first_genesis(file)
    kept = json.loads(file.read_text())
    assert kept == json.loads(state((2, 12), (1, 11), (0, 10))) | {"best_block_number": 5}


def test_state_with_one_genesis_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / chain.STATE_FILE
    file.write_text(state((1, 11), (0, 10)))
    before = file.stat().st_mtime_ns
    chain.keep_first_genesis(file)
    assert file.stat().st_mtime_ns == before
    chain.keep_first_genesis(tmp_path / "nothing there yet")


@pytest.mark.parametrize("text", ["{", "[]", '{"blocks": [{}]}'])
def test_torn_state_is_named_and_not_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / chain.STATE_FILE
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"anvil\.json cannot be read"):
        chain.keep_first_genesis(file)
    assert file.read_text() == text
