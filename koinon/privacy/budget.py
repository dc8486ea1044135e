"""What noise buys: from a task's wishes to a node's noise, and from the rounds that took place to (epsilon, delta).

Differential privacy of one node's whole contribution to a round, against whoever sees opened sums: each node clips
its update to an L2 norm, rounds it to integers and adds discrete Gaussian noise; the sum carries the noise of all
(the distributed discrete Gaussian mechanism: Kairouz, Liu, Steinke 2021, "The distributed discrete Gaussian
mechanism for federated learning with secure aggregation", theorem 1). Nobody has to be trusted with the noise of
more than its own node: the sum of m updates is credited with m - 1 shares of noise, since the observer may be one
of the nodes. What is counted is composed in Renyi differential privacy by dp-accounting (Mironov 2017).

Neighbours, between which epsilon and delta tell: the round with the node's update, and with zero in its place. Against
whoever sees a node's own update (a replica in mode `plain`) only that node's share of the noise protects it.

Not protected: that a node took part, its sample count, its reported loss and accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, pi, sqrt

from koinon.errors import OutOfRange

from .fixed_point import rounding_slack
from .mode import Entropy, Values
from .noise import SIGMA_MAX, discrete_gaussian

TAIL = 11
"""A node draws again when a coordinate's noise exceeds 11 sigma: a coordinate does so with probability 3.9e-28."""
TAIL_PROBABILITY = 3.9e-28
LONG_TAILS = 20
"""A noised update longer than `NoisePlan.norm`, with which a node sits out a round, is as likely as so many tails."""
TAILS_SHARE = 0.01
"""The part of delta that is kept for them: what is opened comes from the mechanism that is counted but for an event of
probability t, and is then (epsilon, delta + (1 + e^epsilon) t)-private."""
EPSILON_MAX = 100.0
"""Beyond it nothing is promised."""
SIGMA_MIN = 4
"""Below, a sum of discrete Gaussians is no longer close to one (theorem 1's tau)."""


@dataclass(frozen=True)
class NoisePlan:
    """Grid units for one float unit; each node's sigma and the L2 sensitivity of a sum, both in grid units."""

    scale: float
    sigma: int
    sensitivity: int
    dimension: int

    @property
    def norm(self) -> int:
        """No honest node's noised update is longer, but for one in 10^26: sigma (sqrt(d) + 11) bounds the noise
        (Laurent and Massart 2000, lemma 1)."""
        return self.sensitivity + self._noise

    @property
    def unweighted(self) -> int:
        """The part of `norm` that is no smaller for an update of less weight: rounding, and the noise."""
        return rounding_slack(self.dimension) + self._noise

    @property
    def _noise(self) -> int:
        return ceil(self.sigma * (sqrt(self.dimension) + TAIL))

    def multiplier(self, accepted: int) -> float:
        """The noise multiplier that a sum of `accepted` updates is worth: 1 / sqrt(2 rho) in zCDP (theorem 1)."""
        others = max(0, accepted - 1)
        if others == 0:
            return 0.0
        tau = 10 * sum(exp(-2 * pi**2 * self.sigma**2 * k / (k + 1)) for k in range(1, others))
        return 1 / sqrt(self.sensitivity**2 / (others * self.sigma**2) + tau * self.dimension)


@lru_cache(maxsize=256)
def plan_noise(
    *, dimension: int, bits: int, clip: float, l2_clip: float, multiplier: float, cohort_min: int
) -> NoisePlan:
    """The finest grid on which the smallest cohort's sum has `multiplier` and no value leaves `bits`.

    Rounding moves a coordinate by less than 1, so a vector by less than sqrt(dimension). OutOfRange when rounding
    would outweigh the update itself.
    """
    limit, slack = 2 ** (bits - 1) - 1, rounding_slack(dimension)
    share = multiplier / sqrt(cohort_min - 1)
    widest = min(clip, l2_clip)
    scale = (limit - 1 - TAIL * (1 + share * (slack + 1))) / (widest + TAIL * share * l2_clip)
    if scale * l2_clip < slack:
        raise OutOfRange(
            f"with {bits} bits, rounding {dimension} coordinates outweighs an update of norm {l2_clip:g}",
            hint="raise the task's bits, or ask for less noise or a larger smallest cohort",
        )
    sensitivity = ceil(scale * l2_clip) + slack
    sigma = ceil(share * sensitivity)
    if not SIGMA_MIN <= sigma <= SIGMA_MAX:
        raise OutOfRange(f"each node's noise has sigma {sigma}; {SIGMA_MIN} to {SIGMA_MAX} can be drawn and counted")
    return NoisePlan(scale, sigma, sensitivity, dimension)


def add_noise(values: Values, plan: NoisePlan, entropy: Entropy) -> Values:
    """int64[d] + a fresh draw of the plan's noise, none of it beyond TAIL sigma."""
    while True:
        noise = discrete_gaussian(values.size, plan.sigma, entropy)
        if max(-int(noise.min()), int(noise.max())) <= TAIL * plan.sigma:
            return values + noise


def epsilon(plan: NoisePlan, accepted: Iterable[int], delta: float) -> float:
    """The epsilon at `delta` of one node that took part in rounds with so many `accepted` updates each (inf if none
    of the others' noise covers it)."""
    from dp_accounting import GaussianDpEvent  # on demand: it brings scipy along
    from dp_accounting.rdp import RdpAccountant

    rounds = list(accepted)
    multipliers = [plan.multiplier(count) for count in rounds]
    if any(not value for value in multipliers):
        return float("inf")
    if not rounds:
        return 0.0
    tails = sum(rounds) * (plan.dimension + LONG_TAILS) * TAIL_PROBABILITY
    accountant = RdpAccountant()
    for value in multipliers:
        accountant.compose(GaussianDpEvent(value))
    found = float(accountant.get_epsilon(delta * (1 - TAILS_SHARE)))
    return found if found < EPSILON_MAX and (1 + exp(found)) * tails <= delta * TAILS_SHARE else float("inf")
