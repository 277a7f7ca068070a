"""Multi-scale structural similarity (Wang, Simoncelli and Bovik, Asilomar 37, 2003).

Five scales, each half the size of the one before (means of 2 x 2 pixels). The means of the local contrast
and structure at the four finer scales and of the whole similarity at the coarsest are raised to the paper's
weights and multiplied. A mean below zero, which has no such power, counts as zero.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate import likeness
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.likeness import Measure
from fundusforge.evaluate.ssim import RADIUS, check_pair, local_means

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""From the finest scale to the coarsest; found by Wang et al. with observers."""
SMALLEST = (2 * RADIUS + 1) * 2 ** (len(WEIGHTS) - 1)
"""Least side of a picture in pixels: the filter must fit in the coarsest scale."""


def msssim(first: NDArray[Any], second: NDArray[Any], *, field_of_view: NDArray[Any] | None = None) -> float:
    """Return the multi-scale structural similarity of two pictures, in [0, 1]; 1 for equal pictures.

    Args:
        first: (H, W) or (H, W, 3) uint8, at least 176 pixels each way; channels are averaged at every scale.
        second: Of the same shape.
        field_of_view: None; a field of view has no coarse scales of its own.

    Raises:
        ValueError: Other shapes or types, pictures under 176 pixels, or a field of view.
    """
    if field_of_view is not None:
        raise ValueError("multi-scale similarity is of whole pictures")
    check_pair(first, second, smallest=SMALLEST)
    means = [local_means(first, second)]
    for _ in WEIGHTS[1:]:
        first, second = _half(first), _half(second)
        means.append(local_means(first, second))
    factors = [contrast for _, contrast in means[:-1]] + [means[-1][0]]
    product = np.prod([max(factor, 0.0) ** weight for factor, weight in zip(factors, WEIGHTS, strict=True)])
    return float(product)


def _half(picture: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    even = picture[: 2 * height, : 2 * width].astype(np.float32, copy=False)
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.float32)


MEASURE = Measure(
    name="msssim", title="Multi-scale structural similarity", compare=msssim, better="higher",
    extractor="pixels, RGB", smallest=SMALLEST,
)  # fmt: skip


def figures(evidence: Evidence) -> list[Figure]:
    """Return the similarity to one real reference (photographs and vessel maps) and that of painted pairs."""
    return likeness.figures(evidence, MEASURE)
