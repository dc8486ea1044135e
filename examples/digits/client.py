"""Handwritten digits, federated: what an organisation writes to take part. It needs scikit-learn and torch.

`client_fn` has the shape that Flower users know. Each node trains on its own part of the training images (split with
Dirichlet(0.5) label skew, so that the parts differ much) and measures models on its own part of the held-out images.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy

from koinon.learning import partitions

HELD_OUT = 360
SPLIT_SEED = 7
PARTITION_SEED = 2
MODEL_SEED = 3
ALPHA = 0.5
MOMENTUM = 0.9

Arrays = list[NDArray[np.float32]]


def make_net() -> nn.Sequential:
    """12,298 parameters. GroupNorm, because BatchNorm's statistics cannot be averaged."""
    torch.manual_seed(MODEL_SEED)
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(4, 12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1), nn.GroupNorm(4, 24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 4 * 4, 24), nn.ReLU(), nn.Linear(24, 10),
    )  # fmt: skip


@lru_cache
def load_images() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(training images, training labels, held-out images, held-out labels); 1,437 + 360 of 8 x 8 pixels."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype("float32").reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in split)
    return train_x, train_y.long(), test_x, test_y.long()


def train(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, *, epochs: int, batch: int, rate: float, seed: int
) -> float:
    """Stochastic gradient descent with momentum; the last epoch's mean loss. `batch` 0 is one step an epoch."""
    optimiser = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM if batch else 0.0)
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(y), generator=generator).split(batch or len(y)):
            optimiser.zero_grad()
            loss = cross_entropy(net(x[chosen]), y[chosen])
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
    return total / len(y)


def test(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(mean loss, accuracy in 0..1)"""
    with torch.no_grad():
        scores = net(x)
        return float(cross_entropy(scores, y)), float((scores.argmax(1) == y).float().mean())


class DigitsClient:
    """One node's part of the data and its copy of the net."""

    def __init__(self, partition: int, partitions_in_all: int) -> None:
        self.net = make_net()
        self.partition = partition
        train_x, train_y, test_x, test_y = load_images()
        generator = np.random.default_rng(PARTITION_SEED)
        mine = partitions.dirichlet(train_y.numpy(), partitions_in_all, ALPHA, generator)[partition]
        held_out = np.array_split(np.arange(len(test_y)), partitions_in_all)[partition]
        self.train_x, self.train_y = train_x[mine], train_y[mine]
        self.test_x, self.test_y = test_x[held_out], test_y[held_out]

    def parameter_names(self) -> list[str]:
        return list(self.net.state_dict())

    def get_parameters(self, config: dict[str, Any]) -> Arrays:
        return [tensor.numpy().copy() for tensor in self.net.state_dict().values()]

    def set_parameters(self, arrays: Arrays) -> None:
        names = self.parameter_names()
        self.net.load_state_dict({name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)})

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, float]]:
        self.set_parameters(parameters)
        loss = train(
            self.net,
            self.train_x,
            self.train_y,
            epochs=int(config["epochs"]),
            batch=int(config["batch_size"]),
            rate=float(config["learning_rate"]),
            seed=1000 * int(config["server_round"]) + self.partition,
        )
        return self.get_parameters(config), len(self.train_y), {"loss": loss}

    def evaluate(self, parameters: Arrays, config: dict[str, Any]) -> tuple[float, int, dict[str, float]]:
        self.set_parameters(parameters)
        loss, accuracy = test(self.net, self.test_x, self.test_y)
        return loss, len(self.test_y), {"accuracy": accuracy}


def client_fn(context: Any) -> DigitsClient:
    """What `[node.apps] digits = "client.py:client_fn"` names."""
    node = context.node_config
    return DigitsClient(int(node["partition-id"]), int(node["num-partitions"]))
