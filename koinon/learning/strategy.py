"""What a strategy is: how nodes are told to train, and how their mean step becomes the next model.

The mean arrives from an exact integer sum, so `apply` must only use operations that IEEE 754 fixes coordinate by
coordinate (no reductions, no transcendental functions): every replica has to derive the same bytes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .parameters import Parameters


class Strategy(Protocol):
    name: str

    @classmethod
    def from_config(cls, config: dict[str, str]) -> Strategy:
        """Read the settings; ConfigError names the one that is wrong."""

    def fit_config(self) -> dict[str, int | float]:
        """What each node's `fit` is told besides the task's own config (Flower: `on_fit_config_fn`)."""

    def cohort_size(self, available: int) -> int:
        """How many of `available` nodes to invite."""

    def apply(self, parameters: Parameters, mean_delta: NDArray[np.float64]) -> Parameters:
        """The next model from the weighted mean of (trained − received), float64[dimension]."""


def step(parameters: Parameters, mean_delta: NDArray[np.float64], learning_rate: float = 1.0) -> Parameters:
    """parameters + learning_rate · mean_delta, coordinate by coordinate."""
    return parameters.with_vector(parameters.vector() + learning_rate * mean_delta)
