"""Kernel distance (KID; Binkowski et al., "Demystifying MMD GANs", ICLR 2018).

The squared maximum mean discrepancy of two sets of vectors under k(x, y) = (x.y / d + 1)^3, by the unbiased
estimate that leaves every image's likeness to itself out. Its expectation does not depend on how many
images there are, so it suits small sets; for sets that are alike it scatters about zero and may be
negative. All images enter at once instead of the random subsets of the paper, which only average to the same.
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

_LEAST = 10
"""Images below which, in either set, the distance says next to nothing."""


def kernel_distance(first: Features, second: Features) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.

    Raises:
        ValueError: Fewer rows, or vectors of different length.
    """
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise ValueError(f"expected (N, D) and (M, D) of two rows or more, got {first.shape}, {second.shape}")
    value = compare(first, second)([np.ones(len(first)), np.ones(len(second))])
    assert value is not None
    return value


def compare(first: Features, second: Features) -> Statistic:
    """Return the distance as a function of weights; an image drawn twice is not compared with itself."""
    between = _kernel(first, second)
    within = (between, between) if first is second else (_kernel(first, first), _kernel(second, second))

    def distance(weights: Sequence[Weights]) -> float | None:
        likeness = [_inside(kernel, w) for kernel, w in zip(within, weights, strict=True)]
        if likeness[0] is None or likeness[1] is None:
            return None
        w, v = weights
        return likeness[0] + likeness[1] - 2 * float(w @ between @ v) / float(w.sum() * v.sum())

    return distance


def _kernel(first: Features, second: Features) -> NDArray[np.float64]:
    """Return the (N, M) polynomial kernel of degree 3."""
    kernel = first.astype(np.float64) @ second.astype(np.float64).T
    kernel /= first.shape[1]
    kernel += 1
    return kernel**3


def _inside(kernel: NDArray[np.float64], weights: Weights) -> float | None:
    """Return the mean kernel of pairs of different images, or None below two images."""
    pairs = float(weights.sum()) ** 2 - float(weights @ weights)
    if pairs <= 0:
        return None
    return (float(weights @ kernel @ weights) - float(np.diagonal(kernel) @ weights**2)) / pairs


KERNEL = Distance(
    name="kernel",
    title="Kernel distance (KID, unbiased, polynomial of degree 3)",
    better="lower",
    compare=compare,
    least=_LEAST,
    why="its scatter would hide everything",
    unbiased=True,
    notes=("Unbiased at any number of images; below zero means nothing but alike.",),
)


def figures(evidence: Evidence) -> list[Figure]:
    """Return the kernel distance of the synthetic from the real images."""
    return [figure(evidence, KERNEL, evidence.synthetic, evidence.real)]
