"""Pixel space: the fine structure of the photograph itself, without its shading and colour.

All eyes are shaded alike, and re-encoding, colour jitter and another camera's palette change what all eyes
share. What is left after the local mean is taken away and the local contrast is made even (vessels, disc,
lesions, choroid, nerve fibres) is one eye's own. The mean is taken away twice: once leaves the curvature of
the shading, a ring near the bright rim that one camera draws in every eye.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.audit.align import FINE, Plane, frame_of, plane
from fundusforge.images import Grey, Image, resize
from fundusforge.prepare.field import Square

_SPREAD = 4.0
"""Width of the local mean and contrast, pixels of the plane: wider than vessels, narrower than shading."""
_FLOOR = 1.5
"""Least local contrast in grey levels, so that noise of flat places is not blown up."""
_EDGE = 5
"""Pixels of the plane cut from the field's edge, where the camera draws its ring."""


def pixel_plane(image: Image, field_of_view: Grey, *, frame: Square | None = None) -> Plane:
    """Return what pixel space sees of a photograph.

    Args:
        image: (H, W, 3) uint8 RGB.
        field_of_view: (H, W) uint8 of 0 and 255.
        frame: The square to look at; around the field of view if None.
    """
    frame = frame or frame_of(field_of_view)
    green = resize(frame.cut(image[..., 1]), FINE).astype(np.float32)
    weight = resize(frame.cut(field_of_view), FINE).astype(np.float32) / np.float32(255)
    detail = green - _mean(green, weight)
    detail -= _mean(detail, weight)
    detail = np.asarray(detail / (np.sqrt(_mean(detail**2, weight)) + _FLOOR), np.float32)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * _EDGE + 1, 2 * _EDGE + 1))
    inside = cv2.erode(np.pad(weight, _EDGE), kernel)[_EDGE:-_EDGE, _EDGE:-_EDGE] > 0.99
    return plane(np.clip(detail, -3, 3), inside)


def _mean(values: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Local mean inside the field only, so that its edge leaves no ring."""
    total = cv2.GaussianBlur(values * weight, (0, 0), _SPREAD, borderType=cv2.BORDER_CONSTANT)
    share = cv2.GaussianBlur(weight, (0, 0), _SPREAD, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(total / (share + 1e-3), np.float32)
