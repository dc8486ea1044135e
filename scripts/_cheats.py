"""Nodes that cheat: what each hands in, and whether the documents say that replicas refuse it (docs/validation.md).

A cheat knows the protocol, its own seeds and everything public, and computes all else as the protocol asks, so that it
is refused for its lie alone. It is *caught* if at most f replicas would sign a receipt for it: whichever f replicas
lie, it then gets at most 2f of the 2f+1 receipts that it needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from koinon.encoding import keccak
from koinon.errors import BadPiece
from koinon.privacy import Entropy, Protected, Setting, Values, mode
from koinon.privacy import shares as inside
from koinon.privacy.mode import Claim
from koinon.privacy.validation import Alignment, fill_up, mask_vector, prove
from koinon.privacy.validation.field import ELEMENT_BYTES, P, element_bytes, elements
from koinon.privacy.validation.masks import Planes
from koinon.privacy.validation.squares import four_squares

NODE, OTHER = keccak(b"a cheat")[:20], keccak(b"another node")[:20]
CAP, BITS, COHORT = 600, 16, 16
LIMIT = 2 ** (BITS - 1) - 1
PAILLIER_BITS = 2048
"""The floor, for speed."""

Sent = tuple[Setting, Protected]


class Draw:
    """The randomness of one try, and what follows from it: committee, place, claim, and an honest update."""

    def __init__(self, seed: int, number: int) -> None:
        self._rng = np.random.default_rng([seed, number])
        self._replicas = 4 if number % 2 == 0 else 7

    def entropy(self, count: int) -> bytes:
        return self._rng.bytes(count)

    def below(self, low: int, high: int) -> int:
        """low <= number < high"""
        return int(self._rng.integers(low, high))

    def validated(self, *, aligned: bool = False) -> Setting:
        """A round of mode shares whose updates have a bounded norm; the node claims some samples of CAP."""
        dimension, norm, examples = self.below(4, 60), self.below(2**10, 2**20), self.below(1, CAP)
        alignment, claim = None, Claim(examples, 8 + (norm - 8) * examples // CAP)
        if aligned:
            direction = self._rng.integers(-LIMIT, LIMIT, dimension)
            alignment = Alignment(direction.astype("<i2").tobytes(), 0)
        return Setting(
            self.entropy(32), 3, self._replicas, dimension, BITS, COHORT, norm=norm, alignment=alignment,
            claims={NODE: claim, OTHER: claim},
        )  # fmt: skip

    def unproved(self) -> Setting:
        """A round of a mode without a bound on the norm."""
        return Setting(self.entropy(32), 3, 4, 4, BITS, COHORT)

    def encrypted(self) -> Setting:
        return replace(self.unproved(), public_key=paillier_key())

    def update(self, setting: Setting) -> Values:
        """An honest one; within the bound of the node's claim, if there is one."""
        longest = setting.claim(NODE).norm if setting.norm else LIMIT
        values = self._rng.normal(size=setting.dimension)
        scaled = values * (min(LIMIT, longest) * self._rng.uniform() / np.linalg.norm(values))
        whole: Values = np.trunc(scaled).astype(np.int64)
        return whole


@dataclass(frozen=True)
class Cheat:
    """`make` gives what the replicas are handed, and the setting in which they check it; `caught` is what is claimed.
    A `slow` one is tried less often."""

    mode: str
    what: str
    make: Callable[[Draw], Sent]
    caught: bool = True
    slow: bool = False

    def is_caught(self, draw: Draw) -> bool:
        setting, protected = self.make(draw)
        return len(receipts(self.mode, setting, protected)) <= setting.faulty


def receipts(name: str, setting: Setting, protected: Protected) -> set[int]:
    """The replicas that would sign one for what NODE handed in."""
    found = set()
    for replica in range(setting.replicas):
        try:
            mode(name).check(setting, NODE, protected.public, replica, protected.pieces[replica])
            found.add(replica)
        except BadPiece:
            pass
    return found


@cache
def paillier_key() -> bytes:
    from koinon.privacy.paillier_key import generate_key, parse_key

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that 2048 bits are the floor
        public, _, _ = generate_key(PAILLIER_BITS, 4, np.random.default_rng(1).bytes)
        parse_key(public)  # it is cached
    return public


# --- shares with a proof: what a cheat can do ----------------------------------------------------------------------


