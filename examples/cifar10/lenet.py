"""The net of the CIFAR-10 example, torch alone: LeNet-5 (LeCun et al. 1998) for three colours, 62,006 parameters."""

from __future__ import annotations

import torch
from torch import nn

MODEL_SEED = 3


def make_net() -> nn.Sequential:
    """Equal weights in every process; ReLU and max pooling, as LeNet is written today."""
    torch.manual_seed(MODEL_SEED)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 5 * 5, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
