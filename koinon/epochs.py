"""Epochs of the committee: who replaces whom, as one quorum's signatures prove it. Pure; shared by all roles.

A committee changes at a checkpoint, the *handover*: its certificate's `next` is the struct hash of an `EpochChange`,
and a quorum of the old committee signed it. The contract `Committee` rebuilds the same struct hash from members,
sealing keys and urls. Who knows one epoch's members follows from there, handover by handover.

The rules of a change are the law's (`koinon.rounds.committee`); Castro & Liskov 1999 leave membership fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Protocol, Self, TypeVar

from msgspec import Meta

from .encoding import Address, Message, PublicKey, keccak
from .errors import BadSignature, Malformed, WrongEpoch
from .signing import Domain, recover, signing_digest
from .wire import CheckpointCertificate, EpochChange

SEATS_MAX = 31
"""As many as the contract installs (`Committee.SIZE_MAX`)."""
URL_CHARACTERS_MAX = 256

Url = Annotated[str, Meta(min_length=1, max_length=URL_CHARACTERS_MAX)]


class Seat(Message, frozen=True):
    """A place in a committee: who signs, the X25519 key that pieces are sealed to, and where it answers."""

    address: Address
    sealing_key: PublicKey
    url: Url


Seats = Annotated[tuple[Seat, ...], Meta(max_length=SEATS_MAX)]


class Handover(Message, frozen=True):
    """The end of an epoch, proved: its last checkpoint's certificate, and the committee that the checkpoint names."""

    certificate: CheckpointCertificate
    seats: Seats


class Following(Protocol):
    """What `follow` needs to know of a federation (koinon.config's FederationFile has it)."""

    @property
    def epoch(self) -> int: ...
    @property
    def domain(self) -> Domain: ...
    @property
    def replica_addresses(self) -> tuple[bytes, ...]: ...
    def with_committee(self, epoch: int, seats: Sequence[Seat]) -> Self: ...


F = TypeVar("F", bound=Following)


def faulty_max(n: int) -> int:
    """f: how many of `n` replicas may be faulty."""
    return (n - 1) // 3


def quorum(n: int) -> int:
    """How many of `n` replicas speak for the committee: n - f, which is 2f+1 for n = 3f+1."""
    return n - faulty_max(n)


def _word(value: int | bytes) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


def _text(value: str) -> bytes:
    raw = value.encode()
    return _word(len(raw)) + raw + bytes(-len(raw) % 32)


def members_hash(members: Iterable[bytes]) -> bytes:
    """Solidity's keccak256(abi.encodePacked(address[])): each address in 32 bytes, padded on the left."""
    return keccak(b"".join(map(_word, members)))


def contacts_hash(sealing_keys: Sequence[bytes], urls: Sequence[str]) -> bytes:
    """Solidity's keccak256(abi.encode(bytes32[] sealingKeys, string[] urls))."""
    keys = _word(len(sealing_keys)) + b"".join(sealing_keys)
    texts = [_text(url) for url in urls]
    offsets, offset = [], 32 * len(texts)
    for text in texts:
        offsets.append(_word(offset))
        offset += len(text)
    return keccak(_word(64) + _word(64 + len(keys)) + keys + _word(len(texts)) + b"".join(offsets + texts))


def epoch_change(epoch: int, seats: Sequence[Seat]) -> EpochChange:
    """What names the committee `seats` of `epoch`; its struct hash is `Checkpoint.next` at the handover."""
    contacts = contacts_hash([seat.sealing_key for seat in seats], [seat.url for seat in seats])
    return EpochChange(epoch=epoch, members=members_hash(seat.address for seat in seats), contacts=contacts)


def verify_quorum(domain: Domain, members: Sequence[bytes], message: Message, signatures: Sequence[bytes]) -> None:
    """BadSignature unless a quorum of distinct `members`, and nobody else, signed `message`."""
    if len(signatures) > len(members):
        raise BadSignature(f"{len(signatures)} signatures of a committee of {len(members)}")
    what = signing_digest(domain, message)
    signers = {recover(what, signature) for signature in signatures}
    if strangers := signers - set(members):
        raise BadSignature(f"signed by 0x{min(strangers).hex()}, who is no member of the committee")
    if len(signers) < quorum(len(members)):
        raise BadSignature(f"{len(signers)} members signed, {quorum(len(members))} are needed")


def verify_handover(domain: Domain, epoch: int, members: Sequence[bytes], handover: Handover) -> None:
    """Raise unless a quorum of `members`, the committee of `epoch`, handed over to `handover.seats`.

    WrongEpoch when it ends another epoch, Malformed when the checkpoint names another committee (or none),
    BadSignature when no quorum signed it.
    """
    checkpoint = handover.certificate.checkpoint
    if checkpoint.epoch != epoch:
        raise WrongEpoch(f"a handover of epoch {checkpoint.epoch}, not of {epoch}")
    if not handover.seats or checkpoint.next != epoch_change(epoch + 1, handover.seats).struct_hash():
        raise Malformed(f"the checkpoint of {checkpoint.sequence} does not name these seats as epoch {epoch + 1}")
    verify_quorum(domain, members, checkpoint, handover.certificate.signatures)


def follow(federation: F, handovers: Iterable[Handover]) -> F:
    """`federation` with the committee of the last epoch that `handovers` (ascending) lead to.

    Handovers of epochs that it knows already are passed over. Raises what `verify_handover` raises at the first lie,
    and WrongEpoch at a gap.
    """
    for handover in handovers:
        if handover.certificate.checkpoint.epoch < federation.epoch:
            continue
        verify_handover(federation.domain, federation.epoch, federation.replica_addresses, handover)
        federation = federation.with_committee(federation.epoch + 1, handover.seats)
    return federation
