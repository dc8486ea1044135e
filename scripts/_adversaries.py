"""What each adversary has of a round, and its best guesses of one node's update from that.

A `View` holds bytes that the adversary really has, and nothing else; `guesses` makes vectors from it, float64[d] in
units of the update, by the simple attacks that fit the mode: read what is there, take off every mask that is known, put
the round's published sums in place of what is missing. A guess may be noise; that is for the caller to find out.

Bytes that no such attack uses are not tried further: proofs of the norm and of plaintext knowledge (they are
zero-knowledge by their own arguments: docs/validation.md), lengths and times of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from gmpy2 import invert, mpz, powmod

from koinon.encoding import keccak
from koinon.privacy import Held, SealingKey, Setting, Transcript, Values, mode, piece_context
from koinon.privacy.keystream import Ring, apply_keystream
from koinon.privacy.masking import Masks, MaskSecrets, add_masks, remove_masks, reveal
from koinon.privacy.packing import Slots
from koinon.privacy.paillier import ciphertexts_of, openings
from koinon.privacy.paillier_key import key_of
from koinon.privacy.plain import SALT_BYTES, unpack
from koinon.privacy.sealing import SEALED_EXTRA_BYTES
from koinon.privacy.shares import SEED_BYTES, subsets
from koinon.privacy.validation import Bound
from koinon.privacy.validation.masks import Planes, expand
from koinon.wire import MaskReveal

from ._victims import Floats, Kept, Sent

BOX_HEAD_BYTES = 32
"""The ephemeral key in front of a sealed box's ciphertext."""


