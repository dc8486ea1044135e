from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from koinon.errors import TrainingError
from node import data, training


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def test_training_learns_digits_and_is_reproduced_by_its_seed() -> None:
    images = data.digits()
    results = []
    for _ in range(2):
        model = net()
        before = training.test(model, images.test_images, images.test_labels)
        training.train(
            model, images.train_images, images.train_labels, epochs=3, batch_size=32, learning_rate=0.1, seed=5
        )
        after = training.test(model, images.test_images, images.test_labels)
        assert after[0] < before[0]
        assert after[1] > 0.85
        results.append(training.get_weights(model))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_weights_survive_the_way_out_and_in() -> None:
    model, other = net(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    training.set_weights(other, training.get_weights(model))
    pairs = zip(training.get_weights(model), training.get_weights(other), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert training.parameter_names(model) == ["1.weight", "1.bias"]


def test_weights_of_another_model_and_counters_are_refused() -> None:
    with pytest.raises(TrainingError, match="another model"):
        training.set_weights(net(), [np.zeros((10, 63), np.float32), np.zeros(10, np.float32)])
    with pytest.raises(TrainingError, match="cannot be averaged"):
        training.get_weights(nn.BatchNorm2d(3))


def test_batch_size_zero_is_one_full_batch_step_an_epoch() -> None:
    images = data.digits()
    model = net()
    start = training.get_weights(model)
    training.train(
        model, images.train_images, images.train_labels, epochs=1, batch_size=0, learning_rate=0.1, momentum=0.0
    )
    moved = net()
    torch.nn.functional.cross_entropy(
        moved(torch.from_numpy(images.train_images)), torch.from_numpy(images.train_labels)
    ).backward()
    for before, after, parameter in zip(start, training.get_weights(model), moved.parameters(), strict=True):
        assert np.allclose(after, before - 0.1 * parameter.grad.numpy(), atol=1e-6)