def protect_anything(
    setting: Setting, node: bytes, filled: Values, entropy: Entropy, *, context: bytes | None = None
) -> Protected:
    """What a node sends for `filled` (the update, then the integers that should fill up its norm, and with an alignment
    its inner product), whatever it is; with challenges of its own choice if it has a `context` of its own."""
    seeds = [entropy(inside.SEED_BYTES) for _ in inside.subsets(setting)]
    bound = inside._bound(setting)
    public = mask_vector(bound, filled, seeds) + _commitments(setting, node, seeds)
    place = inside._context(setting, node) if context is None else context
    public += prove(bound, place, public, filled, seeds, inside._alignment(setting, node))
    return Protected(public, _pieces(setting, seeds))


def forged_in_one_mask(setting: Setting, node: bytes, protected: Protected, number: int) -> Protected:
    """The strongest cheat: the published number of one mask is chosen so that all public equations hold."""
    bound, parts = inside._bound(setting), _proof_start(setting)
    verifier = inside._verifier(setting, node, protected.public)
    parts += ELEMENT_BYTES * (bound.coefficients + bound.answers)
    values = elements(protected.public[parts:])
    # the public equation is linear in the number: solve it from the error that it leaves
    sent, query, kappas = verifier._sent, verifier._query, verifier._kappas
    left, right = sent.answers[: bound.columns], sent.answers[bound.columns :]
    gap = sum(a * b for a, b in zip(left, right, strict=True)) - setting.claim(node).norm ** 2
    vector = Planes.parse(bound, protected.public)
    known = query.of_planes(vector, sent.coefficients, offset=bound.norm - 2 ** (8 * bound.width))
    error = sum(k * (a - b) for k, a, b in zip(kappas, [*sent.answers, gap], known, strict=True)) - sum(values)
    values[number] = (values[number] + error) % P
    return replace(protected, public=protected.public[:parts] + element_bytes(values))


def _commitments(setting: Setting, node: bytes, seeds: Sequence[bytes]) -> bytes:
    return b"".join(inside._commitment(setting, node, number, seed) for number, seed in enumerate(seeds))


