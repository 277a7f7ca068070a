"""Monge Inception Distance (MIND; Berthet et al., arXiv 2605.06797, 2026): sliced optimal transport.

Vectors of length d are projected on L random directions u of length 1. On each, the cheapest transport of one
set to the other pairs their sorted values, and the squared distance is

    MIND = 3 d / L  sum_u  integral_0^1 (Q_u(t) - R_u(t))^2 dt

with the quantile functions Q and R of the projections; for N against N images the integral is the mean
squared difference of the sorted values. L is 1,000. The factor 3 d makes a shift of all vectors by s cost
about 3 |s|^2 whatever d is. No covariance is estimated, so far fewer images are needed than for the Frechet
distance, and moments that were tuned to match do not help.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.distance import Distance, figure
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.statistics import Statistic, Weights

_DIRECTIONS = 1000
_LEAST = 10
"""Images below which, in either set, the distance says next to nothing."""


def monge_distance(
    first: Features, second: Features, *, directions: int = _DIRECTIONS, seed: int = 0
) -> float:
    """Return the Monge Inception Distance of two sets.

    Args:
        first: (N, D).
        second: (M, D); N and M may differ.
        directions: Number of random directions.
        seed: Of the directions.

    Raises:
        ValueError: An empty set, or vectors of different length.
    """
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or not len(first) or not len(second):
        raise ValueError(f"expected (N, D) and (M, D), got {first.shape} and {second.shape}")
    value = compare(first, second, directions=directions, seed=seed)(
        [np.ones(len(first)), np.ones(len(second))]
    )
    assert value is not None
    return value


def compare(first: Features, second: Features, *, directions: int = _DIRECTIONS, seed: int = 0) -> Statistic:
    """Return the distance as a function of weights, which must be whole numbers."""
    length = first.shape[1]
    lines = np.random.default_rng(seed).normal(size=(length, directions))
    lines /= np.linalg.norm(lines, axis=0)
    projections = [_Sorted(vectors @ lines) for vectors in (first, second)]

    def distance(weights: Sequence[Weights]) -> float | None:
        totals = [int(w.sum()) for w in weights]
        if min(totals) < 1:
            return None
        # Both quantile functions are constant between these points, the same on every direction.
        ends = np.union1d(*[np.arange(1, total + 1) / total for total in totals])
        steps = np.diff(ends, prepend=0.0)
        middles = ends - steps / 2
        first, second = (
            each.repeated(w)[:, (middles * total).astype(np.intp)]
            for each, w, total in zip(projections, weights, totals, strict=True)
        )
        return 3 * length * float(((first - second) ** 2 @ steps).mean())

    return distance


class _Sorted:
    """Projections of a set, sorted on each direction."""

    def __init__(self, projected: NDArray[np.float64]) -> None:
        self._order = np.ascontiguousarray(projected.argsort(axis=0).T)
        self._values = np.ascontiguousarray(np.sort(projected, axis=0).T)

    def repeated(self, weights: Weights) -> NDArray[np.float64]:
        """Return the sorted values (directions, W), each as often as its image counts."""
        counts = weights.astype(np.intp)[self._order]
        return np.repeat(self._values.ravel(), counts.ravel()).reshape(len(self._values), -1)


def figures(evidence: Evidence) -> list[Figure]:
    """Return the Monge distance of the synthetic from the real images."""
    mind = Distance(
        name="mind",
        title="Monge Inception Distance (MIND, sliced optimal transport)",
        better="lower",
        compare=compare,
        least=_LEAST,
        why="its scatter would hide everything",
        limits=(0.0, np.inf),
        notes=(f"{_DIRECTIONS} random directions; published values are of Inception features.",),
    )
    return [figure(evidence, mind, evidence.synthetic, evidence.real, draws=_draws(evidence))]


def _draws(evidence: Evidence) -> int:
    """Fewer draws for large sets, so that they take about half a minute."""
    size = len(evidence.synthetic) + len(evidence.real)
    return int(np.clip(400_000 // max(size, 1), min(200, evidence.draws), evidence.draws))
