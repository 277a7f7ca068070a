"""Where things lie in an eye of which only masks are known: the retinal frame of its disc.

Lengths are disc diameters: the diameter of a circle with the disc's area, about 1.8 mm. The origin is the
disc's centre, the first axis points to the temporal side, the second up. One frame serves every camera and
every size of picture, for left and right eyes alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.records import DatasetError, Eye
from fundusforge.sources.phantom.canvas import Canvas, Projection

Points = NDArray[np.float64]
FOVEA_DISTANCE, FOVEA_DROP = 2.5, 5.6
"""Where a fovea that nobody located is expected: disc diameters from the disc's centre, and degrees below the
horizontal (Rohrschneider, Invest Ophthalmol Vis Sci 2004;45:3257)."""
LEAST_QUADRANT = 0.08
"""Share of the field below which a quadrant counts as out of view; quadrants then meet in mid-field."""
_COVERED = 0.5
"""Share of a pixel from which it belongs to a drawn lesion, so that areas are kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """The frame of one eye, and what lies where in it."""

    disc: NDArray[np.bool_]
    """(H, W) the optic disc."""
    field_of_view: NDArray[np.bool_]
    """(H, W) the retina that is seen."""
    vessels: NDArray[np.bool_]
    """(H, W) vessels; empty if nobody looked."""
    centre: tuple[float, float]
    """(x, y) in pixels of the disc's centre; that of the first pixel is (0, 0)."""
    diameter: float
    """Of the disc, in pixels."""
    eye: Eye
    fovea: Points
    """(2,) in disc diameters."""
    located: bool
    """Whether somebody located the fovea; if not, it is where anatomy expects it."""

    @classmethod
    def of(
        cls, *, disc: Grey, field_of_view: Grey, vessels: Grey | None = None,
        fovea: Grey | tuple[float, float] | None = None, eye: Eye | None = None,
    ) -> Frame:  # fmt: skip
        """Return the frame of an eye.

        Args:
            disc: (H, W) uint8, disc where not 0; its largest part is taken.
            field_of_view: (H, W) uint8, inside where not 0.
            vessels: (H, W) uint8, vessel where not 0.
            fovea: (H, W) mask or (x, y) in pixels; the expected place if None or empty.
            eye: Which eye; told from the fovea, or from where the disc stands in the field, if None.

        Raises:
            DatasetError: Masks of different sizes, an empty field of view, or no disc in it.
        """
        for name, mask in (("field of view", field_of_view), ("vessel mask", vessels)):
            if mask is not None and mask.shape != disc.shape:
                raise DatasetError(f"the disc is {disc.shape} pixels, but the {name} is {mask.shape}")
        inside = field_of_view > 0
        if not inside.any():
            raise DatasetError("the field of view is empty: nothing can lie in it")
        shown = np.asarray((disc > 0) & inside, np.uint8)
        stats, centres = cv2.connectedComponentsWithStats(shown, connectivity=8)[2:4]
        areas = np.asarray(stats, np.int64)[1:, cv2.CC_STAT_AREA]
        if not len(areas):
            raise DatasetError("the disc's mask is empty: lesions are placed as seen from the disc")
        largest = int(np.argmax(areas))
        x, y = np.asarray(centres, np.float64)[1 + largest].tolist()
        diameter = 2 * math.sqrt(float(areas[largest]) / math.pi)
        spot = _spot(fovea)
        rows, columns = np.nonzero(inside)
        beyond = (spot[0] if spot else float(columns.mean())) - x  # temporal of the disc, in the picture
        eye = eye or ("left" if beyond > 0 else "right")
        drop = math.radians(FOVEA_DROP)
        place = FOVEA_DISTANCE * np.array([math.cos(drop), -math.sin(drop)])
        if spot:
            side = 1 if eye == "left" else -1
            place = np.array([side * (spot[0] - x), y - spot[1]]) / diameter
        return cls(
            disc=disc > 0,
            field_of_view=inside,
            vessels=np.zeros_like(inside) if vessels is None else vessels > 0,
            centre=(x, y),
            diameter=diameter,
            eye=eye,
            fovea=place,
            located=spot is not None,
        )

    @classmethod
    def of_masks(cls, masks: Mapping[str, Grey], field_of_view: Grey, *, eye: Eye | None = None) -> Frame:
        """Return the frame of an eye whose `disc`, and perhaps `vessels` and `fovea`, are among masks.

        Raises:
            DatasetError: There is no `disc`, or as in `of`.
        """
        if "disc" not in masks:
            raise DatasetError(
                f"lesions are placed as seen from the disc; there is only {', '.join(masks) or 'nothing'}"
            )
        return cls.of(
            disc=masks["disc"], field_of_view=field_of_view, vessels=masks.get("vessels"),
            fovea=masks.get("fovea"), eye=eye,
        )  # fmt: skip

    def pixels(self, points: Points) -> Points:
        """Return (N, 2) x and y in pixels of points (N, 2) in disc diameters."""
        side = 1 if self.eye == "left" else -1
        return np.array(self.centre) + np.asarray(points) * self.diameter * np.array([side, -1.0])

    def points(self, pixels: Points) -> Points:
        """Return (N, 2) in disc diameters of x and y in pixels (N, 2)."""
        side = 1 if self.eye == "left" else -1
        return (np.asarray(pixels) - np.array(self.centre)) / (self.diameter * np.array([side, -1.0]))

    def at(self, values: NDArray[Any], points: Points) -> NDArray[Any]:
        """Return what a picture (H, W) holds at points (N, 2); the nearest pixel's value beyond its edge."""
        column, row = np.round(self.pixels(points)).astype(np.int64).T
        height, width = values.shape
        return values[row.clip(0, height - 1), column.clip(0, width - 1)]

    @cached_property
    def room(self) -> NDArray[np.float32]:
        """(H, W) distance to disc or edge of the field in disc diameters, 0 where no lesion may be."""
        free = np.pad(np.asarray(self.field_of_view & ~self.disc, np.uint8), 1)
        distance = np.asarray(cv2.distanceTransform(free, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
        return np.asarray(distance[1:-1, 1:-1] / self.diameter, np.float32)

    @cached_property
    def to_vessel(self) -> NDArray[np.float32]:
        """(H, W) distance to the nearest vessel in disc diameters, 0 on one; infinite if there is none."""
        if not self.vessels.any():
            return np.full(self.vessels.shape, np.inf, np.float32)
        away = np.asarray(~self.vessels, np.uint8)
        distance = np.asarray(cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
        return np.asarray(distance / self.diameter, np.float32)

    @cached_property
    def middle(self) -> Points:
        """(2,) centre of the field of view."""
        rows, columns = np.nonzero(self.field_of_view)
        return self.points(np.array([[float(columns.mean()), float(rows.mean())]]))[0]

    @cached_property
    def origin(self) -> Points:
        """(2,) where the quadrants meet: the fovea, or mid-field where that leaves one out of view."""
        rows, columns = np.nonzero(self.field_of_view[::4, ::4])
        seen = self.points(4.0 * np.stack([columns, rows], axis=1).astype(np.float64))
        share = np.bincount(_quadrant(seen, self.fovea), minlength=4) / max(1, len(seen))
        return self.fovea if share.min() > LEAST_QUADRANT else self.middle

    def quadrants(self, points: Points) -> NDArray[np.int64]:
        """Return (N,) the place in `severity.QUADRANTS` of each point."""
        return _quadrant(points, self.origin)

    def spread(self, rng: np.random.Generator, count: int) -> Points:
        """Return `count` places (N, 2) drawn evenly over the picture's part with the field of view.

        The same generator gives the same places for the same eye at every size; `room` tells which are free.
        """
        rows, columns = np.nonzero(self.field_of_view)
        edges = np.array([[columns.min() - 0.5, rows.min() - 0.5], [columns.max() + 0.5, rows.max() + 0.5]])
        low, high = np.sort(self.points(edges), axis=0)
        return rng.uniform(low, high, (count, 2))

    def ground(self, rng: np.random.Generator, count: int) -> Points:
        """Return of `count` places (`spread`) those where lesions may be."""
        points = self.spread(rng, count)
        return points[self.at(self.room, points) > 0]

    def projection(self, *, unit: float = 1.0) -> Projection:
        """Return the projection that draws in this frame, in units of which a disc diameter has `unit`."""
        side = max(self.disc.shape)
        flip = self.eye == "right"
        middle = self.points(np.array([[side / 2 - 0.5, side / 2 - 0.5]]))[0]
        return Projection(side, self.diameter / unit, middle * unit, flip, 0.0)

    def draw(self, outlines: list[Points]) -> Grey:
        """Return the mask (H, W) of filled outlines, each (N, 2) in disc diameters.

        However small, each shows one pixel at least; nothing lies on the disc or outside the field of view.
        """
        mask = np.zeros(self.disc.shape, np.uint8)
        if not outlines:
            return mask
        canvas = Canvas(self.projection())
        middles = np.array([outline.mean(axis=0) for outline in outlines], np.float64)
        # Filling takes the canvas's pixels on the outline too: half a one of them too much all round.
        excess = 0.5 / canvas.zoom / self.diameter
        for middle, outline in zip(middles, outlines, strict=True):
            radius = float(np.sqrt(((outline - middle) ** 2).sum(axis=1)).mean())
            canvas.fill([middle + (outline - middle) * max(0.1, 1 - excess / radius)])
        height, width = self.disc.shape
        mask[canvas.coverage()[:height, :width] > 255 * _COVERED] = 255
        column, row = np.round(self.pixels(middles)).astype(np.int64).T
        mask[row.clip(0, height - 1), column.clip(0, width - 1)] = 255
        return self.cut(mask)

    def cut(self, mask: Grey) -> Grey:
        """Return a mask (H, W) without what lies on the disc or outside the field of view."""
        return np.where(self.field_of_view & ~self.disc & (mask > 0), 255, 0).astype(np.uint8)


def _spot(fovea: Grey | tuple[float, float] | None) -> tuple[float, float] | None:
    """Return (x, y) of a fovea given as a mask or as a point."""
    if fovea is None or isinstance(fovea, tuple):
        return fovea
    rows, columns = np.nonzero(fovea)
    return (float(columns.mean()), float(rows.mean())) if len(rows) else None


def _quadrant(points: Points, origin: Points) -> NDArray[np.int64]:
    """Index into `severity.QUADRANTS` of each point (N, 2)."""
    return 2 * (points[:, 1] < origin[1]).astype(np.int64) + (points[:, 0] < origin[0])
