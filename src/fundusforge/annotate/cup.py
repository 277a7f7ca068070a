"""Where the optic cup is: the paler part within a given disc.

A cup has no sharp outline in one photograph; what shows is its pallor. Within the disc the green channel is
therefore described by a plane (the temporal rim is paler than the nasal) plus one ellipse with a soft edge,
with vessels left out. The ellipse that explains most of what the plane leaves is the cup: one part, convex
and near the disc's centre by construction, whatever vessels cross it. A cup is a depth, and pallor is only a
sign of it; the bends of the vessels at its edge, the other sign that one photograph shows (Joshi et al., IEEE
Transactions on Medical Imaging 30, 2011, 1192-1205), are not looked at.

A cup is given only if it is paler than the rim by `FAINTEST`, explains as much as `UNSURE` and has a ratio
within `RATIO`; else there is none that this method could tell, and that is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import find_disc
from fundusforge.images import Grey, Image

RATIO = (0.15, 0.88)
"""Vertical cup-to-disc ratios that are given; those of healthy eyes are 0.0 to 0.85 (Jonas et al.,
Investigative Ophthalmology & Visual Science 29, 1988, 1151-1158), and smaller ones cannot be told."""
FAINTEST = 0.03
"""Least relative step of brightness from rim to cup."""
UNSURE = 0.35
"""Confidence below which no cup is given."""
_DISC = 40
"""Height of the disc at which the search is done, pixels."""
_USED = 0.86
"""Part of the disc's radii that is looked at: its outline is never exact."""
_SOFT = 0.14
"""Width of the cup's edge, in radii of the cup."""
_SHIFTS = (-0.24, -0.16, -0.08, 0.0, 0.08, 0.16, 0.24)
"""Centres that are tried, in disc diameters from the disc's."""
_ASPECTS = (0.85, 1.0, 1.18)
"""Widths over heights that are tried, relative to the disc's own."""
_STEPS = 16
"""Heights that are tried, evenly over `_TRIED`."""
_TRIED = (0.1, 0.95)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cup:
    """An estimate of the cup."""

    mask: Grey
    """(H, W) uint8, 255 inside."""
    ratio: float
    """Vertical diameter of the cup over that of the disc."""
    confidence: float
    """0 to 1: of what a plane leaves of the disc's brightness, the part that the cup explains."""


@dataclass(frozen=True, kw_only=True)
class _Box:
    """The disc's upright frame in pixels: centre and radii."""

    x: float
    y: float
    across: float
    high: float


def find_cup(image: Image, disc: NDArray[Any], *, vessels: NDArray[Any] | None = None) -> Cup | str:
    """Look for the cup of one eye.

    Args:
        image: (H, W, 3) uint8 RGB.
        disc: (H, W), disc where not 0.
        vessels: (H, W), vessel where not 0, to leave them out.

    Returns:
        The cup, or why none is given.
    """
    place = find_disc(disc)
    if place is None:
        return "there is no disc"
    rows, columns = np.nonzero(disc)
    box = _Box(
        x=(columns.min() + columns.max()) / 2, y=(rows.min() + rows.max()) / 2,
        across=(np.ptp(columns) + 1) / 2, high=(np.ptp(rows) + 1) / 2,
    )  # fmt: skip
    light, weight, right, down = _sampled(image, disc, vessels, box)
    counted = weight > 0.5
    if np.count_nonzero(counted) < 0.3 * counted.size * math.pi / 4 * _USED**2:
        return "vessels cover the disc"
    shapes = _candidates()
    explained, steps = _fitted(light[counted], shapes, right[counted], down[counted])
    best = int(np.argmax(np.where(steps > 0, explained, -1.0)))
    dx, dy, width, ratio = shapes[best]
    if steps[best] < FAINTEST:
        return "no part of the disc is paler than the rest"
    if not RATIO[0] <= ratio <= RATIO[1]:
        return f"a cup-to-disc ratio of {ratio:.2f} is not plausible"
    if explained[best] < UNSURE:
        return f"no distinct cup (confidence {explained[best]:.2f})"
    y, x = np.mgrid[: disc.shape[0], : disc.shape[1]]
    inside = np.hypot(((x - box.x) / box.across - 2 * dx) / width, ((y - box.y) / box.high - 2 * dy) / ratio)
    mask = np.where((inside <= 1) & (disc != 0), 255, 0).astype(np.uint8)
    return Cup(mask=mask, ratio=float(ratio), confidence=float(explained[best]))


def _sampled(
    image: Image, disc: NDArray[Any], vessels: NDArray[Any] | None, box: _Box
) -> tuple[Floats, Floats, Floats, Floats]:
    """Bring the disc's frame to a square of `_DISC` pixels; coordinates are in the disc's radii.

    Returns:
        Logarithm of green, weight (0 on vessels and off the disc), x and y in [-1, 1]; each (S, S).
    """
    axis = (np.arange(_DISC) + 0.5) / _DISC * 2 - 1
    down, right = (np.asarray(plane, np.float64) for plane in np.meshgrid(axis, axis, indexing="ij"))
    matrix = np.array(
        [
            [_DISC / 2 / box.across, 0, _DISC / 2 * (1 - box.x / box.across) - 0.5],
            [0, _DISC / 2 / box.high, _DISC / 2 * (1 - box.y / box.high) - 0.5],
        ]
    )

    def bring(plane: NDArray[Any]) -> Floats:
        blur = 0.4 * max(0.0, 2 * box.high / _DISC - 1)
        smooth = cv2.GaussianBlur(plane.astype(np.float32), (0, 0), blur) if blur > 0.3 else plane
        moved = cv2.warpAffine(smooth.astype(np.float32), matrix, (_DISC, _DISC), flags=cv2.INTER_LINEAR)
        return np.asarray(moved, np.float64)

    light = np.log(np.maximum(bring(image[..., 1]), 1.0))
    inside = (bring(disc != 0) > 0.5) & (np.hypot(right, down) <= _USED)
    clear = np.ones_like(light) if vessels is None else 1 - bring(vessels != 0)
    return light, np.where(inside, np.where(clear > 0.7, 1.0, 0.0), 0.0), right, down


def _candidates() -> Floats:
    """Return (K, 4) ellipses that lie within the disc: x, y in its diameters, width and height over its."""
    heights = np.linspace(*_TRIED, _STEPS)
    tried = [
        (dx, dy, height * aspect, height)
        for dx, dy, aspect, height in product(_SHIFTS, _SHIFTS, _ASPECTS, heights)
        if max(2 * abs(dx) + height * aspect, 2 * abs(dy) + height) <= 1.05
    ]
    return np.array(tried)


def _fitted(light: Floats, shapes: Floats, right: Floats, down: Floats) -> tuple[Floats, Floats]:
    """Fit a plane and one soft ellipse to the brightness of N pixels, for each of K ellipses.

    Returns:
        (K,) the part of what a plane leaves that the ellipse explains, and (K,) its step of brightness.
    """
    plane = np.linalg.qr(np.stack([np.ones_like(right), right, down], axis=1))[0]
    left = light - plane @ (plane.T @ light)
    dx, dy, width, height = (column[:, None] for column in shapes.T)
    rho = np.hypot((right - 2 * dx) / width, (down - 2 * dy) / height)
    soft = 1 / (1 + np.exp((rho - 1) / _SOFT))
    soft -= (soft @ plane) @ plane.T
    own = np.maximum((soft**2).sum(axis=1), 1e-9)
    both = soft @ left
    return both**2 / own / max(float(left @ left), 1e-9), both / own
