"""The interface of every privacy mode, and the arithmetic that they share.

An update is a vector of signed integers (int64, |x| < 2^(bits-1)); a mode carries the exact integer sum of a
fixed set of updates from the nodes to the committee, and nothing else:

    node        protect   values -> one public part, one private piece a replica
    replica     check     the piece fits the public part (raises BadPiece), then a receipt is signed
    replica     share_with / merge   a piece that did not arrive is recovered from replicas that may show it
    replica     combine   all pieces of the accepted set -> numbered component sums
    aggregator  open      signed component digests + components -> the sum, a witness, and who contradicted
    anyone      verify    the same evidence -> the sum, or CannotOpen

Component sums travel by digest (Keccak-256); f+1 equal digests decide a component, so f liars change nothing
and are named. `entropy(n)` returns n fresh random bytes: production passes `secrets.token_bytes`, vectors a
seeded stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from koinon.errors import InvariantBroken

from .validation.bounds import Alignment

if TYPE_CHECKING:
    from .masking import Masks

Entropy = Callable[[int], bytes]
Values = NDArray[np.int64]


@dataclass(frozen=True)
class Claim:
    """A node's claimed sample count, and what its update keeps for it: an L2 norm of at most `norm`, and an inner
    product of at least `least` with the setting's direction, if it has one."""

    examples: int
    norm: int
    least: int = 0


@dataclass(frozen=True)
class Setting:
    """What binds a protected update: the round it is for and the committee that keeps it.

    `cohort` is the most updates that may be summed. `norm` bounds the L2 norm of an update in its own integer units
    where the mode has a proof of it (mode `shares`; 0: nothing is proved), and `alignment` its inner product with a
    public direction from below; `claims` scales both to what each node claims (None: all claim as much as there may
    be). `public_key` and `key_share` are the
    mode's own bytes (empty where it has none); only a replica holds a share. `masks` is the log's part of mode
    `masked`. Secrets stay out of every repr.
    """

    task: bytes
    round: int
    replicas: int
    dimension: int
    bits: int
    cohort: int
    norm: int = 0
    alignment: Alignment | None = None
    claims: Mapping[bytes, Claim] | None = None
    public_key: bytes = field(default=b"", repr=False)
    key_share: bytes = field(default=b"", repr=False)
    masks: Masks | None = field(default=None, repr=False)

    @property
    def faulty(self) -> int:
        """f, the number of replicas that may lie."""
        return (self.replicas - 1) // 3

    def claim(self, node: bytes) -> Claim:
        """What `node` claims. InvariantBroken where nobody said, or for more than the setting allows."""
        if self.claims is None:
            return Claim(0, self.norm, self.alignment.least if self.alignment else 0)
        claim = self.claims.get(node)
        if claim is None or claim.norm > self.norm:
            raise InvariantBroken(f"the claim of node 0x{node.hex()} is unknown or above the setting's bound")
        return claim


@dataclass(frozen=True)
class Protected:
    """An update ready to leave the node: `pieces[i]` is for replica i alone (b"" when it needs none)."""

    public: bytes = field(repr=False)
    pieces: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True)
class Held:
    """One accepted update as a replica keeps it."""

    node: bytes
    public: bytes = field(repr=False)
    piece: bytes = field(repr=False)


@dataclass(frozen=True)
class Opened:
    """The sum (int64, `dimension` values), the witness that anyone checks, and the replicas that contradicted."""

    values: Values
    witness: bytes
    dissenters: tuple[int, ...]


Digests = Mapping[int, Mapping[int, bytes]]
"""replica -> component number -> digest of the component's bytes, as that replica signed it."""


@dataclass(frozen=True)
class Transcript:
    """What a closed round shows to whoever opens or audits it: the public part of each accepted update by node, the
    digests that replicas signed, and components by digest."""

    publics: Mapping[bytes, bytes] = field(repr=False)
    digests: Digests = field(default_factory=dict, repr=False)
    components: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


class Mode(Protocol):
    name: str

    def protect(self, setting: Setting, node: bytes, values: Values, entropy: Entropy) -> Protected:
        """Split or encrypt `values`. OutOfRange for a wrong shape or a value that `bits` cannot carry."""

    def check(self, setting: Setting, node: bytes, public: bytes, replica: int, piece: bytes) -> None:
        """BadPiece unless `piece` is the complete and consistent piece of `replica`."""

    def share_with(self, setting: Setting, piece: bytes, replica: int) -> bytes:
        """The part of this replica's piece that `replica` is entitled to see (may be b"")."""

    def merge(self, setting: Setting, node: bytes, public: bytes, replica: int, parts: Sequence[bytes]) -> bytes:
        """A full piece from parts that other replicas showed, ignoring wrong ones; BadPiece if incomplete."""

    def combine(self, setting: Setting, replica: int, updates: Sequence[Held]) -> dict[int, bytes]:
        """This replica's component sums by number. Deterministic in `updates` (order does not matter)."""

    def open(self, setting: Setting, transcript: Transcript) -> Opened:
        """Open the sum from what replicas signed; CannotOpen names the missing component or the dissenters."""

    def verify(self, setting: Setting, transcript: Transcript, witness: bytes) -> Values:
        """The opened sum, checked by one who trusts nobody beyond f; CannotOpen when the evidence fails."""
