"""Fractal dimension of the vessel tree by counting boxes (Mainster, Eye 4, 1990, for the retina).

A square round the field of view is divided into 4 x 4, 8 x 8, ... boxes, and the number of boxes that hold a
piece of skeleton grows as the divisions to the power of the dimension: 1 for a line, 2 for a filled square.
Boxes are parts of the field of view and not pixels, so that cameras of different resolution compare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIVISIONS = (4, 8, 16, 32, 64)
"""Boxes along the side; the smallest are 8 pixels wide in a field of 512."""


def fractal_dimension(
    mask: NDArray[Any], field_of_view: NDArray[Any] | None = None, *, divisions: tuple[int, ...] = DIVISIONS
) -> float | None:
    """Return the slope of the number of occupied boxes over the divisions, both as logarithms.

    Args:
        mask: (H, W), the set where not 0; a skeleton, so that calibre does not enter.
        field_of_view: (H, W), inside where not 0: its bounding square is divided; None for the whole picture.
        divisions: Boxes along a side, at least two different numbers.

    Returns:
        None if the mask is empty.

    Raises:
        ValueError: Other shapes, or an empty field of view.
    """
    inside = np.ones(mask.shape, bool) if field_of_view is None else field_of_view != 0
    if mask.ndim != 2 or inside.shape != mask.shape or not inside.any():
        raise ValueError(f"expected a (H, W) mask and a field of view like it, not empty; got {mask.shape}")
    points = np.argwhere((mask != 0) & inside)
    if not len(points):
        return None
    corner = np.array([np.flatnonzero(inside.any(axis=axis))[0] for axis in (1, 0)])
    side = max(int(np.ptp(np.flatnonzero(inside.any(axis=axis)))) + 1 for axis in (1, 0))
    counts: list[int] = []
    for division in divisions:
        box = (points - corner) * division // side
        counts.append(len(np.unique(box[:, 0] * division + box[:, 1])))
    return float(np.polyfit(np.log(divisions), np.log(counts), 1)[0])
