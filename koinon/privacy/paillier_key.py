"""Keys of mode `paillier`: the public key, and a sharing of its n-th-root exponent among the replicas.

Key: n = p*q with p = q = 3 (mod 4), gcd(p-1, q-1) = 2, and hs = h^n mod n^2 for h = -y^2 (Damgård, Jurik, Nielsen
2010, "A generalization of Paillier's public-key system with applications to electronic voting", section 4.2).

Sharing: d = n^-1 mod lambda takes n-th roots, (r^n)^d = r mod n. Openings multiply the shared exponent by 2*D^2, with
D = (number of replicas)!; so that this costs no power of full length afterwards, e = k*d mod lambda is shared, where
k = (2*D^2)^-1 mod n is public. The dealer draws an integer polynomial F(x) = D*e + a_1 x + ... + a_t x^t, with
t = 2f, and gives F(j+1) to replica j (Rabin 1998, "A simplified approach to threshold and proactive RSA", section 3;
Damgård, Koprowski 2001, "Practical threshold RSA signatures without a trusted dealer"). Nobody may reduce modulo the
secret lambda, so the shares are integers. They hide e: for any t replicas there is an integer polynomial H with
H(0) = D that is zero at their points and has coefficients below D*(replicas + 1); F and F + (e' - e)*H give these
replicas the same shares, and as each a_i is uniform below 2^128 * D^2 * n the two are within 2^-128 of each other.
For the same reason the openings of the other replicas, x^F(j), can be computed from these shares and the root r: an
opening tells no more than r.

The dealer commits to the sharing (Feldman 1987, "A practical scheme for non-interactive verifiable secret sharing"):
C_k = v^a_k mod n for each coefficient, C_0 = v^(D*e), for a public v. Anybody checks that C_0^n = v^(D*k), so that the
shared exponent does take n-th roots; replica j checks v^F(j+1) = prod C_k^((j+1)^k), so that its share is the one
that the others' shares belong with. v is hashed from n, so that the dealer did not choose it. But it may choose n: if
v is a 5th power modulo a prime factor p = 1 (mod 5), shares that are off by a fifth of v's order pass, and open
nothing. A dealer finds such an n at the fifth try. So the same is done for BASES of such v, independent of one another,
all of which are l-th powers modulo a factor for one n in l^BASES; l = 3 is the least (they are squares all).

What this does not give: the dealer saw the key once (the ceremony has witnesses, not a proof); a key is for one
epoch. Whether n is well made cannot be seen from it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import factorial
from typing import NamedTuple, TypeVar

import gmpy2
from gmpy2 import mpz

from koinon.encoding import U8, U32, Digest, Message, decode, encode, keccak
from koinon.errors import BadPiece, ConfigError, KoinonError

from .mode import Entropy, Setting
from .modular import FixedBase

BITS_DEFAULT = 3072
BITS_FLOOR = 2048
BITS_MAX = 8192
HIDING_BITS = 128
BASES = 32
"""Bases of the commitments: a dealer whose false shares pass has searched through 3^32 = 2^50 moduli."""
REPLICAS_MAX = 10
"""The search for liars tries every (2f+1)-subset of a committee; 120 of them at 10 replicas."""

EXPONENT_BYTES = 40
"""Length of the short encryption exponent: 320 bits, twice the 128-bit level and 64 of margin. Damgård, Jurik and
Nielsen prove their scheme with half the bits of n; a shorter exponent stands on the assumption that short powers of
h look like long ones (Koshiba, Kurosawa 2004)."""

_KEY_BYTES_MAX = 4096

M = TypeVar("M", bound=Message)


class PaillierKey(Message, frozen=True):
    """The canonical encoding of a public key; numbers are big-endian and of full width."""

    bits: U32
    replicas: U8
    epoch: U32
    n: bytes
    hs: bytes


class PaillierShare(Message, frozen=True):
    """One replica's share of the root exponent; `key` is the digest of the public key that it belongs to."""

    key: Digest
    replica: U8
    share: bytes

    def __repr__(self) -> str:
        return f"PaillierShare(replica={self.replica}, key={self.key.hex()})"


@dataclass(frozen=True)
class PublicKey:
    """A parsed public key."""

    bits: int
    replicas: int
    epoch: int
    n: mpz
    n2: mpz
    hs: mpz

    @property
    def plain_bytes(self) -> int:
        """Width of a number modulo n."""
        return self.bits // 8

    @property
    def cipher_bytes(self) -> int:
        """Width of a ciphertext."""
        return self.bits // 4

    @property
    def delta(self) -> int:
        return factorial(self.replicas)

    @property
    def scale(self) -> mpz:
        """k with 2 * delta^2 * k = 1 (mod n)."""
        return gmpy2.invert(2 * self.delta**2, self.n)


