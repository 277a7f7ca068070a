"""Text burned into the retina: names and dates that blackening the surroundings cannot remove.

Letters are what the retina never shows: small shapes of one flat colour, sharp-edged, of one height, side by
side on a horizontal line. Each of these alone occurs (exudates are bright, laser scars stand in rows), so a
row counts only if several shapes meet all of them. The published cameras draw text in white, grey, black or
one bright colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image
from fundusforge.prepare.field import Square

VIEW = 1024
"""Least side of the view in which letters are looked for, where the picture has as much."""
_STROKE = 15
"""Widest stroke of a letter in pixels of the view."""
_CONTRAST = 55
"""Least difference of a letter from its surroundings in some channel, grey levels."""
_HEIGHTS = (6, 110)
_LETTERS = 4
"""Fewest letters in a row."""
_MOST_SHAPES = 2000
"""Shapes of one channel that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Letters found side by side, in pixels of the view."""

    letters: int
    left: int
    top: int
    right: int
    bottom: int


def view_of(image: Image, square: Square) -> Image:
    """Return every n-th pixel of a square of a picture, at least `VIEW` of them where it has as many.

    Pixels are picked, not averaged: thin strokes keep their contrast, and the whole picture is not touched.
    """
    step = max(1, square.side // VIEW)
    pixels = np.ascontiguousarray(image).view("V3")[..., 0]  # whole pixels are picked faster than bytes
    view = np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])[..., None].view(np.uint8)
    side = max(1, round(square.side / step))
    return Square(left=round(square.left / step), top=round(square.top / step), side=side).cut(view)


def find_text(view: Image, field_of_view: Grey) -> Row | None:
    """Find a row of letters inside the field of view.

    Args:
        view: (H, W, 3) uint8 RGB; see `view_of`.
        field_of_view: (H, W) uint8, 0 outside.

    Returns:
        The row with most letters, or None.
    """
    inside = cv2.erode(field_of_view, np.ones((5, 5), np.uint8), borderValue=0)
    box = np.ones((_STROKE, _STROKE), np.uint8)
    rows: list[Row] = []
    for channel, lighter in ((2, True), (1, True), (0, False)):
        plane = cv2.extractChannel(view, channel)
        operation = cv2.MORPH_TOPHAT if lighter else cv2.MORPH_BLACKHAT
        contrast = np.asarray(cv2.morphologyEx(plane, operation, box), np.uint8)
        bright = cv2.threshold(contrast, _CONTRAST, 255, cv2.THRESH_BINARY)[1]
        marked = np.asarray(cv2.bitwise_and(bright, inside), np.uint8)
        if cv2.countNonZero(marked) < _LETTERS * _HEIGHTS[0]:
            continue
        letters = _letters(marked, contrast, view)
        if len(letters) >= _LETTERS:
            rows += _rows(letters)
    return max(rows, key=lambda row: row.letters, default=None)


def _letters(marked: Grey, contrast: Grey, view: Image) -> NDArray[np.float64]:
    """Return left, top, right, bottom, and mean red, green, blue of shapes that could be letters, (N, 7)."""
    found = []
    for shape, (x, y, width, height) in islice(_shapes(marked), _MOST_SHAPES):
        part = np.s_[y : y + height, x : x + width]
        if colour := _flat_colour(shape, contrast[part], view[part]):
            found.append((x, y, x + width, y + height, *colour))
    return np.array(found, np.float64).reshape(-1, 7)


def _shapes(marked: Grey) -> Iterator[tuple[NDArray[np.bool_], tuple[int, int, int, int]]]:
    """Yield connected shapes of a letter's proportions, each with its box: left, top, width, height.

    Few pixels are marked, so outlines are found many times faster than every pixel is labelled.
    """
    outlines, tree = cv2.findContours(marked, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    low, high = _HEIGHTS
    for place, outline in enumerate(outlines):
        if tree[0][place][3] >= 0:  # a hole
            continue
        x, y, width, height = cv2.boundingRect(outline)
        if not (low <= height <= high and height <= 12 * width and width <= 1.6 * height):
            continue
        labels = cv2.connectedComponents(marked[y : y + height, x : x + width], connectivity=8)[1]
        left, top = outline[0, 0]
        shape = labels == labels[top - y, left - x]
        if np.count_nonzero(shape) >= max(0.12 * width * height, 1.2 * height):
            yield shape, (x, y, width, height)


def _flat_colour(shape: NDArray[np.bool_], contrast: Grey, view: Image) -> tuple[float, float, float] | None:
    """Return the colour of a shape if it is nearly the same all over and ends abruptly, else None."""
    strong = shape & (contrast >= 0.8 * np.percentile(contrast[shape], 90))
    if strong.sum() < 0.45 * shape.sum() or strong.sum() < 5:
        return None
    colours = view[strong].astype(np.float32)
    if colours.std(axis=0).max() > 20:
        return None
    red, green, blue = colours.mean(axis=0)
    return float(red), float(green), float(blue)


def _rows(letters: NDArray[np.float64]) -> list[Row]:
    """Chain letters of like height and colour that stand side by side."""
    order = letters[np.argsort(letters[:, 0], kind="stable")]
    left, top, right, bottom = order[:, :4].T
    height, colour = bottom - top, order[:, 4:]
    follower = [_next(i, left, top, right, bottom, height, colour) for i in range(len(order))]
    length = np.ones(len(order), int)
    for i in range(len(order) - 1, -1, -1):
        if follower[i] is not None:
            length[i] += length[follower[i]]
    rows = []
    for i in np.flatnonzero(length >= _LETTERS):
        chain = [int(i)]
        while (following := follower[chain[-1]]) is not None:
            chain.append(following)
        rows.append(
            Row(
                letters=len(chain),
                left=int(left[chain].min()),
                top=int(top[chain].min()),
                right=int(right[chain].max()),
                bottom=int(bottom[chain].max()),
            )
        )
    return rows


def _next(
    i: int, left: NDArray, top: NDArray, right: NDArray, bottom: NDArray, height: NDArray, colour: NDArray
) -> int | None:
    """Return the nearest shape to the right that continues a row."""
    gap = left - right[i]
    tall = np.maximum(height, height[i])
    near = (gap >= -0.35 * tall) & (gap <= 1.3 * tall) & (left > left[i])
    near &= np.minimum(height, height[i]) >= 0.6 * tall
    level = np.minimum(np.abs(bottom - bottom[i]), np.abs(top - top[i]))
    near &= (level <= 0.15 * tall + 1) & (np.abs(colour - colour[i]).max(axis=1) <= 35)
    candidates = np.flatnonzero(near)
    return int(candidates[np.argmin(left[candidates])]) if len(candidates) else None
