"""MNIST, federated: the same shape as examples/digits, on Koinon's own loader and torch helpers.

The images are downloaded once, with checksums, into the node's `data_dir` ([node] in config.toml).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from koinon.node import data, training
from torch import nn

from koinon.learning import partitions

ALPHA = 0.5
PARTITION_SEED = 2
MODEL_SEED = 3

load_mnist = lru_cache(data.mnist)


def make_net() -> nn.Sequential:
    """20,490 parameters."""
    torch.manual_seed(MODEL_SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
    )  # fmt: skip


class MnistClient:
    """One node's part of the 60,000 training images, and of the 10,000 held-out ones."""

    def __init__(self, partition: int, partitions_in_all: int, data_dir: Path) -> None:
        self.net = make_net()
        self.seed = partition
        images = load_mnist(data_dir)
        generator = np.random.default_rng(PARTITION_SEED)
        mine = partitions.dirichlet(images.train_labels, partitions_in_all, ALPHA, generator)[partition]
        held_out = np.array_split(np.arange(len(images.test_labels)), partitions_in_all)[partition]
        self.train_part = images.train_images[mine], images.train_labels[mine]
        self.test_part = images.test_images[held_out], images.test_labels[held_out]

    def parameter_names(self) -> list[str]:
        return training.parameter_names(self.net)

    def get_parameters(self, config: dict[str, Any]) -> list[Any]:
        return training.get_weights(self.net)

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, float]]:
        training.set_weights(self.net, parameters)
        loss = training.train(
            self.net,
            *self.train_part,
            epochs=int(config["epochs"]),
            batch_size=int(config["batch_size"]),
            learning_rate=float(config["learning_rate"]),
            seed=1000 * int(config["server_round"]) + self.seed,
        )
        return training.get_weights(self.net), len(self.train_part[1]), {"loss": loss}

    def evaluate(self, parameters: list[Any], config: dict[str, Any]) -> tuple[float, int, dict[str, float]]:
        training.set_weights(self.net, parameters)
        loss, accuracy = training.test(self.net, *self.test_part)
        return loss, len(self.test_part[1]), {"accuracy": accuracy}


def client_fn(context: Any) -> MnistClient:
    """What `[node.apps] mnist = "client.py:client_fn"` names."""
    node = context.node_config
    folder = Path(node.get("data-dir") or "mnist-data")
    return MnistClient(int(node["partition-id"]), int(node["num-partitions"]), folder)
