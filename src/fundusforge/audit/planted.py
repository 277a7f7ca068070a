"""Copies planted on purpose, to measure what the audit finds.

From the photographs of a training folder: copies re-encoded, flipped, shifted by 3 %, turned by 5 degrees or
recoloured; the same vessel tree under a new texture, painted by a generator; and pictures of which one half
is a copy and the other half another eye. The folder shows patients: it is for measuring, never for sharing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fundusforge.audit.align import Pose
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.images import Grey, Image, resize, resize_mask, write_image
from fundusforge.records import Record, write_metadata
from fundusforge.sample.painter import Painter

Kind = Literal["reencoded", "flipped", "shifted", "turned", "recoloured", "same_tree", "half"]
COPIES: tuple[Kind, ...] = ("reencoded", "flipped", "shifted", "turned", "recoloured")
KINDS: tuple[Kind, ...] = (*COPIES, "same_tree", "half")
Repaint = Callable[[Image, Grey, int], tuple[Image, Grey]]
"""Photograph (H, W, 3), field of view and seed to another photograph of the same vessels, and its field."""
SHIFT = 0.03
"""Of the picture's side."""
TURN = 5.0
"""Degrees."""
_QUALITY = 50
"""JPEG quality of re-encoded copies."""


@dataclass(frozen=True, kw_only=True)
class Plant:
    """One planted picture."""

    record: Record
    """In the planted folder."""
    kind: Kind
    source: str
    """The training picture it was made of, as its metadata names it."""


def plant(
    out: Path, *, train: ImageSet, others: ImageSet, each: int, seed: int, repaint: Repaint | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> list[Plant]:  # fmt: skip
    """Write a dataset folder of planted pictures.

    Args:
        out: Folder to write.
        train: Training pictures to copy from; every one is used at most once while there are enough.
        others: Other eyes, for the other half of half copies; no patient of `train`.
        each: Pictures of every kind.
        seed: Of everything that is drawn.
        repaint: Paints a patient's vessels anew; `same_tree` needs it.
        kinds: What to plant.

    Raises:
        ValueError: `same_tree` is wanted without `repaint`.
        DatasetError: A picture cannot be read.
    """
    if "same_tree" in kinds and repaint is None:
        raise ValueError("planting the same tree under a new texture needs something that paints")
    for name in ("images", "field_of_view"):
        (out / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    order = np.resize(rng.permutation(len(train)), each * len(kinds))
    found: list[Plant] = []
    for place, index in enumerate(int(value) for value in order):
        kind = kinds[place // each]
        image, field = train.image(index), _field(train, index)
        if kind == "same_tree" and repaint is not None:
            image, field = repaint(image, field, seed + place)
        elif kind == "half":
            other = int(rng.integers(len(others)))
            image, field = half_copy(
                image, field, others.image(other), _field(others, other), side=int(rng.integers(4))
            )
        else:
            image, field = changed(image, field, kind, rng)
        suffix = ".jpg" if kind == "reencoded" else ".png"
        name = f"{place:04d}_{kind}"
        write_image(out / f"images/{name}{suffix}", image, quality=_QUALITY)
        write_image(out / f"field_of_view/{name}.png", field)
        record = Record(
            image=f"images/{name}{suffix}", field_of_view=f"field_of_view/{name}.png",
            patient=f"planted-{seed}-{place}", source="planted", synthetic=True, structure_from_patient=True,
        )  # fmt: skip
        found.append(Plant(record=record, kind=kind, source=train.records[index].image))
    write_metadata(out, [planted.record for planted in found])
    return found


def changed(image: Image, field: Grey, kind: Kind, rng: np.random.Generator) -> tuple[Image, Grey]:
    """Return a photograph and its field of view changed as a careless or sly copier would.

    Args:
        image: (H, W, 3) uint8 RGB.
        field: (H, W) uint8 of 0 and 255.
        kind: One of `COPIES`.
        rng: Draws direction and colour.
    """
    sign = np.where(rng.random(2) < 0.5, -1.0, 1.0)
    if kind == "flipped":
        return np.ascontiguousarray(image[:, ::-1]), np.ascontiguousarray(field[:, ::-1])
    if kind == "shifted":
        return moved(image, field, Pose(right=SHIFT * sign[0], down=SHIFT * sign[1]))
    if kind == "turned":
        return moved(image, field, Pose(degrees=TURN * sign[0]))
    if kind == "recoloured":
        return recoloured(image, rng), field
    return image, field  # re-encoded when it is written


def moved(image: Image, field: Grey, pose: Pose) -> tuple[Image, Grey]:
    """Return a square photograph and its field of view in another pose; what leaves the frame is lost."""
    matrix, size = pose.matrix(image.shape[0]), (image.shape[1], image.shape[0])
    turned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC)
    kept = cv2.warpAffine(field, matrix, size, flags=cv2.INTER_NEAREST)
    return np.asarray(turned * (kept > 0)[..., None], np.uint8), np.asarray(kept, np.uint8)


def recoloured(image: Image, rng: np.random.Generator) -> Image:
    """Return a photograph with every channel's brightness, contrast and gamma changed by up to a quarter."""
    gain, gamma = rng.uniform(0.75, 1.25, 3), rng.uniform(0.75, 1.33, 3)
    return np.rint(np.clip(gain * (image / 255.0) ** gamma, 0, 1) * 255).astype(np.uint8)


def half_copy(image: Image, field: Grey, other: Image, other_field: Grey, *, side: int) -> tuple[Image, Grey]:
    """Return a picture of which one half (`side`: 0 left, 1 right, 2 top, 3 bottom) is `image`."""
    height, width = image.shape[:2]
    rows = {2: slice(0, height // 2), 3: slice(height // 2, height)}.get(side, slice(0, height))
    columns = {0: slice(0, width // 2), 1: slice(width // 2, width)}.get(side, slice(0, width))
    whole = np.array(resize(other, (height, width)))
    inside = np.array(resize_mask(other_field, (height, width)))
    whole[rows, columns], inside[rows, columns] = image[rows, columns], field[rows, columns]
    return whole, inside


def _field(images: ImageSet, index: int) -> NDArray[np.uint8]:
    field = images.field_of_view(index)
    return np.full(images.image(index).shape[:2], 255, np.uint8) if field is None else field


def repainter(judge: Judge, painter: Painter) -> Repaint:
    """Return what paints a patient's vessels anew, with the colours of any camera the generator knows.

    Args:
        judge: Finds the vessels.
        painter: The generator; masks that it needs beside the vessels stay empty.
    """

    def repaint(image: Image, field: Grey, seed: int) -> tuple[Image, Grey]:
        found = judge.segment(image, field) >= judge.threshold
        masks = {name: np.zeros_like(field) for name in painter.config.masks}
        masks["vessels"] = found.astype(np.uint8) * np.uint8(255)
        stack, inside = painter.stack(masks, field, size=painter.config.size)
        code = painter.draw_code(torch.Generator().manual_seed(seed), None)
        return painter.paint(stack, inside, seed=seed, code=code), inside

    return repaint
