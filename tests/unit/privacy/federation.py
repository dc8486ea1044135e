"""A committee and its nodes in one process: everything a privacy mode does in one round, and ways to lie in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from koinon.encoding import keccak
from koinon.errors import BadPiece
from koinon.privacy import Entropy, Held, Opened, Protected, Setting, Transcript, Values, mode
from koinon.privacy.mode import Claim
from koinon.privacy.paillier_key import Dealt, deal, generate_primes
from koinon.privacy.shares import Shares

TASK = keccak(b"a task")
PAILLIER_BITS = 2048
COMMITTEE_MODES = ("plain", "shares", "paillier")
"""The modes whose sums the replicas open; `masked`, which the nodes open, has tests of its own."""


def seeded(seed: str) -> Entropy:
    """A reproducible stream of random bytes."""
    position = 0

    def entropy(size: int) -> bytes:
        nonlocal position
        position += 1
        return hashlib.shake_256(f"{seed}/{position}".encode()).digest(size)

    return entropy


def node(number: int) -> bytes:
    return keccak(b"node" + number.to_bytes(4, "big"))[:20]


@cache
def primes() -> tuple[int, int]:
    p, q = generate_primes(PAILLIER_BITS, seeded("primes"))
    return int(p), int(q)


@cache
def keys(replicas: int) -> Dealt:
    """The key of `primes`, dealt to a committee."""
    import gmpy2

    p, q = primes()
    return deal(gmpy2.mpz(p), gmpy2.mpz(q), replicas, seeded(f"deal {replicas}"))


def random_updates(count: int, dimension: int, bits: int = 16, seed: int = 1) -> list[Values]:
    limit = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(seed)
    return [rng.integers(-limit, limit + 1, dimension) for _ in range(count)]


@dataclass
class Federation:
    """One round of one mode; `digests` and `components` are what an aggregator would have collected."""

    name: str
    updates: list[Values]
    replicas: int = 4
    bits: int = 16
    cohort: int = 16
    seed: str = "round"
    norm: int = 0
    claims: dict[bytes, Claim] | None = None
    protected: dict[bytes, Protected] = field(init=False)
    digests: dict[int, dict[int, bytes]] = field(init=False)
    components: dict[bytes, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.mode = mode(self.name)
        self.shares: tuple[bytes, ...] = (b"",) * self.replicas
        public_key = b""
        if self.name == "paillier":
            public_key, self.shares, _ = keys(self.replicas)
        self.setting = Setting(
            task=TASK,
            round=3,
            replicas=self.replicas,
            dimension=len(self.updates[0]),
            bits=self.bits,
            cohort=self.cohort,
            norm=self.norm,
            claims=self.claims,
            public_key=public_key,
        )
        entropy = seeded(self.seed)
        self.protected = {
            node(i): self.mode.protect(self.setting, node(i), values, entropy) for i, values in enumerate(self.updates)
        }
        self.digests, self.components = {}, {}
        for replica in range(self.replicas):
            self.say(replica, self.sums(replica))

    @property
    def publics(self) -> dict[bytes, bytes]:
        return {name: protected.public for name, protected in self.protected.items()}

    @property
    def transcript(self) -> Transcript:
        return Transcript(self.publics, self.digests, self.components)

    @property
    def total(self) -> Values:
        return np.sum(self.updates, axis=0, dtype=np.int64)

    def for_replica(self, replica: int) -> Setting:
        return replace(self.setting, key_share=self.shares[replica])

    def held(self, replica: int) -> list[Held]:
        return [Held(name, p.public, p.pieces[replica]) for name, p in self.protected.items()]

    def sums(self, replica: int) -> dict[int, bytes]:
        return self.mode.combine(self.for_replica(replica), replica, self.held(replica))

    def say(self, replica: int, sums: dict[int, bytes]) -> None:
        """`replica` signs these components and serves their bytes."""
        self.digests[replica] = {number: keccak(data) for number, data in sums.items()}
        self.components |= {keccak(data): data for data in sums.values()}

    def lie(self, replica: int) -> None:
        """`replica` signs and serves other bytes of the right size: the last bit of each component is flipped."""
        self.say(replica, {n: d[:-1] + bytes([d[-1] ^ 1 ^ (replica << 1)]) for n, d in self.sums(replica).items()})

    def open(self) -> Opened:
        return self.mode.open(self.setting, self.transcript)

    def verify(self, witness: bytes) -> Values:
        return self.mode.verify(self.setting, self.transcript, witness)


def accepted(setting: Setting, protected: Protected) -> list[int]:
    """The replicas that find the update of node 0 proper in mode `shares`."""
    found = []
    for replica in range(setting.replicas):
        try:
            Shares().check(setting, node(0), protected.public, replica, protected.pieces[replica])
            found.append(replica)
        except BadPiece:
            pass
    return found
