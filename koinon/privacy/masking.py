"""Pairwise masks that cancel in a sum, and the shares that repair it when nodes drop out.

Bonawitz et al. 2017, "Practical secure aggregation for privacy-preserving machine learning", section 4, figure 4:

    announce   node i makes a key pair for this round and a self-mask seed b_i, publishes the public key and a
               commitment to b_i, and Shamir-shares both secrets among the cohort, sealed to each member's own key
    mask       y_i = x_i + PRG(b_i) + sum over j of ± PRG(s_ij) mod 2^32, s_ij from the key agreement of i and j
    reveal     for each announcer, either a share of b_i (its update was accepted) or of its key (it was not)
    unmask     t shares give b_i of those in the sum, and the keys of those who dropped out, hence their s_ij

A node reveals one kind of share for each announcer and round: who saw both could unmask that node. The ordered log
fixes the accepted set before anybody reveals, and t nodes sign it (koinon.rounds.vouching, which also says whose keys
these are). t = floor(2m / 3) + 1 of the m invited: two sets of t signers share an honest one unless a third collude.

Every share is committed to by its digest, so that a false one is refused by name; a dealer whose shares do not give
what it announced is named too. Secrets are 31 bytes, shared over the prime field of 2^255 - 19 (Shamir 1979).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from koinon.encoding import Message, decode, encode
from koinon.errors import BadPiece, CannotOpen, KoinonError, PrivacyError
from koinon.wire import MaskAnnouncement, MaskReveal, SealedShares, seed_commitment, share_digest

from .keystream import Ring, apply_keystream
from .mode import Entropy
from .sealing import SEALED_EXTRA_BYTES, SealingKey, seal_to

PRIME = 2**255 - 19
SECRET_BYTES, SHARE_BYTES = 31, 32
SEED, KEY = 0, 1
"""Which of a node's two secrets a share is of."""
Cohort = Mapping[bytes, bytes]
"""Every invited node's 32-byte X25519 sealing key by address, ascending."""


class MaskSecrets(Message, frozen=True):
    """What a node keeps from its announcement until the round is over; never sent, never logged."""

    key: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "MaskSecrets()"


@dataclass(frozen=True)
class Masks:
    """One round's masks as the log has them: who announced what, and what was revealed afterwards."""

    task: bytes
    round: int
    cohort: tuple[bytes, ...]
    announced: Mapping[bytes, MaskAnnouncement]
    revealed: Mapping[bytes, MaskReveal] = field(default_factory=dict)

    @property
    def threshold(self) -> int:
        return threshold(len(self.cohort))


def threshold(invited: int) -> int:
    """How many of the invited nodes must submit and reveal."""
    return 2 * invited // 3 + 1


# --- announce ------------------------------------------------------------------------------------------------------


def announce(
    task: bytes, round_: int, node: bytes, cohort: Cohort, entropy: Entropy
) -> tuple[MaskSecrets, MaskAnnouncement]:
    """A node's secrets for the round, and what it publishes."""
    secrets = MaskSecrets(key=entropy(SECRET_BYTES), seed=entropy(SECRET_BYTES))
    members = sorted(cohort)
    needed = threshold(len(members))
    shares = list(
        zip(
            _split(secrets.seed, needed, len(members), entropy),
            _split(secrets.key, needed, len(members), entropy),
            strict=True,
        )
    )
    sealed = tuple(
        SealedShares(
            seed=share_digest(task, round_, node, holder, SEED, seed),
            key=share_digest(task, round_, node, holder, KEY, key),
            box=_boxed(cohort[holder], seed + key, _context(task, round_, node, holder), entropy),
        )
        for holder, (seed, key) in zip(members, shares, strict=True)
    )
    public = _private_key(secrets.key).public_key().public_bytes_raw()
    commitment = seed_commitment(task, round_, node, secrets.seed)
    return secrets, MaskAnnouncement(public_key=public, seed_commitment=commitment, shares=sealed)


def usable_key(public: bytes) -> bool:
    """Whether a key agreement with this X25519 key is one: a point of small order would give everybody zero."""
    try:
        _private_key(bytes(SECRET_BYTES)).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


# --- mask ----------------------------------------------------------------------------------------------------------


def add_masks(total: Ring, masks: Masks, node: bytes, secrets: MaskSecrets) -> None:
    """Turn a node's vector (uint32[d], in place) into what it may publish; BadPiece without its announcement."""
    announced = masks.announced.get(node)
    own = _private_key(secrets.key)
    if announced is None or announced.public_key != own.public_key().public_bytes_raw():
        raise BadPiece(f"node 0x{node.hex()} did not announce these masks for round {masks.round}")
    apply_keystream(total, _stream_key(masks, secrets.seed, b"self"), np.add)
    for other, said in masks.announced.items():
        if other != node:
            pair = _pair_key(masks, own, said.public_key, node, other)
            apply_keystream(total, pair, np.add if node < other else np.subtract)


# --- reveal --------------------------------------------------------------------------------------------------------


