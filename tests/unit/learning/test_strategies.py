from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koinon.errors import ConfigError, Malformed, OutOfRange, TrainingError
from koinon.learning import STRATEGIES, strategy
from koinon.learning.parameters import from_arrays, from_blob, model_digest
from koinon.learning.partitions import dirichlet, iid
from koinon.privacy.fixed_point import mean, quantise

RNG = np.random.default_rng(1)
MODEL = from_arrays([RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=5)])


def test_parameters_survive_the_round_trip_with_dtypes_and_shapes() -> None:
    again = from_blob(MODEL.blob())
    assert again == MODEL
    assert MODEL.dimension == 17
    assert [(each.dtype.name, each.shape) for each in again.arrays()] == [("float32", (3, 4)), ("float64", (5,))]


def test_a_model_digest_depends_on_shape_dtype_and_name() -> None:
    flat = np.zeros(4, np.float32)
    variants = [from_arrays([flat]), from_arrays([flat.reshape(2, 2)]), from_arrays([np.zeros(2)]),
                from_arrays([flat], names=["weight"])]  # fmt: skip
    assert len({model_digest(each) for each in variants}) == 4


@pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.array([np.nan], np.float32), np.array([np.inf])])
def test_arrays_that_cannot_be_averaged_are_refused(array: np.ndarray) -> None:
    with pytest.raises(TrainingError):
        from_arrays([array])


def test_a_blob_with_missing_bytes_or_no_tensors_is_malformed() -> None:
    with pytest.raises(Malformed):
        from_blob(MODEL.blob()[:-1])
    with pytest.raises(Malformed):
        from_blob(from_arrays([]).blob())


def test_fedavg_of_equal_nodes_is_their_plain_mean() -> None:
    deltas = RNG.normal(scale=0.05, size=(5, 17))
    total = sum(quantise(delta, clip=1.0, bits=24, weight=1.0, rng=RNG) for delta in deltas)
    after = strategy("fedavg", {}).apply(MODEL, mean(total, clip=1.0, bits=24, weight_sum=5.0))
    assert np.allclose(after.vector(), MODEL.vector() + deltas.mean(axis=0), atol=1e-6)


def test_fedavg_weights_nodes_by_their_samples() -> None:
    small, large = np.full(17, 0.4), np.full(17, -0.2)
    total = quantise(small, clip=1.0, bits=24, weight=0.25, rng=RNG) + quantise(
        large, clip=1.0, bits=24, weight=1.0, rng=RNG
    )
    assert np.allclose(mean(total, clip=1.0, bits=24, weight_sum=1.25), (0.25 * 0.4 - 0.2) / 1.25, atol=1e-5)


def test_fedsgd_is_one_full_batch_step() -> None:
    assert strategy("fedsgd", {"learning_rate": "0.3"}).fit_config() == {
        "epochs": 1, "batch_size": 0, "learning_rate": 0.3,
    }  # fmt: skip


def test_the_fraction_decides_how_many_nodes_are_invited() -> None:
    assert strategy("fedavg", {"fraction": "0.3"}).cohort_size(10) == 3
    assert strategy("fedavg", {"fraction": "0.01"}).cohort_size(10) == 1
    assert strategy("fedavg", {}).cohort_size(10) == 10


@pytest.mark.parametrize("config", [{"epochs": "x"}, {"epochs": "1.5"}, {"fraction": "2"}, {"learning_rate": "nan"}])
def test_a_wrong_setting_is_named(config: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(config))):
        strategy("fedavg", config)


def test_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        strategy("fedfoo", {})
    assert all(name in (caught.value.hint or "") for name in STRATEGIES)


@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 24]), st.floats(0.01, 1.0))
def test_quantising_is_unbiased_within_one_step_and_never_out_of_range(seed: int, bits: int, weight: float) -> None:
    rng = np.random.default_rng(seed)
    delta = rng.normal(size=64) * 3
    values = quantise(delta, clip=1.0, bits=bits, weight=weight, rng=rng)
    limit = 2 ** (bits - 1) - 1
    assert np.abs(values).max() <= limit
    assert np.abs(values - np.clip(delta, -1, 1) * weight * limit).max() <= 1.0


def test_stochastic_rounding_has_the_right_mean() -> None:
    values = quantise(np.full(200_000, 0.3 / 127), clip=1.0, bits=8, weight=1.0, rng=np.random.default_rng(3))
    assert values.mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_never_reach_the_committee(bad: float) -> None:
    with pytest.raises(OutOfRange, match="1 of 3"):
        quantise(np.array([0.0, bad, 1.0]), clip=1.0, bits=16, weight=1.0, rng=RNG)


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.01])
def test_a_weight_outside_zero_to_one_is_refused(weight: float) -> None:
    with pytest.raises(OutOfRange):
        quantise(np.zeros(3), clip=1.0, bits=16, weight=weight, rng=RNG)


@given(st.integers(2, 8), st.floats(0.3, 5.0), st.integers(0, 2**32 - 1))
def test_every_sample_belongs_to_exactly_one_node(nodes: int, alpha: float, seed: int) -> None:
    labels = np.arange(800) % 10
    for split in (
        dirichlet(labels, nodes, alpha, np.random.default_rng(seed), samples_min=1),
        iid(800, nodes, np.random.default_rng(seed)),
    ):
        assert np.array_equal(np.sort(np.concatenate(split)), np.arange(800))


def test_a_small_alpha_skews_labels_and_a_seed_reproduces_the_split() -> None:
    labels = np.arange(2000) % 10
    splits = {alpha: dirichlet(labels, 5, alpha, np.random.default_rng(7)) for alpha in (0.3, 100.0)}
    top = {
        alpha: max(np.bincount(labels[part], minlength=10).max() / len(part) for part in split)
        for alpha, split in splits.items()
    }
    assert top[0.3] > 2 * top[100.0]
    again = dirichlet(labels, 5, 0.3, np.random.default_rng(7))
    assert all(np.array_equal(a, b) for a, b in zip(splits[0.3], again, strict=True))


def test_an_impossible_split_says_what_to_change() -> None:
    with pytest.raises(ConfigError, match="no split"):
        dirichlet(np.arange(20) % 10, 10, 0.1, np.random.default_rng(1), samples_min=10)