@dataclass(frozen=True)
class View:
    """`pieces` and `key_shares` are of colluding replicas (replica -> node -> piece), `own` of colluding nodes."""

    setting: Setting
    publics: Mapping[bytes, bytes]
    boxes: Mapping[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    sums: Mapping[int, bytes] = field(default_factory=dict)
    total: Values | None = None
    witness: bytes = b""
    pieces: Mapping[int, Mapping[bytes, bytes]] = field(default_factory=dict)
    key_shares: Mapping[int, bytes] = field(default_factory=dict)
    own: Mapping[bytes, Values] = field(default_factory=dict)
    masks: Mapping[bytes, MaskSecrets] = field(default_factory=dict)
    sealing: Mapping[bytes, SealingKey] = field(default_factory=dict)


# --- who sees what -------------------------------------------------------------------------------------------------


def edge_server(sent: Sent) -> View:
    """Relays what its nodes send. It has no key, and does not look at the log."""
    return View(replace(sent.setting, masks=None), sent.publics, boxes=sent.boxes)


def outsider(sent: Sent) -> View:
    """Two consecutive certified models: their difference is the round's sum."""
    return View(replace(sent.setting, masks=None), {}, total=sent.total)


def aggregator(sent: Sent) -> View:
    """Everything public: blobs, log, component sums, opening, witness."""
    return View(sent.setting, sent.publics, sums=sent.sums, total=sent.total, witness=sent.witness)


def coalition(sent: Sent, kept: Kept, replicas: Sequence[int] = (), nodes: Sequence[bytes] = ()) -> View:
    """What the aggregator sees, and what these replicas and nodes have: the replicas open their boxes."""
    task, number = sent.setting.task, sent.setting.round
    pieces: dict[int, dict[bytes, bytes]] = {replica: {} for replica in replicas}
    for replica in replicas:
        for node, boxes in sent.boxes.items():
            if boxes:
                context = piece_context(task, number, node, replica)
                pieces[replica][node] = kept.sealing[replica].open(boxes[replica], context)
    return replace(
        aggregator(sent),
        pieces=pieces,
        key_shares={replica: kept.key_shares[replica] for replica in replicas if kept.key_shares},
        own={node: kept.values[node] for node in nodes},
        masks={node: kept.masks[node] for node in nodes if kept.masks},
        sealing={node: kept.node_sealing[node] for node in nodes if kept.node_sealing},
    )


# --- guesses -------------------------------------------------------------------------------------------------------


def guesses(name: str, view: View, victim: bytes) -> Iterator[tuple[str, Floats]]:
    """(what was tried, the update that it gives), for the mode called `name`."""
    if view.total is not None:
        yield "the sum less what is ours", (view.total - sum(view.own.values())).astype(np.float64)
    if victim in view.publics:
        yield "public bytes as numbers", numbers(view.publics[victim], view.setting, "<i2")
        for tried, update in _BY_MODE[name](view, victim):
            yield tried, np.asarray(update, dtype=np.float64)


def numbers(data: bytes, setting: Setting, dtype: str) -> Floats:
    """The bytes as d numbers, repeated when there are too few."""
    whole = len(data) - len(data) % np.dtype(dtype).itemsize
    return np.resize(np.frombuffer(data[:whole], dtype=dtype), setting.dimension).astype(np.float64)


def plain_guesses(view: View, victim: bytes) -> Iterator[tuple[str, Values | Floats]]:
    for pieces in list(view.pieces.values())[:1]:  # all replicas have the same
        yield "the piece", unpack(view.setting, pieces[victim])
    for box in view.boxes.get(victim, ())[:1]:
        body = box[BOX_HEAD_BYTES + SALT_BYTES : BOX_HEAD_BYTES - SEALED_EXTRA_BYTES]
        yield "the sealed piece as numbers", numbers(body, view.setting, "<i2")


def shares_guesses(view: View, victim: bytes) -> Iterator[tuple[str, Values | Floats]]:
    setting = view.setting
    low, seeds = _unmasked(view, victim)
    yield "c and every known mask", low.view("<i4").astype(np.int64)
    if view.sums:  # the sum of all nodes' missing masks, less those that can be told
        filled = low.copy()
        for number in set(range(len(subsets(setting)))) - set(seeds):
            filled += np.frombuffer(view.sums[number], dtype="<u4")
        for node, values in view.own.items():
            filled -= values.astype("<u4") - _unmasked(view, node)[0]
        yield "c, known masks, published sums", filled.view("<i4").astype(np.int64)
    if setting.norm:
        yield "whole integers", _whole(setting, view.publics[victim], seeds)
    for box in view.boxes.get(victim, ())[:1]:
        yield "the sealed seeds as numbers", numbers(box[BOX_HEAD_BYTES:], setting, "<i2")


def _unmasked(view: View, node: bytes) -> tuple[Ring, dict[int, bytes]]:
    """A node's c (uint32[d]) plus every mask of which a colluding replica has the seed, and these seeds."""
    seeds: dict[int, bytes] = {}
    for pieces in view.pieces.values():
        seeds |= seeds_in(pieces[node])
    low = np.frombuffer(view.publics[node], dtype="<u4", count=view.setting.dimension) + np.uint32(view.setting.norm)
    for seed in seeds.values():
        apply_keystream(low, seed, np.add)
    return low, seeds


def seeds_in(piece: bytes) -> dict[int, bytes]:
    """Number of the subset -> seed, from a replica's opened piece."""
    entry = 1 + SEED_BYTES
    return {piece[at]: piece[at + 1 : at + entry] for at in range(0, len(piece), entry)}


def _whole(setting: Setting, public: bytes, seeds: Mapping[int, bytes]) -> Floats:
    """A validated vector's integers, less known masks and the mean of those that are missing: float64."""
    bound = Bound.of(setting.dimension, setting.norm, len(subsets(setting)))

    def real(planes: Planes) -> Floats:
        top = 0.0 if planes.top is None else planes.top.astype(np.float64)
        return planes.low + planes.middle * 2.0**32 + top * 2.0**64

    found = real(Planes.parse(bound, public)) - 2.0 ** (8 * bound.width) + setting.norm
    for seed in seeds.values():
        found += real(expand(bound, seed).planes)
    found += (len(subsets(setting)) - len(seeds)) * 2.0 ** (bound.mask_bits - 1)
    return found[: setting.dimension]


def paillier_guesses(view: View, victim: bytes) -> Iterator[tuple[str, Values | Floats]]:
    setting, key = view.setting, key_of(view.setting)
    slots = Slots.of(dimension=setting.dimension, bits=setting.bits, cohort=setting.cohort, modulus_bits=key.bits)
    ciphertexts = ciphertexts_of(setting, victim, view.publics[victim])

    def read(masks: Sequence[mpz]) -> Values:
        """The slots of (c / mask - 1) / n: the update, if the mask is r^n."""
        plains = [(c * invert(mask, key.n2) % key.n2 - 1) // key.n for c, mask in zip(ciphertexts, masks, strict=True)]
        return slots.unpack([plain % (mpz(1) << slots.integer_bits) for plain in plains], 1)

    yield "as if unmasked", read([mpz(1)] * len(ciphertexts))
    if view.witness:
        yield "with the sum's randomness", read(_masks_of_sum(setting, view.witness))
    if not view.key_shares:
        return
    partials = {
        replica: _partial(replace(setting, key_share=share), replica, victim, view.publics[victim])
        for replica, share in view.key_shares.items()
    }
    if len(partials) > 2 * setting.faulty:
        digests = {replica: {replica: keccak(data)} for replica, data in partials.items()}
        components = {keccak(data): data for data in partials.values()}
        opened = mode("paillier").open(setting, Transcript({victim: view.publics[victim]}, digests, components))
        yield "opened by itself", opened.values
        return
    roots = [mpz(1)] * len(ciphertexts)
    for data in partials.values():
        for i in range(len(roots)):
            part = mpz.from_bytes(data[i * key.plain_bytes : (i + 1) * key.plain_bytes], "big")
            roots[i] = roots[i] * part % key.n
    yield "with their partial openings", read([powmod(root, key.n, key.n2) for root in roots])


@lru_cache(maxsize=64)
def _masks_of_sum(setting: Setting, witness: bytes) -> list[mpz]:
    """r^n of each summed ciphertext."""
    key = key_of(setting)
    return [powmod(r, key.n, key.n2) for _, r in openings(setting, witness)]


@lru_cache(maxsize=1024)
def _partial(setting: Setting, replica: int, victim: bytes, public: bytes) -> bytes:
    """A dishonest replica's partial opening of one update alone."""
    return mode("paillier").combine(setting, replica, [Held(victim, public, b"")])[replica]


def masked_guesses(view: View, victim: bytes) -> Iterator[tuple[str, Values | Floats]]:
    masks = view.setting.masks
    raw = np.frombuffer(view.publics[victim], dtype="<u4")
    yield "the masked vector", raw.view("<i4").astype(np.int64)
    if masks is None:
        return
    left = raw.copy()
    gone = set(masks.announced) - set(view.publics)
    remove_masks(left, _only(masks, {victim, *gone}), [victim])  # the log gives its seed, and the dropouts' keys
    for node, secrets in view.masks.items():
        left += _pair_mask(masks, node, victim, secrets, left.size)
    yield "less every known mask", left.view("<i4").astype(np.int64)
    if len(view.sealing) >= masks.threshold:  # shares for a set in which all but the victim dropped out
        shown = {node: reveal(masks, node, key, [victim]) for node, key in view.sealing.items()}
        bare = raw.copy()
        remove_masks(bare, replace(masks, revealed=shown), [victim])
        yield "unmasked with their shares", bare.view("<i4").astype(np.int64)


def _only(masks: Masks, dealers: set[bytes]) -> Masks:
    """The log as if only these nodes had announced."""
    places = [place for place, dealer in enumerate(sorted(masks.announced)) if dealer in dealers]
    revealed = {
        holder: MaskReveal(shares=tuple(said.shares[place] for place in places))
        for holder, said in masks.revealed.items()
    }
    return replace(masks, announced={node: masks.announced[node] for node in sorted(dealers)}, revealed=revealed)


def _pair_mask(masks: Masks, node: bytes, victim: bytes, secrets: MaskSecrets, size: int) -> Ring:
    """What `node` adds to its vector for `victim`, uint32[size]; the victim added its negative."""
    both, alone = np.zeros(size, dtype="<u4"), np.zeros(size, dtype="<u4")
    add_masks(both, _only(masks, {node, victim}), node, secrets)
    add_masks(alone, _only(masks, {node}), node, secrets)
    return both - alone


_BY_MODE: dict[str, Callable[[View, bytes], Iterator[tuple[str, Values | Floats]]]] = {
    "plain": plain_guesses,
    "shares": shares_guesses,
    "paillier": paillier_guesses,
    "masked": masked_guesses,
}
