"""A dealer that searches for a key to which shares fit that open nothing: the commitments find it out."""

from __future__ import annotations

import gmpy2
import pytest
from gmpy2 import mpz

from koinon.encoding import decode, encode
from koinon.errors import BadPiece
from koinon.privacy.paillier_key import (
    BASES,
    BITS_FLOOR,
    PaillierShare,
    _bases,
    deal,
    generate_primes,
    require_dealing,
    require_share,
)
from tests.unit.privacy.federation import seeded

pytestmark = pytest.mark.filterwarnings("ignore:a Paillier key of 2048 bits")
SMALL = 5
"""The least prime above the committee's four replicas: no opening multiplies its roots of one away."""


def searched_primes() -> tuple[mpz, mpz]:
    """p = 1 (mod 5), and the first base is a 5th power modulo p: about the fifth such pair is one."""
    entropy = seeded("a dealer searches")
    while True:
        p, q = generate_primes(BITS_FLOOR, entropy)
        if p % SMALL == 1 and gmpy2.powmod(_bases(p * q)[0], (p - 1) // SMALL, p) == 1:
            return p, q


def test_shares_that_fit_one_base_only_are_refused() -> None:
    p, q = searched_primes()
    key, shares, commitments = deal(p, q, 4, seeded("deal"))
    require_dealing(key, commitments)
    honest = decode(PaillierShare, shares[1])
    order = gmpy2.lcm(p - 1, q - 1)
    value = mpz.from_bytes(honest.share, "big") + order // SMALL
    false = encode(
        PaillierShare(key=honest.key, replica=1, share=bytes(value.to_bytes((value.bit_length() + 7) // 8, "big")))
    )
    assert gmpy2.powmod(_bases(p * q)[0], order // SMALL, p * q) == 1  # alone it would notice nothing
    require_share(key, commitments, 1, shares[1])
    with pytest.raises(BadPiece, match="not the one that the dealer committed to"):
        require_share(key, commitments, 1, false)


def test_bases_are_distinct_squares_that_follow_from_the_modulus() -> None:
    p, q = searched_primes()
    bases = _bases(p * q)
    assert len(set(bases)) == BASES
    assert bases == _bases(p * q)
    assert all(gmpy2.legendre(base, p) == gmpy2.legendre(base, q) == 1 for base in bases)
    assert not set(bases) & set(_bases(p * q + 2))


@pytest.mark.parametrize("base", [0, 1, BASES - 1])
def test_every_base_counts(base: int) -> None:
    p, q = generate_primes(BITS_FLOOR, seeded("honest"))
    key, shares, commitments = deal(p, q, 4, seeded("deal"))
    changed = list(commitments)
    changed[3 * base + 1], changed[3 * base + 2] = changed[3 * base + 2], changed[3 * base + 1]
    require_dealing(key, changed)
    with pytest.raises(BadPiece, match="not the one"):
        require_share(key, changed, 1, shares[1])
    changed[3 * base], changed[3 * base + 1] = changed[3 * base + 1], changed[3 * base]
    with pytest.raises(BadPiece, match="no n-th roots"):
        require_dealing(key, changed)
    with pytest.raises(BadPiece, match="96 commitments"):
        require_dealing(key, commitments[:-1])
