"""Mode `shares` for committees of more than ten: Shamir's sharing over F_p, p = 2^32 - 5, of degree f.

Replicated shares (koinon.privacy.shares) need C(n, f) seeds; here a node shares its vector x and FOLDS random elements
with polynomials of degree f (Shamir 1979), and hands replica i their values at i + 1. The values at 1..f come out of
seeds, so that f pieces are short. Any f replicas see uniform elements, whatever x is.

    piece         32 bytes of seed for replicas 0..f-1; for the others a salt of 32 bytes, then uint32 little-endian
                  shares of x and of the blinds
    public part   a commitment to each piece (Keccak-256, bound to task, round, node, committee and replica), then the
                  folds of replicas 0..f
    component i   replica i's share of the sum
    witness       the shares of the sum of replicas 0..f: every other share and the sum follow

Folds. The commitments fix a challenge, hence FOLDS random combinations of a share's coordinates, each plus one blind.
They are linear, so an honest node's folds lie on polynomials of degree f too, which the published ones name and the
blinds make independent of x. A replica whose piece has another fold refuses it. So whoever gave a receipt has a share
of the same polynomials (but with probability 2^-160 a try): the honest replicas' component sums form a codeword.

Opening. Who answers is decoded by folds whose challenge is hashed from all signed digests; then it is exact: the
shares of all replicas follow from the witness, and 2f+1 of their digests must have been signed. f+1 of these are by
honest replicas and leave one polynomial. Whoever signed another digest is named.

Whoever has f + 1 shares has the update, so nobody can show a replica what it missed: for this round it counts among
the f. Nothing is proved about the values that are shared: a norm bound is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError, InvalidProof

from . import reed_solomon as rs
from .agreement import require_cohort, require_cohort_opens
from .fixed_point import require_in_range, require_ring_fits
from .mode import Digests, Entropy, Held, Opened, Protected, Setting, Transcript, Values
from .reed_solomon import FOLDS, Words

SEED_BYTES = 32
SALT_BYTES = 32
COMMITMENT_BYTES = 32
REPLICAS_MAX = 31
"""As many seats as a committee has at most."""


class ShamirShares:
    """See the module; implements `koinon.privacy.mode.Mode`."""

    name: str = "shares"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        _require_offered(setting)
        require_in_range(values, dimension=setting.dimension, bits=setting.bits)
        f, n = setting.faulty, setting.replicas
        seeds = [entropy(SEED_BYTES) for _ in range(f)]
        secret = np.concatenate([rs.to_field(values), rs.uniform(entropy(SEED_BYTES), FOLDS)])
        known = [secret, *(rs.uniform(seed, secret.size) for seed in seeds)]  # at 0..f
        shares = [rs.combine(rs.weights_at(i + 1, range(f + 1)), known) for i in range(f, n)]
        pieces = (*seeds, *(entropy(SALT_BYTES) + share.tobytes() for share in shares))
        commitments = b"".join(_commitment(setting, node, i, piece) for i, piece in enumerate(pieces))
        folds = _blinded_folds(setting, node, commitments, [*known[1:], shares[0]])
        return Protected(commitments + np.array(folds, dtype="<u4").tobytes(), pieces)

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        share = _checked_share(setting, node, public, replica, piece)
        commitments, published = _parse_public(setting, node, public)
        (mine,) = _blinded_folds(setting, node, commitments, [share])
        weights = rs.weights_at(replica + 1, range(1, setting.faulty + 2))
        expected = rs.combine(weights, published)
        if mine != tuple(expected.tolist()):
            raise InvalidProof(f"the piece of node 0x{node.hex()} for replica {replica} is no share of its update")

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        """Nothing: with f + 1 shares an update is known."""
        return b""

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        raise BadPiece(f"nobody may show replica {replica} its share of node 0x{node.hex()} in so large a committee")

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        require_cohort(setting, updates)
        _require_offered(setting)

        def shares() -> Iterator[Words]:
            for each in updates:
                share = _checked_share(setting, each.node, each.public, replica, each.piece)
                yield share[: setting.dimension]

        return {replica: rs.add_up(shares(), setting.dimension).tobytes()}

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        _require_accepted(setting, transcript.publics)
        answers: dict[int, Words] = {}
        for replica in range(setting.replicas):
            vote = transcript.digests.get(replica, {}).get(replica)
            share = _parse_component(setting, transcript.components.get(vote, b"")) if vote is not None else None
            if share is not None:
                answers[replica] = share
        good = _agreeing(setting, transcript.digests, answers)[: setting.faulty + 1]
        points, vectors = [i + 1 for i in good], [answers[i] for i in good]
        first = [rs.combine(rs.weights_at(i + 1, points), vectors) for i in range(setting.faulty + 1)]
        values, dissenters = _decided(setting, transcript.digests, first)
        return Opened(values, b"".join(each.tobytes() for each in first), dissenters)

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        """Components are not needed: they follow from the witness."""
        _require_accepted(setting, transcript.publics)
        size = 4 * setting.dimension
        if len(witness) != size * (setting.faulty + 1):
            raise CannotOpen(f"a witness of {len(witness)} bytes instead of {size * (setting.faulty + 1)}")
        first = [_parse_component(setting, witness[at : at + size]) for at in range(0, len(witness), size)]
        proper = [each for each in first if each is not None]
        if len(proper) != len(first):
            raise CannotOpen("a witness with numbers outside the field")
        return _decided(setting, transcript.digests, proper)[0]


def public_bytes(setting: Setting) -> int:
    """The exact size of a public part."""
    return COMMITMENT_BYTES * setting.replicas + 4 * FOLDS * (setting.faulty + 1)


# --- pieces ------------------------------------------------------------------------------------------------------


def _require_offered(setting: Setting) -> None:
    """ConfigError for a committee or a bound that this sharing has no answer to; OutOfRange when sums do not fit."""
    if setting.replicas > REPLICAS_MAX:
        raise ConfigError(f"mode shares carries at most {REPLICAS_MAX} replicas, not {setting.replicas}")
    if setting.norm:
        raise ConfigError(
            f"in mode shares no norm is proved to a committee of {setting.replicas}: shares of so many are no seeds",
            hint="submit the task with validate = false, or use a committee of at most ten",
        )
    require_ring_fits(bits=setting.bits, cohort=setting.cohort)  # sums are within 2^31 - 2^8, and p / 2 is above


def _parse_public(setting: Setting, node: bytes, public: bytes) -> tuple[bytes, list[Words]]:
    """The commitments, and the folds of replicas 0..f."""
    if len(public) != public_bytes(setting):
        raise BadPiece(
            f"the public part of node 0x{node.hex()} has {len(public)} bytes instead of {public_bytes(setting)}"
        )
    committed = COMMITMENT_BYTES * setting.replicas
    folds = np.frombuffer(public, dtype="<u4", offset=committed)
    if folds.max() >= rs.P:
        raise BadPiece(f"the public part of node 0x{node.hex()} has numbers outside the field")
    return public[:committed], list(folds.reshape(-1, FOLDS))


def _checked_share(setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> Words:
    """Replica's share, uint32[dimension + FOLDS], as committed; BadPiece otherwise."""
    _require_offered(setting)
    if not 0 <= replica < setting.replicas:
        raise ConfigError(f"replica {replica} is not in a committee of {setting.replicas}")
    commitments, _ = _parse_public(setting, node, public)
    size = setting.dimension + FOLDS
    expected = SEED_BYTES if replica < setting.faulty else SALT_BYTES + 4 * size
    if len(piece) != expected:
        raise BadPiece(f"the piece of node 0x{node.hex()} has {len(piece)} bytes instead of {expected}")
    start = COMMITMENT_BYTES * replica
    if _commitment(setting, node, replica, piece) != commitments[start : start + COMMITMENT_BYTES]:
        raise BadPiece(f"the piece of node 0x{node.hex()} contradicts its commitment")
    if replica < setting.faulty:
        return rs.uniform(piece, size)
    share = np.frombuffer(piece, dtype="<u4", offset=SALT_BYTES)
    if share.max() >= rs.P:
        raise BadPiece(f"the piece of node 0x{node.hex()} has numbers outside the field")
    return share


