"""A user module for tests: the model is one vector that walks towards the node's own number.

A file `fault-<partition>` beside it says what goes wrong: raise, nan, shape, or wait (until the file is gone). Each
call of `fit` leaves a line in `fits-<partition>`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = list[NDArray[np.float32]]


class Numbers:
    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.folder = Path(__file__).parent

    def fault(self) -> str:
        path = self.folder / f"fault-{self.partition}"
        return path.read_text() if path.exists() else ""

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        return [np.zeros((4, 5), np.float32), np.zeros(3, np.float32)]

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, float]]:
        with (self.folder / f"fits-{self.partition}").open("a") as file:
            file.write(f"{config['run']} {config['server_round']}\n")
        while self.fault() == "wait":
            time.sleep(0.02)
        match self.fault():
            case "raise":
                raise RuntimeError("no data today")
            case "nan":
                return [each * np.float32("nan") for each in parameters], 10, {}
            case "shape":
                return parameters[:1], 10, {}
        return [each + (self.partition - each) / 2 for each in parameters], 10, {"loss": 1.0}

    def evaluate(self, parameters: Arrays, config: dict[str, Any]) -> tuple[float, int, dict[str, float]]:
        distance = float(np.mean([np.abs(each - self.partition).mean() for each in parameters]))
        return distance, 10, {"accuracy": 1 / (1 + distance)}


def client_fn(context: Any) -> Numbers:
    return Numbers(int(context.node_config["partition-id"]))
