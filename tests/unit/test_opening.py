"""What one liar among the replicas may put into an opening, and what binds a round's updates."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from koinon.config import ContractAddresses, FederationFile, PaillierEntry, ReplicaEntry
from koinon.encoding import encode, keccak, to_hex
from koinon.errors import BadPiece, KeyOutdated
from koinon.learning.parameters import Parameters, from_arrays
from koinon.opening import (
    ClosedRound,
    committee_key,
    key_is_current,
    last_step,
    public_part,
    round_setting,
    signed_contributions,
)
from koinon.privacy.mode import Claim
from koinon.privacy.paillier_key import PaillierKey
from koinon.privacy.validation import Alignment
from koinon.signing import seal
from koinon.wire import Contribution, Update
from tests.unit.rounds.world import NODES, REGISTRAR, REPLICAS, World

NODE, OTHER = (node.address for node in NODES[:2])


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


def test_an_accepted_update_that_claims_another_sample_count_than_the_log_is_refused() -> None:
    world = World()
    world.open()
    place = {"task": world.task, "round": 1, "node": NODE, "mode": "shares", "public": b"public"}
    true, false = (encode(Update(**place, examples=examples)) for examples in (40, 41))
    for blob in (true, false):  # nobody said yet which
        assert public_part(ClosedRound(federation(), world.task, world.spec, world.record.rounds[0]), NODE, blob)
    for node in NODES:
        world.do(node, world.update(node, examples=40))
    closed = ClosedRound(federation(), world.task, world.spec, world.record.rounds[0])
    assert public_part(closed, NODE, true) == b"public"
    with pytest.raises(BadPiece, match="claims 41 samples, and 40 in the log"):
        public_part(closed, NODE, false)
    assert closed.setting().claim(NODE).examples == 40


def models(*rows: list[float]) -> list[Parameters]:
    return [from_arrays([np.array(row, dtype=np.float32)]) for row in rows]


def test_the_last_step_is_scaled_to_its_largest_coordinate() -> None:
    parent, previous = models([1.0, 2.0, -4.0, 0.0], [0.0, 2.0, 0.0, -1.0])
    step = np.frombuffer(last_step(parent, previous), dtype="<i2")
    np.testing.assert_array_equal(step, [8192, 0, -32767, 8192])


def test_models_that_did_not_move_give_no_direction() -> None:
    still, same = models([1.0, 2.0], [1.0, 2.0])
    assert last_step(still, same) == bytes(4)


def test_the_least_inner_product_follows_from_the_bound_and_the_steps_length() -> None:
    world = World()
    world.open()
    round_ = world.record.rounds[0]
    spec = msgspec.structs.replace(world.spec, dimension=2, norm_bound=1_000_000, aligned=-250_000)
    direction = np.array([3, 4], dtype="<i2").tobytes()
    setting = round_setting(federation(), world.task, spec, round_, {NODE: 100, OTHER: 50}, direction=direction)
    assert setting.alignment == Alignment(direction, -40_959)  # floor(-0.25 * 32767 * 5)
    assert setting.claim(NODE) == Claim(100, 32_767, -40_959)
    assert setting.claim(OTHER) == Claim(50, 2 + 16_383, -20_482)  # 2 + ceil((32767 - 2) / 2)
    assert round_setting(federation(), world.task, spec, round_, {}).alignment == Alignment(bytes(4), 0)
    assert round_setting(federation(), world.task, world.spec, round_, {}).alignment is None
    assert not ClosedRound(federation(), world.task, spec, round_).wants_direction
    moved = msgspec.structs.replace(round_, previous=keccak(b"before"))
    assert ClosedRound(federation(), world.task, spec, moved).wants_direction


@pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
def test_a_paillier_key_of_another_committee_is_refused() -> None:
    bits = 2048
    n, hs = (1 << (bits - 1)) + 1, 2
    key = PaillierKey(bits=bits, replicas=4, epoch=0, n=n.to_bytes(bits // 8, "big"), hs=hs.to_bytes(bits // 4, "big"))
    entry = PaillierEntry(bits=bits, public_key=to_hex(encode(key)))
    first = msgspec.structs.replace(federation(), paillier=entry)
    assert committee_key(first) == encode(key)
    later = msgspec.structs.replace(first, epoch=1)
    assert not key_is_current(later)
    with pytest.raises(KeyOutdated, match="another committee"):
        committee_key(later)
    assert committee_key(federation()) == b""
