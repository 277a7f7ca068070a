"""Which eye it is: left or right, from what lies on the temporal side.

In an upright photograph of a right eye, temporal is left. Four signs are read, each as a log-odds, and added:

- the disc stands nasally in the field of view, where the camera does not point at the disc itself;
- the fovea is temporal of the disc: how sure `fovea.find_fovea` is on either side;
- the trunks of the vessels leave the disc in its nasal half;
- the disc's temporal part is paler than its nasal part, between the vessels.

Weights and bounds are rounded by hand after a look at phantoms, CHASE_DB1 and a few photographs of ODIR-5K;
`docs/annotate.md` has figures. A bound keeps a single sign from deciding alone against the others, since each
fails somewhere. A photograph that was mirrored, or stands on its head, is taken for the other eye.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.annotate.disc import Disc
from fundusforge.annotate.fovea import find_fovea
from fundusforge.images import Image
from fundusforge.prepare.field import field_of_mask
from fundusforge.records import Eye

UNSURE = 0.9
"""Confidence below which no side is given."""
PLACE = (18.0, 3.5)
"""Log-odds per diameter of the field of view that the disc lies off its centre, and the most it may say."""
FOVEA = (1.5, 1.2)
"""The same per confidence of a fovea on this side, less that on the other."""
TRUNKS = (35.0, 2.0)
"""The same per disc diameter that the vessels within the disc lie off its centre."""
PALLOR = (6.0, 2.0)
"""The same per log-intensity of green that the disc brightens over its diameter."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Which eye it seems to be."""

    eye: Eye
    confidence: float
    """0.5 to 1."""


def find_side(image: Image, disc: Disc, *, vessels: NDArray[Any], field_of_view: NDArray[Any]) -> Side:
    """Tell left from right.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        disc: The optic disc.
        vessels: (H, W), vessel where not 0.
        field_of_view: (H, W), inside where not 0.
    """
    odds = sum(max(-most, min(most, value)) for value, most in signs(image, disc, vessels, field_of_view))
    sure = 1 / (1 + math.exp(-abs(odds)))
    return Side(eye="left" if odds > 0 else "right", confidence=sure)


def signs(
    image: Image, disc: Disc, vessels: NDArray[Any], field_of_view: NDArray[Any]
) -> list[tuple[float, float]]:
    """Return log-odds of a left eye and their bounds: place, fovea, trunks, pallor; 0 for what is unseen."""
    rows, columns = np.mgrid[: vessels.shape[0], : vessels.shape[1]]
    right, down = (
        (axis - centre) / disc.diameter for axis, centre in zip((columns, rows), disc.centre, strict=True)
    )
    radius, drawn = np.hypot(right, down), vessels != 0
    trunk = drawn & (radius < 0.6)
    rim = ~drawn & (radius < 0.42)
    field = field_of_mask(field_of_view)
    off = 0.0 if field is None else (field.x - disc.centre[0]) / (2 * field.radius)
    offset = float(right[trunk].mean()) if trunk.any() else 0.0
    slope = 0.0
    if np.count_nonzero(rim) > 9:
        light = np.log(np.maximum(image[..., 1][rim], 1.0))
        terms = np.stack([right[rim], down[rim], np.ones(len(light))], axis=1)
        slope = float(np.linalg.lstsq(terms, light, rcond=None)[0][0])
    left_eye, right_eye = (
        find_fovea(image, disc, vessels=vessels, field_of_view=field_of_view, eye=eye).fovea
        for eye in ("left", "right")
    )
    beside = (left_eye.confidence if left_eye else 0.0) - (right_eye.confidence if right_eye else 0.0)
    values = ((off, PLACE), (beside, FOVEA), (-offset, TRUNKS), (slope, PALLOR))
    return [(value * weight, most) for value, (weight, most) in values]
