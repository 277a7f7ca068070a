"""Structural similarity (Wang et al., IEEE Transactions on Image Processing 13, 2004).

The local statistics are those of the original code (Gaussian of 1.5 px, 11 px wide, population variance),
so a value equals scikit-image's with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, up
to 2e-6 (flat pictures to 1e-5). It is many times faster: OpenCV's filter, and bands of rows that stay in
the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate import likeness
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.likeness import Measure

RADIUS = 5
"""Half width of the filter; so many pixels at the border have no value."""
_KERNEL = cv2.getGaussianKernel(2 * RADIUS + 1, 1.5, cv2.CV_32F)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BAND_BYTES = 500_000
"""Size of one float32 band of rows: the dozen of them that are in use fit the cache of one core."""

Floats = NDArray[np.float32]


def ssim(first: NDArray[Any], second: NDArray[Any], *, field_of_view: NDArray[Any] | None = None) -> float:
    """Return the mean structural similarity of two pictures, in [-1, 1]; 1 for equal pictures.

    Args:
        first: (H, W) or (H, W, 3) uint8, at least 11 pixels each way; channels are averaged.
        second: Of the same shape.
        field_of_view: (H, W), average inside it only (where not 0); by default over the whole picture less
            its border of 5 pixels.

    Raises:
        ValueError: Other shapes or types, pictures under 11 pixels, or an empty field of view.
    """
    check_pair(first, second, smallest=2 * RADIUS + 1)
    if field_of_view is None:
        return local_means(first, second)[0]
    if field_of_view.shape != first.shape[:2]:
        raise ValueError(f"a field of view of {field_of_view.shape} for pictures of {first.shape[:2]}")
    inside = field_of_view[RADIUS:-RADIUS, RADIUS:-RADIUS] != 0
    if not inside.any():
        raise ValueError("the field of view is empty")
    total = count = 0.0
    for rows, local, _ in _bands(first, second):
        values = local[inside[rows]]
        total += float(values.sum(dtype=np.float64))
        count += values.size
    return total / count


def check_pair(first: NDArray[Any], second: NDArray[Any], *, smallest: int) -> None:
    """Refuse what is not a pair of pictures.

    Raises:
        ValueError: Not uint8, shapes that differ or are no picture's, or a side under `smallest` pixels.
    """
    if first.shape != second.shape or first.dtype != np.uint8 or second.dtype != np.uint8:
        raise ValueError(
            f"expected two uint8 pictures of one shape, got {first.shape} {first.dtype} and "
            f"{second.shape} {second.dtype}"
        )
    if first.shape[2:] not in ((), (3,)) or first.ndim < 2:
        raise ValueError(f"expected (H, W) or (H, W, 3), got {first.shape}")
    if min(first.shape[:2]) < smallest:
        raise ValueError(f"pictures of {first.shape[:2]} are smaller than {smallest} px")


def local_means(first: NDArray[Any], second: NDArray[Any]) -> tuple[float, float]:
    """Return the means of the local similarity and of its contrast-and-structure factor.

    Args:
        first: (H, W) or (H, W, 3) uint8 or float32 in [0, 255].
        second: Of the same shape and type.
    """
    likeness_sum = contrast_sum = 0.0
    for _, similarity, contrast in _bands(first, second):
        likeness_sum += sum(cv2.sumElems(similarity))
        contrast_sum += sum(cv2.sumElems(contrast))
    count = first[RADIUS:-RADIUS, RADIUS:-RADIUS].size
    return likeness_sum / count, contrast_sum / count


def _bands(first: NDArray[Any], second: NDArray[Any]) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yield rows (counted within the border), local similarity and local contrast-and-structure."""
    height = len(first) - 2 * RADIUS
    step = max(4 * RADIUS, _BAND_BYTES // (4 * first[0].size) - 2 * RADIUS)
    centres = sum(cv2.sumElems(first)) / first.size, sum(cv2.sumElems(second)) / second.size
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        taken = slice(rows.start, rows.stop + 2 * RADIUS)
        yield rows, *_band(first[taken], second[taken], *centres)


def _band(first: NDArray[Any], second: NDArray[Any], centre: float, other: float) -> tuple[Floats, Floats]:
    """Return local similarity and local contrast-and-structure, less the border.

    With s = x + y and d = x - y, 2 (var x + var y) = var s + var d and 4 cov(x, y) = var s - var d.
    Variances are differences of large numbers: about the pictures' means, `centre` and `other`, float32
    loses the least.
    """
    plus = cv2.add(first, second, dtype=cv2.CV_32F)
    minus = cv2.subtract(first, second, dtype=cv2.CV_32F)
    plus -= np.float32(centre + other)
    minus -= np.float32(centre - other)
    mean_plus, mean_minus = _smooth(plus), _smooth(minus)
    spread_plus = _smooth(np.multiply(plus, plus, out=plus))
    spread_minus = _smooth(np.multiply(minus, minus, out=minus))
    spread_plus -= mean_plus * mean_plus
    spread_minus -= mean_minus * mean_minus
    contrast = _ratio(spread_plus, spread_minus, 2 * _C2)
    mean_plus += np.float32(centre + other)
    mean_minus += np.float32(centre - other)
    mean_plus *= mean_plus
    mean_minus *= mean_minus
    return _ratio(mean_plus, mean_minus, 2 * _C1) * contrast, contrast


def _ratio(first: Floats, second: Floats, constant: float) -> Floats:
    """Return (first - second + constant) / (first + second + constant)."""
    above, below = first - second, first + second
    above += np.float32(constant)
    below += np.float32(constant)
    return np.divide(above, below, out=above)


def _smooth(image: Floats) -> Floats:
    smooth = cv2.sepFilter2D(image, cv2.CV_32F, _KERNEL, _KERNEL)
    return np.asarray(smooth[RADIUS:-RADIUS, RADIUS:-RADIUS], np.float32)


MEASURE = Measure(
    name="ssim", title="Structural similarity", compare=ssim, better="higher", extractor="pixels, RGB",
    smallest=2 * RADIUS + 1, inside=True,
)  # fmt: skip


def figures(evidence: Evidence) -> list[Figure]:
    """Return the similarity to one real reference (photographs and vessel maps) and that of painted pairs."""
    return likeness.figures(evidence, MEASURE)
