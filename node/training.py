"""Small helpers around torch that a user's module may use, or not. torch is imported when a function is called.

Weights travel in the order of `state_dict()`, as float arrays. Integer buffers (such as BatchNorm's counter) cannot be
averaged, so a model that has any is refused: use GroupNorm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from koinon.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

EVALUATION_BATCH = 512


def parameter_names(model: nn.Module) -> list[str]:
    """The names of `get_weights`' arrays."""
    return list(model.state_dict())


def get_weights(model: nn.Module) -> list[NDArray[np.floating]]:
    """Copies of all parameters and buffers. TrainingError for one that cannot be averaged."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            raise TrainingError(f"{name} is {tensor.dtype} and cannot be averaged", hint="use GroupNorm, not BatchNorm")
    return [tensor.detach().cpu().numpy().copy() for tensor in state.values()]


def set_weights(model: nn.Module, arrays: Sequence[NDArray[np.floating]]) -> None:
    """Put `arrays` (the order and shapes of `get_weights`) into the model; TrainingError when they don't fit."""
    import torch

    state = model.state_dict()
    if [tuple(tensor.shape) for tensor in state.values()] != [array.shape for array in arrays]:
        raise TrainingError("these weights are of another model")
    for tensor, array in zip(state.values(), arrays, strict=True):
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def train(
    model: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> float:
    """Minimise cross entropy with SGD; the last epoch's mean loss. `batch_size` 0 is one full-batch step an epoch.

    `images` is float32[n, ...], `labels` int64[n].
    """
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    total = 0.0
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(targets), generator=generator)
        for chosen in order.split(batch_size or len(targets)):  # type: ignore[no-untyped-call]
            optimiser.zero_grad()
            loss: Tensor = cross_entropy(model(inputs[chosen]), targets[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += loss.item() * len(chosen)
    return total / len(targets)


def test(model: nn.Module, images: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[float, float]:
    """(mean cross entropy, accuracy in 0..1) of `model` on float32[n, ...] and int64[n]."""
    import torch
    from torch.nn.functional import cross_entropy

    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(targets), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            scores: Any = model(inputs[part])
            loss += float(cross_entropy(scores, targets[part], reduction="sum"))
            correct += int((scores.argmax(1) == targets[part]).sum())
    return loss / len(targets), correct / len(targets)
