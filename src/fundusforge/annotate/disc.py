"""The optic disc as a circle, and where the fovea lies seen from it.

Positions are (x, y) in pixels; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Disc:
    """The optic disc of one image."""

    centre: Point
    diameter: float
    """In pixels, of a circle with the disc's area."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the fovea lies seen from the disc's centre."""

    distance: float
    """In disc diameters; about 2.5 in an eye (Rohrschneider, Invest Ophthalmol Vis Sci 45, 2004)."""
    drop: float
    """Angle below the horizontal in degrees; 5.6 +- 3.3 in an eye (same)."""


def find_disc(mask: NDArray[Any]) -> Disc | None:
    """Return the largest connected part of a disc mask (H, W) as a circle; None if the mask is empty."""
    shown = np.asarray(mask != 0, np.uint8)
    stats, centres = cv2.connectedComponentsWithStats(shown, connectivity=8)[2:4]
    areas = np.asarray(stats, np.int64)[1:, cv2.CC_STAT_AREA]
    if not len(areas):
        return None
    largest = int(np.argmax(areas))
    x, y = np.asarray(centres, np.float64)[1 + largest].tolist()
    area = float(areas[largest])
    return Disc(centre=(x, y), diameter=2 * math.sqrt(area / math.pi))


def geometry(disc: Disc, fovea: Point) -> Geometry:
    """Return distance and direction from the disc to the fovea, of either eye."""
    right, down = fovea[0] - disc.centre[0], fovea[1] - disc.centre[1]
    return Geometry(
        distance=math.hypot(right, down) / disc.diameter, drop=math.degrees(math.atan2(down, abs(right)))
    )
