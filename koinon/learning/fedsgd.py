"""FedSGD: the baseline of McMahan et al. (AISTATS 2017), section 2: one full-batch gradient a round.

A node takes one step over all its data (E = 1, B = infinity); the mean of these steps, weighted by sample
counts, is the step of the global model.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ._settings import number
from .parameters import Parameters
from .strategy import step


@dataclass(frozen=True)
class FedSGD:
    name = "fedsgd"

    fraction: float = 1.0
    learning_rate: float = 0.1

    @classmethod
    def from_config(cls, config: dict[str, str]) -> FedSGD:
        return cls(
            fraction=number(config, "fraction", cls.fraction, low=1e-6, high=1.0),
            learning_rate=number(config, "learning_rate", cls.learning_rate, low=1e-9, high=1e3),
        )

    def fit_config(self) -> dict[str, int | float]:
        return {"epochs": 1, "batch_size": 0, "learning_rate": self.learning_rate}

    def cohort_size(self, available: int) -> int:
        return min(available, ceil(self.fraction * available))

    def apply(self, parameters: Parameters, mean_delta: NDArray[np.float64]) -> Parameters:
        return step(parameters, mean_delta)
