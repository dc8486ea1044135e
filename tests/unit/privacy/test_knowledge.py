"""Whoever submits ciphertexts must know what is in them: copies of another node's update are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gmpy2
import pytest
from gmpy2 import mpz

from koinon.errors import BadPiece
from koinon.privacy.knowledge import ANSWER_BYTES, proof_bytes
from koinon.privacy.paillier import Paillier, ciphertexts_of
from koinon.privacy.paillier_key import key_of
from tests.unit.privacy.federation import Federation, keys, node, random_updates

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
PAILLIER = Paillier()
WIDTH = 512
"""Bytes of a ciphertext."""


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation("paillier", random_updates(2, 250))


def refused(federation: Federation, public: bytes, *, by: int = 1) -> None:
    with pytest.raises(BadPiece, match=f"node 0x{node(by).hex()} does not prove"):
        PAILLIER.check(federation.setting, node(by), public, 0, b"")


def test_an_honest_node_convinces_every_replica(federation: Federation) -> None:
    for name, protected in federation.protected.items():
        for replica in range(4):
            PAILLIER.check(federation.setting, name, protected.public, replica, b"")


def test_another_nodes_update_is_refused_as_it_is(federation: Federation) -> None:
    refused(federation, federation.publics[node(0)])


Change = Callable[[mpz, mpz, mpz], mpz]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c, hs, n2: c * gmpy2.powmod(hs, 12345, n2) % n2, id="re-randomised"),
        pytest.param(lambda c, hs, n2: gmpy2.powmod(c, 3, n2), id="amplified"),
        pytest.param(lambda c, hs, n2: gmpy2.invert(c, n2), id="negated"),
    ],
)
def test_a_changed_copy_cannot_keep_its_proof(federation: Federation, change: Change) -> None:
    key, public = key_of(federation.setting), federation.publics[node(0)]
    changed = [change(c, key.hs, key.n2) for c in ciphertexts_of(federation.setting, node(0), public)]
    joined = b"".join(c.to_bytes(WIDTH, "big") for c in changed)
    refused(federation, joined + public[len(joined) :])
    refused(federation, joined + public[len(joined) :], by=0)


def test_one_ciphertext_of_another_node_among_ones_own_is_refused(federation: Federation) -> None:
    mine, theirs = federation.publics[node(1)], federation.publics[node(0)]
    refused(federation, theirs[:WIDTH] + mine[WIDTH:])


def test_a_proof_is_for_one_round_task_and_key(federation: Federation) -> None:
    public = federation.publics[node(1)]
    other_key = keys(7).public_key
    for setting in (
        replace(federation.setting, round=4),
        replace(federation.setting, task=b"\x01" * 32),
        replace(federation.setting, public_key=other_key, replicas=7),
    ):
        with pytest.raises(BadPiece):
            PAILLIER.check(setting, node(1), public, 0, b"")


def test_every_field_of_a_proof_counts(federation: Federation) -> None:
    public = bytearray(federation.publics[node(1)])
    size = len(public) - proof_bytes(key_of(federation.setting))
    for place in (size, size + WIDTH - 1, size + WIDTH, len(public) - ANSWER_BYTES - 1, len(public) - 1):
        changed = bytearray(public)
        changed[place] ^= 1
        refused(federation, bytes(changed))


@pytest.mark.parametrize("cut", [1, ANSWER_BYTES, 3 * WIDTH // 2 + ANSWER_BYTES])
def test_a_cut_proof_is_refused_for_its_size(federation: Federation, cut: int) -> None:
    public = federation.publics[node(1)]
    with pytest.raises(BadPiece, match="bytes instead of"):
        PAILLIER.check(federation.setting, node(1), public[:-cut], 0, b"")


def test_zero_answers_prove_nothing(federation: Federation) -> None:
    key, public = key_of(federation.setting), federation.publics[node(1)]
    refused(federation, public[: -proof_bytes(key)] + bytes(proof_bytes(key)))