def reveal(masks: Masks, node: bytes, sealing: SealingKey, accepted: Sequence[bytes]) -> MaskReveal:
    """For each announcer, ascending: this node's share of its seed if it was accepted, else of its key.

    A box that does not open, or holds another share than was announced, yields b"": its dealer cheated.
    """
    place, kept = masks.cohort.index(node), set(accepted)
    shares = []
    for dealer, said in sorted(masks.announced.items()):
        kind = SEED if dealer in kept else KEY
        try:
            opened = sealing.open(said.shares[place].box, _context(masks.task, masks.round, dealer, node))
        except KoinonError:
            opened = b""
        share = opened[SHARE_BYTES * kind : SHARE_BYTES * (kind + 1)]
        shares.append(share if fits(masks, dealer, node, kind, share) else b"")
    return MaskReveal(shares=tuple(shares))


def fits(masks: Masks, dealer: bytes, holder: bytes, kind: int, share: bytes) -> bool:
    """Whether `share` is the one that `dealer` announced for `holder`."""
    announced = masks.announced[dealer].shares[masks.cohort.index(holder)]
    expected = announced.seed if kind == SEED else announced.key
    return hmac.compare_digest(share_digest(masks.task, masks.round, dealer, holder, kind, share), expected)


# --- unmask --------------------------------------------------------------------------------------------------------


def remove_masks(total: Ring, masks: Masks, accepted: Sequence[bytes]) -> None:
    """Take all masks off the sum of the accepted vectors (uint32[d], in place).

    CannotOpen while fewer than t nodes revealed, and by name when a dealer's shares do not give what it announced.
    """
    if len(masks.revealed) < masks.threshold:
        raise CannotOpen(f"{len(masks.revealed)} nodes revealed their shares, {masks.threshold} are needed")
    kept = set(accepted)
    for dealer, said in sorted(masks.announced.items()):
        if dealer in kept:
            seed = _secret(masks, dealer, SEED)
            if seed_commitment(masks.task, masks.round, dealer, seed) != said.seed_commitment:
                raise _false_dealer(dealer)
            apply_keystream(total, _stream_key(masks, seed, b"self"), np.subtract)
        else:
            key = _private_key(_secret(masks, dealer, KEY))
            if key.public_key().public_bytes_raw() != said.public_key:
                raise _false_dealer(dealer)
            for other in sorted(kept):
                pair = _pair_key(masks, key, masks.announced[other].public_key, dealer, other)
                apply_keystream(total, pair, np.subtract if other < dealer else np.add)


def _secret(masks: Masks, dealer: bytes, kind: int) -> bytes:
    """One of the dealer's secrets from the first t true shares that were revealed."""
    place = sorted(masks.announced).index(dealer)
    points: dict[int, int] = {}
    for holder, said in sorted(masks.revealed.items()):
        if place < len(said.shares) and fits(masks, dealer, holder, kind, said.shares[place]):
            points[masks.cohort.index(holder) + 1] = int.from_bytes(said.shares[place], "big")
        if len(points) == masks.threshold:
            value = _at_zero(points)
            if value >> (8 * SECRET_BYTES):
                raise _false_dealer(dealer)
            return value.to_bytes(SECRET_BYTES, "big")
    raise CannotOpen(
        f"{len(points)} shares of node 0x{dealer.hex()} are there, {masks.threshold} are needed",
        hint="wait for more nodes, or the round ends without a model",
    )


def _false_dealer(dealer: bytes) -> CannotOpen:
    return CannotOpen(f"the shares that node 0x{dealer.hex()} dealt do not give the secret that it announced")


# --- helpers -------------------------------------------------------------------------------------------------------


def _boxed(public: bytes, shares: bytes, context: bytes, entropy: Entropy) -> bytes:
    """The sealed shares; for a member whose sealing key is none, noise: its own fault must not stop the others."""
    try:
        return seal_to(public, shares, context)
    except PrivacyError:
        return entropy(len(shares) + SEALED_EXTRA_BYTES)


def _split(secret: bytes, needed: int, count: int, entropy: Entropy) -> list[bytes]:
    """`count` shares of which any `needed` give the secret and fewer give nothing."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(entropy(48), "big") % PRIME for _ in range(needed - 1)]
    shares = []
    for point in range(1, count + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * point + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def _at_zero(points: Mapping[int, int]) -> int:
    """The polynomial through `points`, at zero (Lagrange)."""
    total = 0
    for x, y in points.items():
        above = below = 1
        for other in points:
            if other != x:
                above, below = above * other % PRIME, below * (other - x) % PRIME
        total = (total + y * above * pow(below, -1, PRIME)) % PRIME
    return total


def _private_key(secret: bytes) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret.ljust(32, b"\x40"))


def _pair_key(masks: Masks, own: X25519PrivateKey, public: bytes, one: bytes, other: bytes) -> bytes:
    agreed = own.exchange(X25519PublicKey.from_public_bytes(public))
    return _stream_key(masks, agreed, encode(sorted((one, other))))


def _stream_key(masks: Masks, secret: bytes, label: bytes) -> bytes:
    info = encode(("koinon/masked/stream", masks.task, masks.round, label))
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def _context(task: bytes, round_: int, dealer: bytes, holder: bytes) -> bytes:
    return encode(("koinon/masked/share", task, round_, dealer, holder))


def secrets_from(data: bytes) -> MaskSecrets:
    """What `encode(secrets)` kept on disk; Malformed when it is something else."""
    return decode(MaskSecrets, data)
