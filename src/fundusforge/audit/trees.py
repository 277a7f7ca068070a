"""Vessel-tree space: a retina is told by its vessels, whatever light and paint are on it.

A segmenter (or the masks as stored) gives the vessels of both pictures. They are found and registered as
planes of blurred vessels, like pixels are, and then compared as trees: the share of skeleton length that has
a vessel of the other tree beside it, running the same way. The share is the harmonic mean of both directions,
so that neither a dense nor a sparse tree matches everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.audit.align import FINE, REGIONS, Plane, Pose, frame_of, halves, plane
from fundusforge.images import Grey, resize
from fundusforge.prepare.field import Square

SIDE = 256
"""Side of the frame in which skeletons are compared, pixels."""
TOLERANCE = 2.5
"""Greatest distance of matched vessels, pixels of that frame: 1 % of the field of view."""
ANGLE = 25.0
"""Greatest angle between matched vessels, degrees."""
_BLUR = 1.0
"""Blur of the vessels in the plane: what registration may miss by, pixels of the plane."""
_LEAST = 60
"""Skeleton pixels below which a region has no tree to speak of."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The vessels of one picture, in the frame of its field of view."""

    plane: Plane
    """For search and registration."""
    points: NDArray[np.int16]
    """(P, 2) skeleton pixels x, y of a frame of 256 pixels."""
    courses: NDArray[np.float16]
    """(P,) direction in which the vessel runs there, degrees in [0, 180)."""


def tree_of(
    vessels: Grey, field_of_view: Grey, *, threshold: float = 0.5, frame: Square | None = None
) -> Tree:
    """Describe a vessel map.

    Args:
        vessels: (H, W) uint8, probability times 255, or a mask of 0 and 255.
        field_of_view: (H, W) uint8 of 0 and 255.
        threshold: Probability from which a pixel is vessel.
        frame: The square to look at; around the field of view if None.
    """
    skeletonize: Any = import_module("skimage.morphology").skeletonize
    frame = frame or frame_of(field_of_view)
    drawn = resize(frame.cut(vessels), SIDE)
    inside = resize(frame.cut(field_of_view), FINE) > 127
    small = cv2.resize(drawn, (FINE, FINE), interpolation=cv2.INTER_AREA).astype(np.float32)
    blurred = cv2.GaussianBlur(small, (0, 0), _BLUR) - cv2.GaussianBlur(small, (0, 0), 6 * _BLUR)
    skeleton = np.asarray(skeletonize(drawn >= 255 * threshold), bool)
    y, x = np.nonzero(skeleton)
    return Tree(
        plane=plane(np.asarray(blurred, np.float32), inside),
        points=np.column_stack([x, y]).astype(np.int16),
        courses=_courses(drawn)[y, x].astype(np.float16),
    )


def shares(query: Tree, tree: Tree, pose: Pose) -> tuple[float, ...]:
    """Return per region the share of skeleton length that matches, in [0, 1]; 0 where there is hardly a tree.

    Args:
        query: The tree to be brought onto the other.
        tree: The tree compared with; regions are those of its frame.
        pose: How.
    """
    matrix = pose.matrix(SIDE)
    moved = query.points @ matrix[:, :2].T + matrix[:, 2]
    turned = (180 - query.courses if pose.flip else query.courses) + np.float16(pose.degrees)
    forth = _matched(moved, turned, tree.points, tree.courses)
    back = _matched(tree.points.astype(np.float64), tree.courses, moved, turned)
    found: list[float] = []
    for region in range(len(REGIONS)):
        mine, own = forth[_within(moved, region)], back[_within(tree.points, region)]
        if min(mine.size, own.size) < _LEAST:
            found.append(0.0)
            continue
        a, b = float(mine.mean()), float(own.mean())
        found.append(2 * a * b / (a + b) if a + b else 0.0)
    return tuple(found)


def _matched(
    points: NDArray[Any], courses: NDArray[Any], others: NDArray[Any], other_courses: NDArray[Any]
) -> NDArray[np.bool_]:
    """Whether a point has another tree's nearest point close by, running the same way."""
    tree: Any = import_module("scipy.spatial").cKDTree
    if not len(points) or not len(others):
        return np.zeros(len(points), bool)
    distance, nearest = tree(others).query(points, distance_upper_bound=TOLERANCE)
    near = np.isfinite(distance)
    between = np.abs(courses[near].astype(np.float32) - other_courses[nearest[near]].astype(np.float32)) % 180
    near[near] = np.minimum(between, 180 - between) <= ANGLE
    return near


def _within(points: NDArray[Any], region: int) -> NDArray[np.bool_]:
    """Whether points lie in a region of the frame."""
    rows, columns = halves(SIDE, region)
    x, y = points[:, 0], points[:, 1]
    return (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)


def _courses(drawn: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the direction along vessels everywhere, degrees in [0, 180), from the structure tensor."""
    smooth = cv2.GaussianBlur(drawn.astype(np.float32), (0, 0), 1.0)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(v, (0, 0), 2.0) for v in (gx * gx, gy * gy, gx * gy))
    return np.asarray((np.degrees(np.arctan2(2 * xy, xx - yy)) / 2 + 90) % 180, np.float32)
