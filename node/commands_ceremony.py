"""`koinon ceremony`: the committee's Paillier key, dealt before witnesses (`koinon.ceremony` says what that gives)."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from koinon.errors import ConfigError, PrivacyError

from .console import HomeOption, JsonOption, command, emit, home_of, say
from .home import Home

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Make the committee's Paillier key, in public.")

Folder = Annotated[Path, typer.Argument(help="The ceremony's folder, handed from party to party.", show_default=False)]
FederationOption = Annotated[
    Path, typer.Option("--federation", help="federation.json of the committee that the key is for.")
]


@app.command()
@command
def contribute(
    out: Annotated[Path, typer.Argument(help="The file to write, for the dealer.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Bring randomness of your own: 64 bytes that go into the dealer's. Note the digest that it prints.

    The key is unpredictable as soon as one contribution is. The transcript lists every digest.

    [bold]Examples[/bold]

    koinon ceremony contribute bank-a.random
    """
    from koinon.ceremony import CONTRIBUTION_BYTES
    from koinon.config import write_atomically
    from koinon.encoding import keccak

    if out.exists():
        raise ConfigError(f"{out} exists; a contribution is used once", hint="choose another file")
    content = secrets.token_bytes(CONTRIBUTION_BYTES)
    write_atomically(out, content, mode=0o600)
    _tell({"file": str(out), "digest": keccak(content)}, as_json, lambda said: f"digest 0x{said['digest'].hex()}")


