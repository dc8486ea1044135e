"""Many modular powers at once, on all cores: the arithmetic under mode `paillier`.

gmpy2's list functions release the interpreter's lock, so threads are enough. Nothing here runs in constant time;
whoever can measure a replica's opening to the microsecond should not be let near it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import factorial, prod

import gmpy2
from gmpy2 import mpz

THREADS_MAX = 16
"""Most threads of one call to `powers`, however many cores there are."""

WINDOW_BITS = 8
"""An exponent is cut into bytes: fixed-base tables are indexed by them, and buckets are named after them."""


def powers(bases: Sequence[mpz], exponent: mpz, modulus: mpz) -> list[mpz]:
    """[b^exponent mod modulus for b in bases]; the exponent isn't negative."""
    threads = max(1, min(THREADS_MAX, os.cpu_count() or 1, len(bases)))
    if threads == 1:
        return list(gmpy2.powmod_base_list(list(bases), exponent, modulus))
    parts = [list(bases[start::threads]) for start in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda part: gmpy2.powmod_base_list(part, exponent, modulus), parts))
    out: list[mpz] = [mpz(0)] * len(bases)
    for start, part in enumerate(done):
        out[start::threads] = part
    return out


def product_of_powers(bases: Sequence[mpz], exponents: Sequence[bytes], modulus: mpz) -> mpz:
    """prod b^e mod modulus for big-endian exponents of equal length, by buckets.

    One byte of all exponents at a time: elements that share a digit meet in its bucket, and a running product
    raises each bucket to its digit (Pippenger 1976; Bernstein, Doumen, Lange, Oosterwijk 2012, section 2).
    """
    total = mpz(1)
    for digits in zip(*exponents, strict=True):
        if total != 1:
            total = gmpy2.powmod(total, 1 << WINDOW_BITS, modulus)
        buckets: dict[int, mpz] = {}
        for base, digit in zip(bases, digits, strict=True):
            buckets[digit] = buckets[digit] * base % modulus if digit in buckets else base
        running = mpz(1)
        for digit in range((1 << WINDOW_BITS) - 1, 0, -1):
            if digit in buckets:
                running = running * buckets[digit] % modulus
            total = total * running % modulus
    return total


class FixedBase:
    """Powers of one base: a table of base^(digit * 256^position), one multiplication a byte of the exponent."""

    def __init__(self, base: mpz, modulus: mpz, exponent_bytes: int) -> None:
        self._modulus = modulus
        self._rows: list[list[mpz]] = []
        for _ in range(exponent_bytes):
            row = [mpz(1)]
            for _ in range((1 << WINDOW_BITS) - 1):
                row.append(row[-1] * base % modulus)
            self._rows.append(row)
            base = row[-1] * base % modulus

    def power(self, exponent: bytes) -> mpz:
        """base^exponent for a little-endian exponent of at most the length that the table was made for."""
        total = mpz(1)
        for row, digit in zip(self._rows, exponent, strict=False):
            if digit:
                total = total * row[digit] % self._modulus
        return total


def lagrange_at_zero(points: Sequence[int], parties: int) -> dict[int, int]:
    """parties! times the Lagrange coefficients at 0 of `points` within 1..parties: integers, by point."""
    delta = factorial(parties)
    out = {}
    for i in points:
        above = delta * prod(j for j in points if j != i)
        below = prod(j - i for j in points if j != i)
        if above % below:
            raise ArithmeticError("Lagrange coefficients times n! are integers")
        out[i] = above // below
    return out