def _commitment(setting: Setting, node: bytes, replica: int, piece: bytes) -> bytes:
    """Binding; hiding, since a piece has a seed or a salt that nothing else depends on."""
    return keccak(encode(("koinon/shamir/piece", *_place(setting, node), replica, piece)))


def _place(setting: Setting, node: bytes) -> tuple[object, ...]:
    return (setting.task, setting.round, node, setting.replicas, setting.dimension)


def _blinded_folds(setting: Setting, node: bytes, commitments: bytes, shares: Sequence[Words]) -> list[tuple[int, ...]]:
    """The folds of each share's first coordinates, plus its last ones."""
    challenge = keccak(encode(("koinon/shamir/challenge", *_place(setting, node), commitments)))
    folding = rs.Folding(challenge, setting.dimension)
    found = []
    for share in shares:
        blinds = share[setting.dimension :].tolist()
        folds = folding(share[: setting.dimension])
        found.append(tuple((fold + blind) % rs.P for fold, blind in zip(folds, blinds, strict=True)))
    return found


# --- openings ----------------------------------------------------------------------------------------------------


def _require_accepted(setting: Setting, publics: Mapping[bytes, bytes]) -> None:
    require_cohort_opens(setting, publics)
    try:
        _require_offered(setting)
        for node, public in publics.items():
            _parse_public(setting, node, public)
    except (BadPiece, ConfigError) as error:
        raise CannotOpen(error.message) from error


