"""One picture: crop to the field of view, pad to a square, resize, black surroundings. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image, resize, resize_mask
from fundusforge.prepare.field import Field, Square, field_of_mask, find_field


class Unfit(ValueError):
    """A picture does not become part of the dataset; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A picture cut to its field of view."""

    image: Image
    """(S, S, 3) uint8 RGB, black outside the field of view."""
    field_of_view: Grey
    """(S, S) uint8 of 0 and 255."""
    field: Field
    """Where the field was in the original."""
    square: Square
    """The square of the original that `image` shows."""


def prepare_image(image: Image, field: Field | Grey | None = None, *, size: int = 512) -> Prepared:
    """Cut a photograph to its field of view, as the whole stage does.

    Args:
        image: (H, W, 3) uint8 RGB.
        field: The field if it is known, or the publisher's mask of it, (H, W) uint8; found by itself if None.
        size: Side of the result in pixels.

    Raises:
        Unfit: No field of view was found, or the mask is empty or of another size.
    """
    mask = field if isinstance(field, np.ndarray) else None
    if mask is not None and mask.shape != image.shape[:2]:
        raise Unfit(_sizes("field of view", mask, image.shape[:2]))
    where = field if isinstance(field, Field) else find_field(image) if mask is None else field_of_mask(mask)
    if where is None:
        raise Unfit("field of view not found" if mask is None else "the publisher's field of view is empty")
    square = where.square()
    drawn = where.within(square, size).mask(size, size) & _frame(square, image.shape[:2], size)
    if mask is not None:
        drawn = np.where(resize(square.cut(mask), size) >= 128, 255, 0).astype(np.uint8)
    return Prepared(
        image=blacken(_shrink(square.cut(image), size), drawn),
        field_of_view=drawn,
        field=where,
        square=square,
    )


def _shrink(image: Image, size: int) -> Image:
    """Resize a square; one at least twice as large is halved first, which takes half of the time.

    Differs from one step by 0.2 grey levels on average, more at sharp edges.
    """
    side = image.shape[0]
    if side >= 2 * size and side % 2 == 0:
        image = resize(image, side // 2)
    return resize(image, size)


def prepare_mask(mask: Grey, square: Square, *, shape: tuple[int, int], size: int) -> Grey:
    """Take a structure mask the same way as its picture, thin structures kept.

    Args:
        mask: (H, W) uint8 of 0 and 255.
        square: `Prepared.square`.
        shape: Height and width of the picture.
        size: Side of the result in pixels.

    Raises:
        Unfit: The mask is of another size than the picture.
    """
    if mask.shape != shape:
        raise Unfit(_sizes("mask", mask, shape))
    return resize_mask(square.cut(mask), size)


def blacken(image: Image, field_of_view: Grey) -> Image:
    """Return the picture with everything outside the field of view black."""
    return np.asarray(cv2.bitwise_and(image, image, mask=field_of_view), np.uint8)


def enhance(image: Image, *, gamma: float | None, clahe: bool) -> Image:
    """Return the picture with its brightness changed: `v ** (1 / gamma)`, then local contrast.

    Contrast-limited adaptive equalisation (8 x 8 tiles, clip limit 2) of the lightness in CIELAB; hues stay.
    """
    if gamma is not None:
        table = np.rint(255 * (np.arange(256) / 255.0) ** (1 / gamma)).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table), np.uint8)
    if clahe:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(lab[..., 0])
        image = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
    return image


def whole_square(height: int, width: int) -> Square:
    """Return the smallest square around a whole picture."""
    side = max(height, width)
    return Square(left=(width - side) // 2, top=(height - side) // 2, side=side)


def prepare_contrast(values: NDArray[np.float32], *, size: int, zscore: bool) -> NDArray[np.float32]:
    """Pad a slice (H, W) of intensities with its background to a square and resize it.

    Args:
        values: Intensities; the background is the value in the corner.
        size: Side of the result in pixels.
        zscore: Give what is not background zero mean and unit variance within this slice.

    Raises:
        Unfit: `zscore`, and there is nothing but background.
    """
    background = float(values[0, 0])
    if zscore:
        inside = values[values != background].astype(np.float64)
        if inside.size < 2 or inside.std() == 0:
            raise Unfit("empty: the slice is all background")
        values = ((values - inside.mean()) / inside.std()).astype(np.float32)
        background = float(values[0, 0])
    return resize(whole_square(*values.shape).cut(values - np.float32(background)), size) + np.float32(
        background
    )


def _frame(square: Square, shape: tuple[int, int], size: int) -> Grey:
    """Return which pixels of the result show the picture rather than padding, (size, size) of 0 and 255."""
    centres = (np.arange(size) + 0.5) * (square.side / size)
    rows = (centres + square.top >= 0) & (centres + square.top <= shape[0])
    columns = (centres + square.left >= 0) & (centres + square.left <= shape[1])
    return (rows[:, None] & columns[None, :]).astype(np.uint8) * np.uint8(255)


def _sizes(what: str, mask: NDArray, shape: tuple[int, int]) -> str:
    return f"{what} is {mask.shape[1]}x{mask.shape[0]} pixels, the picture {shape[1]}x{shape[0]}"
