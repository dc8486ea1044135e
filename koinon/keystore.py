"""Opening a keystore v3 (Ethereum's "Web3 Secret Storage"): scrypt or PBKDF2, AES-128-CTR, and Keccak-256 as its MAC.

eth-account reads the same files, and brings a BLS library along that takes half a second of CPU to import: more than
all else that a replica does when it starts. So that is left to those who write keystores (`koinon.config`), and the
tests hold the two together.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from .encoding import keccak

KEY_BYTES = 32
CIPHER_KEY_BYTES = 16
SCRYPT_BLOCK_BYTES = 128
MEMORY_BYTES_MAX = 1 << 29
"""What scrypt may take: geth's own files want half of it."""
PBKDF2_ROUNDS_MAX = 10_000_000
"""Some seconds; the format's own example has 262,144."""


def unlock(sealed: object, password: str) -> bytes:
    """The 32-byte secret in a parsed keystore.

    ValueError, KeyError or TypeError when it is malformed or the password is another one.
    """
    file = _lower(sealed)
    if file["version"] != 3:
        raise ValueError(f"a keystore of version {file['version']}, where 3 is read")
    crypto = _lower(file["crypto"])
    if crypto["cipher"] != "aes-128-ctr":
        raise ValueError(f"an unknown cipher: {crypto['cipher']!r}")
    key = _derived(crypto["kdf"], _lower(crypto["kdfparams"]), password.encode())
    hidden = bytes.fromhex(crypto["ciphertext"])
    if not hmac.compare_digest(keccak(key[CIPHER_KEY_BYTES:KEY_BYTES] + hidden), bytes.fromhex(crypto["mac"])):
        raise ValueError("the password is another one")
    start = bytes.fromhex(crypto["cipherparams"]["iv"])
    opened = Cipher(AES(key[:CIPHER_KEY_BYTES]), CTR(start)).decryptor().update(hidden)
    if len(opened) != KEY_BYTES:
        raise ValueError(f"a secret of {len(opened)} bytes, where a key has {KEY_BYTES}")
    return opened


def _derived(kdf: str, given: dict[str, Any], password: bytes) -> bytes:
    """The 32 bytes that the password stands for."""
    salt = bytes.fromhex(given["salt"])
    if given["dklen"] != KEY_BYTES:
        raise ValueError(f"dklen {given['dklen']}, where {KEY_BYTES} is read")
    if kdf == "scrypt":
        n, r, p = (_number(given, name, MEMORY_BYTES_MAX) for name in ("n", "r", "p"))
        if SCRYPT_BLOCK_BYTES * n * r * p > MEMORY_BYTES_MAX:
            raise ValueError(f"scrypt with n = {n}, r = {r}, p = {p} takes too much memory")
        return hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=2 * MEMORY_BYTES_MAX, dklen=KEY_BYTES)
    if kdf == "pbkdf2" and given["prf"] == "hmac-sha256":
        return hashlib.pbkdf2_hmac("sha256", password, salt, _number(given, "c", PBKDF2_ROUNDS_MAX), KEY_BYTES)
    raise ValueError(f"an unknown key derivation: {kdf!r}")


def _number(given: dict[str, Any], name: str, most: int) -> int:
    value = given[name]
    if not isinstance(value, int) or not 0 < value <= most:
        raise ValueError(f"{name} is {value!r}, where a number from 1 to {most} is read")
    return value


def _lower(raw: object) -> dict[str, Any]:
    """A JSON object with its keys in lower case: some programs write "Crypto"."""
    if not isinstance(raw, dict):
        raise TypeError("not a keystore")
    return {str(key).lower(): value for key, value in raw.items()}
