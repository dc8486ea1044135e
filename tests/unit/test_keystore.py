"""Keystores: what eth-account writes opens, what is not right doesn't."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
from eth_account import Account

from koinon.keystore import unlock

SECRET = bytes(range(32))
# The format's published test vector for PBKDF2. (Its vector for scrypt has r = 1 and n = 2^18, which RFC 7914 rules out
# and OpenSSL refuses.)
PUBLISHED_SECRET = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
PUBLISHED: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "version": 3,
}


def test_the_published_keystore_opens() -> None:
    assert unlock(PUBLISHED, "testpassword").hex() == PUBLISHED_SECRET


def test_names_in_capitals_open_too() -> None:
    assert unlock({"Crypto": PUBLISHED["crypto"], "Version": 3}, "testpassword").hex() == PUBLISHED_SECRET


@pytest.mark.parametrize(("kdf", "cost"), [("scrypt", 2**10), ("pbkdf2", 100)])
def test_what_eth_account_writes_opens(kdf: Any, cost: int) -> None:
    assert unlock(Account.encrypt(SECRET, "gehört uns", kdf=kdf, iterations=cost), "gehört uns") == SECRET


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("cipher", "aes-256-gcm"),
        ("kdf", "argon2"),
        ("mac", "00" * 32),
        ("ciphertext", "00" * 31),
        ("kdfparams", {"dklen": 16, "n": 2, "r": 8, "p": 1, "salt": "00"}),
        ("kdfparams", {"dklen": 32, "n": 2**40, "r": 8, "p": 1, "salt": "00"}),
        ("kdfparams", {"dklen": 32, "n": "2", "r": 2**40, "p": 1, "salt": "00"}),
        ("kdfparams", {"dklen": 32, "n": -2, "r": -8, "p": 1, "salt": "00"}),
        ("kdfparams", {}),
        ("kdfparams", None),
    ],
)
def test_a_malformed_keystore_does_not_open(place: str, value: object) -> None:
    sealed = copy.deepcopy(Account.encrypt(SECRET, "secret", kdf="scrypt", iterations=2**10))
    sealed["crypto"][place] = value
    with pytest.raises((ValueError, KeyError, TypeError)):
        unlock(sealed, "secret")


@pytest.mark.parametrize("rounds", [2**40, 10**30, "1000", 0])
def test_a_keystore_that_would_take_hours_to_open_does_not_open(rounds: object) -> None:
    sealed = copy.deepcopy(PUBLISHED)
    sealed["crypto"]["kdfparams"]["c"] = rounds
    with pytest.raises(ValueError, match="a number from 1 to"):
        unlock(sealed, "testpassword")


@pytest.mark.parametrize("raw", [None, [], {}, {"version": 4}, {"version": 3}])
def test_what_is_no_keystore_does_not_open(raw: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        unlock(raw, "secret")


def test_another_password_does_not_open() -> None:
    with pytest.raises(ValueError, match="password"):
        unlock(Account.encrypt(SECRET, "secret", kdf="scrypt", iterations=2**10), "Secret")


def test_a_replica_starts_without_any_chain_library() -> None:
    """One that was restarted is missed until it serves, and these take most of a second of CPU to import."""
    heavy = "eth_account", "eth_abi", "py_ecc", "web3", "torch"
    asked = f"import sys, pbft.__main__; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
