"""Splitting a labelled data set among nodes. Pure: the generator is an argument, so a split is reproducible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from koinon.errors import ConfigError

_ATTEMPTS_MAX = 1000


def iid(samples: int, nodes: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """`nodes` index arrays of equal size (within one) that cover range(samples), shuffled."""
    return [np.sort(part) for part in np.array_split(rng.permutation(samples), nodes)]


def dirichlet(
    labels: NDArray[np.integer],
    nodes: int,
    alpha: float,
    rng: np.random.Generator,
    *,
    samples_min: int = 10,
) -> list[NDArray[np.int64]]:
    """Label-skewed split: class k goes to the nodes in proportions ~ Dirichlet(alpha).

    Source: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution" (arXiv:1909.06335). Redrawn
    until each node has `samples_min` samples; ConfigError when that cannot be reached.
    """
    if nodes < 1 or alpha <= 0:
        raise ConfigError("a Dirichlet split needs at least one node and alpha > 0")
    classes = np.unique(labels)
    for _ in range(_ATTEMPTS_MAX):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(nodes)]
        for label in classes:
            members = rng.permutation(np.flatnonzero(labels == label))
            cuts = (np.cumsum(rng.dirichlet(np.full(nodes, alpha)))[:-1] * len(members)).astype(int)
            for part, chunk in zip(parts, np.split(members, cuts), strict=True):
                part.append(chunk)
        split = [np.sort(np.concatenate(part)) for part in parts]
        if min(map(len, split)) >= samples_min:
            return split
    raise ConfigError(
        f"no split of {len(labels)} samples gives each of {nodes} nodes {samples_min}",
        hint="use fewer nodes or a larger alpha",
    )
