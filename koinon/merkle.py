"""Merkle trees whose proofs OpenZeppelin's MerkleProof accepts: sorted pairs, double-hashed leaves.

Pure functions over Keccak-256. A leaf is keccak(keccak(abi.encode(words))), so that no inner node can pass for a
leaf (second preimages, OpenZeppelin's MerkleProof notes). Every word is static and 32 bytes wide. A node without a
sibling is promoted unchanged. The root of no leaves is 32 zero bytes, of one leaf the leaf itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from .encoding import ZERO_DIGEST, keccak
from .errors import BadProof

Word = int | bytes
"""An unsigned integer below 2^256, 32 bytes, or a 20-byte address: what `abi.encode` pads to one word."""

PROOF_NODES_MAX = 64


def leaf(*words: Word) -> bytes:
    """keccak(keccak(abi.encode(words))) for static words. ValueError for a word that has no such encoding."""
    return keccak(keccak(b"".join(map(_word, words))))


def update_leaf(task: bytes, round: int, node: bytes, update: bytes, examples: int) -> bytes:
    """The leaf of an update: bytes32 task, uint32 round, address node, bytes32 update, uint32 examples."""
    return leaf(task, round, node, update, examples)


def reward_leaf(task: bytes, account: bytes, cumulative: int) -> bytes:
    """The leaf of one account's rewards so far: (bytes32 task, address account, uint64 cumulative)."""
    return leaf(task, account, cumulative)


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over `leaves` in the given order."""
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else ZERO_DIGEST


def proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The siblings from leaf `index` to the root. IndexError when there is no such leaf."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    siblings, level = [], list(leaves)
    while len(level) > 1:
        if (index ^ 1) < len(level):
            siblings.append(level[index ^ 1])
        level, index = _parents(level), index // 2
    return tuple(siblings)


def verify(root: bytes, leaf: bytes, proof: Sequence[bytes]) -> None:
    """BadProof unless `proof` leads from `leaf` to `root`."""
    if len(proof) > PROOF_NODES_MAX:
        raise BadProof(f"a proof of {len(proof)} nodes where at most {PROOF_NODES_MAX} are allowed")
    node = leaf
    for sibling in proof:
        node = _pair(node, sibling)
    if node != root:
        raise BadProof(f"the leaf 0x{leaf.hex()} is not under the root 0x{root.hex()}")


def _parents(level: Sequence[bytes]) -> list[bytes]:
    pairs = [_pair(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return pairs + ([level[-1]] if len(level) % 2 else [])


def _pair(a: bytes, b: bytes) -> bytes:
    return keccak(a + b if a < b else b + a)


def _word(word: Word) -> bytes:
    if isinstance(word, int):
        if not 0 <= word < 2**256:
            raise ValueError(f"{word} is not an unsigned 256-bit integer")
        return word.to_bytes(32, "big")
    if len(word) not in (20, 32):
        raise ValueError(f"a word has 20 (address) or 32 bytes, not {len(word)}")
    return word.rjust(32, b"\0")
