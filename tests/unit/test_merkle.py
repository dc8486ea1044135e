"""Merkle trees: shapes at the edges, proofs that hold and proofs that don't."""

from __future__ import annotations

import pytest
from eth_abi import encode as abi_encode
from hypothesis import given
from hypothesis import strategies as st

from koinon import merkle
from koinon.encoding import keccak
from koinon.errors import BadProof

digests = st.binary(min_size=32, max_size=32)
trees = st.lists(digests, min_size=1, max_size=40, unique=True)

TASK, NODE, UPDATE = b"\x01" * 32, b"\x02" * 20, b"\x03" * 32


def test_root_of_no_leaves_is_zero() -> None:
    assert merkle.root([]) == bytes(32)


def test_root_of_one_leaf_is_the_leaf_and_its_proof_is_empty() -> None:
    leaf = merkle.leaf(7)
    assert merkle.root([leaf]) == leaf
    assert merkle.proof([leaf], 0) == ()
    merkle.verify(leaf, leaf, ())


def test_node_without_sibling_is_promoted() -> None:
    a, b, c = (merkle.leaf(i) for i in range(3))
    left = keccak(min(a, b) + max(a, b))
    assert merkle.root([a, b, c]) == keccak(min(left, c) + max(left, c))
    assert merkle.proof([a, b, c], 2) == (left,)


def test_update_leaf_is_the_double_keccak_of_its_abi_encoding() -> None:
    packed = abi_encode(["bytes32", "uint32", "address", "bytes32", "uint32"], [TASK, 5, NODE, UPDATE, 600])
    assert merkle.update_leaf(TASK, 5, NODE, UPDATE, 600) == keccak(keccak(packed))


def test_reward_leaf_is_the_double_keccak_of_its_abi_encoding() -> None:
    packed = abi_encode(["bytes32", "address", "uint64"], [TASK, NODE, 12])
    assert merkle.reward_leaf(TASK, NODE, 12) == keccak(keccak(packed))


@given(trees, st.data())
def test_every_leaf_has_a_proof_and_no_other_leaf_passes_with_it(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    root, proof = merkle.root(leaves), merkle.proof(leaves, index)
    merkle.verify(root, leaves[index], proof)
    with pytest.raises(BadProof):
        merkle.verify(root, keccak(leaves[index]), proof)


@given(trees, digests)
def test_longer_proof_is_refused(leaves: list[bytes], extra: bytes) -> None:
    with pytest.raises(BadProof):
        merkle.verify(merkle.root(leaves), leaves[0], (*merkle.proof(leaves, 0), extra))


def test_proof_above_the_bound_is_refused_before_hashing() -> None:
    with pytest.raises(BadProof, match="at most 64"):
        merkle.verify(bytes(32), bytes(32), (bytes(32),) * 65)


@pytest.mark.parametrize("word", [-1, 2**256, b"short", bytes(33)])
def test_word_without_a_static_encoding_is_a_value_error(word: int | bytes) -> None:
    with pytest.raises(ValueError, match=r"word|integer"):
        merkle.leaf(word)


@pytest.mark.parametrize("index", [-1, 2])
def test_proof_of_a_leaf_that_is_not_there_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        merkle.proof([bytes(32), b"\x01" * 32], index)
