"""Precision, recall, density and coverage against torch-fidelity and scikit-learn, and for what they mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_prc import calculate_precision_recall_full

from fundusforge.evaluate import coverage
from fundusforge.evaluate.coverage import compare, coverage_scores

NAMES = ("precision", "recall", "density", "coverage")


def vectors(rng, count: int, length: int = 4) -> np.ndarray:
    return rng.normal(size=(count, length)).astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(80, 80), (50, 120), (130, 40)])
def test_precision_and_recall_equal_torch_fidelity(n: int, m: int) -> None:
    rng = np.random.default_rng(0)
    synthetic, real = vectors(rng, n) * 0.7 + 0.3, vectors(rng, m)
    found = coverage_scores(synthetic, real)
    peer = calculate_precision_recall_full(
        torch.from_numpy(synthetic).double(), torch.from_numpy(real).double(), 3
    )
    assert (found.precision, found.recall) == pytest.approx(peer, abs=1e-6)
    assert 0.05 < found.recall < found.precision < 1  # tighter and shifted: the case tells the two apart


def test_density_and_coverage_equal_neighbours_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    synthetic, real = vectors(rng, 90) + 0.5, vectors(rng, 70)
    radii = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]
    near = NearestNeighbors().fit(synthetic)
    held = [len(near.radius_neighbors(real[i : i + 1], radius=radii[i])[0][0]) for i in range(70)]
    found = coverage_scores(synthetic, real)
    assert found.density == pytest.approx(np.sum(held) / (5 * 90))
    assert found.coverage == pytest.approx(np.mean(np.array(held) > 0))


def test_by_hand() -> None:
    """Real images at 0, 1, 2, 3, each ball out to the next: one synthetic image inside, one far away."""
    real = np.arange(4, dtype=np.float32)[:, None]
    synthetic = np.array([[1.5], [9.0], [9.1]], np.float32)
    found = coverage_scores(synthetic, real, k=1, k_density=1)
    assert found.precision == pytest.approx(1 / 3)
    assert found.density == pytest.approx(2 / 3)  # 1.5 lies in the balls of 1 and of 2
    assert found.coverage == pytest.approx(2 / 4)
    assert found.recall == 1.0  # the ball of 1.5 reaches to 9


def test_meaning() -> None:
    """Wrong images lower precision and density; missing kinds lower recall and coverage."""
    rng = np.random.default_rng(2)
    real = np.concatenate([vectors(rng, 150), 20 + vectors(rng, 150)])
    whole = np.concatenate([vectors(rng, 150), 20 + vectors(rng, 150)])
    good = coverage_scores(whole, real)
    collapsed = coverage_scores(vectors(rng, 300), real)
    wrong = coverage_scores(np.concatenate([whole[::2], vectors(rng, 150) - 30]), real)
    assert min(good.precision, good.recall, good.coverage) > 0.85
    assert collapsed.precision > 0.85
    assert max(collapsed.recall, collapsed.coverage) < 0.55
    assert wrong.precision < 0.55 and wrong.density < 0.6 * good.density
    assert wrong.recall > 0.8


@pytest.mark.parametrize("near", [64, 3])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_absences(name: str, near: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw is the figure of the images it holds, also where the neighbours kept do not suffice."""
    monkeypatch.setattr(coverage, "_NEAR", near)
    rng = np.random.default_rng(3)
    synthetic, real = vectors(rng, 60), vectors(rng, 50)
    ours, theirs = rng.random(60) < 0.5, rng.random(50) < 0.4
    statistic = compare(name, synthetic, real, k=2, k_density=3)
    expected = getattr(coverage_scores(synthetic[ours], real[theirs], k=2, k_density=3), name)
    assert statistic([ours.astype(float), theirs.astype(float)]) == pytest.approx(expected)
    one_left = [np.eye(60)[0], np.ones(50)] if name == "recall" else [np.ones(60), np.eye(50)[0]]
    assert statistic(one_left) is None


def test_counts_weigh_the_means() -> None:
    rng = np.random.default_rng(4)
    synthetic, real = vectors(rng, 30) + 0.8, vectors(rng, 30)
    inside = np.array([coverage_scores(synthetic, real).precision])
    weights = np.ones(30)
    weights[0] = 11.0
    found = compare("precision", synthetic, real)([weights, np.ones(30)])
    first = compare("precision", synthetic, real)([np.eye(30)[0], np.ones(30)])
    assert found == pytest.approx((30 * inside[0] + 10 * first) / 40)


def test_refuses() -> None:
    with pytest.raises(ValueError, match="too few"):
        coverage_scores(np.zeros((5, 3), np.float32), np.zeros((9, 3), np.float32))
    with pytest.raises(ValueError, match="expected"):
        coverage_scores(np.zeros((9, 3), np.float32), np.zeros((9, 4), np.float32))
