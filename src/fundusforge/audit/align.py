"""Which of many pictures shows what this one shows, though it was flipped, turned or moved.

A space of the audit (pixels, vessel trees) makes a `Plane` of every picture: fine structure without shading,
in the frame of the field of view. Planes are compared by correlation inside the field that both share, over
the whole field and over its four halves, since half a picture may be copied too. Two steps keep it quick:

1. Coarse, against every picture: all poses (flip, turn, shift) of small planes at once, as matrix products;
   quarters are multiplied apart, so that halves cost nothing more.
2. Fine, against the few best: turns by single degrees, shifts by cross-correlation through the Fourier
   transform, and the correlation at the best pose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.prepare.field import Square, field_of_mask

Floats = NDArray[np.float32]

FINE = 128
"""Side of a plane in pixels."""
COARSE = 32
"""Side of the plane with which every picture is compared."""
TURN = 8
"""Largest turn looked for, degrees."""
SHIFT = 2
"""Largest shift looked for, pixels of the coarse plane (6 % of the side)."""
REGIONS = ("whole", "left", "right", "top", "bottom")
"""The field and its halves, in the frame of the picture compared with."""
_QUARTERS = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]], np.float32)
"""Per region, which quarters belong to it: upper left, upper right, lower left, lower right."""
_STEP = 4
"""Degrees between the turns of the coarse search."""
_SCALE = 40.0
"""Units of a stored plane per unit of its values."""
_LEAST = 0.25
"""Share of a region's structure that must lie in the shared field, lest a sliver decides."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Fine structure of one picture, as one space sees it."""

    values: NDArray[np.int8]
    """(FINE, FINE), zero mean and unit spread times 40, zero outside."""
    inside: NDArray[np.bool_]
    """(FINE, FINE), where there is something to compare."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How one picture is brought onto another: flipped left to right, turned about the middle, then moved."""

    flip: bool = False
    degrees: float = 0.0
    right: float = 0.0
    """Shift to the right, in sides of the frame."""
    down: float = 0.0

    def matrix(self, side: int) -> NDArray[np.float64]:
        """Return the (2, 3) map of pixel coordinates (x, y) of a square of `side` pixels."""
        angle, middle = math.radians(self.degrees), (side - 1) / 2
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turn = turn @ np.diag([-1.0 if self.flip else 1.0, 1.0])
        moved = np.array([middle + self.right * side, middle + self.down * side]) - turn @ [middle, middle]
        return np.column_stack([turn, moved])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A picture that the coarse search proposes."""

    index: int
    pose: Pose
    region: int
    """Place in `REGIONS` of what looked alike."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """How well two planes agree at their best pose."""

    index: int
    pose: Pose
    correlation: tuple[float, ...]
    """Per region, in [-1, 1]."""


def plane(detail: Floats, inside: NDArray[np.bool_]) -> Plane:
    """Store fine structure as a plane.

    Args:
        detail: (FINE, FINE), any scale.
        inside: (FINE, FINE), where it counts.
    """
    values = np.where(inside, detail - (detail[inside].mean() if inside.any() else 0), 0)
    spread = float(np.sqrt((values**2).sum() / max(int(inside.sum()), 1)))
    stored = np.rint(values * (_SCALE / max(spread, 1e-6))).clip(-127, 127).astype(np.int8)
    return Plane(values=stored, inside=inside)


def frame_of(field_of_view: Grey) -> Square:
    """Return the square around a field of view (H, W) of 0 and 255: the frame in which pictures are compared.

    Raises:
        ValueError: Nothing is inside it.
    """
    field = field_of_mask(field_of_view)
    if field is None:
        raise ValueError("the field of view is empty")
    return field.square()


class Gallery:
    """Planes to be searched.

    Memory: 36 KiB a picture.
    """

    def __init__(self, planes: Sequence[Plane]) -> None:
        """Prepare the search.

        Raises:
            ValueError: No planes.
        """
        if not planes:
            raise ValueError("there is nothing to compare with: no pictures")
        self._values = np.stack([each.values for each in planes])
        self._inside = np.stack([each.inside for each in planes])
        small = np.stack([_small(each.values.astype(np.float32)) for each in planes])
        self._quarters = [_quarter(small, place) for place in range(4)]
        energy = np.stack([(quarter**2).sum(axis=1) for quarter in self._quarters])
        self._energy = _QUARTERS @ energy  # (regions, N)

    def __len__(self) -> int:
        """Return the number of planes."""
        return len(self._values)

    def plane(self, index: int) -> Plane:
        """Return one of the planes."""
        return Plane(values=self._values[index], inside=self._inside[index])

    def candidates(
        self, query: Plane, *, count: int, skip: NDArray[np.bool_] | None = None
    ) -> list[Candidate]:
        """Return the pictures most like the query: the best `count` as a whole and as many by halves.

        Args:
            query: The plane to look for.
            count: How many of each.
            skip: (N,) pictures to leave out.
        """
        poses, small = _variants(query)
        each = [_quarter(small, place) for place in range(4)]
        products = np.stack([q @ own.T for q, own in zip(each, self._quarters, strict=True)])
        energy = _QUARTERS @ np.stack([(q**2).sum(axis=1) for q in each])  # (regions, V)
        found: dict[int, Candidate] = {}
        best, where = np.empty((5, len(self)), np.float32), np.empty((5, len(self)), np.intp)
        for region, quarters in enumerate(_QUARTERS):
            score = products[quarters > 0].sum(axis=0)
            score /= np.sqrt(energy[region])[:, None] + 1e-3
            where[region] = score.argmax(axis=0)
            best[region] = score.max(axis=0) / (np.sqrt(self._energy[region]) + 1e-3)
        if skip is not None:
            best[:, skip] = -np.inf
        for regions in (np.array([0]), np.arange(1, 5)):
            chosen = regions[best[regions].argmax(axis=0)]
            score = best[chosen, np.arange(len(self))]
            for index in np.argsort(-score, kind="stable")[:count]:
                if np.isfinite(score[index]) and int(index) not in found:
                    region = int(chosen[index])
                    pose = poses[int(where[region, index])]
                    found[int(index)] = Candidate(index=int(index), pose=pose, region=region)
        return list(found.values())

    def register(self, query: Plane, candidate: Candidate) -> Match:
        """Find the best pose near that of a candidate and compare there."""
        fft: Any = import_module("scipy.fft")
        window = _window(candidate.region)
        target = fft.rfft2(self._values[candidate.index].astype(np.float32) * window)
        reach, best = round(SHIFT * FINE / COARSE) + 2, (-np.inf, candidate.pose)
        for offset in range(-_STEP // 2 - 1, _STEP // 2 + 2):
            turned = Pose(flip=candidate.pose.flip, degrees=candidate.pose.degrees + offset)
            moving = fft.rfft2(_warp(query.values.astype(np.float32), turned))
            surface = fft.irfft2(target * np.conj(moving), s=(FINE, FINE))
            near = np.roll(surface, (reach, reach), axis=(0, 1))[: 2 * reach + 1, : 2 * reach + 1]
            place = int(near.argmax())
            if near.flat[place] > best[0]:
                down, right = divmod(place, 2 * reach + 1)
                best = (
                    float(near.flat[place]),
                    Pose(
                        flip=turned.flip,
                        degrees=turned.degrees,
                        right=(right - reach) / FINE,
                        down=(down - reach) / FINE,
                    ),
                )
        return self.compare(query, candidate.index, best[1])

    def compare(self, query: Plane, index: int, pose: Pose) -> Match:
        """Correlate a query in a given pose with one picture, over the field that both share."""
        own = self._values[index].astype(np.float32)
        shared = _warp(query.inside.astype(np.float32), pose) > 0.99
        shared &= self._inside[index]
        moved = _warp(query.values.astype(np.float32), pose)
        return Match(
            index=index,
            pose=pose,
            correlation=tuple(_correlation(moved, own, shared, region) for region in range(len(REGIONS))),
        )


def halves(side: int, region: int) -> tuple[slice, slice]:
    """Return the rows and columns of a region of a square."""
    half = side // 2
    rows = {"top": slice(0, half), "bottom": slice(half, side)}.get(REGIONS[region], slice(0, side))
    columns = {"left": slice(0, half), "right": slice(half, side)}.get(REGIONS[region], slice(0, side))
    return rows, columns


def _correlation(a: Floats, b: Floats, shared: NDArray[np.bool_], region: int) -> float:
    """Correlate inside the shared field of a region; 0 where too little is shared."""
    rows, columns = halves(FINE, region)
    inside = shared[rows, columns]
    x, y = a[rows, columns][inside], b[rows, columns][inside]
    if x.size < _LEAST * inside.size:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / max(math.sqrt(float(x @ x) * float(y @ y)), 1e-6))


def _window(region: int) -> Floats:
    window = np.zeros((FINE, FINE), np.float32)
    window[halves(FINE, region)] = 1
    return window


def _warp(values: Floats, pose: Pose) -> Floats:
    matrix = pose.matrix(values.shape[0])
    side = values.shape[0]
    return np.asarray(cv2.warpAffine(values, matrix, (side, side), flags=cv2.INTER_LINEAR), np.float32)


def _small(values: Floats) -> Floats:
    return np.asarray(cv2.resize(values, (COARSE, COARSE), interpolation=cv2.INTER_AREA), np.float32)


def _quarter(small: Floats, place: int) -> Floats:
    """Return one quarter of (N, COARSE, COARSE) planes as (N, D) rows."""
    half = COARSE // 2
    down, right = divmod(place, 2)
    part = small[:, down * half : (down + 1) * half, right * half : (right + 1) * half]
    return np.ascontiguousarray(part.reshape(len(small), -1))


def _variants(query: Plane) -> tuple[list[Pose], Floats]:
    """Return every pose of the coarse search and the small plane in it: (V, COARSE, COARSE)."""
    poses: list[Pose] = []
    planes: list[Floats] = []
    for flip in (False, True):
        for degrees in range(-TURN, TURN + 1, _STEP):
            turned = _small(_warp(query.values.astype(np.float32), Pose(flip=flip, degrees=degrees)))
            padded = np.pad(turned, SHIFT)
            for down in range(-SHIFT, SHIFT + 1):
                for right in range(-SHIFT, SHIFT + 1):
                    rows, columns = (
                        slice(SHIFT - down, SHIFT - down + COARSE),
                        slice(SHIFT - right, SHIFT - right + COARSE),
                    )
                    planes.append(padded[rows, columns])
                    poses.append(Pose(flip=flip, degrees=degrees, right=right / COARSE, down=down / COARSE))
    return poses, np.stack(planes)
