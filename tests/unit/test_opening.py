"""What one liar among the replicas may put into an opening."""

from __future__ import annotations

from koinon.config import ContractAddresses, FederationFile, ReplicaEntry
from koinon.encoding import keccak, to_hex
from koinon.opening import ClosedRound, signed_contributions
from koinon.signing import seal
from koinon.wire import Contribution
from tests.unit.rounds.world import NODES, REGISTRAR, REPLICAS, World


def federation() -> FederationFile:
    law = World().law
    return FederationFile(
        version=1, name="test", chain_id=law.genesis.chain_id, genesis_hash=to_hex(bytes(32)), rpc="",
        contracts=ContractAddresses("", "", "", to_hex(law.genesis.ledger), ""), registrar=to_hex(REGISTRAR.address),
        epoch=0, replicas=tuple(ReplicaEntry(to_hex(one.address), "", "") for one in REPLICAS),
    )  # fmt: skip


def test_a_contribution_to_another_opening_is_set_aside_and_the_others_count() -> None:
    world = World()
    world.open()
    for node in NODES:
        world.do(node, world.update(node))
    closed = ClosedRound(federation(), world.task, world.spec, world.record.rounds[0])

    def contribution(index: int, updates_root: bytes) -> bytes:
        said = Contribution(task=world.task, round=1, updates_root=updates_root, replica=index, components=())
        return seal(REPLICAS[index], closed.federation.domain, said)

    root = closed.round.updates_root
    sealed = [contribution(0, root), contribution(1, keccak(b"another set")), contribution(2, root)]
    good, bad = signed_contributions(closed, sealed)
    assert sorted(good) == [0, 2]
    assert list(bad) == ["contribution 1"]