@app.command()
@command
def deal(
    folder: Folder,
    federation: FederationOption,
    bits: Annotated[int, typer.Option(help="Size of the key: 3072, or 2048 with a warning.")] = 3072,
    randomness: Annotated[list[Path] | None, typer.Option(help="A witness's contribution; repeat for several.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the key: one share sealed to each replica, and a public transcript. Nothing secret touches the disk.

    Do it on a machine that is switched off afterwards: the process saw the whole key.

    [bold]Examples[/bold]

    koinon ceremony deal ceremony-1 --federation federation.json --randomness bank-a.random --randomness bank-b.random
    """
    from koinon.ceremony import hold, save_transcript
    from koinon.config import load_federation
    from koinon.encoding import digest

    brought = [_read(path) for path in randomness or ()]
    say(f"searching two primes of {bits // 2} bits ...")
    transcript = hold(
        load_federation(federation),
        bits=bits,
        contributions=brought,
        entropy=secrets.token_bytes,
        now_ms=time.time_ns() // 1_000_000,
    )
    save_transcript(folder, transcript)
    said = {
        "transcript": digest(transcript),
        "epoch": transcript.epoch,
        "replicas": len(transcript.seats),
        "bits": bits,
    }
    _tell(said, as_json, lambda _: f"a key of {bits} bits for epoch {transcript.epoch} in {folder}")
    if not as_json:
        say(
            f"next: witnesses: koinon ceremony witness {folder};  replicas: koinon ceremony accept {folder} --home HOME"
        )


@app.command()
@command
def witness(folder: Folder, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Check the transcript and sign that you watched.

    [bold]Examples[/bold]

    koinon ceremony witness ceremony-1 --home ~/.koinon
    """
    from koinon.ceremony import WITNESS, load_transcript, require_transcript, sign_word

    place, transcript = home_of(home), load_transcript(folder)
    require_transcript(place.committees.federation, transcript)
    sign_word(folder, place.committees.federation, transcript, WITNESS, place.signer)
    _tell({"witness": place.signer.address}, as_json, lambda said: f"witnessed by 0x{said['witness'].hex()}")


@app.command()
@command
def accept(folder: Folder, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """As a replica's operator: open the replica's share, check it against the commitments, keep it, and sign.

    An earlier epoch's share is overwritten. Restart the replica when the new federation.json is in its home.

    [bold]Examples[/bold]

    koinon ceremony accept ceremony-1 --home fed/replica-0
    """
    from koinon.ceremony import ACCEPTANCE, SHARE_FILE, load_transcript, open_share, require_transcript, sign_word
    from koinon.config import write_atomically

    place, transcript = home_of(home), load_transcript(folder)
    index = _seat(place)
    require_transcript(place.committees.federation, transcript)
    open_share(transcript, index, _sealing_key(place, index))
    _overwrite(place.path / SHARE_FILE)
    write_atomically(place.path / SHARE_FILE, transcript.boxes[index], mode=0o600)
    sign_word(folder, place.committees.federation, transcript, ACCEPTANCE, place.signer)
    _tell({"replica": index}, as_json, lambda _: f"replica {index} holds its share of the key")


@app.command()
@command
def check(folder: Folder, federation: FederationOption, as_json: JsonOption = False) -> None:
    """Check a ceremony from its public files: the key, the commitments, who witnessed and which replicas accepted.

    [bold]Examples[/bold]

    koinon ceremony check ceremony-1 --federation federation.json --json
    """
    from koinon.ceremony import WITNESS, accepted_by, load_transcript, load_words, require_transcript, speakers_of
    from koinon.config import load_federation
    from koinon.encoding import digest

    file, transcript, words = load_federation(federation), load_transcript(folder), load_words(folder)
    require_transcript(file, transcript)
    said = {
        "transcript": digest(transcript),
        "epoch": transcript.epoch,
        "randomness": list(transcript.randomness),
        "witnesses": list(speakers_of(file, transcript, words, WITNESS)),
        "accepted": list(accepted_by(file, transcript, words)),
        "needed": file.quorum,
    }
    if as_json:
        emit(said)
        return
    say(f"the dealing is consistent; epoch {said['epoch']}")
    for each in transcript.randomness:
        say(f"randomness  0x{each.hex()}")
    for each in speakers_of(file, transcript, words, WITNESS):
        say(f"witness     0x{each.hex()}")
    say(f"accepted by replicas {said['accepted']}; {said['needed']} are needed")


@app.command()
@command
def finish(
    folder: Folder,
    federation: FederationOption,
    into: Annotated[
        Path | None, typer.Option(help="The federation.json that everybody holds, when the committee changed since.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the key into federation.json once 2f+1 replicas hold their shares; then hand the file to everybody.

    After a change of the committee --federation is what koinon-committee show --out wrote, and --into the file that
    the federation began with, from which everybody follows the committee.

    [bold]Examples[/bold]

    koinon ceremony finish ceremony-1 --federation federation.json
    """
    from koinon.ceremony import installed, load_transcript, load_words
    from koinon.config import load_federation, save_federation

    changed = installed(load_federation(federation), load_transcript(folder), load_words(folder))
    path = into or federation
    save_federation(path, msgspec.structs.replace(load_federation(path), paillier=changed.paillier))
    _tell({"federation": str(path), "epoch": changed.epoch}, as_json, lambda _: f"{path} has the new key")


@app.command()
@command
def erase(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """As a replica's operator: erase the replica's share, when its epoch is over.

    The bytes are overwritten before the file is removed; a journal or a copy of the disk may still hold them.

    [bold]Examples[/bold]

    koinon ceremony erase --home fed/replica-0
    """
    from koinon.ceremony import SHARE_FILE

    place = home_of(home)
    _seat(place)
    path = place.path / SHARE_FILE
    there = path.exists()
    _overwrite(path)
    path.unlink(missing_ok=True)
    _tell({"erased": there}, as_json, lambda _: f"{path} is erased" if there else f"{path} was not there")


def _tell(said: dict[str, Any], as_json: bool, sentence: Callable[[dict[str, Any]], str]) -> None:
    if as_json:
        emit(said)
    else:
        say(sentence(said))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error}",
            hint="the registrar's federation.json, as koinon-committee show --out writes it",
        ) from None


def _seat(place: Home) -> int:
    """The index of the replica that lives in this home; ConfigError when it is another party's."""
    members = place.committees.federation.replica_addresses
    if place.config.role != "replica" or place.signer.address not in members:
        raise ConfigError(f"{place.path} is no home of a replica of this committee", hint="pass it with --home")
    return members.index(place.signer.address)


def _sealing_key(place: Home, index: int) -> Any:
    """The replica's key that federation.json announces: it may be from an earlier epoch."""
    from koinon.encoding import from_hex
    from koinon.privacy.sealing import SealingKey

    federation = place.committees.federation
    announced = from_hex(federation.replicas[index].sealing_key)
    try:
        return SealingKey.find(place.signer.secret, announced, federation.epoch)
    except PrivacyError:
        raise ConfigError(
            f"the keystore is not that of replica {index} of this federation",
            hint="--home is the home of the replica that holds the seat now",
        ) from None


def _overwrite(path: Path) -> None:
    """The old content is no longer in the file, whatever becomes of its blocks."""
    if path.exists():
        with path.open("r+b") as file:
            file.write(secrets.token_bytes(path.stat().st_size))
            file.flush()
