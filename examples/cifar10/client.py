"""CIFAR-10, federated: LeNet-5 on equal shuffled parts of the images, on Koinon's own loader and torch helpers.

The images are downloaded once, with their checksum, into the node's `data_dir` ([node] in config.toml).
`python -m scripts.bench_rounds` measures rounds of this example.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from koinon.node import data, training
from lenet import make_net

from koinon.learning import partitions

PARTITION_SEED = 2


class CifarClient:
    """One node's part of the 50,000 training images, and of the held-out ones."""

    def __init__(self, partition: int, partitions_in_all: int, data_dir: Path) -> None:
        torch.set_num_threads(1)  # several nodes may share a machine, and LeNet is too small for more
        self.net = make_net()
        self.seed = partition

        def mine(labels: Any) -> Any:
            generator = np.random.default_rng(PARTITION_SEED)
            return partitions.iid(len(labels), partitions_in_all, generator)[partition]

        images = data.cifar10(data_dir, chosen=mine)
        held_out = np.array_split(np.arange(len(images.test_labels)), partitions_in_all)[partition]
        self.train_part = images.train_images, images.train_labels
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


def client_fn(context: Any) -> CifarClient:
    """What `[node.apps] cifar10 = "client.py:client_fn"` names."""
    node = context.node_config
    folder = Path(node.get("data-dir") or "cifar10-data")
    return CifarClient(int(node["partition-id"]), int(node["num-partitions"]), folder)
