"""The field of view: where the retina is in a photograph, and the square that holds it.

Cameras show a circle. Many cut it off above and below (HRF, IDRiD), publishers cut it off at the frame
(ODIR), and some pictures fill the frame but for its corners (RetCam, Neo). What all have in common is dark
surroundings, whose outline is a circle with straight cuts. It is looked for on a view of every n-th pixel of
about 256 rows, which is hundreds of times faster than on the picture and, as the circle is fitted to hundreds
of points, hardly less exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image

VIEW_ROWS = 256
"""Least rows or columns of the view in which the field is looked for."""
_DARKEST = 0.3
"""Surroundings are at most so bright, relative to the retina; a shaded corner of the retina itself is
brighter.
"""
_CIRCULAR = 0.9
"""Least fit of what is taken for a circle."""
_SMALLEST, _LARGEST = 0.15, 2.0
"""Radius of a field of view over the longer side of the picture: what is beyond is no outline of one."""
_DRAWS = 300
"""Circles through three points that are tried."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A circle with straight cuts, in pixels of the picture; pixel k covers the interval [k, k + 1]."""

    x: float
    """Centre of the circle."""
    y: float
    radius: float
    left: float
    """The cuts: nothing of the retina lies beyond them."""
    top: float
    right: float
    bottom: float
    fit: float = 1.0
    """Share of the outline that lies on the circle or on a cut, 0 to 1."""
    hull: tuple[tuple[float, float], ...] = ()
    """Corners x, y of the field where it is no circle: squashed by its publisher, or put together of two."""

    @property
    def visible(self) -> float:
        """Share of the circle's area between its cuts, 0 to 1; 1 for a hull."""
        if self.hull:
            return 1.0
        x = np.linspace(max(self.left, self.x - self.radius), min(self.right, self.x + self.radius), 257)
        half = np.sqrt(np.maximum(self.radius**2 - (x - self.x) ** 2, 0))
        height = np.minimum(self.bottom, self.y + half) - np.maximum(self.top, self.y - half)
        return float(np.trapezoid(np.maximum(height, 0), x) / (math.pi * self.radius**2))

    def mask(self, height: int, width: int) -> Grey:
        """Draw the field as (height, width) uint8 of 0 and 255."""
        if self.hull:
            drawn = np.zeros((height, width), np.uint8)
            corners = np.rint((np.array(self.hull) - 0.5) * 16).astype(np.int32)
            cv2.fillConvexPoly(drawn, corners, 255, shift=4)
            return drawn
        y = np.arange(height, dtype=np.float32)[:, None] + 0.5
        x = np.arange(width, dtype=np.float32)[None, :] + 0.5
        inside = (x - self.x) ** 2 + (y - self.y) ** 2 <= self.radius**2
        inside &= (x >= self.left) & (x <= self.right) & (y >= self.top) & (y <= self.bottom)
        return inside.astype(np.uint8) * np.uint8(255)

    def square(self) -> Square:
        """Return the smallest square around the circle's centre that holds all of the field."""
        reach = max(self.x - self.left, self.right - self.x, self.y - self.top, self.bottom - self.y)
        half = min(self.radius, reach)
        side = 2 * max(1, round(half))  # even: a picture of even side is scaled down faster
        return Square(left=round(self.x - side / 2), top=round(self.y - side / 2), side=side)

    def within(self, square: Square, size: int) -> Field:
        """Return the field in the pixels of `square` scaled to `size`."""
        scale = size / square.side
        return Field(
            x=(self.x - square.left) * scale,
            y=(self.y - square.top) * scale,
            radius=self.radius * scale,
            left=(self.left - square.left) * scale,
            top=(self.top - square.top) * scale,
            right=(self.right - square.left) * scale,
            bottom=(self.bottom - square.top) * scale,
            fit=self.fit,
            hull=tuple(((x - square.left) * scale, (y - square.top) * scale) for x, y in self.hull),
        )


@dataclass(frozen=True, kw_only=True)
class Square:
    """A square of a picture; it may reach beyond the picture."""

    left: int
    top: int
    side: int

    def cut(self, pixels: NDArray) -> NDArray:
        """Return the square of (H, W[, C]) pixels; what lies beyond them is zero."""
        height, width = pixels.shape[:2]
        top, bottom = max(0, self.top), min(height, self.top + self.side)
        left, right = max(0, self.left), min(width, self.left + self.side)
        inner = pixels[top : max(top, bottom), left : max(left, right)]
        if inner.shape[:2] == (self.side, self.side):
            return inner
        out = np.zeros((self.side, self.side, *pixels.shape[2:]), pixels.dtype)
        out[
            top - self.top : top - self.top + inner.shape[0],
            left - self.left : left - self.left + inner.shape[1],
        ] = inner
        return out


