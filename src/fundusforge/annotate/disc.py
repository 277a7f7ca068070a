"""The optic disc as a circle, where the fovea lies seen from it, and what speaks against a given disc.

Positions are (x, y) in pixels; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.convergence import convergence
from fundusforge.annotate.shapes import PLAUSIBLE

RIVAL = 0.5
"""Area of a second part of a disc mask, over that of the largest, from which the disc is doubtful."""
LONGEST = 1.6
"""Length over width from which a disc is doubtful; healthy ones are nearly round."""
CUT = 0.05
"""Part of a disc's outline along the edge of the field of view from which it is doubtful."""
POINTED = 0.85
"""Votes of the vessels at the disc, over those where they are most, below which it is doubtful."""

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


def doubts(disc: NDArray[Any], vessels: NDArray[Any] | None, field_of_view: NDArray[Any]) -> str | None:
    """Say why a mask of the disc is not to be trusted; None if nothing speaks against it.

    Args:
        disc: (H, W), disc where not 0; every part that was found, not only the largest.
        vessels: (H, W), vessel where not 0; None if nobody looked.
        field_of_view: (H, W), inside where not 0.
    """
    place = find_disc(disc)
    if place is None:
        return "there is no disc"
    return _misshapen(disc, place, field_of_view) or _elsewhere(place, vessels, field_of_view)


def _misshapen(disc: NDArray[Any], place: Disc, field_of_view: NDArray[Any]) -> str | None:
    """Say what is wrong with the parts, the size, the outline or the frame of a disc."""
    parts = cv2.findContours(
        np.asarray(disc != 0, np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )[0]  # fmt: skip
    areas = sorted((cv2.contourArea(part) for part in parts), reverse=True)
    if len(areas) > 1 and areas[1] > RIVAL * areas[0]:
        return f"a second place looks like a disc, {areas[1] / areas[0]:.0%} as large"
    share = math.pi / 4 * place.diameter**2 / max(1, np.count_nonzero(field_of_view))
    low, high = PLAUSIBLE["disc"]
    if not low <= share <= high:
        return f"a disc of {share:.1%} of the field of view; expected {low:.1%} to {high:.0%}"
    width, length = (side + 1 for side in sorted(cv2.minAreaRect(max(parts, key=cv2.contourArea))[1]))
    if length > LONGEST * width:
        return f"a disc {length / width:.1f} times as long as wide"
    if (cut := _cut(disc, place, field_of_view)) > CUT:
        return f"the edge of the field of view cuts the disc along {cut:.0%} of its outline"
    return None


def _cut(disc: NDArray[Any], place: Disc, field_of_view: NDArray[Any]) -> float:
    """Return the part of a disc's outline that lies along the edge of the field of view or the picture."""
    shown = np.asarray(disc != 0, np.uint8)
    outline = (shown - np.asarray(cv2.erode(shown, np.ones((3, 3), np.uint8)), np.uint8)) > 0
    reach = max(1, round(0.02 * place.diameter))
    outside = np.pad(np.asarray(field_of_view == 0, np.uint8), reach, constant_values=1)
    grown = np.asarray(cv2.dilate(outside, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)))
    near = grown[reach:-reach, reach:-reach] > 0
    return np.count_nonzero(outline & near) / max(1, np.count_nonzero(outline))


def _elsewhere(place: Disc, vessels: NDArray[Any] | None, field_of_view: NDArray[Any]) -> str | None:
    """Say if the vessels come from another place than the disc."""
    pointed = None if vessels is None else convergence(vessels, field_of_view)
    if pointed is None:
        return None
    rows, columns = np.mgrid[: pointed.shape[0], : pointed.shape[1]]
    near = np.hypot(columns - place.centre[0], rows - place.centre[1]) < 0.75 * place.diameter
    most = float(pointed[near].max(initial=0.0))
    if most < POINTED:
        return f"the vessels converge elsewhere ({most:.0%} as many votes at the disc)"
    return None
