"""Mode `shares` (default) of at most ten replicas: replicated (CNF) secret sharing with one masked vector over Z_2^32.

For every f-subset T of the committee the node draws a 32-byte seed and hands it to the replicas outside T; it
publishes c = x - sum_T PRG(seed_T) mod 2^32. A coalition of f replicas is some T and lacks exactly seed_T, so c
is to it a one-time pad (Cramer, Damgård, Ishai 2005, "Share conversion, pseudorandom secret-sharing and
applications to secure computation", section 3). PRG is `keystream`: a seed is used for one update only.

    public part   c as uint32, little-endian, then a commitment to each seed (Keccak-256, bound to task, round,
                  node, committee size and T), T in the order of itertools.combinations
    piece         (number of T, seed_T) for each T that the replica isn't in, ascending
    component T   sum over updates of PRG(seed_T) mod 2^32, known to the 2f+1 or more replicas outside T
    sum           sum of all c plus all components, read as a signed 32-bit number

Each component has 2f+1 holders, so f+1 equal digests decide it and liars are named. The committee size is
bounded by C(n, f) <= 120 seeds; larger committees have koinon.privacy.shamir_shares.

With a bound on the norm (`Setting.norm`, the default of tasks) the node also proves that its update keeps its share of
it, which its claimed sample count fixes (`Setting.claim`; koinon.privacy.validation): c becomes a vector of longer
integers whose low words are as above (less the bound), and the public part ends with the proof. A replica checks it
with the piece, so that 2f+1 receipts say that it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from itertools import combinations
from threading import Lock

import numpy as np

from koinon.encoding import encode, keccak
from koinon.errors import BadPiece, CannotOpen, ConfigError, InvalidProof, OutOfRange

from .agreement import decide, require_cohort, require_cohort_opens, require_no_witness
from .fixed_point import RING_BITS, require_in_range, require_ring_fits
from .keystream import apply_keystream
from .mode import Digests, Entropy, Held, Opened, Protected, Setting, Transcript, Values
from .validation import Alignment, Bound, Verifier, fill_up, mask_vector, prove

SEED_BYTES = 32
COMMITMENT_BYTES = 32
REPLICAS_MAX = 10
PROVED_MAX = 1024

_ENTRY_BYTES = 1 + SEED_BYTES


class _Proved:
    """Which proofs were checked in this process, by a digest of all that the check depends on; the last few."""

    def __init__(self) -> None:
        self._known: dict[bytes, None] = {}
        self._lock = Lock()

    def require(self, setting: Setting, node: bytes, public: bytes, verifier: Verifier | None = None) -> None:
        """InvalidProof unless the public part's proof holds. A replica meets it twice: for the receipt, and when the
        round is certified."""
        name = sha256(_context(setting, node) + public).digest()
        if name in self._known:
            return
        (verifier or _verifier(setting, node, public)).require_public()
        with self._lock:
            while len(self._known) >= PROVED_MAX:
                del self._known[next(iter(self._known))]
            self._known[name] = None

    def forget(self) -> None:
        with self._lock:
            self._known.clear()


_PROVED = _Proved()
forget_proofs = _PROVED.forget
"""Check every proof afresh from here on, as a process that starts does."""


class Shares:
    """See the module; implements `koinon.privacy.mode.Mode`."""

    name: str = "shares"

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        _require_sum_fits(setting)
        require_in_range(values, dimension=setting.dimension, bits=setting.bits)
        seeds = [entropy(SEED_BYTES) for _ in subsets(setting)]
        commitments = b"".join(_commitment(setting, node, number, seed) for number, seed in enumerate(seeds))
        if setting.norm:
            bound = _bound(setting)
            claim, alignment = setting.claim(node), _alignment(setting, node)
            filled = fill_up(claim.norm, values, alignment)
            public = mask_vector(bound, filled, seeds) + commitments
            public += prove(bound, _context(setting, node), public, filled, seeds, alignment)
        else:
            masked = values.astype("<u4")
            for seed in seeds:
                apply_keystream(masked, seed, np.subtract)
            public = b"".join((masked.data, commitments))  # one copy: a large model's vector is worth it
        pieces = (_pack({number: seeds[number] for number in held_by(setting, i)}) for i in range(setting.replicas))
        return Protected(public, tuple(pieces))

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        seeds = self._checked_seeds(setting, node, public, replica, piece)
        if setting.norm:
            try:
                verifier = _verifier(setting, node, public)
                _PROVED.require(setting, node, public, verifier)
                for number, seed in seeds.items():
                    verifier.require_component(number, seed)
            except InvalidProof as error:
                raise InvalidProof(f"the update of node 0x{node.hex()}: {error.message}") from None

    @staticmethod
    def _checked_seeds(setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> dict[int, bytes]:
        """All seeds that `replica` holds, each as committed; BadPiece otherwise."""
        commitments = _commitments(setting, node, public)
        seeds = _seeds(node, piece)
        expected = held_by(setting, replica)
        if tuple(seeds) != expected:
            raise BadPiece(
                f"node 0x{node.hex()} gave replica {replica} the seeds {list(seeds)} instead of {list(expected)}"
            )
        for number, seed in seeds.items():
            if _commitment(setting, node, number, seed) != commitments[number]:
                raise BadPiece(f"seed {number} of node 0x{node.hex()} contradicts its commitment")
        return seeds

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        """The seeds of this piece that `replica` holds too."""
        allowed = held_by(setting, replica)
        return _pack({number: seed for number, seed in _seeds(b"", piece).items() if number in allowed})

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        commitments = _commitments(setting, node, public)
        expected = held_by(setting, replica)
        found: dict[int, bytes] = {}
        for part in parts:
            try:
                seeds = _seeds(node, part)
            except BadPiece:
                continue
            for number, seed in seeds.items():
                wanted = number in expected and number not in found
                if wanted and _commitment(setting, node, number, seed) == commitments[number]:
                    found[number] = seed
        missing = [number for number in expected if number not in found]
        if missing:
            raise BadPiece(f"nobody showed seeds {missing} of node 0x{node.hex()} to replica {replica}")
        return _pack({number: found[number] for number in expected})

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        require_cohort(setting, updates)
        _require_sum_fits(setting)
        pieces = [self._checked_seeds(setting, each.node, each.public, replica, each.piece) for each in updates]
        total = np.empty(setting.dimension, dtype="<u4")
        sums: dict[int, bytes] = {}
        for number in held_by(setting, replica):
            total.fill(0)
            for seeds in pieces:
                apply_keystream(total, seeds[number], np.add)
            sums[number] = total.tobytes()
        return sums

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        require_cohort_opens(setting, transcript.publics)
        total = np.zeros(setting.dimension, dtype="<u4")
        for node, public in transcript.publics.items():
            if len(public) != public_bytes(setting):
                raise CannotOpen(
                    f"the public part of node 0x{node.hex()} has {len(public)} bytes, not {public_bytes(setting)}"
                )
            total += np.frombuffer(public, dtype="<u4", count=setting.dimension)
            total += np.uint32(setting.norm)  # a validated vector is less by the bound
        dissenters = _impostors(setting, transcript.digests)
        for number, subset in enumerate(subsets(setting)):
            holders = [i for i in range(setting.replicas) if i not in subset]
            data, liars = decide(setting, number, holders, transcript, size=4 * setting.dimension)
            dissenters |= liars
            total += np.frombuffer(data, dtype="<u4")
        return Opened(total.view("<i4").astype(np.int64), b"", tuple(sorted(dissenters)))

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        require_no_witness(witness)
        for node, public in transcript.publics.items() if setting.norm else ():
            try:
                _PROVED.require(setting, node, public)
            except BadPiece as error:
                raise CannotOpen(f"the accepted update of node 0x{node.hex()}: {error.message}") from error
        return self.open(setting, transcript).values


def subsets(setting: Setting) -> tuple[tuple[int, ...], ...]:
    """The f-subsets of the committee; a component's number is its subset's index here."""
    return _subsets(setting.replicas, setting.faulty)


def held_by(setting: Setting, replica: int) -> tuple[int, ...]:
    """The numbers of the seeds, and components, that `replica` holds."""
    return _held_by(setting.replicas, setting.faulty, replica)


def public_bytes(setting: Setting) -> int:
    """The exact size of a public part."""
    proof = _bound(setting).proof_bytes if setting.norm else 0
    return _committed_bytes(setting) + proof


def _committed_bytes(setting: Setting) -> int:
    vector = _bound(setting).vector_bytes if setting.norm else 4 * setting.dimension
    return vector + COMMITMENT_BYTES * len(subsets(setting))


def _bound(setting: Setting) -> Bound:
    """The parameters of the proof; ConfigError when there is no sound one."""
    aligned = setting.alignment is not None
    return Bound.of(setting.dimension, setting.norm, len(subsets(setting)), aligned=aligned)


def _alignment(setting: Setting, node: bytes) -> Alignment | None:
    """What the update of `node` is compared with, and the least inner product for its claim."""
    alignment = setting.alignment
    return None if alignment is None else Alignment(alignment.direction, setting.claim(node).least)


def _context(setting: Setting, node: bytes) -> bytes:
    place = (setting.task, setting.round, node)
    claim, alignment = setting.claim(node), _alignment(setting, node)
    bounds: tuple[object, ...] = (setting.replicas, setting.dimension, setting.norm, claim.examples, claim.norm)
    if alignment is not None:
        bounds += (keccak(alignment.direction), str(alignment.least))
    return encode(("koinon/shares/norm", *place, *bounds))


def _verifier(setting: Setting, node: bytes, public: bytes) -> Verifier:
    if len(public) != public_bytes(setting):
        raise InvalidProof(f"a public part of {len(public)} bytes instead of {public_bytes(setting)}")
    committed = _committed_bytes(setting)
    parts = (public[:committed], public[committed:])
    norm, alignment = setting.claim(node).norm, _alignment(setting, node)
    return Verifier(_bound(setting), norm, _context(setting, node), *parts, alignment)


@cache
def _subsets(replicas: int, faulty: int) -> tuple[tuple[int, ...], ...]:
    if not 1 <= replicas <= REPLICAS_MAX:
        raise ConfigError(
            f"mode shares needs one seed for each of C(n, f) subsets and carries at most n = {REPLICAS_MAX} "
            f"replicas, not {replicas}",
            hint="larger committees share as koinon.privacy.shamir_shares does",
        )
    return tuple(combinations(range(replicas), faulty))


@cache
def _held_by(replicas: int, faulty: int, replica: int) -> tuple[int, ...]:
    if not 0 <= replica < replicas:
        raise ConfigError(f"replica {replica} is not in a committee of {replicas}")
    return tuple(number for number, subset in enumerate(_subsets(replicas, faulty)) if replica not in subset)


def _require_sum_fits(setting: Setting) -> None:
    if setting.norm * setting.cohort >= 2 ** (RING_BITS - 1):
        raise OutOfRange(
            f"the sum of {setting.cohort} updates of norm {setting.norm} does not fit into {RING_BITS} bits",
            hint="lower the task's norm_bound or its largest cohort",
        )
    require_ring_fits(bits=setting.bits, cohort=setting.cohort)


def _commitment(setting: Setting, node: bytes, number: int, seed: bytes) -> bytes:
    bound = ("koinon/shares/seed", setting.task, setting.round, node, setting.replicas, number, seed)
    return keccak(encode(bound))


def _commitments(setting: Setting, node: bytes, public: bytes) -> list[bytes]:
    if len(public) != public_bytes(setting):
        raise BadPiece(
            f"the public part of node 0x{node.hex()} has {len(public)} bytes instead of {public_bytes(setting)}"
        )
    end = _committed_bytes(setting)
    start = end - COMMITMENT_BYTES * len(subsets(setting))
    return [public[i : i + COMMITMENT_BYTES] for i in range(start, end, COMMITMENT_BYTES)]


def _pack(seeds: Mapping[int, bytes]) -> bytes:
    return b"".join(bytes([number]) + seeds[number] for number in sorted(seeds))


def _seeds(node: bytes, piece: bytes) -> dict[int, bytes]:
    """Number -> seed of a well-formed piece or part; BadPiece when it is not strictly ascending or torn."""
    if len(piece) % _ENTRY_BYTES:
        raise BadPiece(f"a piece of node 0x{node.hex()} has {len(piece)} bytes, no multiple of {_ENTRY_BYTES}")
    seeds: dict[int, bytes] = {}
    previous = -1
    for start in range(0, len(piece), _ENTRY_BYTES):
        number = piece[start]
        if number <= previous:
            raise BadPiece(f"the seeds in a piece of node 0x{node.hex()} are not in ascending order")
        seeds[number] = piece[start + 1 : start + _ENTRY_BYTES]
        previous = number
    return seeds


def _impostors(setting: Setting, digests: Digests) -> frozenset[int]:
    """Replicas that signed a component which they cannot know."""
    committee = range(setting.replicas)
    return frozenset(i for i in committee if not set(digests.get(i, {})) <= set(held_by(setting, i)))
