"""A chain of each kind, once a module, with the contracts on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from koinon.ledger import Ledger, Network
from koinon.wire import (
    Role,
)
from tests.integration.chains import require_engine, running_chain

from .world import MEMBERS, OPERATOR, admit


@pytest.fixture(scope="module", params=["anvil", "embedded"])
def rpc(request: pytest.FixtureRequest) -> Iterator[str]:
    require_engine(request.param)
    with running_chain(request.param) as address:
        yield address


@pytest.fixture(scope="module")
def network(rpc: str) -> Network:
    made = Ledger.deploy(rpc, OPERATOR, OPERATOR.address, MEMBERS)
    return Network(rpc, made.chain_id, made.genesis_hash, made.contracts)


@pytest.fixture(scope="module")
def ledger(network: Network) -> Ledger:
    """The operator: deployer, registrar, aggregator and submitter in one."""
    operator = Ledger.connect(network, OPERATOR)
    admit(operator, OPERATOR.address, Role.AGGREGATOR | Role.NODE)
    return operator
