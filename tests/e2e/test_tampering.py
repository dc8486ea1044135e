"""A finished federation's files, altered in one place: the audit ends with 1 and says where."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from koinon.audit.archives import read_archive
from koinon.encoding import encode
from koinon.frames import pack
from koinon.wire import CommittedBatch
from scripts.audit import app
from scripts.federation import ROOT, module
from tests.e2e.helpers import complete, small_federation, submit

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with chain.json; its processes are gone."""
    folder = tmp_path_factory.mktemp("finished")
    with small_federation(folder) as federation:
        complete(federation, submit(federation, "digits"))
        for node in federation.nodes:
            federation.run("node", "claim", "digits", "--home", str(federation.home(node)))
        home = str(federation.home("node-0"))
        federation.run("scripts.audit", "--home", home, "--keep-chain", str(folder / "chain.json"))
        altered = first_blob(folder, 2)
        content = altered.read_bytes()
        altered.write_bytes(flipped(content))
        code, out = audit_of(folder, "--home", home)
        assert code == 1
        assert "replica 2 has a false copy" in out.splitlines()[-1]
        altered.write_bytes(content)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to alter."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("logs", "chain", "node-*"))
    return copy


def audit_of(folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and standard output of koinon-audit, in this process (a new one imports for seconds)."""
    done = CliRunner().invoke(app, list(options or ("--offline", str(folder))))
    return done.exit_code, done.stdout


def first_lie(folder: Path) -> str:
    """The last line of an audit that has to fail."""
    code, out = audit_of(folder)
    assert code == 1, out
    return out.splitlines()[-1]


def replica(folder: Path, index: int) -> Path:
    return folder / "federation" / f"replica-{index}" / "data"


def first_blob(folder: Path, index: int) -> Path:
    """One of the update blobs (not a model: the largest files are those) of a replica."""
    return sorted((replica(folder, index) / "blobs").glob("??/*"), key=lambda path: (path.stat().st_size, path))[-1]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def rewrite_archive(folder: Path, index: int, entries: list[CommittedBatch]) -> None:
    """An archive whose checksums are all right, as a liar would write it."""
    frames = [pack(entry.sequence, encode(entry)) for entry in entries]
    (replica(folder, index) / "archive").write_bytes(b"".join(frames))


def test_the_untouched_run_passes_offline(run: Path) -> None:
    code, out = audit_of(run)
    assert code == 0, out
    assert out.splitlines()[-1].startswith("PASS")
    assert "FAIL" not in out


def test_a_flipped_byte_in_a_blob_names_its_file_and_holder(run: Path) -> None:
    blob = first_blob(run, 1)
    blob.write_bytes(flipped(blob.read_bytes()))
    lie = first_lie(run)
    assert "replica 1 has a false copy" in lie
    assert str(blob.relative_to(run)) in lie


def test_a_changed_field_of_a_log_entry_names_replica_and_entry(run: Path) -> None:
    entries, _ = read_archive(replica(run, 2) / "archive")
    at = len(entries) // 2
    batch = msgspec.structs.replace(entries[at].batch, time_ms=entries[at].batch.time_ms + 1)
    altered = [*entries]
    altered[at] = msgspec.structs.replace(entries[at], batch=batch)
    rewrite_archive(run, 2, altered)
    assert f"first lie: log certificates: replica 2, log entry {entries[at].sequence}:" in first_lie(run)


def test_a_flipped_byte_in_an_archive_is_damage_that_names_the_entry(run: Path) -> None:
    archive = replica(run, 3) / "archive"
    archive.write_bytes(flipped(archive.read_bytes()))
    lie = first_lie(run)
    assert "first lie: log certificates: replica 3: " in lie
    assert "damaged" in lie


def test_a_request_removed_from_every_archive_is_found(run: Path) -> None:
    for index in range(4):
        entries, _ = read_archive(replica(run, index) / "archive")
        rewrite_archive(run, index, [each for each in entries if each.sequence != 5])
    assert "stands where entry 5 is due" in first_lie(run)


def test_a_changed_reward_is_named(run: Path) -> None:
    path = run / "chain.json"
    facts = json.loads(path.read_bytes())
    facts["claims"][0]["amount"] += 1
    path.write_text(json.dumps(facts))
    lie = first_lie(run)
    assert "first lie: claims: claimed of 0x" in lie
    assert "is 7 in the contract, 6 by its events" in lie


def test_a_changed_rewards_root_on_chain_names_the_round(run: Path) -> None:
    path = run / "chain.json"
    facts = json.loads(path.read_bytes())
    facts["rounds"][1]["rewards_root"] = facts["rounds"][0]["rewards_root"]
    path.write_text(json.dumps(facts))
    assert "first lie: certificate on chain of round 2: rewards_root" in first_lie(run)


def test_without_the_kept_chain_the_audit_says_what_it_could_not_check(run: Path) -> None:
    (run / "chain.json").unlink()
    code, out = audit_of(run)
    assert code == 0
    assert "SKIP" in out
    assert "could not be made" in out.splitlines()[-1]


def test_a_folder_without_a_federation_is_a_wrong_option(tmp_path: Path) -> None:
    command = [*module("scripts.audit"), "--offline", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "hint:" in done.stderr