def _pieces(setting: Setting, seeds: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(inside._pack({i: seeds[i] for i in inside.held_by(setting, r)}) for r in range(setting.replicas))


def _proof_start(setting: Setting) -> int:
    return inside._committed_bytes(setting)


def _of_squared_norm(setting: Setting, squares: int) -> Values:
    """An update of exactly that squared norm, with no slack left."""
    filled = np.zeros(setting.dimension + 4, dtype=np.int64)
    filled[:4] = four_squares(squares)
    return filled


def _honest(draw: Draw, setting: Setting) -> Protected:
    return mode("shares").protect(setting, NODE, draw.update(setting), draw.entropy)


def one_above(draw: Draw) -> Sent:
    setting = draw.validated()
    filled = _of_squared_norm(setting, setting.claim(NODE).norm ** 2 + 1)
    return setting, protect_anything(setting, NODE, filled, draw.entropy)


def heavy_for_its_claim(draw: Draw) -> Sent:
    setting = draw.validated()
    return setting, protect_anything(setting, NODE, _of_squared_norm(setting, setting.norm**2), draw.entropy)


def far_above(draw: Draw) -> Sent:
    setting = draw.validated()
    filled = _of_squared_norm(setting, 0)
    filled[: setting.dimension] = setting.norm * draw.below(2, 2**10)
    return setting, protect_anything(setting, NODE, filled, draw.entropy)


def wrapped(draw: Draw) -> Sent:
    """Multiples of 2^31 vanish in the low words of a square, of 2^32 in the round's sum."""
    setting = draw.validated()
    filled = fill_up(setting.claim(NODE).norm, draw.update(setting))
    filled[draw.below(0, setting.dimension)] += 2 ** draw.below(31, 40)
    return setting, protect_anything(setting, NODE, filled, draw.entropy)


def false_slack(draw: Draw) -> Sent:
    setting = draw.validated()
    filled = fill_up(setting.claim(NODE).norm, draw.update(setting))
    filled[-1] += draw.below(1, 2**10)
    return setting, protect_anything(setting, NODE, filled, draw.entropy)


def claim_changed(draw: Draw) -> Sent:
    setting = draw.validated()
    claim = setting.claim(NODE)
    other = replace(claim, examples=CAP, norm=setting.norm) if draw.below(0, 2) else replace(claim, examples=0)
    return replace(setting, claims={NODE: other}), _honest(draw, setting)


def moved(draw: Draw) -> Sent:
    """A proof of another task, round or node, with seeds that are committed to afresh."""
    setting = draw.validated()
    was = (
        (replace(setting, task=draw.entropy(32)), NODE),
        (replace(setting, round=setting.round - 1), NODE),
        (setting, OTHER),
    )[draw.below(0, 3)]
    kept: list[bytes] = []

    def entropy(count: int) -> bytes:
        kept.append(draw.entropy(count))
        return kept[-1]

    public = mode("shares").protect(*was, draw.update(setting), entropy).public
    vector = inside._bound(setting).vector_bytes
    public = public[:vector] + _commitments(setting, NODE, kept) + public[_proof_start(setting) :]
    return setting, Protected(public, _pieces(setting, kept))


def proof_of_another_update(draw: Draw) -> Sent:
    setting = draw.validated()
    start = _proof_start(setting)
    honest = _honest(draw, setting)
    long = protect_anything(setting, NODE, _of_squared_norm(setting, setting.norm**2), draw.entropy)
    return setting, replace(long, public=long.public[:start] + honest.public[start:])


def own_challenges(draw: Draw) -> Sent:
    setting = draw.validated()
    filled = fill_up(setting.claim(NODE).norm, draw.update(setting))
    return setting, protect_anything(setting, NODE, filled, draw.entropy, context=draw.entropy(32))


def forged_number(draw: Draw) -> Sent:
    setting, _ = one_above(draw)
    sent = protect_anything(setting, NODE, _of_squared_norm(setting, setting.norm**2 + 1), draw.entropy)
    return setting, forged_in_one_mask(setting, NODE, sent, draw.below(0, len(inside.subsets(setting))))


def flipped(draw: Draw) -> Sent:
    setting = draw.validated()
    honest = _honest(draw, setting)
    return setting, replace(honest, public=_flip(draw, honest.public))


def flipped_in_the_proof(draw: Draw) -> Sent:
    setting = draw.validated()
    honest, start = _honest(draw, setting), _proof_start(setting)
    return setting, replace(honest, public=honest.public[:start] + _flip(draw, honest.public[start:]))


def other_seeds(draw: Draw) -> Sent:
    setting = draw.validated()
    honest = _honest(draw, setting)
    return setting, replace(honest, pieces=tuple(_flip(draw, piece) for piece in honest.pieces))


def unaligned(draw: Draw) -> Sent:
    """Below the least inner product by one or more, with what slack there may be."""
    setting = draw.validated(aligned=True)
    assert setting.alignment is not None
    values = draw.update(setting)
    reached = int(values @ np.frombuffer(setting.alignment.direction, dtype="<i2").astype(np.int64))
    claim = setting.claim(NODE)
    setting = replace(setting, claims={NODE: replace(claim, least=reached + draw.below(1, 2**8))})
    slack = four_squares(draw.below(0, 2**8))
    return setting, protect_anything(setting, NODE, np.append(fill_up(claim.norm, values), slack), draw.entropy)


def _flip(draw: Draw, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[draw.below(0, len(data))] ^= 1 << draw.below(0, 8)
    return bytes(changed)


# --- paillier, masked, plain ---------------------------------------------------------------------------------------


def _encrypted(draw: Draw, setting: Setting, node: bytes = NODE) -> Protected:
    return mode("paillier").protect(setting, node, draw.update(setting), draw.entropy)


def copied_ciphertexts(draw: Draw) -> Sent:
    """Of another node, or of its own in another round or task."""
    setting = draw.encrypted()
    kind = draw.below(0, 3)
    if kind == 0:
        return setting, _encrypted(draw, setting, OTHER)
    place = {"round": 2} if kind == 1 else {"task": draw.entropy(32)}
    return setting, _encrypted(draw, replace(setting, **place))


def multiplied_ciphertexts(draw: Draw) -> Sent:
    setting = draw.encrypted()
    sent, (n2, size) = _encrypted(draw, setting, OTHER), _group()
    power = pow(int.from_bytes(sent.public[:size], "big"), draw.below(2, 100), n2)
    return setting, replace(sent, public=power.to_bytes(size, "big") + sent.public[size:])


def outside_the_group(draw: Draw) -> Sent:
    setting = draw.encrypted()
    sent, (n2, size) = _encrypted(draw, setting), _group()
    number = (0, n2, min(n2 + draw.below(1, 2**60), 256**size - 1))[draw.below(0, 3)]
    return setting, replace(sent, public=number.to_bytes(size, "big") + sent.public[size:])


def flipped_ciphertexts(draw: Draw) -> Sent:
    setting = draw.encrypted()
    sent = _encrypted(draw, setting)
    return setting, replace(sent, public=_flip(draw, sent.public))


def overflowed_slots(draw: Draw) -> Sent:
    """Known plaintexts that are packed for wider slots: each number reaches into its neighbours'."""
    setting = draw.encrypted()
    wide = replace(setting, bits=24)
    values = np.array([2**23 - 1 - draw.below(0, 2**20) for _ in range(setting.dimension)])
    return setting, mode("paillier").protect(wide, NODE, values, draw.entropy)


def _group() -> tuple[int, int]:
    """(n squared, bytes of a ciphertext)"""
    from koinon.privacy.paillier_key import parse_key

    key = parse_key(paillier_key())
    return int(key.n2), key.cipher_bytes


def random_words(draw: Draw) -> Sent:
    setting = draw.unproved()
    return setting, Protected(draw.entropy(4 * setting.dimension), (b"",) * setting.replicas)


def wrong_length(draw: Draw) -> Sent:
    setting = draw.unproved()
    sizes = [each for each in range(8 * setting.dimension) if each != 4 * setting.dimension]
    return setting, Protected(draw.entropy(sizes[draw.below(0, len(sizes))]), (b"",) * setting.replicas)


def out_of_range(draw: Draw) -> Sent:
    """-2^15 fits into 16 bits, and no honest value is so low."""
    from koinon.privacy import plain

    setting = draw.unproved()
    values = draw.update(setting)
    values[draw.below(0, setting.dimension)] = -LIMIT - 1
    piece = draw.entropy(plain.SALT_BYTES) + values.astype("<i2").tobytes()
    return setting, Protected(plain._commitment(setting, NODE, piece), (piece,) * setting.replicas)


def other_values(draw: Draw) -> Sent:
    setting = draw.unproved()
    honest = mode("plain").protect(setting, NODE, draw.update(setting), draw.entropy)
    return setting, replace(honest, pieces=tuple(_flip(draw, piece) for piece in honest.pieces))


CHEATS = (
    Cheat("shares", "squared norm one above the claim's bound", one_above),
    Cheat("shares", "the task's whole bound, for a smaller claim", heavy_for_its_claim),
    Cheat("shares", "a norm far above the task's bound", far_above),
    Cheat("shares", "values that vanish modulo 2^31 or 2^32 (wraparound)", wrapped),
    Cheat("shares", "slack that fills up another norm", false_slack),
    Cheat("shares", "a claim that was changed after the proof", claim_changed),
    Cheat("shares", "a proof of another task, round or node", moved),
    Cheat("shares", "the proof of another update", proof_of_another_update),
    Cheat("shares", "challenges s and κ of its own choice", own_challenges),
    Cheat("shares", "a mask's number forged so that all public equations hold", forged_number),
    Cheat("shares", "one bit of the public part flipped", flipped),
    Cheat("shares", "one bit of the proof flipped", flipped_in_the_proof),
    Cheat("shares", "seeds that contradict their commitments", other_seeds),
    Cheat("shares", "an inner product below the least", unaligned),
    Cheat("paillier", "ciphertexts of another node, round or task", copied_ciphertexts, slow=True),
    Cheat("paillier", "another node's ciphertexts, multiplied", multiplied_ciphertexts, slow=True),
    Cheat("paillier", "ciphertexts outside the group", outside_the_group, slow=True),
    Cheat("paillier", "one bit flipped", flipped_ciphertexts, slow=True),
    Cheat("paillier", "values that overflow their slots", overflowed_slots, caught=False, slow=True),
    Cheat("masked", "random words instead of a masked vector", random_words, caught=False),
    Cheat("masked", "a vector of another length", wrong_length),
    Cheat("plain", "a value out of range", out_of_range),
    Cheat("plain", "values that contradict their commitment", other_values),
)
