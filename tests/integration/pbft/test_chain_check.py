"""A replica compares the chain's committee with its federation.json, on a real chain."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from koinon.config import ContractAddresses, FederationFile, save_federation
from koinon.encoding import from_hex, to_hex
from koinon.errors import WrongChain
from koinon.ledger import CommitteeMember, Ledger
from koinon.signing import Signer
from pbft.chain import ChainCheck
from tests.integration.chains import free_port, running_chain
from tests.integration.committee import Committee


@pytest.fixture(scope="module")
def rpc() -> Iterator[str]:
    with running_chain("embedded") as address:
        yield address


def deployed(rpc: str, federation: FederationFile, members: list[bytes]) -> FederationFile:
    """`federation` on a chain whose committee is `members`."""
    made = Ledger.deploy(
        rpc,
        Signer(secrets.token_bytes(32)),
        from_hex(federation.registrar),
        [CommitteeMember(address, bytes([1]) * 32, "http://127.0.0.1:1") for address in members],
    )
    at = made.contracts
    return msgspec.structs.replace(
        federation,
        rpc=rpc,
        chain_id=made.chain_id,
        genesis_hash=to_hex(made.genesis_hash),
        contracts=ContractAddresses(*map(to_hex, (at.token, at.registry, at.committee, at.ledger, at.rewards))),  # type: ignore[misc]
    )


def test_the_committee_of_the_file_is_verified_and_another_one_is_the_wrong_chain(tmp_path: Path, rpc: str) -> None:
    with Committee(tmp_path) as committee:
        addresses = list(committee.federation.replica_addresses)
        good = ChainCheck(deployed(rpc, committee.federation, addresses))
        assert asyncio.run(good.check())
        assert good.state == "verified"
        with pytest.raises(WrongChain):
            asyncio.run(ChainCheck(deployed(rpc, committee.federation, addresses[::-1])).check())


def test_a_chain_that_does_not_answer_is_told_and_no_reason_to_stop(tmp_path: Path) -> None:
    with Committee(tmp_path) as committee:
        silent = msgspec.structs.replace(committee.federation, rpc=f"http://127.0.0.1:{free_port()}")
        check = ChainCheck(silent)
        assert not asyncio.run(check.check())
        assert check.state == "unreachable"


def test_a_replica_of_another_committee_than_the_chains_ends_and_says_why(tmp_path: Path, rpc: str) -> None:
    with Committee(tmp_path) as committee:
        strangers = [secrets.token_bytes(20) for _ in range(4)]
        wrong = deployed(rpc, committee.federation, strangers)
        save_federation(committee.home(0) / "federation.json", wrong)
        committee.start(0)
        assert committee.wait(0) == WrongChain.exit_code
        assert "is not the one of federation.json" in committee.log(0)
