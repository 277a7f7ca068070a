"""Kernel distance against torch-fidelity and a loop, and for what it means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from fundusforge.evaluate.kernel import compare, kernel_distance


def vectors(rng, count: int, length: int = 32) -> np.ndarray:
    return rng.normal(size=(count, length)).astype(np.float32)


def test_equals_torch_fidelity() -> None:
    """Of its random subsets, the one that holds every image."""
    rng = np.random.default_rng(0)
    first, second = vectors(rng, 60), 0.3 + vectors(rng, 60)
    sets = [torch.from_numpy(each).double() for each in (first, second)]
    peer = kid_features_to_metric(
        *sets, kid_subsets=2, kid_subset_size=60,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0,
        rng_seed=0, verbose=False,
    )  # fmt: skip
    assert kernel_distance(first, second) == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-9)


def test_by_hand() -> None:
    """Two images against three, by the definition, pair by pair."""
    rng = np.random.default_rng(1)
    first, second = vectors(rng, 2, 4), vectors(rng, 3, 4)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x.astype(float) @ y / 4 + 1) ** 3)

    within = np.mean([k(second[i], second[j]) for i in range(3) for j in range(3) if i != j])
    expected = k(first[0], first[1]) + within - 2 * np.mean([k(x, y) for x in first for y in second])
    assert kernel_distance(first, second) == pytest.approx(expected)


def test_a_copy_is_not_compared_with_itself() -> None:
    """Weights count pairs of different images only."""
    rng = np.random.default_rng(2)
    first, second = vectors(rng, 10), vectors(rng, 8)
    statistic = compare(first, second)
    ones = np.ones(10), np.ones(8)
    doubled = statistic([2 * ones[0], ones[1]])
    assert doubled == pytest.approx(statistic(list(ones)))
    part = np.array([1.0] * 6 + [0.0] * 4)
    assert statistic([part, ones[1]]) == pytest.approx(kernel_distance(first[:6], second))
    assert statistic([np.eye(10)[0] * 3, ones[1]]) is None


def test_unbiased_at_any_number_of_images() -> None:
    """300 pairs of sets alike: the mean is 0 within its error for 5 images as for 50, some are below 0."""
    rng = np.random.default_rng(3)
    for count in (5, 50):
        values = [kernel_distance(vectors(rng, count), vectors(rng, count)) for _ in range(300)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
        assert min(values) < 0


def test_meaning() -> None:
    rng = np.random.default_rng(4)
    first, second = vectors(rng, 200), vectors(rng, 200)
    alike, little, much = (abs(kernel_distance(first, second + shift)) for shift in (0, 0.3, 0.8))
    assert alike < little < much
    assert kernel_distance(first, np.repeat(second[:4], 50, axis=0)) > 10 * alike


def test_refuses() -> None:
    with pytest.raises(ValueError, match="two rows"):
        kernel_distance(np.zeros((1, 3), np.float32), np.zeros((5, 3), np.float32))
