"""Monge Inception Distance against SciPy's transport on each direction, by hand, and for what it means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize

from fundusforge.evaluate.frechet import frechet_distance
from fundusforge.evaluate.mind import compare, monge_distance


def vectors(rng, count: int, length: int = 16) -> np.ndarray:
    return rng.normal(size=(count, length)).astype(np.float32)


def transport(first: np.ndarray, second: np.ndarray) -> float:
    """The cheapest transport of one line of points to another, as a linear programme."""
    n, m = len(first), len(second)
    costs = (first[:, None] - second) ** 2
    leaving = np.kron(np.eye(n), np.ones(m))
    arriving = np.kron(np.ones(n), np.eye(m))
    margins = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return optimize.linprog(costs.ravel(), A_eq=np.vstack([leaving, arriving]), b_eq=margins).fun


@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 10), (9, 4)])
def test_equals_optimal_transport(n: int, m: int) -> None:
    """On one dimension all directions are the same, so the linear programme is the whole answer, times 3."""
    rng = np.random.default_rng(0)
    first, second = vectors(rng, n, 1), 0.5 + vectors(rng, m, 1)
    expected = 3 * transport(first[:, 0].astype(float), second[:, 0].astype(float))
    assert monge_distance(first, second, directions=3) == pytest.approx(expected, rel=1e-6)


def test_equals_sorted_values_on_the_same_directions() -> None:
    """The definition for equal numbers, written out: 3 d times the mean squared gap of sorted projections."""
    rng = np.random.default_rng(1)
    first, second = vectors(rng, 40), vectors(rng, 40) + 0.3
    lines = np.random.default_rng(5).normal(size=(16, 200))
    lines /= np.linalg.norm(lines, axis=0)
    gaps = np.sort(first @ lines, axis=0) - np.sort(second @ lines, axis=0)
    found = monge_distance(first, second, directions=200, seed=5)
    assert found == pytest.approx(3 * 16 * np.mean(gaps**2), rel=1e-9)


@pytest.mark.parametrize("length", [4, 64])
def test_a_shift_costs_three_times_its_square(length: int) -> None:
    rng = np.random.default_rng(2)
    first = vectors(rng, 30, length)
    shift = rng.normal(size=length).astype(np.float32)
    assert monge_distance(first, first) == 0
    assert monge_distance(first, first + shift) == pytest.approx(3 * float(shift @ shift), rel=0.15)


def test_weights_are_copies_and_absences() -> None:
    rng = np.random.default_rng(3)
    first, second = vectors(rng, 20), vectors(rng, 14)
    w, v = rng.integers(0, 4, 20), rng.integers(0, 3, 14)
    copied = np.repeat(first, w, axis=0), np.repeat(second, v, axis=0)
    statistic = compare(first, second, directions=50)
    assert statistic([w.astype(float), v.astype(float)]) == pytest.approx(
        monge_distance(*copied, directions=50), rel=1e-9
    )
    assert statistic([np.zeros(20), np.ones(14)]) is None


def test_sees_what_two_moments_do_not() -> None:
    """Two clusters with mean and covariance of one: the Frechet distance hardly notices, this one does."""
    rng = np.random.default_rng(4)
    first, second = vectors(rng, 400, 2), vectors(rng, 400, 2)
    split = np.sign(second[:, :1]) * np.array([[1.0, 0.0]]) + second * np.array([[0.05, 1.0]])
    split = ((split - split.mean(0)) / split.std(0) * second.std(0) + second.mean(0)).astype(np.float32)
    assert frechet_distance(first, split) < 2 * frechet_distance(first, second) + 0.01
    assert monge_distance(first, split) > 5 * monge_distance(first, second)


def test_meaning() -> None:
    rng = np.random.default_rng(6)
    first, second = vectors(rng, 200), vectors(rng, 200)
    alike, little, much = (monge_distance(first, second + shift) for shift in (0, 0.3, 0.8))
    assert alike < little < much
    assert monge_distance(first, np.repeat(second[:4], 50, axis=0)) > 5 * alike


def test_refuses() -> None:
    with pytest.raises(ValueError, match="expected"):
        monge_distance(np.zeros((3, 3), np.float32), np.zeros((5, 4), np.float32))
