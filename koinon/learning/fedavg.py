"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data"
(AISTATS 2017), Algorithm 1. C is the fraction of nodes in a round, E the local epochs, B the batch size
(0 is the paper's B = infinity: the whole local data set)."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ._settings import number, whole
from .parameters import Parameters
from .strategy import step


@dataclass(frozen=True)
class FedAvg:
    name = "fedavg"

    fraction: float = 1.0
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.05

    @classmethod
    def from_config(cls, config: dict[str, str]) -> FedAvg:
        return cls(
            fraction=number(config, "fraction", cls.fraction, low=1e-6, high=1.0),
            epochs=whole(config, "epochs", cls.epochs, low=1, high=1000),
            batch_size=whole(config, "batch_size", cls.batch_size, low=0, high=1 << 20),
            learning_rate=number(config, "learning_rate", cls.learning_rate, low=1e-9, high=1e3),
        )

    def fit_config(self) -> dict[str, int | float]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
        }

    def cohort_size(self, available: int) -> int:
        return min(available, ceil(self.fraction * available))

    def apply(self, parameters: Parameters, mean_delta: NDArray[np.float64]) -> Parameters:
        return step(parameters, mean_delta)
