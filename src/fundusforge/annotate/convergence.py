"""Where the vessels come from: every vessel points along itself at the optic disc.

After Hoover & Goldbaum (IEEE Transactions on Medical Imaging 22, 2003, 951-958), whose vessels vote for the
places that lie along them. Here each pixel of a vessel votes along its direction, less the farther away, and
a place counts the square roots of its votes per direction: many vessels from many sides count for more than
one long one. At a scale at which the field of view is `_FIELD` pixels wide.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_FIELD = 160
"""Diameter of the field of view at which vessels vote, pixels."""
_REACH = 0.3
"""How far a vote reaches, in diameters of the field of view."""
_DIRECTIONS = 16
_WIDE = 1.2
"""Standard deviation of the Gaussian that makes a direction of a vessel, pixels."""

Floats = NDArray[np.float32]


def convergence(vessels: NDArray[Any], field_of_view: NDArray[Any]) -> Floats | None:
    """Return how much vessels point at each place (H, W), 1 at the most pointed at; None without vessels.

    Args:
        vessels: (H, W), vessel where not 0.
        field_of_view: (H, W), inside where not 0.
    """
    scale = _FIELD / max(1.0, 2 * math.sqrt(np.count_nonzero(field_of_view) / math.pi))
    height, width = (max(8, round(side * scale)) for side in vessels.shape)
    drawn = cv2.resize((vessels != 0).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    direction, sure = _directions(np.asarray(drawn, np.float32))
    votes = np.zeros((height, width), np.float32)
    for step in range(_DIRECTIONS):
        angle = math.pi * step / _DIRECTIONS
        near = np.maximum(0, 1 - np.abs(_turned(direction - angle)) * _DIRECTIONS / math.pi)
        voters = drawn * sure * near.astype(np.float32)
        cast = cv2.filter2D(voters, -1, _ray(angle), borderType=cv2.BORDER_CONSTANT)
        votes += np.sqrt(np.maximum(cast, 0))
    votes = cv2.GaussianBlur(votes, (0, 0), 2.0)
    large = np.asarray(cv2.resize(votes, vessels.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    large = np.where(field_of_view != 0, large, 0).astype(np.float32)
    most = float(large.max())
    return large / np.float32(most) if most > 0 else None


def _directions(drawn: Floats) -> tuple[Floats, Floats]:
    """Return the direction along vessels in radians, and how sure it is, 0 to 1; each (H, W)."""
    smooth = cv2.GaussianBlur(drawn, (0, 0), 0.7)
    across, down = (np.asarray(cv2.Sobel(smooth, cv2.CV_32F, *axis, ksize=3)) for axis in ((1, 0), (0, 1)))
    xx, xy, yy = (
        np.asarray(cv2.GaussianBlur(plane, (0, 0), _WIDE)) for plane in (across**2, across * down, down**2)
    )
    # The gradient's own direction is across the vessel.
    along = 0.5 * np.arctan2(2 * xy, xx - yy) + math.pi / 2
    sure = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-6)
    return along.astype(np.float32), sure.astype(np.float32)


def _turned(angle: Floats) -> Floats:
    """Return directions, which repeat after half a turn, as angles between -pi/2 and pi/2."""
    return np.asarray((angle + math.pi / 2) % math.pi - math.pi / 2, np.float32)


def _ray(angle: float) -> Floats:
    """Return the votes that one pixel casts along a direction: fading, and fanning out (K, K)."""
    reach = round(_REACH * _FIELD)
    down, right = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    along = np.abs(right * math.cos(angle) + down * math.sin(angle))
    aside = np.abs(-right * math.sin(angle) + down * math.cos(angle))
    spread = 1 + along * math.tan(math.pi / _DIRECTIONS / 2)
    votes = np.maximum(0, 1 - along / reach) * np.exp(-0.5 * (aside / spread) ** 2) / spread
    return np.asarray(votes, np.float32)
