"""The quality gate: is a picture good enough to learn from, and if not, why.

All figures are measured on the prepared picture scaled to 256 pixels, so that they do not depend on the
camera's resolution, and inside the field of view. The limits were set on the public sets named in
`docs/prepare.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fundusforge.images import Grey, Image, resize
from fundusforge.prepare.field import Field

SIDE = 256
"""Side in pixels at which pictures are judged."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Limits of the quality gate."""

    enabled: bool = True
    """Judge quality at all. Without the gate only unreadable pictures and those without a field are
    rejected.
    """
    min_diameter: int = 200
    """Least diameter of the field of view in pixels of the original."""
    min_visible: float = 0.5
    """Least share of the field's circle inside the frame; less means zoomed in, without the arcades."""
    min_fit: float = 0.85
    """Least share of the outline that is circle or cut (or else, how convex it is); less means no field."""
    min_brightness: float = 0.18
    """Least mean luminance of the field, 0 to 1."""
    max_saturated: float = 0.1
    """Largest share of the field in which green is blown out (red often is, in good pictures too)."""
    min_sharpness: float = 0.4
    """Least contrast of structures of about 1 pixel of 256, relative to that of structures of 2 pixels."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What the gate looks at; see `Quality` for units."""

    brightness: float
    saturated: float
    sharpness: float


def measure(image: Image, field_of_view: Grey) -> Measures:
    """Measure a prepared picture (S, S, 3) uint8 with its field of view (S, S) of 0 and 255."""
    small = resize(image, SIDE)
    inside = cv2.erode(resize(field_of_view, SIDE), np.ones((15, 15), np.uint8), borderValue=0) > 250
    if not inside.any():
        return Measures(brightness=0.0, saturated=0.0, sharpness=0.0)
    green = small[..., 1].astype(np.float32)
    fine, middle, coarse = (cv2.GaussianBlur(green, (0, 0), sigma) for sigma in (0.7, 1.4, 2.8))
    # 0.3 grey levels are what rounding to 8 bits leaves of nothing.
    sharpness = float((fine - middle)[inside].std()) / (float((middle - coarse)[inside].std()) + 0.3)
    return Measures(
        brightness=float(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[inside].mean()) / 255.0,
        saturated=float((small[..., 1][inside] >= 250).mean()),
        sharpness=sharpness,
    )


def field_fault(field: Field | None, limits: Quality) -> str | None:
    """Return why a field of view is unfit, or None."""
    if field is None:
        return "field of view not found"
    if not limits.enabled:
        return None
    width = min(2 * field.radius, max(field.right - field.left, field.bottom - field.top))
    if width < limits.min_diameter:
        return f"too small: the field of view is {width:.0f} pixels wide"
    if field.fit < limits.min_fit:
        return f"field of view not found: {field.fit:.0%} of its outline is regular"
    if field.visible < limits.min_visible:
        return f"zoomed in: {field.visible:.0%} of the field of view is in the frame"
    return None


def quality_fault(measures: Measures, limits: Quality) -> str | None:
    """Return why a prepared picture is unfit, or None."""
    if not limits.enabled:
        return None
    if measures.brightness < limits.min_brightness:
        return f"dark: mean luminance {measures.brightness:.3f}"
    if measures.saturated > limits.max_saturated:
        return f"saturated: {measures.saturated:.0%} of the field of view is blown out"
    if measures.sharpness < limits.min_sharpness:
        return f"blurred: sharpness {measures.sharpness:.2f}"
    return None
