"""The ceremony in which a dealer makes a committee's Paillier key for one epoch, before witnesses.

    contribute  witnesses bring random bytes, which go into the dealer's own
    deal        the dealer makes the key in memory, seals a share to each replica, and writes one public transcript
    witness     whoever watched checks the transcript and signs it
    accept      each replica opens its share, checks it against the dealer's commitments, and signs
    finish      with 2f+1 acceptances the key goes into federation.json

What it gives: every replica knows that its share fits the others' and that together they open (`paillier_key`);
anybody can check the same of the commitments. What it does not give: a proof that the dealer forgot the primes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from koinon.config import FederationFile, PaillierEntry, Setting, convert, write_atomically
from koinon.encoding import (
    U8,
    U32,
    U63,
    Address,
    Digest,
    Message,
    PublicKey,
    decode,
    digest,
    encode,
    from_hex,
    keccak,
    to_hex,
)
from koinon.errors import BadPiece, BadSignature, ConfigError, KoinonError, Malformed
from koinon.privacy.mode import Entropy
from koinon.privacy.sealing import SealingKey, key_share_context, seal_to
from koinon.signing import Signer, Typed, signer_of

TRANSCRIPT_FILE, WORDS_FOLDER, SHARE_FILE = "transcript", "words", "paillier-share"
TRANSCRIPT_BYTES_MAX = 1 << 20
CONTRIBUTION_BYTES = 64
WITNESS, ACCEPTANCE = 1, 2
_REPLICAS = Meta(min_length=1, max_length=31)


class Transcript(Message, frozen=True):
    """Everything public about one ceremony. `seats` are (address, sealing key) by replica index, `boxes` their sealed
    shares, `randomness` the Keccak-256 of what each witness brought."""

    chain_id: U63
    ledger: Address
    epoch: U32
    seats: Annotated[tuple[tuple[Address, PublicKey], ...], _REPLICAS]
    public_key: bytes
    commitments: tuple[bytes, ...]
    boxes: Annotated[tuple[bytes, ...], _REPLICAS]
    randomness: tuple[Digest, ...]
    made_ms: U63


class CeremonyWord(Typed, frozen=True):
    """What a witness (kind 1) or a replica that holds its share (kind 2) signs."""

    TYPE: ClassVar[str] = "CeremonyWord(bytes32 transcript,uint8 kind)"

    transcript: Digest
    kind: U8


class WordFile(Setting, frozen=True):
    """`words/<address>-<kind>.json`."""

    transcript: str
    kind: int
    signature: str


def hold(
    federation: FederationFile, *, bits: int, contributions: Sequence[bytes], entropy: Entropy, now_ms: int
) -> Transcript:
    """The dealer's part. The primes and the shares exist in this process only; forget it afterwards."""
    from koinon.privacy.paillier_key import generate_key  # its big-number library is for this mode only

    seats = _seats(federation)
    key, shares, commitments = generate_key(bits, len(seats), _mixed(contributions, entropy), epoch=federation.epoch)
    boxes = (
        seal_to(sealing_key, share, key_share_context(key, index))
        for index, ((_, sealing_key), share) in enumerate(zip(seats, shares, strict=True))
    )
    return Transcript(
        chain_id=federation.chain_id,
        ledger=federation.domain.contract,
        epoch=federation.epoch,
        seats=seats,
        public_key=key,
        commitments=commitments,
        boxes=tuple(boxes),
        randomness=tuple(keccak(each) for each in contributions),
        made_ms=now_ms,
    )


def require_transcript(federation: FederationFile, transcript: Transcript) -> None:
    """ConfigError when it is for another federation, epoch or committee; BadPiece when its dealing is false."""
    from koinon.privacy.paillier_key import parse_key, require_dealing

    said = (transcript.chain_id, transcript.ledger, transcript.epoch, transcript.seats)
    if said != (federation.chain_id, federation.domain.contract, federation.epoch, _seats(federation)):
        raise ConfigError(
            "the ceremony was held for another federation, epoch or committee",
            hint="hold one with this federation.json",
        )
    key = parse_key(transcript.public_key)
    if (key.replicas, key.epoch) != (len(transcript.seats), transcript.epoch) or len(transcript.boxes) != key.replicas:
        raise BadPiece("the key in the transcript is of another committee or epoch")
    require_dealing(transcript.public_key, transcript.commitments)


