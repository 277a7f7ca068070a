"""Pictures as readers see them: real and synthetic ones brought to one size and form, and encoded alike.

Each is padded to a square, resized once by one rule, black outside the field of view and encoded anew from
its pixels, so that no metadata, size, frame or encoder tells what it is.
"""

# numpy's arrays are of any kind here.
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from fundusforge.images import Grey, Image, read_image, read_mask, resize, resize_mask
from fundusforge.inspection import mask_colour
from fundusforge.prepare.field import find_field
from fundusforge.prepare.picture import blacken
from fundusforge.records import Record
from fundusforge.studies.turing.study import Condition, Settings, StudyError, Truth

RESIZE = "area averages down, cubic up (fundusforge.images.resize)"
QUALITY = 95
"""Of JPEG."""
_LEAST_COMMON = 0.8
"""Least part of an image's field of view that all must have in common."""
_DIM = 38
"""Grey of the field of view under masks."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image that was drawn for the study."""

    truth: Truth
    folder: Path
    record: Record

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / self.record.image

    def native(self) -> int:
        """Side in pixels of the smallest square that holds it."""
        with Pillow.open(self.path) as picture:
            return max(picture.size)


def field_of(source: Source, side: int) -> Grey:
    """Return the field of view as (side, side) uint8 of 0 and 255: recorded, else found, else the frame."""
    if source.record.field_of_view:
        mask = read_mask(source.folder / source.record.field_of_view)
    else:
        image = read_image(source.path)
        found = find_field(image)
        mask = found.mask(*image.shape[:2]) if found else np.full(image.shape[:2], 255, np.uint8)
    return np.where(resize(_square(mask), side) > 127, 255, 0).astype(np.uint8)


def common_field(fields: Mapping[str, Grey]) -> Grey:
    """Return the part that all fields of view have, by the names of their images.

    Raises:
        StudyError: It is much smaller than one of them.
    """
    common = np.bitwise_and.reduce(list(fields.values()))
    for name, field in fields.items():
        share = np.count_nonzero(common) / max(1, np.count_nonzero(field))
        if share < _LEAST_COMMON:
            raise StudyError(
                f"{name}: only {share:.0%} of its field of view lie in those of all others; expected "
                f"{_LEAST_COMMON:.0%} (--field own shows each its own, whose outline may tell what it is)"
            )
    return np.asarray(common, np.uint8)


def render(source: Source, condition: Condition, settings: Settings, *, field: Grey, seed: int) -> Image:
    """Return an image as a reader sees it under a condition.

    Args:
        source: The image.
        condition: What is shown.
        settings: Of the study.
        field: (S, S) uint8 field of view, outside of which all is black; its side is that of the picture.
        seed: Of the place that a crop shows.

    Returns:
        (S, S, 3) uint8; (c S, c S, 3) if cropped, (S, 2 S + gap, 3) with masks.
    """
    side = field.shape[0]
    picture = blacken(resize(_square(read_image(source.path)), side), field)
    if condition == "crop":
        return _crop(picture, field, round(settings.crop * side), seed)
    if condition == "mask":
        gap = np.zeros((side, max(1, side // 32), 3), np.uint8)
        return np.hstack([picture, gap, _panel(source, settings.masks, field)])
    return picture


def size_warnings(sources: Sequence[Source], sides: Sequence[int], side: int) -> list[str]:
    """Say what the native sizes (pixels) might betray at the side at which all are shown."""
    found = {
        truth: sorted({one for source, one in zip(sources, sides, strict=True) if source.truth == truth})
        for truth in ("real", "synthetic")
    }
    told = {truth: f"{sizes[0]} to {sizes[-1]} px" for truth, sizes in found.items()}
    said: list[str] = []
    if found["real"] != found["synthetic"]:
        said.append(
            f"real images are {told['real']} a side and synthetic ones {told['synthetic']}: the same detail "
            "may look sharper in one kind than in the other, and tell them apart"
        )
    if min(sides) < side:
        said.append(f"images of {min(sides)} px are enlarged to {side} px, and blur may tell them apart")
    return said


def _square(pixels: np.ndarray) -> np.ndarray:
    """Pad to a square with black."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    around = ((top, side - height - top), (left, side - width - left), (0, 0))
    return pixels if height == width else np.pad(pixels, around[: pixels.ndim])


def _crop(picture: Image, field: Grey, side: int, seed: int) -> Image:
    """Cut a window out, of sixteen places the one with most retina."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, picture.shape[0] - side + 1, size=(16, 2))
    inside = [np.count_nonzero(field[y : y + side, x : x + side]) for y, x in corners]
    y, x = corners[int(np.argmax(inside))]
    return np.ascontiguousarray(picture[y : y + side, x : x + side])


def _panel(source: Source, names: Sequence[str], field: Grey) -> Image:
    """Draw masks in their colours on the dim field of view."""
    panel = np.zeros((*field.shape, 3), np.uint8)
    panel[field > 0] = _DIM
    for name in names:
        mask = source.record.masks[name]
        pixels = np.where(read_mask(source.folder / mask.path, soft=mask.soft) > 127, 255, 0).astype(np.uint8)
        panel[(resize_mask(_square(pixels), field.shape[0]) > 0) & (field > 0)] = mask_colour(name)
    return panel
