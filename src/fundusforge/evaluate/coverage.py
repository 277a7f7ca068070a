"""Which part of each set lies where the other one is: precision, recall, density and coverage.

A set's region is the union of balls about its vectors, each reaching to the k-th nearest other vector.

- Precision: the part of the synthetic images that lies in the real region; recall: the part of the real
  images that lies in the synthetic region (Kynkaanniemi et al., NeurIPS 2019; k = 3).
- Density: how many real balls a synthetic image lies in, over k; one outlier with a large ball counts for
  little. Coverage: the part of the real balls that hold a synthetic image (Naeem et al., ICML 2020; k = 5).

Precision and density fall when images look wrong, recall and coverage when kinds of images are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.distance import Compare, Distance, figure
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.statistics import Statistic, Weights

_MANIFOLD = 3
"""Neighbours that make a ball, for precision and recall."""
_DENSITY = 5
"""The same for density and coverage."""
_LEAST = 20
"""Images below which, in either set, balls are too wide to mean anything."""
_NEAR = 64
"""Neighbours kept of each image; in a bootstrap draw the k-th one present is nearly always among them."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The four figures of two sets."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage_scores(
    synthetic: Features, real: Features, *, k: int = _MANIFOLD, k_density: int = _DENSITY
) -> Coverage:
    """Return precision, recall, density and coverage.

    Args:
        synthetic: (N, D).
        real: (M, D).
        k: Neighbours that make a ball, for precision and recall.
        k_density: The same for density and coverage.

    Raises:
        ValueError: Vectors of different length, or no more images than neighbours.
    """
    if synthetic.ndim != 2 or synthetic.shape[1:] != real.shape[1:]:
        raise ValueError(f"expected (N, D) and (M, D), got {synthetic.shape} and {real.shape}")
    if min(len(synthetic), len(real)) <= max(k, k_density):
        raise ValueError(
            f"{len(synthetic)} and {len(real)} images are too few for {max(k, k_density)} nearest"
        )
    ones = [np.ones(len(synthetic)), np.ones(len(real))]
    values = {
        name: compare(name, synthetic, real, k=k, k_density=k_density)(ones)
        for name in ("precision", "recall", "density", "coverage")
    }
    return Coverage(**{name: value for name, value in values.items() if value is not None})


def compare(
    name: str, synthetic: Features, real: Features, *, k: int = _MANIFOLD, k_density: int = _DENSITY
) -> Statistic:
    """Return one of the four figures as a function of weights.

    Balls are made of the images that a draw holds, each once; means count images as often as drawn.
    """
    if name == "recall":
        turned = compare("precision", real, synthetic, k=k)
        return lambda weights: turned(weights[::-1])
    balls = _Balls(real, k if name == "precision" else k_density)
    apart = _distances(real, synthetic)

    def value(weights: Sequence[Weights]) -> float | None:
        ours, theirs = (np.flatnonzero(w) for w in weights)
        radii = balls.radii(theirs)
        if radii is None or not len(ours):
            return None
        inside = apart[np.ix_(theirs, ours)] <= radii[:, None]
        if name == "coverage":
            return float(np.average(inside.any(axis=1), weights=weights[1][theirs]))
        hits = inside.any(axis=0) if name == "precision" else inside.sum(axis=0) / balls.k
        return float(np.average(hits, weights=weights[0][ours]))

    return value


class _Balls:
    """The region of a set of vectors (M, D): a ball about each, out to its k-th nearest other one."""

    def __init__(self, vectors: Features, k: int) -> None:
        self.k, self._vectors = k, vectors
        apart = _distances(vectors, vectors)
        np.fill_diagonal(apart, np.inf)
        near = min(_NEAR, len(vectors) - 1)
        nearest = np.argpartition(apart, near - 1, axis=1)[:, :near] if near else np.empty((1, 0), np.intp)
        distances = np.take_along_axis(apart, nearest, axis=1)
        order = distances.argsort(axis=1, kind="stable")
        self._nearest = np.take_along_axis(nearest, order, axis=1)
        self._distances = np.take_along_axis(distances, order, axis=1)

    def radii(self, present: NDArray[np.intp]) -> NDArray[np.float64] | None:
        """Return the radius of each of the vectors at these places, made of them alone; None if too few."""
        if len(present) <= self.k:
            return None
        here = np.zeros(len(self._vectors), bool)
        here[present] = True
        rank = np.cumsum(here[self._nearest[present]], axis=1)
        radii = self._distances[present, np.argmax(rank == self.k, axis=1)]
        for row in np.flatnonzero(rank[:, -1] < self.k):  # none near enough was kept: measure them all
            alone = _distances(self._vectors[present[row : row + 1]], self._vectors[present])[0]
            alone[row] = np.inf
            radii[row] = np.partition(alone, self.k - 1)[self.k - 1]
        return radii


def _distances(first: Features, second: Features) -> NDArray[np.float64]:
    """Return the Euclidean distances (N, M) of all pairs."""
    # About a common centre, so that the squares lose no digits.
    centre = second.mean(axis=0, dtype=np.float64)
    x, y = first - centre, second - centre
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * (x @ y.T)
    return np.sqrt(np.maximum(squares, 0, out=squares), out=squares)


def figures(evidence: Evidence) -> list[Figure]:
    """Return precision, recall, density and coverage of the synthetic images."""
    found: list[Figure] = []
    pairs = max(1, len(evidence.synthetic) * len(evidence.real))
    draws = int(np.clip(10**9 // pairs, min(200, evidence.draws), evidence.draws))
    for name, title, k in _TITLES:
        distance = Distance(
            name=name, title=title, better="higher", compare=_comparing(name), least=_LEAST,
            why="balls about so few are too wide to mean anything",
            limits=(0.0, np.inf if name == "density" else 1.0), notes=(f"Balls out to neighbour {k}.",),
        )  # fmt: skip
        found.append(figure(evidence, distance, evidence.synthetic, evidence.real, draws=draws))
    return found


_TITLES = (
    ("precision", "Precision: part of the synthetic images in the real region", _MANIFOLD),
    ("recall", "Recall: part of the real images in the synthetic region", _MANIFOLD),
    ("density", "Density: real balls a synthetic image lies in, over k", _DENSITY),
    ("coverage", "Coverage: part of the real balls that hold a synthetic image", _DENSITY),
)


def _comparing(name: str) -> Compare:
    return lambda synthetic, real: compare(name, synthetic, real)
