"""Pictures as the pixel metrics compare them: whole, padded with black to a square, brought to one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import ImageSet
from fundusforge.images import Grey, Image, resize, resize_mask


def photograph(images: ImageSet, index: int, size: int) -> Image:
    """Return photograph `index` as (size, size, 3) uint8 RGB."""
    return resize(squared(images.image(index)), size)


def vessel_map(images: ImageSet, index: int, size: int) -> Grey:
    """Return the vessel mask of image `index` as (size, size) uint8, 0/255, thin vessels kept."""
    return resize_mask(squared(images.mask(index, "vessels")), size)


def field_inside(images: ImageSet, index: int, size: int) -> NDArray[np.bool_] | None:
    """Return where image `index` shows the eye, (size, size), or None if its field of view is unknown."""
    field = images.field_of_view(index)
    return None if field is None else resize(squared(field), size) >= 128


def squared(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture (H, W) or (H, W, C) in the middle of a black square."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    edges = [(top, side - height - top), (left, side - width - left), (0, 0)]
    return picture if height == width else np.pad(picture, edges[: picture.ndim])
