"""Proof that a node knows the plaintexts of its ciphertexts, all at once and for this round only.

Without it a node could copy the ciphertexts of another, re-randomised or multiplied, and have that node's update
count twice or amplified. The proof is Schnorr's (Cramer, Damgård, Nielsen 2001, "Multiparty computation from
threshold homomorphic encryption", section 6) on a random linear combination of all ciphertexts
c_i = (1 + m_i n) hs^a_i mod n^2:

    t = (1 + u n) hs^b mod n^2          u uniform mod n, b uniform below 2^BLIND_BITS
    e_i                                 128 bits each, hashed from node, round, key, ciphertexts and t
    M = u + sum e_i m_i mod n           A = b + sum e_i a_i
    verified: t * prod c_i^e_i = (1 + M n) hs^A mod n^2

Sound: Z*_(n^2) is Z_n x Z*_n, and the Z_n part of the equation says M = u' + sum e_i m_i' for the plaintexts u',
m_i' that t and the c_i really hold. Answers to as many independent challenges as there are ciphertexts are
therefore linear equations for all m_i', solvable unless a prime factor of n divides their determinant. Whoever
answers more than one challenge in 2^128 can be made to tell all m_i'. Zero-knowledge: u hides the combination
perfectly, b statistically, within 2^-128 for up to 2^24 ciphertexts (an update has fewer than 2^22). Non-
interactive by Fiat and Shamir 1986.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece

from .mode import Entropy, Setting
from .modular import product_of_powers
from .paillier_key import EXPONENT_BYTES, PublicKey

CHALLENGE_BYTES = 16
ANSWER_BYTES = EXPONENT_BYTES + CHALLENGE_BYTES + 4 + 16
"""Width of A: exponent, challenge, 24 bits of count, and 128 bits to hide them; and a byte to grow into."""
_BLIND_BYTES = ANSWER_BYTES - 1
"""b leaves A a byte to grow into, so that it never overflows its width."""


def proof_bytes(key: PublicKey) -> int:
    """The exact size of a proof: t, M and A."""
    return key.cipher_bytes + key.plain_bytes + ANSWER_BYTES


def prove_knowledge(
    setting: Setting,
    key: PublicKey,
    node: bytes,
    ciphertexts: bytes,
    plains: Sequence[mpz],
    exponents: Sequence[bytes],
    entropy: Entropy,
) -> bytes:
    """A proof for the joined `ciphertexts` of `plains` under little-endian `exponents` of hs."""
    u = mpz.from_bytes(entropy(key.plain_bytes + 16), "big") % key.n
    b = mpz.from_bytes(entropy(_BLIND_BYTES), "big")
    t = (1 + u * key.n) * gmpy2.powmod(key.hs, b, key.n2) % key.n2
    commitment = t.to_bytes(key.cipher_bytes, "big")
    challenges = _challenges(setting, node, ciphertexts, commitment, len(plains))
    scalars = [mpz.from_bytes(e, "big") for e in challenges]
    m = (u + sum(e * plain for e, plain in zip(scalars, plains, strict=True))) % key.n
    a = b + sum(e * mpz.from_bytes(x, "little") for e, x in zip(scalars, exponents, strict=True))
    return bytes(commitment + m.to_bytes(key.plain_bytes, "big") + a.to_bytes(ANSWER_BYTES, "big"))


def require_knowledge(
    setting: Setting, key: PublicKey, node: bytes, ciphertexts: bytes, values: Sequence[mpz], proof: bytes
) -> None:
    """BadPiece, naming the node, unless `proof` is one for `ciphertexts` (joined) = `values`, node and round."""
    if len(proof) != proof_bytes(key):
        raise BadPiece(f"the proof of node 0x{node.hex()} has {len(proof)} bytes instead of {proof_bytes(key)}")
    commitment, rest = proof[: key.cipher_bytes], proof[key.cipher_bytes :]
    t = mpz.from_bytes(commitment, "big")
    m = mpz.from_bytes(rest[: key.plain_bytes], "big")
    a = mpz.from_bytes(rest[key.plain_bytes :], "big")
    challenges = _challenges(setting, node, ciphertexts, commitment, len(values))
    left = t * product_of_powers(values, challenges, key.n2) % key.n2
    if not (0 < t < key.n2 and m < key.n) or left != (1 + m * key.n) * gmpy2.powmod(key.hs, a, key.n2) % key.n2:
        raise BadPiece(f"node 0x{node.hex()} does not prove that it knows what its ciphertexts hold")


def _challenges(setting: Setting, node: bytes, ciphertexts: bytes, commitment: bytes, count: int) -> list[bytes]:
    bound = ("koinon/paillier/knowledge", setting.task, setting.round, node, keccak(setting.public_key))
    seed = keccak(encode(bound) + keccak(ciphertexts) + keccak(commitment))
    stream = hashlib.shake_256(seed).digest(CHALLENGE_BYTES * count)
    return [stream[i : i + CHALLENGE_BYTES] for i in range(0, len(stream), CHALLENGE_BYTES)]