def find_field(image: Image) -> Field | None:
    """Find the field of view of a photograph.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        The field, or None where no dark surroundings bound a bright region: a frame filled to its corners, or
        nothing bright at all.
    """
    step = max(1, min(image.shape[:2]) // VIEW_ROWS)
    view = np.ascontiguousarray(image[step // 2 :: step, step // 2 :: step])
    region = _bright(view)
    return None if region is None else _fit(region, step, image.shape[:2])


def field_of_mask(mask: Grey) -> Field | None:
    """Fit the field to a publisher's mask, (H, W) uint8 of 0 and 255; None where the mask is empty.

    A mask without any outside is a field cut by the frame on all sides.
    """
    step = max(1, min(mask.shape) // (2 * VIEW_ROWS))
    region = mask[step // 2 :: step, step // 2 :: step] > 127
    if not region.any():
        return None
    found = _fit(region, step, mask.shape)
    return found or whole_frame(*mask.shape)


def whole_frame(height: int, width: int) -> Field:
    """Return the field of a picture without surroundings: the whole frame."""
    return Field(
        x=width / 2,
        y=height / 2,
        radius=math.hypot(height, width) / 2,
        left=0,
        top=0,
        right=width,
        bottom=height,
    )


def _bright(view: Image) -> NDArray[np.bool_] | None:
    """Return the largest region brighter than the surroundings, without holes; None if there is none."""
    red, green, blue = cv2.split(view)
    value = cv2.medianBlur(cv2.max(cv2.max(red, green), blue), 5)
    border = np.concatenate([value[0], value[-1], value[:, 0], value[:, -1]])
    dark = float(np.percentile(border, 2))
    bright = float(np.percentile(value, 95))
    if bright - dark < 12 or dark > _DARKEST * bright:
        return None
    limit = dark + min(max(0.14 * (bright - dark), 5.0), 25.0)
    mask = (value > limit).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return _filled(labels == largest)


def _filled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill holes: whatever cannot be reached from the frame."""
    outside = np.pad(~region, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2)
    return outside[1:-1, 1:-1] != 2


def _outline(region: NDArray[np.bool_]) -> tuple[NDArray, NDArray, NDArray]:
    """Return points (N, 2) x, y of the outline and which of them lie off the frame, and the extent.

    Every row gives its first and last pixel, every column likewise, so each arc of a circle is sampled
    evenly.
    """
    rows, columns = region.shape
    y, x = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    first, last = region.argmax(axis=1)[y], columns - region[:, ::-1].argmax(axis=1)[y]
    upper, lower = region.argmax(axis=0)[x], rows - region[::-1].argmax(axis=0)[x]
    points = np.concatenate(
        [
            np.stack([first, y + 0.5], 1),
            np.stack([last, y + 0.5], 1),
            np.stack([x + 0.5, upper], 1),
            np.stack([x + 0.5, lower], 1),
        ]
    ).astype(np.float64)
    px, py = points.T
    free = (px > 1) & (px < columns - 1) & (py > 1) & (py < rows - 1)
    extent = np.array([first.min(), upper.min(), last.max(), lower.max()], np.float64)
    return points, free, extent


def _fit(region: NDArray[np.bool_], step: int, shape: tuple[int, int]) -> Field | None:
    """Fit circle and cuts to a region of a view and return them in pixels of the picture."""
    rows, columns = region.shape
    points, free, extent = _outline(region)
    if region.mean() > 0.995 or free.sum() < 0.04 * (rows + columns):
        return None
    circle = _robust_circle(
        points[free], tolerance=max(1.0, 0.006 * min(rows, columns)), limit=max(rows, columns)
    )
    if circle is None:
        return None
    x, y, radius = circle
    cuts = _cuts(circle, extent, (columns, rows))
    fit = _agreement(points, circle, cuts, tolerance=max(1.5, 0.012 * min(rows, columns)))
    height, width = shape
    if fit < _CIRCULAR:
        return _hull(region, step, shape)
    left, top, right, bottom = (None if cut is None else cut * step for cut in cuts)
    return Field(
        x=x * step,
        y=y * step,
        radius=radius * step,
        left=left or 0.0,
        top=top or 0.0,
        right=right or float(width),
        bottom=bottom or float(height),
        fit=fit,
    )


def _hull(region: NDArray[np.bool_], step: int, shape: tuple[int, int]) -> Field:
    """Return the convex hull of a region that is no circle; its `fit` is how convex the region is."""
    outline = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    hull = cv2.convexHull(np.concatenate(outline))[:, 0]
    fit = float(region.sum()) / max(float(cv2.contourArea(hull)), 1.0)
    corners = (hull + 0.5) * step
    (left, top), (right, bottom) = corners.min(axis=0) - step / 2, corners.max(axis=0) + step / 2
    return Field(
        x=float(left + right) / 2,
        y=float(top + bottom) / 2,
        radius=float(max(right - left, bottom - top)) / 2,
        left=max(float(left), 0.0),
        top=max(float(top), 0.0),
        right=min(float(right), float(shape[1])),
        bottom=min(float(bottom), float(shape[0])),
        fit=min(1.0, fit),
        hull=tuple((float(x), float(y)) for x, y in corners),
    )


def _cuts(circle: tuple[float, float, float], extent: NDArray, frame: tuple[int, int]) -> list[float | None]:
    """Return where the region ends before the circle does: left, top, right, bottom in pixels of the view."""
    x, y, radius = circle
    slack = max(2.0, 0.02 * radius)
    ends = (x - radius, y - radius, x + radius, y + radius)
    cuts: list[float | None] = []
    for side in range(4):
        inward = (extent[side] - ends[side]) * (1 if side < 2 else -1)
        at_frame = extent[side] <= 1 if side < 2 else extent[side] >= frame[side % 2] - 1
        cuts.append(None if inward <= slack or at_frame else float(extent[side]))
    return cuts


def _agreement(
    points: NDArray, circle: tuple[float, float, float], cuts: list[float | None], *, tolerance: float
) -> float:
    """Return the share of outline points that lie on the circle, on a cut or on the frame."""
    x, y, radius = circle
    px, py = points.T
    good = np.abs(np.hypot(px - x, py - y) - radius) <= tolerance
    for cut, along in zip(cuts, (px, py, px, py), strict=True):
        if cut is not None:
            good |= np.abs(along - cut) <= tolerance
    for along in (px, py):
        good |= along <= 1
    good |= (px >= px.max() - 1) | (py >= py.max() - 1)
    return float(good.mean())


def _robust_circle(points: NDArray, *, tolerance: float, limit: float) -> tuple[float, float, float] | None:
    """Fit a circle to (N, 2) points of which many may lie elsewhere.

    Seeded draws of three points, the circle that most points lie on, then least squares on those, thrice.

    Returns:
        Centre x, y and radius; None if no circle holds at least a tenth of the points, or none whose radius
        is in proportion to `limit`, the longer side.
    """
    rng = np.random.default_rng(0)
    triples = points[rng.integers(len(points), size=(_DRAWS, 3))]
    x, y, radius = _through(triples)
    usable = np.isfinite(radius) & (radius > _SMALLEST * limit) & (radius < _LARGEST * limit)
    if not usable.any():
        return None
    x, y, radius = x[usable], y[usable], radius[usable]
    distance = np.sqrt((points[:, 0] - x[:, None]) ** 2 + (points[:, 1] - y[:, None]) ** 2)
    best = int(np.argmax(np.count_nonzero(np.abs(distance - radius[:, None]) <= tolerance, axis=1)))
    circle = (float(x[best]), float(y[best]), float(radius[best]))
    for _ in range(3):
        near = (
            np.abs(np.hypot(points[:, 0] - circle[0], points[:, 1] - circle[1]) - circle[2]) <= 2 * tolerance
        )
        if near.sum() < max(8, 0.1 * len(points)):
            return None
        circle = _least_squares(points[near], circle)
        if not _SMALLEST * limit < circle[2] < _LARGEST * limit:  # a straight edge has no circle
            return None
    return circle


def _through(triples: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Return centre x, y and radius of the circles through (N, 3, 2) points; infinite if in line."""
    (ax, ay), (bx, by), (cx, cy) = (triples[:, i].T for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        d = 2 * (ax * (by - cy) + bx * (cy - ay) + cx * (ay - by))
        a, b, c = ax**2 + ay**2, bx**2 + by**2, cx**2 + cy**2
        x = (a * (by - cy) + b * (cy - ay) + c * (ay - by)) / d
        y = (a * (cx - bx) + b * (ax - cx) + c * (bx - ax)) / d
        radius = np.hypot(ax - x, ay - y)
    return x, y, radius


def _least_squares(points: NDArray, start: tuple[float, float, float]) -> tuple[float, float, float]:
    """Improve a circle by Gauss-Newton steps on the distances of the points to it."""
    x, y, radius = start
    for _ in range(5):
        dx, dy = points[:, 0] - x, points[:, 1] - y
        distance = np.maximum(np.hypot(dx, dy), 1e-9)
        jacobian = np.stack([-dx / distance, -dy / distance, -np.ones_like(dx)], axis=1)
        change = np.linalg.lstsq(jacobian, radius - distance, rcond=None)[0]
        x, y, radius = x + change[0], y + change[1], radius + change[2]
    return float(x), float(y), float(radius)
