"""How winding vessels are, in two of the measures that Hart et al. compare.

W. E. Hart, M. Goldbaum, B. Cote, P. Kube, M. R. Nelson, "Measurement and classification of retinal vascular
tortuosity", International Journal of Medical Informatics 53 (1999) 239-252: the length of a vessel over its
chord, and the integral of its absolute curvature over its length,

    arc / chord,        integral |x' y'' - x'' y'| / (x'^2 + y'^2) dt / arc.

The first is 1 for a straight vessel and pi/2 for a semicircle of any size; the second is 1/r for any arc of
a circle of radius r. Curvature magnifies the steps of the pixels, so it is taken of a smoother centre line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fundusforge.evaluate.anatomy.skeleton import Floats, Segment, smooth

SHORTEST = 0.1
"""Length of the shortest segment that is judged, in diameters of the field of view."""
_SMOOTHING = 1 / 80
"""Standard deviation of the filter before curvature, in diameters of the field of view."""


@dataclass(frozen=True, kw_only=True)
class Tortuosity:
    """Means over segments, weighted by their lengths."""

    arc_over_chord: float
    """1 or more."""
    curvature: float
    """Radians per diameter of the field of view."""


def arc_over_chord(path: Floats) -> float | None:
    """Return the length of a path (N, 2) over the distance of its ends; None if these are one point."""
    chord = float(np.hypot(*(path[-1] - path[0])))
    return float(np.hypot(*np.diff(path, axis=0).T).sum()) / chord if chord > 0 else None


def mean_curvature(path: Floats) -> float:
    """Return the mean absolute curvature of a path (N, 2), in radians per pixel."""
    x1, y1 = np.gradient(path, axis=0).T
    x2, y2 = np.gradient(np.stack([x1, y1], axis=1), axis=0).T
    speed = np.hypot(x1, y1)
    moving = speed > 0
    turning = np.abs(x1 * y2 - x2 * y1)[moving] / speed[moving] ** 2
    return float(turning.sum() / speed.sum()) if moving.any() else 0.0


def tortuosity(segments: Iterable[Segment], *, diameter: float) -> Tortuosity | None:
    """Return the mean tortuosity of the segments that are long enough, or None if there is none.

    Args:
        segments: Of a vessel graph; closed rings are passed over.
        diameter: Of the field of view, in pixels.
    """
    rows: list[tuple[float, float, float]] = []
    for segment in segments:
        length = segment.length
        ratio = arc_over_chord(segment.path) if length >= SHORTEST * diameter else None
        if ratio is not None and segment.ends[0] != segment.ends[1]:
            rows.append((length, ratio, mean_curvature(smooth(segment.path, _SMOOTHING * diameter))))
    if not rows:
        return None
    lengths, ratios, curvatures = np.array(rows).T
    return Tortuosity(
        arc_over_chord=float(np.average(ratios, weights=lengths)),
        curvature=float(np.average(curvatures, weights=lengths)) * diameter,
    )
