"""From millimetres on the retina to pixels: projection, antialiased strokes and filled shapes.

Everything is rasterised on a canvas about 2048 px wide whatever the target size, then averaged down, so
the same eye comes out at every size and a line has the width it should have to a fraction of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_CANVAS = 2048
_SHIFT = 4
"""Fractional bits of OpenCV's drawing coordinates."""


@dataclass(frozen=True)
class Projection:
    """Maps the disc-centred retinal frame (mm, +x temporal, +y superior) to pixels (+x right, +y down).

    scale: pixels per mm; centre: retinal point (mm) at the middle of the picture; flip: temporal lies to
    the left, as in a photograph of a right eye; torsion: rotation of the eye, radians.
    """

    size: int
    scale: float
    centre: NDArray[np.float64]
    flip: bool
    torsion: float

    def pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) mm -> (N, 2) px, where (0, 0) is the outer corner of the first pixel."""
        gap = (np.asarray(points, dtype=np.float64) - self.centre) * self.scale
        cos, sin = np.cos(self.torsion), np.sin(self.torsion)
        x = cos * gap[..., 0] - sin * gap[..., 1]
        y = sin * gap[..., 0] + cos * gap[..., 1]
        return np.stack([self.size / 2 + (-x if self.flip else x), self.size / 2 - y], axis=-1)

    def retina(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Retinal coordinates (S, S) float32 in mm, temporal and superior, of every pixel centre."""
        axis = (np.arange(self.size, dtype=np.float32) + 0.5 - self.size / 2) / np.float32(self.scale)
        x, y = (-axis if self.flip else axis)[None, :], -axis[:, None]
        cos, sin = np.float32(np.cos(self.torsion)), np.float32(np.sin(self.torsion))
        return cos * x + sin * y + np.float32(self.centre[0]), cos * y - sin * x + np.float32(self.centre[1])


class Canvas:
    """A supersampled grey canvas for one projection."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection
        self.zoom = max(1, round(_CANVAS / projection.size))
        side = projection.size * self.zoom
        self.pixels = np.zeros((side, side), dtype=np.uint8)

    def _fixed_point(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        position = self.projection.pixels(points) * self.zoom - 0.5
        return np.round(np.clip(position, -30000, 30000) * (1 << _SHIFT)).astype(np.int32)

    def strokes(
        self, starts: NDArray[np.float64], ends: NDArray[np.float64], diameters: NDArray[np.float64], *,
        values: NDArray[np.float64] | None = None, thinnest: float = 1.0,
    ) -> None:  # fmt: skip
        """Draw round-capped segments, thin ones first.

        Args:
            starts: (N, 2) mm.
            ends: (N, 2) mm.
            diameters: (N,) mm.
            values: (N,) grey values 0-255; 255 where not given.
            thinnest: least width drawn, in pixels of the target.
        """
        if len(starts) == 0:
            return
        lines = np.stack([self._fixed_point(starts), self._fixed_point(ends)], axis=1)
        width = np.maximum(diameters * self.projection.scale, thinnest) * self.zoom
        width = np.maximum(np.round(width), 1).astype(int)
        for w in np.unique(width):
            members = width == w
            if values is None:
                cv2.polylines(self.pixels, list(lines[members]), False, 255, int(w), cv2.LINE_8, _SHIFT)
                continue
            grey = np.round(values[members] / 8).astype(int) * 8
            for g in np.unique(grey):
                chosen = list(lines[members][grey == g])
                cv2.polylines(self.pixels, chosen, False, int(min(g, 255)), int(w), cv2.LINE_8, _SHIFT)

    def fill(self, outlines: Sequence[NDArray[np.float64]], *, value: int = 255) -> None:
        """Fill closed outlines, each (N, 2) mm."""
        for outline in outlines:
            cv2.fillPoly(self.pixels, [self._fixed_point(outline)], value, cv2.LINE_8, _SHIFT)

    def coverage(self) -> NDArray[np.uint8]:
        """(S, S) mean of the canvas under each pixel of the target."""
        size = self.projection.size
        return cv2.resize(self.pixels, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)

    def mask(self, *, threshold: float = 0.45) -> NDArray[np.uint8]:
        """(S, S) 0/255: pixels covered to more than `threshold`."""
        return ((self.coverage() > 255 * threshold) * np.uint8(255)).astype(np.uint8)


def ellipse(
    centre: NDArray[np.float64], radii: tuple[float, float], *, wobble: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Closed outline (96, 2) in mm of an upright ellipse.

    Args:
        centre: (2,) mm.
        radii: half width and half height, mm.
        wobble: (K, 2) amplitudes of cosine and sine harmonics 2..K+1, relative to the radius, for an
            irregular outline.
    """
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    stretch = np.ones_like(angle)
    for order, (c, s) in enumerate(wobble if wobble is not None else (), start=2):
        stretch = stretch + c * np.cos(order * angle) + s * np.sin(order * angle)
    return centre + np.column_stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)]) * stretch[:, None]