def _parse_component(setting: Setting, data: bytes) -> Words | None:
    """A share of the sum; None when it is missing or malformed."""
    if len(data) != 4 * setting.dimension:
        return None
    share = np.frombuffer(data, dtype="<u4")
    return share if share.max() < rs.P else None


def _agreeing(setting: Setting, digests: Digests, answers: Mapping[int, Words]) -> list[int]:
    """The replicas, at least 2f+1, whose answers are shares of one sum; CannotOpen when there are not so many."""
    needed = 2 * setting.faulty + 1
    if len(answers) < needed:
        raise CannotOpen(f"{len(answers)} replicas showed shares of the sum where {needed} are needed")
    said = tuple(sorted((i, tuple(sorted(votes.items()))) for i, votes in digests.items()))
    folding = rs.Folding(
        keccak(encode(("koinon/shamir/opening", setting.task, setting.round, said))), setting.dimension
    )
    folded = {replica + 1: folding(share) for replica, share in answers.items()}
    errors = min(setting.faulty, len(answers) - needed)
    wrong: set[int] = set()
    for row in range(FOLDS):
        off = rs.wrong_points({point: folds[row] for point, folds in folded.items()}, setting.faulty, errors)
        wrong |= off if off is not None else set(folded)
    good = [replica for replica in answers if replica + 1 not in wrong]
    if len(good) < needed:
        raise CannotOpen(
            f"the shares of the sum by {sorted(answers)} contradict one another: fewer than {needed} agree",
            hint="more answers tell who lies",
        )
    return good


def _decided(setting: Setting, digests: Digests, first: list[Words]) -> tuple[Values, tuple[int, ...]]:
    """The sum from the shares of replicas 0..f, and who signed something else; CannotOpen unless 2f+1 signed this."""
    points = range(1, setting.faulty + 2)
    agreed, dissenters = 0, set()
    for replica in range(setting.replicas):
        said = digests.get(replica, {})
        if replica in said:
            share = first[replica] if replica < len(first) else rs.combine(rs.weights_at(replica + 1, points), first)
            agreed += (same := said[replica] == keccak(share.tobytes()))
            dissenters |= set() if same else {replica}
        if set(said) - {replica}:  # components that it cannot know
            dissenters.add(replica)
    if agreed < 2 * setting.faulty + 1:
        raise CannotOpen(
            f"{agreed} replicas signed their share of this sum where {2 * setting.faulty + 1} are needed; "
            f"{sorted(dissenters)} signed something else"
        )
    return rs.from_field(rs.combine(rs.weights_at(0, points), first)), tuple(sorted(dissenters))
