"""Lesions of one kind as a list of spots: read off a mask, or drawn into one.

A spot is one connected part: its place in the retinal frame (`fundusforge.sample.frame`), the diameter of a
circle of its area, and the ellipse of its second moments. Places alone say nothing of whose they are, but all
spots of an eye together are that eye's: lists of spots of patients are never stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey
from fundusforge.sample.frame import Frame, Points
from fundusforge.severity import LESIONS, Findings, Quadrant
from fundusforge.sources.phantom.canvas import ellipse

WOBBLE = 1.0
"""Amplitude of an outline's waves over the root of what its ellipse lacks; measured on drawn outlines."""
ORDERS = 5
"""Waves round an outline."""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """One lesion."""

    lesion: str
    """One of `severity.LESIONS`."""
    place: tuple[float, float]
    """Temporal and superior of the disc's centre, disc diameters."""
    diameter: float
    """Of a circle of its area, disc diameters."""
    aspect: float = 1.0
    """Short axis over long axis."""
    angle: float = 0.0
    """Of the long axis, radians from temporal towards superior."""
    fill: float = 1.0
    """Area over that of the ellipse of the same second moments: 1 for an ellipse, less the more ragged."""
    seed: int = 0
    """Of its outline."""

    @property
    def reach(self) -> float:
        """Half its length, disc diameters."""
        return 0.5 * self.diameter / math.sqrt(self.aspect)

    def outline(self) -> Points:
        """Return its outline (N, 2) in disc diameters, of exactly its area."""
        rng = np.random.default_rng(self.seed)
        amplitude = WOBBLE * math.sqrt(max(0.0, 1 - self.fill))
        wobble = rng.normal(0, amplitude, (ORDERS, 2)) / np.sqrt(np.arange(1, ORDERS + 1))[:, None] / 2
        stretch = math.sqrt(self.aspect)
        shape = ellipse(np.zeros(2), (1 / stretch, stretch), wobble=wobble.clip(-0.2, 0.2))
        x, y = shape.T
        area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turned = shape @ np.array([[cos, sin], [-sin, cos]])
        return np.array(self.place) + turned * self.diameter / 2 * math.sqrt(math.pi / area)


def spots_of(mask: Grey, frame: Frame, *, lesion: str) -> list[Spot]:
    """Return the lesions of a mask, every connected part one; only the field of view is looked at.

    Args:
        mask: (H, W) uint8, lesion where not 0.
        frame: Of the eye.
        lesion: What they are.
    """
    shown = np.asarray((mask > 0) & frame.field_of_view, np.uint8)
    labels = np.asarray(cv2.connectedComponents(shown, connectivity=8)[1], np.int64)
    rows, columns = np.nonzero(labels)
    if not len(rows):
        return []
    number = labels[rows, columns] - 1
    area = np.bincount(number).astype(np.float64)
    mean_x, mean_y = (np.bincount(number, weights=axis) / area for axis in (columns, rows))
    side = 1.0 if frame.eye == "left" else -1.0
    dx, dy = (columns - mean_x[number]) * side, mean_y[number] - rows
    # A pixel is a square: its own second moment is a twelfth.
    xx, yy, xy = (np.bincount(number, weights=w) / area for w in (dx * dx, dy * dy, dx * dy))
    xx, yy = xx + 1 / 12, yy + 1 / 12
    half, gap = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    long, short = half + gap, np.maximum(half - gap, 1 / 12)
    fill = (area / (4 * math.pi * np.sqrt(long * short))).clip(0, 1)
    places = frame.points(np.stack([mean_x, mean_y], axis=1))
    return [
        Spot(
            lesion=lesion,
            place=(float(places[i, 0]), float(places[i, 1])),
            diameter=2 * math.sqrt(area[i] / math.pi) / frame.diameter,
            aspect=float(np.sqrt(short[i] / long[i])),
            angle=0.5 * math.atan2(2 * xy[i], xx[i] - yy[i]),
            fill=float(fill[i]),
        )
        for i in range(len(area))
    ]


def places_of(spots: Sequence[Spot]) -> Points:
    """Return the places (N, 2) of spots."""
    return np.array([spot.place for spot in spots], np.float64).reshape(-1, 2)


def counts_of(spots: Sequence[Spot], frame: Frame) -> dict[str, NDArray[np.int64]]:
    """Return (4,) the number of spots of every kind in each of `severity.QUADRANTS`."""
    quadrants = frame.quadrants(places_of(spots))
    kinds = np.array([spot.lesion for spot in spots])
    return {name: np.bincount(quadrants[kinds == name], minlength=4)[:4] for name in LESIONS}


def findings_of_spots(spots: Sequence[Spot], frame: Frame, *, signs: Findings | None = None) -> Findings:
    """Return what a grader would note of these spots.

    Args:
        spots: Every lesion of the eye.
        frame: Of the eye.
        signs: What no spot shows (beading, IRMA, proliferation, laser marks); its counts are not looked at.
    """
    signs = signs or Findings()
    counts = counts_of(spots, frame)
    a, b, c, d = (
        Quadrant(
            **{name: int(counts[name][i]) for name in LESIONS},
            venous_beading=seen.venous_beading,
            irma=seen.irma,
        )
        for i, seen in enumerate(signs.quadrants)
    )
    exudates = places_of([spot for spot in spots if spot.lesion == "hard_exudates"])
    distance = float(np.linalg.norm(exudates - frame.fovea, axis=1).min()) if len(exudates) else None
    return replace(signs, quadrants=(a, b, c, d), exudate_distance=distance)


def findings_of(masks: Mapping[str, Grey], frame: Frame, *, signs: Findings | None = None) -> Findings:
    """Return what a grader would note of an eye's masks.

    Masks of new vessels and of membranes are signs of proliferation where they are not empty, scars of laser
    are noted; beading, IRMA and blood before the retina have no mask, and are there only if `signs` says so.

    Args:
        masks: Per name (H, W) uint8; missing ones are empty.
        frame: Of the eye.
        signs: What no mask shows.
    """
    signs = signs or Findings()
    spots = [spot for name in LESIONS if name in masks for spot in spots_of(masks[name], frame, lesion=name)]
    shown = {name: bool(mask.any()) for name, mask in masks.items()}
    signs = replace(
        signs,
        elsewhere_neovascularisation=shown.get("neovascularisation", signs.elsewhere_neovascularisation),
        proliferative_membranes=shown.get("proliferative_membranes", signs.proliferative_membranes),
        laser_marks=shown.get("laser_marks", signs.laser_marks),
    )
    return findings_of_spots(spots, frame, signs=signs)