class Dealt(NamedTuple):
    """A dealer's work, encoded: the public key, one secret share a replica, and the public commitments to them (to all
    coefficients under the first base, then under the second, ...)."""

    public_key: bytes
    shares: tuple[bytes, ...]
    commitments: tuple[bytes, ...]

    def __repr__(self) -> str:
        return "Dealt()"


def generate_key(bits: int, replicas: int, entropy: Entropy, *, epoch: int = 0) -> Dealt:
    """A dealer's work.

    Forget the process that ran this. ConfigError for a size or a committee that the mode does not carry.
    """
    _require_size(bits, replicas)
    p, q = generate_primes(bits, entropy)
    return deal(p, q, replicas, entropy, epoch=epoch)


def generate_primes(bits: int, entropy: Entropy) -> tuple[mpz, mpz]:
    """p = q = 3 (mod 4) of bits/2 bits each, p*q of exactly `bits`, gcd(p-1, q-1) = 2."""
    while True:
        p, q = _prime(bits // 2, entropy), _prime(bits // 2, entropy)
        if p != q and gmpy2.gcd(p - 1, q - 1) == 2 and (p * q).bit_length() == bits:
            return p, q


def deal(p: mpz, q: mpz, replicas: int, entropy: Entropy, *, epoch: int = 0) -> Dealt:
    """The public key of n = p*q, a share for each replica, and the commitments."""
    n = p * q
    bits = n.bit_length()
    _require_size(bits, replicas)
    h = -gmpy2.powmod(_below(n, entropy), 2, n) % n
    hs = gmpy2.powmod(h, n, n * n)
    key = PaillierKey(bits=bits, replicas=replicas, epoch=epoch, n=_wide(n, bits // 8), hs=_wide(hs, bits // 4))
    public_key = encode(key)
    order, delta = gmpy2.lcm(p - 1, q - 1), factorial(replicas)
    root = gmpy2.invert(n, order) * gmpy2.invert(2 * delta**2, n) % order
    degree = 2 * ((replicas - 1) // 3)
    bound = (delta * delta * n) << HIDING_BITS
    coefficients = [delta * root, *(_below(bound, entropy) for _ in range(degree))]
    shares = []
    for replica in range(replicas):
        value = mpz(0)
        for coefficient in reversed(coefficients):
            value = value * (replica + 1) + coefficient
        width = (value.bit_length() + 7) // 8
        shares.append(encode(PaillierShare(key=keccak(public_key), replica=replica, share=_wide(value, width))))
    committed = (gmpy2.powmod(base, each, n) for base in _bases(n) for each in coefficients)
    commitments = tuple(_wide(each, bits // 8) for each in committed)
    return Dealt(public_key, tuple(shares), commitments)


def require_dealing(public_key: bytes, commitments: Sequence[bytes]) -> None:
    """BadPiece unless the commitments are to a sharing of an exponent that takes n-th roots."""
    key = parse_key(public_key)
    expected = BASES * _coefficients(key)
    if len(commitments) != expected or any(len(each) != key.plain_bytes for each in commitments):
        raise BadPiece(f"a dealing to {key.replicas} replicas has {expected} commitments of {key.plain_bytes} bytes")
    expected_root = key.delta * key.scale
    for base, row in _rows(key, commitments):
        if gmpy2.powmod(row[0], key.n, key.n) != gmpy2.powmod(base, expected_root, key.n):
            raise BadPiece("the dealer shared an exponent that takes no n-th roots")


def require_share(public_key: bytes, commitments: Sequence[bytes], replica: int, share: bytes) -> None:
    """BadPiece unless `share` is the one that the dealer committed to for `replica`."""
    key, mine = parse_key(public_key), _decode(PaillierShare, share, "key share")
    if mine.key != keccak(public_key) or mine.replica != replica:
        raise BadPiece(f"a share of another key, or of another replica than {replica}")
    exponent = mpz.from_bytes(mine.share, "big")
    for base, row in _rows(key, commitments):
        expected = mpz(1)
        for commitment in reversed(row):
            expected = gmpy2.powmod(expected, replica + 1, key.n) * commitment % key.n
        if gmpy2.powmod(base, exponent, key.n) != expected:
            raise BadPiece(f"the share of replica {replica} is not the one that the dealer committed to")


def _coefficients(key: PublicKey) -> int:
    """How many coefficients the sharing polynomial has."""
    return 2 * ((key.replicas - 1) // 3) + 1


def _rows(key: PublicKey, commitments: Sequence[bytes]) -> Iterator[tuple[mpz, list[mpz]]]:
    """Each base with the commitments under it."""
    count = _coefficients(key)
    for number, base in enumerate(_bases(key.n)):
        yield base, [mpz.from_bytes(each, "big") for each in commitments[number * count : (number + 1) * count]]


def _bases(n: mpz) -> list[mpz]:
    """Squares modulo n that nobody chose."""
    width = n.bit_length() // 8 + 16
    named = b"koinon/paillier/commitment" + _wide(n, n.bit_length() // 8)
    drawn = hashlib.shake_256(named).digest(BASES * width)
    parts = (drawn[at : at + width] for at in range(0, len(drawn), width))
    return [gmpy2.powmod(mpz.from_bytes(part, "big"), 2, n) for part in parts]


def key_of(setting: Setting) -> PublicKey:
    """The public key of a task; ConfigError when it is absent, too short, or of another committee."""
    if not setting.public_key:
        raise ConfigError("mode paillier needs a public key and the task has none")
    key = parse_key(setting.public_key)
    if key.replicas != setting.replicas:
        raise ConfigError(f"a Paillier key shared among {key.replicas} replicas, and a committee of {setting.replicas}")
    return key


@lru_cache(maxsize=8)
def parse_key(data: bytes) -> PublicKey:
    """Parse and check the encoding of a public key; warns below the default size."""
    message = _decode(PaillierKey, data, "public key")
    bits = message.bits
    _require_size(bits, message.replicas)
    n, hs = mpz.from_bytes(message.n, "big"), mpz.from_bytes(message.hs, "big")
    if len(message.n) != bits // 8 or len(message.hs) != bits // 4 or n.bit_length() != bits or n % 2 == 0:
        raise ConfigError(f"a Paillier key that is not one of {bits} bits")
    if not 1 < hs < n * n or gmpy2.gcd(hs, n) != 1:
        raise ConfigError("the randomness base of a Paillier key is outside its group")
    if bits < BITS_DEFAULT:
        warnings.warn(f"a Paillier key of {bits} bits; {BITS_DEFAULT} are advised", stacklevel=2)
    return PublicKey(bits, message.replicas, message.epoch, n, n * n, hs)


class MaskSource:
    """Encryption randomness: pairs of a short exponent and hs to its power, drawn now or ahead of time.

    What is made ahead stays in memory and is handed out once. The table of powers (8 MB at 3072 bits) is public.
    """

    def __init__(self, key: PublicKey) -> None:
        self._table = FixedBase(key.hs, key.n2, EXPONENT_BYTES)
        self._ready: deque[tuple[bytes, mpz]] = deque()

    def fill(self, count: int, entropy: Entropy) -> None:
        """Make pairs until `count` of them wait."""
        while len(self._ready) < count:
            self._ready.append(self._draw(entropy))

    def take(self, entropy: Entropy) -> tuple[bytes, mpz]:
        """A pair that nobody had before: one that waits, or a new one."""
        try:
            return self._ready.popleft()
        except IndexError:
            return self._draw(entropy)

    @property
    def waiting(self) -> int:
        return len(self._ready)

    def _draw(self, entropy: Entropy) -> tuple[bytes, mpz]:
        exponent = entropy(EXPONENT_BYTES)
        return exponent, self._table.power(exponent)


@lru_cache(maxsize=2)
def masks_of(key: PublicKey) -> MaskSource:
    """This process's source for a key."""
    return MaskSource(key)


def share_of(setting: Setting, replica: int) -> mpz:
    """The share of `replica` in this setting; ConfigError when it is absent or of another key or replica."""
    if not setting.key_share:
        raise ConfigError(f"replica {replica} has no share of the task's Paillier key")
    share = _decode(PaillierShare, setting.key_share, "key share")
    if share.key != keccak(setting.public_key) or share.replica != replica:
        raise ConfigError(f"a Paillier key share of another key, or of another replica than {replica}")
    return mpz.from_bytes(share.share, "big")


def _decode(kind: type[M], data: bytes, what: str) -> M:
    try:
        return decode(kind, data, bytes_max=_KEY_BYTES_MAX)
    except KoinonError as error:
        raise ConfigError(f"not a Paillier {what}: {error.message}") from None


def _require_size(bits: int, replicas: int) -> None:
    if not BITS_FLOOR <= bits <= BITS_MAX or bits % 16:
        raise ConfigError(
            f"a Paillier key has {BITS_FLOOR} to {BITS_MAX} bits, a multiple of 16, not {bits}",
            hint=f"{BITS_DEFAULT} is the default",
        )
    if not 1 <= replicas <= REPLICAS_MAX:
        raise ConfigError(f"mode paillier carries 1 to {REPLICAS_MAX} replicas, not {replicas}")


def _prime(bits: int, entropy: Entropy) -> mpz:
    """A prime = 3 (mod 4) with its two top bits set."""
    while True:
        start = mpz.from_bytes(entropy(bits // 8), "big") | mpz(3) << (bits - 2)
        prime = gmpy2.next_prime(start)
        if prime % 4 == 3 and prime.bit_length() == bits:
            return prime


def _below(bound: mpz, entropy: Entropy) -> mpz:
    """Uniform in 1..bound-1 up to a bias of 2^-128."""
    width = (bound.bit_length() + 7) // 8 + 16
    return mpz.from_bytes(entropy(width), "big") % (bound - 1) + 1


def _wide(value: mpz, width: int) -> bytes:
    return bytes(value.to_bytes(width, "big"))