def open_share(transcript: Transcript, index: int, key: SealingKey) -> bytes:
    """Replica `index`'s share, checked against the commitments; BadPiece when it does not open or does not fit."""
    from koinon.privacy.paillier_key import require_share

    share = key.open(transcript.boxes[index], key_share_context(transcript.public_key, index))
    require_share(transcript.public_key, transcript.commitments, index, share)
    return share


def accepted_by(federation: FederationFile, transcript: Transcript, words: Sequence[WordFile]) -> tuple[int, ...]:
    """The replicas whose signed acceptance is among `words`, ascending."""
    speakers = set(speakers_of(federation, transcript, words, ACCEPTANCE))
    return tuple(index for index, (address, _) in enumerate(transcript.seats) if address in speakers)


def speakers_of(
    federation: FederationFile, transcript: Transcript, words: Sequence[WordFile], kind: int
) -> tuple[bytes, ...]:
    """The addresses that signed a word of `kind` about this transcript; false ones are left out."""
    word, speakers = CeremonyWord(transcript=digest(transcript), kind=kind), []
    for file in words:
        if file.kind == kind and file.transcript == to_hex(word.transcript):
            try:
                speakers.append(signer_of(federation.domain, word, from_hex(file.signature)))
            except (BadSignature, Malformed):
                continue
    return tuple(sorted(set(speakers)))


def installed(federation: FederationFile, transcript: Transcript, words: Sequence[WordFile]) -> FederationFile:
    """The federation file with the ceremony's key; ConfigError before 2f+1 replicas have accepted."""
    from koinon.privacy.paillier_key import parse_key

    require_transcript(federation, transcript)
    accepted = accepted_by(federation, transcript, words)
    if len(accepted) < federation.quorum:
        raise ConfigError(
            f"{len(accepted)} replicas accepted their shares, {federation.quorum} are needed: {list(accepted)}",
            hint="on each replica: koinon ceremony accept FOLDER --home HOME",
        )
    entry = PaillierEntry(bits=parse_key(transcript.public_key).bits, public_key=to_hex(transcript.public_key))
    return msgspec.structs.replace(federation, paillier=entry)


# --- files -------------------------------------------------------------------------------------------------------


def save_transcript(folder: Path, transcript: Transcript) -> None:
    if (folder / TRANSCRIPT_FILE).exists():
        raise ConfigError(f"{folder} holds a ceremony already", hint="use another folder; a key is never dealt twice")
    write_atomically(folder / TRANSCRIPT_FILE, encode(transcript))


def load_transcript(folder: Path) -> Transcript:
    try:
        return decode(Transcript, (folder / TRANSCRIPT_FILE).read_bytes(), bytes_max=TRANSCRIPT_BYTES_MAX)
    except OSError:
        raise ConfigError(f"no ceremony in {folder}", hint="the dealer makes one with: koinon ceremony deal") from None
    except KoinonError as error:
        raise ConfigError(
            f"{folder / TRANSCRIPT_FILE} is damaged: {error.message}",
            hint="take the folder again from another party of the ceremony",
        ) from None


def sign_word(folder: Path, federation: FederationFile, transcript: Transcript, kind: int, signer: Signer) -> None:
    """Add the signer's word to the folder."""
    word = CeremonyWord(transcript=digest(transcript), kind=kind)
    signature = to_hex(signer.sign(federation.domain, word))
    file = WordFile(transcript=to_hex(word.transcript), kind=kind, signature=signature)
    name = f"{signer.address.hex()}-{kind}.json"
    write_atomically(folder / WORDS_FOLDER / name, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")


def load_words(folder: Path) -> tuple[WordFile, ...]:
    words = []
    for path in sorted((folder / WORDS_FOLDER).glob("*.json")):
        try:
            words.append(convert(WordFile, json.loads(path.read_text()), str(path)))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}", hint="take the folder again from another party of the ceremony"
            ) from None
    return tuple(words)


# --- helpers -----------------------------------------------------------------------------------------------------


def _seats(federation: FederationFile) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((from_hex(entry.address), from_hex(entry.sealing_key)) for entry in federation.replicas)


def _mixed(contributions: Sequence[bytes], entropy: Entropy) -> Entropy:
    """The dealer's randomness and every witness's: unpredictable as soon as one of them is."""
    if not contributions:
        return entropy
    brought, position = b"".join(keccak(each) for each in contributions), 0

    def mixed(count: int) -> bytes:
        nonlocal position
        position += 1
        return hashlib.shake_256(entropy(64) + brought + position.to_bytes(8, "big")).digest(count)

    return mixed
