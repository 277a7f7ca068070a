"""What a structure of the eye may look like, whoever finds it: one part, of a size that an eye can have."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey

SINGLE = frozenset({"disc", "cup", "fovea"})
"""Structures of which an eye has one: the convex hull of the largest connected part is kept."""
PLAUSIBLE = {"disc": (0.005, 0.08)}
"""Share of the field of view that a structure covers in any camera of 30 to 60 degrees. A disc of 1.5 to 1.9
mm covers 1 to 5 %; what lies outside these wider bounds is reported as not found, not guessed."""


def to_mask(probability: NDArray[np.float32], threshold: float) -> Grey:
    """Return (H, W) uint8, 255 where the probability reaches the threshold."""
    return np.where(probability >= threshold, 255, 0).astype(np.uint8)


def largest_part(mask: Grey) -> Grey:
    """Return the convex hull of the largest connected part of a mask (H, W), as 0 and 255.

    The part is first closed and opened by a circle of half its own diameter: vessels that cross a disc must
    not cut it, nor a tail that hangs on it stretch its hull.
    """
    hulls = np.zeros_like(mask)
    parts = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not parts:
        return hulls
    part = max(parts, key=cv2.contourArea)
    x, y, width, height = cv2.boundingRect(part)
    radius = max(1, round(math.sqrt(max(1.0, cv2.contourArea(part)) / math.pi) / 2))
    margin = 2 * radius + 2
    alone = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    cv2.drawContours(alone, [part], 0, 255, cv2.FILLED, offset=(margin - x, margin - y))
    circle = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed = cv2.morphologyEx(alone, cv2.MORPH_CLOSE, circle)
    opened = cv2.morphologyEx(closed, cv2.MORPH_OPEN, circle)
    cores = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    core = cv2.convexHull(max(cores or [part], key=cv2.contourArea))
    shift = (x - margin, y - margin) if cores else (0, 0)
    cv2.drawContours(hulls, [core], 0, 255, cv2.FILLED, offset=shift)
    return hulls


def implausible(name: str, mask: NDArray[Any], field_of_view: NDArray[Any] | None) -> str:
    """Return what is wrong with a structure's size, or nothing if it covers as much as it may.

    Args:
        name: Of the structure; of most nobody knows how much they may cover.
        mask: (H, W), structure where not 0.
        field_of_view: (H, W), inside where not 0; None for the whole picture.
    """
    if name not in PLAUSIBLE:
        return ""
    low, high = PLAUSIBLE[name]
    inside = mask.size if field_of_view is None else np.count_nonzero(field_of_view)
    covered = np.count_nonzero(mask) / max(1, inside)
    if not covered:
        return "none was found"
    if low <= covered <= high:
        return ""
    return f"what was found covers {covered:.2%} of the field of view, not {low:.1%} to {high:.1%}"
