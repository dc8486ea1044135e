"""The committed artifacts are the deployed code, and every refusal in them is provoked by some test here."""

from __future__ import annotations

from pathlib import Path

import pytest

import contracts
from koinon.artifacts import CONTRACTS, artifact
from koinon.encoding import to_hex
from koinon.records import EVENTS
from tests.contracts.world import INTERFACES, World

CODE_BYTES_MAX = 24_576
PADDING_BYTES = 33


@pytest.mark.parametrize("name", CONTRACTS)
def test_deployed_code_matches_its_artifact_whatever_its_immutables(world: World, name: str) -> None:
    code = bytes(world.evm.get_code(to_hex(world.addresses[name])) or b"")[:-PADDING_BYTES]
    assert code != artifact(name).deployed_bytecode
    assert artifact(name).matches(code)


@pytest.mark.parametrize("name", CONTRACTS)
def test_other_code_does_not_match(name: str) -> None:
    known = artifact(name)
    position = next(
        index
        for index in range(len(known.deployed_bytecode))
        if not any(start <= index < start + length for start, length in known.immutable_references)
    )
    changed = bytearray(known.deployed_bytecode)
    changed[position] ^= 1
    assert not known.matches(bytes(changed))
    assert not known.matches(known.deployed_bytecode[:-1])
    assert not known.matches(known.deployed_bytecode + b"\0")
    assert not known.matches(b"")


@pytest.mark.parametrize("name", CONTRACTS)
def test_code_fits_the_limit_of_the_evm(name: str) -> None:
    assert 0 < len(artifact(name).deployed_bytecode) <= CODE_BYTES_MAX


def test_package_contracts_hands_out_the_same_artifacts() -> None:
    assert contracts.artifact("RoundLedger") is artifact("RoundLedger")


def test_every_event_of_the_contracts_has_a_record() -> None:
    names = {entry.name for interface in INTERFACES.values() for entry in interface.events.values()}
    assert names - {"EIP712DomainChanged"} == set(EVENTS)


def test_every_own_error_is_provoked_by_a_test() -> None:
    own = {entry.name for interface in INTERFACES.values() for entry in interface.errors.values() if "__" in entry.name}
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(own) > 35
    assert {name for name in own if f'"{name}"' not in tests} == set()
