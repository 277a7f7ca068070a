"""Signal-to-noise ratio of the vessels round the disc, after Kim et al. (Scientific Reports 12, 2022).

Of every vessel in zone B, five points at even distances are taken. At each, along the perpendicular,

    signal = mean intensity from wall to wall
    noise  = standard deviation of the five pixels beyond the wall on either side, all ten together
    SNR    = 20 log10(signal / noise) decibels,

and the image's ratio is the mean over its vessels of their points' means. Kim prints decibels but no
formula; this one takes intensities as amplitudes. Values of 1.69 as in the paper do not come out of it, so
only differences between sets compare, not values with the paper's. Intensity is that of the green channel,
in which vessels stand out most; Kim names none. Signal and noise are not taken for less than 1 / sqrt(12),
the rounding error of 8 bits, so that the ratio is finite on a flat picture.

Kim's zone B lies between two and three disc *diameters* from the disc's centre. Elsewhere zone B is the
ring from half a diameter to one beyond the disc's *margin* (Knudtson et al., Current Eye Research 27, 2003),
that is one to one and a half diameters from its centre. Both are given.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import Disc
from fundusforge.evaluate.anatomy.skeleton import Floats, Graph

ZONES: dict[str, tuple[float, float]] = {"kim": (2.0, 3.0), "usual": (1.0, 1.5)}
"""Zone B in disc diameters from the disc's centre, by name."""
POINTS = 5
"""Points on each vessel."""
BESIDE = 5
"""Pixels of background on either side."""
_SHORTEST = 0.2
"""Length of the shortest piece of vessel that counts as one, in disc diameters."""
_LEAST = 1 / math.sqrt(12)


def vessel_snr(
    image: NDArray[np.uint8], mask: NDArray[Any], graph: Graph, disc: Disc, *,
    zone: tuple[float, float], field_of_view: NDArray[Any] | None = None,
) -> float | None:  # fmt: skip
    """Return the mean signal-to-noise ratio of the vessels in a zone, in decibels, or None if it has none.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W), vessel where not 0.
        graph: Of that mask.
        disc: Centre and unit of the zone.
        zone: Inner and outer radius in disc diameters.
        field_of_view: (H, W), inside where not 0; what lies outside is no background.
    """
    inner, outer = (radius * disc.diameter for radius in zone)
    vessels: list[Floats] = []
    for segment in graph.segments:
        distance = np.hypot(*(segment.path - disc.centre).T)
        within = (distance >= inner) & (distance <= outer)
        for piece in _runs(segment.path, within):
            points = _evenly(piece, shortest=max(_SHORTEST * disc.diameter, POINTS))
            if points is not None:
                vessels.append(points)
    if not vessels:
        return None
    inside = np.ones(mask.shape, bool) if field_of_view is None else field_of_view != 0
    widest = max(segment.calibre for segment in graph.segments)
    ratios = _ratios(np.concatenate(vessels), image[..., 1], mask != 0, inside, reach=2 * widest + 2)
    means = [float(r[np.isfinite(r)].mean()) for r in ratios.reshape(-1, POINTS) if np.isfinite(r).any()]
    return float(np.mean(means)) if means else None


def _runs(path: Floats, within: NDArray[np.bool_]) -> list[Floats]:
    """Return the pieces of a path (N, 2) that lie in the zone."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], within, [False]])))
    return [path[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _evenly(path: Floats, *, shortest: float) -> Floats | None:
    """Return (POINTS, 4) positions and normals at even distances, or None if the path is too short."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    if along[-1] < shortest:
        return None
    at = (np.arange(POINTS) + 0.5) / POINTS * along[-1]
    step = along[-1] / (2 * POINTS)

    def place(s: Floats) -> Floats:
        return np.stack([np.interp(s, along, path[:, axis]) for axis in (0, 1)], axis=1)

    along_it = place(at + step) - place(at - step)
    across = np.stack([-along_it[:, 1], along_it[:, 0]], axis=1)
    return np.concatenate([place(at), across], axis=1)


def _ratios(
    points: Floats, green: NDArray[np.uint8], vessel: NDArray[np.bool_], inside: NDArray[np.bool_], *,
    reach: float,
) -> Floats:  # fmt: skip
    """Return (P,) decibels at points (P, 4), NaN where a wall or the background is out of reach."""
    half = math.ceil(reach) + BESIDE
    offsets = np.arange(-half, half + 1)
    # Steps from pixel to pixel and no interpolation, which would smooth the noise away.
    step = points[:, 2:] / np.maximum(np.abs(points[:, 2:]).max(axis=1, keepdims=True), 1e-9)
    columns = np.rint(points[:, :1] + offsets * step[:, :1]).astype(int)
    rows = np.rint(points[:, 1:2] + offsets * step[:, 1:]).astype(int)
    height, width = vessel.shape
    shown = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    columns, rows = columns.clip(0, width - 1), rows.clip(0, height - 1)
    shown &= inside[rows, columns]
    level, drawn = green[rows, columns].astype(np.float64), vessel[rows, columns]
    return np.array([_ratio(*profile, half) for profile in zip(level, drawn, shown, strict=True)])


def _ratio(level: Floats, drawn: NDArray[np.bool_], shown: NDArray[np.bool_], middle: int) -> float:
    """Return the decibels of one profile, NaN if it has no wall or less than half of its background."""
    open_left, open_right = np.flatnonzero(~drawn[:middle]), np.flatnonzero(~drawn[middle + 1 :])
    if not drawn[middle] or not len(open_left) or not len(open_right):
        return math.nan
    left, right = int(open_left[-1]), middle + 1 + int(open_right[0])
    if left + 1 < BESIDE or right + BESIDE > len(level):
        return math.nan
    beside = np.r_[left - BESIDE + 1 : left + 1, right : right + BESIDE]
    background = level[beside[shown[beside] & ~drawn[beside]]]
    if len(background) < BESIDE:
        return math.nan
    signal, noise = float(level[left + 1 : right].mean()), float(background.std(ddof=1))
    return 20 * math.log10(max(signal, _LEAST) / max(noise, _LEAST))
