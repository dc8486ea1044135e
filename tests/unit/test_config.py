from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from koinon.config import (
    ContractAddresses,
    FederationFile,
    ReplicaEntry,
    create_keystore,
    load_federation,
    load_party,
    open_keystore,
    party_signer,
    save_federation,
    write_atomically,
)
from koinon.errors import ConfigError, KeystoreError, UnknownKey


def federation_file() -> FederationFile:
    zero = "0x" + "00" * 20
    return FederationFile(
        version=1,
        name="test",
        chain_id=31337,
        genesis_hash="0x" + "00" * 32,
        rpc="http://127.0.0.1:8545",
        contracts=ContractAddresses(token=zero, registry=zero, committee=zero, ledger="0x" + "22" * 20, rewards=zero),
        registrar=zero,
        epoch=0,
        replicas=tuple(
            ReplicaEntry(address=f"0x{index:040x}", sealing_key="0x" + "00" * 32, url="http://x") for index in range(4)
        ),
    )


def test_federation_survives_the_round_trip(tmp_path: Path) -> None:
    save_federation(tmp_path / "federation.json", federation_file())
    loaded = load_federation(tmp_path / "federation.json")
    assert loaded == federation_file()
    assert (loaded.faulty, loaded.quorum) == (1, 3)
    assert loaded.domain.chain_id == 31337


def test_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('role = "node"\n[listen]\nprot = 1\n')
    with pytest.raises(UnknownKey) as caught:
        load_party(tmp_path)
    assert "listen.prot" in caught.value.message
    assert caught.value.hint == "did you mean listen.port?"


def test_a_wrong_type_says_where(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('role = "node"\n[listen]\nport = "x"\n')
    with pytest.raises(ConfigError, match=r"listen\.port"):
        load_party(tmp_path)


@pytest.mark.parametrize("text", ["role = ", "\xff"])
def test_a_broken_file_is_a_config_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        load_party(tmp_path)


def test_a_missing_home_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_party(tmp_path)
    assert "koinon init" in (caught.value.hint or "")


def test_keystore_is_private_and_opens_with_its_password_only(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    signer = create_keystore(path, "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_keystore(path, "secret").address == signer.address
    with pytest.raises(KeystoreError):
        open_keystore(path, "wrong")
    with pytest.raises(KeystoreError, match="never overwritten"):
        create_keystore(path, "secret")
    (tmp_path / "config.toml").write_text('role = "node"\n')
    (tmp_path / "password").write_text("secret\n")
    assert party_signer(tmp_path, load_party(tmp_path)).address == signer.address


def test_a_truncated_keystore_is_a_keystore_error(tmp_path: Path) -> None:
    path = tmp_path / "keystore.json"
    create_keystore(path, "secret")
    path.write_text(path.read_text()[:40])
    with pytest.raises(KeystoreError):
        open_keystore(path, "secret")


def test_atomic_write_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "file", b"one")
    write_atomically(tmp_path / "a" / "file", b"two")
    assert (tmp_path / "a" / "file").read_bytes() == b"two"
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["file"]


def test_atomic_write_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that is not synced with its folder may be lost, and with it what was promised on the strength of it."""
    synced: list[tuple[bool, bool]] = []
    sync, path = os.fsync, tmp_path / "file"

    def watch(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_atomically(path, b"promise")
    assert synced == [(False, False), (True, True)]
