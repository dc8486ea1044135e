"""Discrete Gaussian noise, drawn exactly in integers (Canonne, Kamath, Steinke 2020, "The discrete Gaussian for
differential privacy", algorithms 1 to 3), a vector at a time.

N_Z(0, s^2) has P(x) proportional to exp(-x^2 / (2 s^2)) over the integers. With an integer s every comparison is one
of 63-bit integers: no floating point touches the secret, so the known attacks on rounded samplers (Mironov 2012)
find nothing. Randomness is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from koinon.errors import InvariantBroken

from .mode import Entropy, Values

SIGMA_MAX = 1 << 22
"""(|y| - s)^2 and K * 2 s^2 stay below 2^63 for s up to here: |y| <= 200 s, and K > 2^17 has probability 1 / 2^17!."""
TRIES_MAX = 200
"""So many coins in a row, or proposals refused, never happen by chance."""

Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def discrete_gaussian(size: int, sigma: int, entropy: Entropy) -> Values:
    """int64[size] of independent draws of N_Z(0, sigma^2), 1 <= sigma <= 2^22. InvariantBroken outside."""
    if not 1 <= sigma <= SIGMA_MAX:
        raise InvariantBroken(f"the noise's scale lies in 1..{SIGMA_MAX}, not {sigma}")

    def propose(count: int) -> tuple[Values, Mask]:
        drawn = _discrete_laplace(count, sigma, entropy)
        return drawn, _bernoulli_exp(np.square(np.abs(drawn) - sigma), 2 * sigma * sigma, entropy)

    return _rejection(size, propose)


def _discrete_laplace(size: int, scale: int, entropy: Entropy) -> Values:
    """int64[size] with P(x) proportional to exp(-|x| / scale) (algorithm 2)."""

    def propose(count: int) -> tuple[Values, Mask]:
        low = _below(scale, count, entropy)
        kept = _bernoulli_exp(low, scale, entropy)
        magnitude, negative = low + scale * _geometric(count, entropy), _below(2, count, entropy) == 1
        return np.where(negative, -magnitude, magnitude), kept & ~(negative & (magnitude == 0))

    return _rejection(size, propose)


def _rejection(size: int, propose: Callable[[int], tuple[Values, Mask]]) -> Values:
    """The first `size` accepted of as many proposals as it takes."""
    found, tries = np.empty(0, dtype=np.int64), 0
    while found.size < size:
        tries += 1
        _require_alive(tries)
        drawn, kept = propose(2 * (size - found.size) + 16)
        found = np.concatenate([found, drawn[kept]])
    return found[:size]


def _geometric(count: int, entropy: Entropy) -> Integers:
    """int64[count]: how often a coin of probability exp(-1) came up before it first did not."""
    successes = np.zeros(count, dtype=np.int64)
    running = np.arange(count)
    while running.size:
        again = _bernoulli_exp_unit(np.ones(running.size, dtype=np.int64), 1, entropy)
        running = running[again]
        successes[running] += 1
        _require_alive(int(successes.max(initial=0)))
    return successes


def _bernoulli_exp(numerators: Integers, denominator: int, entropy: Entropy) -> Mask:
    """bool[k]: true with probability exp(-numerators / denominator) each (algorithm 1)."""
    whole, rest = np.divmod(numerators, denominator)
    alive = np.ones(numerators.size, dtype=bool)
    for passed in range(int(whole.max(initial=0))):
        asked = np.flatnonzero(alive & (whole > passed))
        if not asked.size:
            break
        alive[asked] = _bernoulli_exp_unit(np.ones(asked.size, dtype=np.int64), 1, entropy)
    asked = np.flatnonzero(alive)
    alive[asked] = _bernoulli_exp_unit(rest[asked], denominator, entropy)
    return alive


def _bernoulli_exp_unit(numerators: Integers, denominator: int, entropy: Entropy) -> Mask:
    """As `_bernoulli_exp` for fractions in [0, 1]: K counts coins of probability fraction / K until one falls."""
    odd = np.ones(numerators.size, dtype=bool)
    running = np.arange(numerators.size)
    k = 1
    while running.size:
        _require_alive(k)
        running = running[_below(denominator * k, running.size, entropy) < numerators[running]]
        odd[running] = k % 2 == 0
        k += 1
    return odd


def _below(bound: int, count: int, entropy: Entropy) -> Integers:
    """int64[count], each uniform in [0, bound), by rejection."""
    width = np.dtype(np.uint32 if bound <= 1 << 32 else np.uint64)
    mask = width.type((1 << (bound - 1).bit_length()) - 1)

    def propose(wanted: int) -> tuple[Values, Mask]:
        drawn = (np.frombuffer(entropy(wanted * width.itemsize), dtype=width) & mask).astype(np.int64)
        return drawn, drawn < bound

    return _rejection(count, propose)


def _require_alive(tries: int) -> None:
    if tries > TRIES_MAX:
        raise InvariantBroken(f"the source of randomness is broken: {tries} draws in a row fell alike")
