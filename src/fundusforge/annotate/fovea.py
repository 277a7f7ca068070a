"""Where the fovea is: a dark spot without vessels, about 2.5 disc diameters temporal of the disc.

After Sinthanayothin et al. (British Journal of Ophthalmology 83, 1999, 902-910), who look for a dark region
about 2.5 disc diameters from the disc, and Niemeijer et al. (Medical Image Analysis 13, 2009, 859-870), who
look where the disc says. The expected place is that of Rohrschneider (Investigative Ophthalmology & Visual
Science 45, 2004): 15.6 degrees from the disc's centre and 5.6 +- 3.3 degrees below it.

At a scale at which the disc is 24 pixels wide, every place is given the darkness of its inside against its
surroundings, with vessels and disc left out of both means. The darkest place near the mean position is the
fovea if it is dark enough, a minimum, and well inside the field of view. Whether it is, is told from
darkness alone, so a pale fovea is missed and a dark lesion in its place is taken for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import Disc, Point
from fundusforge.records import Eye

DISTANCE, DISTANCE_SPREAD = 2.5, 0.5
"""Mean and spread of the distance from the disc's centre, in disc diameters."""
DROP, DROP_SPREAD = 5.6, 6.0
"""Mean and spread of the angle below the horizontal in degrees; the eye's own and the head's tilt."""
FAINTEST = 0.5
"""Confidence below which no fovea is given."""
_DISC = 24
"""Width of the disc at which the search is done, pixels."""
_INSIDE, _ROUND = 0.3, 0.9
"""Standard deviations of the Gaussians that average the spot and its surroundings, in disc diameters."""
_MARGIN = 0.6
"""Least distance to the edge of the field of view, in disc diameters."""
_HALF_SURE = 0.07
"""Darkness against the surroundings at which the confidence is a half."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Fovea:
    """An estimate of the fovea's place."""

    centre: Point
    """(x, y) in pixels."""
    confidence: float
    """0 to 1; a half where the spot is 7 % darker than its surroundings."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What looking for the fovea gave."""

    fovea: Fovea | None
    in_view: bool
    """Whether the place where a fovea is expected can be seen; if not, its absence says nothing."""


def find_fovea(
    image: NDArray[np.uint8], disc: Disc, *, vessels: NDArray[Any] | None = None,
    field_of_view: NDArray[Any] | None = None, eye: Eye | None = None,
) -> Search:  # fmt: skip
    """Look for the fovea of one eye.

    Args:
        image: (H, W, 3) uint8 RGB.
        disc: The optic disc.
        vessels: (H, W), vessel where not 0, to leave them out.
        field_of_view: (H, W), inside where not 0; None for the whole picture.
        eye: Says which way is temporal (left in a right eye); None looks on both sides.
    """
    scale = _DISC / disc.diameter
    size = tuple(max(1, round(side * scale)) for side in image.shape[:2])
    inside = np.full(image.shape[:2], 255, np.uint8) if field_of_view is None else field_of_view
    green = _shrunk(image[..., 1], size)
    field = _shrunk((inside != 0).astype(np.float32), size) > 0.99
    vessel = _shrunk((np.zeros_like(inside) if vessels is None else vessels != 0).astype(np.float32), size)
    ratio = np.array([size[1] / image.shape[1], size[0] / image.shape[0]])
    centre = (np.array(disc.centre) + 0.5) * ratio - 0.5
    right, down = (axis / _DISC for axis in _offsets(size, centre))
    weight = field * (1 - vessel) * (np.hypot(right, down) > 0.75)
    darkness = _darkness(green, weight.astype(np.float32))
    edge = np.asarray(cv2.distanceTransform(np.pad(field, 1).astype(np.uint8), cv2.DIST_L2, 5))[1:-1, 1:-1]
    deep = edge >= _MARGIN * _DISC
    found = [_best(darkness, deep, right * side, down) for side in _sides(eye)]
    in_view = any(seen for _, seen in found)
    known = [spot for spot, _ in found if spot is not None]
    if not known:
        return Search(fovea=None, in_view=in_view)
    row, column = max(known, key=lambda spot: darkness[spot])
    confidence = _confidence(float(darkness[row, column]))
    x, y = ((np.array([column, row]) + 0.5) / ratio - 0.5).tolist()
    fovea = Fovea(centre=(x, y), confidence=confidence)
    return Search(fovea=fovea if confidence >= FAINTEST else None, in_view=in_view)


def _sides(eye: Eye | None) -> tuple[int, ...]:
    """Return which way is temporal: -1 left in the picture, 1 right."""
    return {"right": (-1,), "left": (1,)}.get(eye or "", (-1, 1))


def _shrunk(plane: NDArray[Any], size: tuple[int, ...]) -> Floats:
    small = cv2.resize(plane.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _offsets(size: tuple[int, ...], centre: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return columns - centre[0], rows - centre[1]


def _darkness(green: Floats, weight: Floats) -> Floats:
    """Return by which part a place is darker than its surroundings, means over what `weight` counts."""
    level = _evened(np.log(np.maximum(green, 1.0)), weight)
    near, far = (_mean(level, weight, deviation * _DISC) for deviation in (_INSIDE, _ROUND))
    return np.asarray(1 - np.exp(near - far), np.float32)


def _evened(level: Floats, weight: Floats) -> Floats:
    """Return the logarithm of intensity less the quadratic surface that fits it best: uneven lighting."""
    rows, columns = np.mgrid[-1 : 1 : level.shape[0] * 1j, -1 : 1 : level.shape[1] * 1j]
    terms = np.stack([np.ones_like(rows), rows, columns, rows**2, rows * columns, columns**2], axis=-1)
    counted = weight > 0
    root = np.sqrt(weight[counted].astype(np.float64))
    fit = np.linalg.lstsq(terms[counted] * root[:, None], level[counted] * root, rcond=None)[0]
    return np.asarray(level - terms @ fit, np.float32)


def _mean(values: Floats, weight: Floats, deviation: float) -> Floats:
    """Return the Gaussian mean of what counts (normalised convolution)."""
    total, count = (
        np.asarray(cv2.GaussianBlur(plane, (0, 0), deviation, borderType=cv2.BORDER_CONSTANT))
        for plane in (values * weight, weight)
    )
    return np.asarray(total / np.maximum(count, 1e-3), np.float32)


def _best(
    darkness: Floats, deep: NDArray[np.bool_], temporal: NDArray[Any], down: NDArray[Any]
) -> tuple[tuple[int, int] | None, bool]:
    """Return the darkest likely place on one side, and whether the expected place can be seen."""
    distance = np.hypot(temporal, down)
    angle = np.degrees(np.arctan2(down, temporal))
    far = ((distance - DISTANCE) / DISTANCE_SPREAD) ** 2 + ((angle - DROP) / DROP_SPREAD) ** 2
    expected = np.unravel_index(int(np.argmin(far)), far.shape)
    seen = bool(deep[expected]) and float(far[expected]) < 1
    likely = deep & (far < 9)
    lowest = darkness >= np.asarray(cv2.dilate(darkness, np.ones((5, 5))))
    score = np.where(likely & lowest, darkness * np.exp(-far / 2), -math.inf)
    best = np.unravel_index(int(np.argmax(score)), score.shape)
    spot = (int(best[0]), int(best[1]))
    return (spot if score[spot] > 0 else None), seen


def _confidence(darkness: float) -> float:
    return darkness**2 / (darkness**2 + _HALF_SURE**2) if darkness > 0 else 0.0
