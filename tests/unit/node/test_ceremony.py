"""A ceremony from the first contribution to the key in federation.json, and everything that must stop it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import tomli_w
from typer.testing import CliRunner, Result

from koinon.ceremony import (
    ACCEPTANCE,
    WITNESS,
    Transcript,
    accepted_by,
    hold,
    installed,
    load_transcript,
    load_words,
    open_share,
    require_transcript,
    sign_word,
)
from koinon.committees import Committees
from koinon.config import (
    ContractAddresses,
    FederationFile,
    ReplicaEntry,
    create_keystore,
    load_federation,
    save_federation,
    write_atomically,
)
from koinon.encoding import encode, from_hex, keccak, to_hex
from koinon.epochs import Handover, Seat, epoch_change
from koinon.errors import BadPiece, ConfigError
from koinon.opening import key_is_current
from koinon.privacy import SealingKey
from koinon.privacy.paillier_key import BITS_FLOOR
from koinon.signing import Signer
from koinon.wire import Checkpoint, CheckpointCertificate
from node.cli import app
from tests.unit.privacy.federation import seeded

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
REPLICAS = [Signer(bytes([number]) * 32) for number in range(1, 5)]
STRANGER = Signer(b"\x77" * 32)


def federation_of(signers: list[Signer], epoch: int = 2) -> FederationFile:
    names = ContractAddresses.__struct_fields__
    return FederationFile(
        version=1,
        name="test",
        chain_id=31337,
        genesis_hash=to_hex(bytes(32)),
        rpc="http://127.0.0.1:9",
        contracts=ContractAddresses(**{name: to_hex(bytes([place]) * 20) for place, name in enumerate(names, 1)}),
        registrar=to_hex(bytes(20)),
        epoch=epoch,
        replicas=tuple(
            ReplicaEntry(
                address=to_hex(signer.address),
                sealing_key=to_hex(SealingKey.derive(signer.secret, epoch).public),
                url=f"http://127.0.0.1:{9000 + index}",
            )
            for index, signer in enumerate(signers)
        ),
    )


FEDERATION = federation_of(REPLICAS)


@pytest.fixture(scope="module")
def transcript() -> Transcript:
    return hold(FEDERATION, bits=BITS_FLOOR, contributions=[b"a" * 64, b"b" * 64], entropy=seeded("dealer"), now_ms=1)


# --- what a transcript proves --------------------------------------------------------------------------------------


def test_every_replica_opens_the_share_that_the_dealer_committed_to(transcript: Transcript) -> None:
    require_transcript(FEDERATION, transcript)
    shares = [open_share(transcript, i, SealingKey.derive(each.secret, 2)) for i, each in enumerate(REPLICAS)]
    assert len(set(shares)) == 4


def test_nobody_opens_another_replicas_share(transcript: Transcript) -> None:
    with pytest.raises(BadPiece, match="does not open"):
        open_share(transcript, 1, SealingKey.derive(REPLICAS[0].secret, 2))


def test_the_transcript_lists_what_the_witnesses_brought(transcript: Transcript) -> None:
    assert transcript.randomness == (keccak(b"a" * 64), keccak(b"b" * 64))


def test_one_contribution_changes_the_whole_key() -> None:
    keys = {
        hold(FEDERATION, bits=BITS_FLOOR, contributions=brought, entropy=seeded("same"), now_ms=1).public_key
        for brought in ([], [b"x" * 64])
    }
    assert len(keys) == 2


@pytest.mark.parametrize("place", [1, 2])
def test_a_share_that_does_not_fit_the_commitments_is_refused(transcript: Transcript, place: int) -> None:
    changed = list(transcript.commitments)
    changed[place] = changed[0]
    false = msgspec.structs.replace(transcript, commitments=tuple(changed))
    require_transcript(FEDERATION, false)
    with pytest.raises(BadPiece, match="not the one that the dealer committed to"):
        open_share(false, 0, SealingKey.derive(REPLICAS[0].secret, 2))


def test_shares_of_an_exponent_that_takes_no_roots_are_refused(transcript: Transcript) -> None:
    false = msgspec.structs.replace(transcript, commitments=tuple(reversed(transcript.commitments)))
    with pytest.raises(BadPiece, match="no n-th roots"):
        require_transcript(FEDERATION, false)


@pytest.mark.parametrize(
    "other",
    [
        federation_of(REPLICAS, epoch=3),
        federation_of([*REPLICAS[:3], STRANGER]),
        msgspec.structs.replace(FEDERATION, chain_id=5),
    ],
    ids=["epoch", "committee", "chain"],
)
def test_a_ceremony_is_for_one_committee_and_epoch(transcript: Transcript, other: FederationFile) -> None:
    with pytest.raises(ConfigError, match="another federation, epoch or committee"):
        require_transcript(other, transcript)


def test_the_key_is_installed_when_a_quorum_holds_its_shares(transcript: Transcript, tmp_path: Path) -> None:
    for signer in (*REPLICAS[:2], STRANGER):
        sign_word(tmp_path, FEDERATION, transcript, ACCEPTANCE, signer)
    sign_word(tmp_path, FEDERATION, transcript, WITNESS, REPLICAS[3])
    with pytest.raises(ConfigError, match=r"2 replicas accepted their shares, 3 are needed: \[0, 1\]"):
        installed(FEDERATION, transcript, load_words(tmp_path))
    sign_word(tmp_path, FEDERATION, transcript, ACCEPTANCE, REPLICAS[3])
    changed = installed(FEDERATION, transcript, load_words(tmp_path))
    assert changed.paillier is not None
    assert from_hex(changed.paillier.public_key) == transcript.public_key


def test_a_word_about_another_transcript_counts_for_nothing(transcript: Transcript, tmp_path: Path) -> None:
    other = msgspec.structs.replace(transcript, made_ms=2)
    for signer in REPLICAS:
        sign_word(tmp_path, FEDERATION, other, ACCEPTANCE, signer)
    assert accepted_by(FEDERATION, transcript, load_words(tmp_path)) == ()


# --- the commands ----------------------------------------------------------------------------------------------------


@dataclass
class Site:
    folder: Path

    def home(self, index: int) -> Path:
        return self.folder / f"replica-{index}"

    def run(self, *arguments: object) -> Result:
        return CliRunner().invoke(app, ["ceremony", *map(str, arguments)])

    def json(self, *arguments: object) -> dict[str, object]:
        done = self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        said: dict[str, object] = json.loads(done.stdout)
        return said


@pytest.fixture
def site(tmp_path: Path) -> Site:
    place = Site(tmp_path)
    save_federation(tmp_path / "federation.json", FEDERATION)
    for index, signer in enumerate(REPLICAS):
        home = place.home(index)
        write_atomically(home / "config.toml", tomli_w.dumps({"role": "replica", "index": index}).encode())
        write_atomically(home / "password", b"secret\n", mode=0o600)
        create_keystore(home / "keystore.json", "secret", signer.secret)
        save_federation(home / "federation.json", FEDERATION)
    return place


def test_the_whole_ceremony_by_its_commands(site: Site) -> None:
    folder, federation, brought = site.folder / "ceremony", site.folder / "federation.json", site.folder / "a.random"
    digest = site.json("contribute", brought)["digest"]
    site.json("deal", folder, "--federation", federation, "--bits", BITS_FLOOR, "--randomness", brought)
    site.json("witness", folder, "--home", site.home(3))
    early = site.run("finish", folder, "--federation", federation)
    assert (early.exit_code, load_federation(federation).paillier) == (2, None)
    for index in range(3):
        site.json("accept", folder, "--home", site.home(index))
        assert (site.home(index) / "paillier-share").stat().st_mode & 0o777 == 0o600
    said = site.json("check", folder, "--federation", federation)
    assert said["accepted"] == [0, 1, 2]
    assert said["randomness"] == [digest]
    assert said["witnesses"] == [to_hex(REPLICAS[3].address)]
    site.json("finish", folder, "--federation", federation)
    entry = load_federation(federation).paillier
    assert entry is not None
    assert from_hex(entry.public_key) == load_transcript(folder).public_key
    again = site.run("deal", folder, "--federation", federation, "--bits", BITS_FLOOR)
    assert again.exit_code == 2
    assert "never dealt twice" in again.output


def test_after_a_change_the_key_of_the_new_committee_goes_into_the_file_that_everybody_follows_from(site: Site) -> None:
    seats = tuple(
        Seat(address=signer.address, sealing_key=SealingKey.derive(signer.secret, 3).public, url=f"http://h:{index}")
        for index, signer in enumerate(reversed(REPLICAS))
    )
    following = epoch_change(3, seats).struct_hash()
    checkpoint = Checkpoint(epoch=2, sequence=64, state=bytes(32), next=following)
    signatures = tuple(signer.sign(FEDERATION.domain, checkpoint) for signer in REPLICAS[:3])
    certificate = CheckpointCertificate(checkpoint=checkpoint, signatures=signatures)
    for index in range(4):
        assert Committees(FEDERATION, site.home(index) / "data" / "handovers").add(
            [Handover(certificate=certificate, seats=seats)]
        )
    folder, first, now = site.folder / "ceremony", site.folder / "federation.json", site.folder / "now.json"
    save_federation(now, FEDERATION.with_committee(3, seats))
    site.json("deal", folder, "--federation", now, "--bits", BITS_FLOOR)
    for index in range(3):
        site.json("accept", folder, "--home", site.home(index))
    site.json("finish", folder, "--federation", now, "--into", first)
    given = load_federation(first)
    assert given.epoch == 2
    assert not key_is_current(given)
    assert key_is_current(given.with_committee(3, seats))


def test_nothing_that_the_dealer_wrote_holds_a_share(site: Site) -> None:
    folder = site.folder / "ceremony"
    site.json("deal", folder, "--federation", site.folder / "federation.json", "--bits", BITS_FLOOR)
    transcript = load_transcript(folder)
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert written == encode(transcript)
    for index, signer in enumerate(REPLICAS):
        share = open_share(transcript, index, SealingKey.derive(signer.secret, 2))
        assert share[40:] not in written


def test_a_share_is_erased_and_a_node_has_none_to_erase(site: Site) -> None:
    path = site.home(0) / "paillier-share"
    path.write_bytes(b"a share")
    assert site.json("erase", "--home", site.home(0)) == {"erased": True}
    assert not path.exists()
    assert site.json("erase", "--home", site.home(0)) == {"erased": False}


def test_a_home_that_is_no_replicas_is_refused(site: Site) -> None:
    (site.home(0) / "config.toml").write_text('role = "node"\n')
    done = site.run("accept", site.folder / "ceremony", "--home", site.home(0))
    assert done.exit_code == 2


@pytest.mark.parametrize("command", [["witness", "nowhere"], ["check", "nowhere"], ["finish", "nowhere"]])
def test_a_folder_without_a_ceremony_is_refused_with_what_to_do(site: Site, command: list[str]) -> None:
    place = ["--home", site.home(0)] if command[0] == "witness" else ["--federation", site.folder / "federation.json"]
    done = site.run(*command, *place)
    assert done.exit_code == 2
    assert "koinon ceremony deal" in done.output
