"""The bridge to stock `phe`, and the only file that imports it (phe is GPL-3.0; the mode works with ordinary
Paillier ciphertexts, which phe adds, decrypts and re-encrypts).
"""

from __future__ import annotations

from collections.abc import Sequence

from gmpy2 import mpz
from phe import paillier as phe

from koinon.errors import CannotOpen

from .paillier_key import PublicKey


def phe_key(key: PublicKey) -> phe.PaillierPublicKey:
    """The key as phe knows it."""
    return phe.PaillierPublicKey(n=int(key.n))


def phe_numbers(key: PublicKey, ciphertexts: Sequence[mpz]) -> list[phe.EncryptedNumber]:
    """Ciphertexts as phe's encrypted integers (exponent 0), ready to be added or decrypted."""
    public = phe_key(key)
    return [phe.EncryptedNumber(public, int(c), 0) for c in ciphertexts]


def require_encryption(key: PublicKey, ciphertext: mpz, plaintext: mpz, randomness: mpz) -> None:
    """CannotOpen unless stock phe, encrypting `plaintext` with `randomness`, arrives at `ciphertext`."""
    if phe_key(key).raw_encrypt(int(plaintext), r_value=int(randomness)) != ciphertext:
        raise CannotOpen("the witness does not re-encrypt to the sum of the accepted ciphertexts")
