"""What a guess of an update tells about its owner's images: gradient inversion and membership inference.

Inversion (Phong et al. 2018, "Privacy-preserving deep learning via additively homomorphic encryption", section 3): for
one image x, the first layer's weight gradient is x times its bias gradient, unit by unit; least squares over the units
gives x. Membership: a member's gradient lies in the update. `alignment` is its cosine with the update; `whitened`
first divides by the gradients' covariance on the adversary's own images, so that what all digits have in common does
not drown what one image has (a linear discriminant; known noise counts as covariance). `by_loss` needs the model only
(Yeom et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._victims import Floats, Images, gradients, layers

RIDGE = 0.1
"""Of the covariance's mean eigenvalue, added to each (the best of 0.001, 0.01 and 0.1)."""
SIGMAS = 5.0
"""Half the width of the band around chance, in standard errors: one false alarm in two million, if they were normal."""
MEMBERSHIP = ("alignment", "whitened")


# --- inversion -----------------------------------------------------------------------------------------------------


def invert(update: Floats) -> Floats:
    """float64[64]: the image that a one-image update of any scale shows (zeros when no unit's bias moved)."""
    weights, biases, _, _ = layers(update)
    square = float(biases @ biases)
    image: Floats = weights @ biases / square if square else np.zeros(len(weights))
    return image


def cosine(one: Floats, other: Floats) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths else 0.0


def psnr(found: Floats, true: Floats) -> float:
    """Decibels, of pixels in 0..1; at most 99."""
    error = float(np.mean(np.square(np.clip(found, 0, 1) - true)))
    return min(99.0, -10 * float(np.log10(max(error, 1e-10))))


def picks(found: Floats, candidates: Floats, own: Images) -> int:
    """Which of the candidate images (float64[k, 64]) looks most like `found`, less what all digits share."""
    usual = own.pixels.mean(axis=0)
    return int(np.argmax([cosine(found - usual, each - usual) for each in candidates]))


# --- membership ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Detector:
    """The adversary's knowledge of a model: how gradients usually are. `common` float64[d]; the covariance has
    `spread` float64[d] along the columns of `axes` float64[d, d]."""

    common: Floats
    spread: Floats
    axes: Floats

    @classmethod
    def train(cls, model: Floats, own: Images) -> Detector:
        found, _ = gradients(model, own)
        spread, axes = np.linalg.eigh(np.cov(found, rowvar=False))
        return cls(np.asarray(found.mean(axis=0)), np.maximum(spread, 0), axes)

    def scorer(self, rows: Floats, noise: float = 0.0) -> Scorer:
        """For candidates with these gradients, float64[k, d]; `noise` is the variance that a coordinate of the guess
        has from the task's (public) noise, times the images in it."""
        centred = (rows - self.common) @ self.axes
        weights = 1 / (self.spread + RIDGE * self.spread.mean() + noise)
        lengths = np.sqrt(np.maximum((weights * np.square(centred)).sum(axis=1), 1e-300))
        white = (weights * centred / lengths[:, None]) @ self.axes.T
        return Scorer(self.common, rows / _lengths(rows), white)


@dataclass(frozen=True)
class Scorer:
    common: Floats
    rows: Floats
    white: Floats

    def scores(self, gradient: Floats) -> dict[str, Floats]:
        """How much each candidate looks like a member; `gradient` is the guessed mean gradient, float64[d]."""
        return dict(zip(MEMBERSHIP, (self.rows @ gradient, self.white @ (gradient - self.common)), strict=True))


def _lengths(rows: Floats) -> Floats:
    return np.asarray(np.maximum(np.linalg.norm(rows, axis=1), 1e-300)[:, None], dtype=np.float64)


def by_loss(model: Floats, images: Images) -> Floats:
    """float64[k]: members have been trained on, so that their loss is lower."""
    _, losses = gradients(model, images)
    return -losses


def auc(scores: Floats, members: NDArray[np.bool_]) -> float:
    """The probability that a member scores above a stranger (ties count half)."""
    inside, outside = scores[members], scores[~members]
    above = np.sign(inside[:, None] - outside[None, :])
    return float(0.5 + above.mean() / 2)


# --- chance --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """A mean over victims, and the band around chance in which it says nothing."""

    value: float
    chance: float
    band: float
    count: int

    @property
    def informs(self) -> bool:
        """Above chance, or as clearly below it."""
        return abs(self.value - self.chance) > self.band

    @property
    def leaks(self) -> bool:
        return self.value > self.chance + self.band


def auc_rate(values: Sequence[float], members: int, strangers: int) -> Rate:
    """The mean AUC. Its error comes from the victims' own spread, and is at least that of independent scores."""
    independent = (members + strangers + 1) / (12 * members * strangers)
    spread = max(float(np.var(values)), independent)
    return Rate(float(np.mean(values)), 0.5, SIGMAS * float(np.sqrt(spread / len(values))), len(values))


def hit_rate(hits: Sequence[bool], candidates: int) -> Rate:
    """How often the right one of the candidates was picked; the error is that of coins."""
    chance = 1 / candidates
    band = SIGMAS * float(np.sqrt(chance * (1 - chance) / len(hits))) + 1 / len(hits)
    return Rate(float(np.mean(hits)), chance, band, len(hits))
