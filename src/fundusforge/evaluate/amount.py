"""How much vessel there is: the comparison of Kim et al. (Scientific Reports 12, 2022).

Kim segments 1,000 real and 1,000 synthetic photographs with the same network and compares the number of
vessel pixels: means, a t-test, and Cohen's d, of which less than 0.2 is called negligible. Here
`comparison` adds what a t-test cannot say, whether the means are equivalent.

The amount is measured inside the field of view and free of the picture's size: as the part of its pixels
that are vessel, and as the length of the skeleton in diameters of the field of view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.comparison import Quantity, compare
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.records import Record


@dataclass(frozen=True, kw_only=True)
class Amount:
    """The vessels of one image, inside its field of view."""

    pixels: int
    """Vessel pixels."""
    skeleton: int
    """Pixels of the vessels' skeleton."""
    inside: int
    """Pixels of the field of view."""

    @property
    def fraction(self) -> float:
        """Part of the field of view that is vessel."""
        return self.pixels / self.inside

    @property
    def length(self) -> float:
        """Skeleton pixels per diameter of a circle with the area of the field of view."""
        return self.skeleton / (2 * math.sqrt(self.inside / math.pi))


def vessel_amount(mask: NDArray[Any], field_of_view: NDArray[Any] | None = None) -> Amount:
    """Count vessel and skeleton pixels inside the field of view.

    Args:
        mask: (H, W), vessel where not 0.
        field_of_view: (H, W), inside where not 0; None for the whole image.

    Raises:
        ValueError: Other shapes or an empty field of view.
    """
    skeletonize: Any = import_module("skimage.morphology").skeletonize
    inside = np.ones(mask.shape, bool) if field_of_view is None else field_of_view != 0
    if mask.ndim != 2 or inside.shape != mask.shape or not inside.any():
        raise ValueError(f"expected a (H, W) mask and a field of view like it, not empty; got {mask.shape}")
    vessels = (mask != 0) & inside
    thin: NDArray[np.bool_] = np.asarray(skeletonize(vessels), bool)
    return Amount(pixels=int(vessels.sum()), skeleton=int(thin.sum()), inside=int(inside.sum()))


def figures(evidence: Evidence) -> list[Figure]:
    """Compare the vessel amount: as re-segmented by the judge in both sets, and as the masks have it."""
    family: list[Quantity] = []
    if evidence.judge is not None:
        synthetic = _amounts(evidence, evidence.synthetic, evidence.predicted_mask)
        real = _amounts(evidence, evidence.real, evidence.predicted_mask)
        name = f"{evidence.judge.name}, both sets"
        family += _quantities("vessel", "re-segmented", name, synthetic, real)
    drawn, drawn_real = evidence.synthetic.having("vessels"), evidence.real.having("vessels")
    if len(drawn) and len(drawn_real):
        origins = " against ".join(
            "/".join(sorted({record.masks["vessels"].origin for record in images.records}))
            for images in (drawn, drawn_real)
        )
        synthetic = _amounts(evidence, drawn, lambda images, index: images.mask(index, "vessels"))
        real = _amounts(evidence, drawn_real, lambda images, index: images.mask(index, "vessels"))
        family += _quantities("mask", "as the masks have it", f"masks: {origins}", synthetic, real)
    return compare(evidence, family)


def _amounts(
    evidence: Evidence, images: ImageSet, mask: Callable[[ImageSet, int], NDArray[np.uint8]]
) -> tuple[Sequence[Record], list[Amount]]:
    evidence.tell(f"vessel amount of {len(images)} images in {images.folder.name}")
    return images.records, [
        vessel_amount(mask(images, index), images.field_of_view(index)) for index in range(len(images))
    ]


def _quantities(
    prefix: str, how: str, extractor: str,
    synthetic: tuple[Sequence[Record], list[Amount]], real: tuple[Sequence[Record], list[Amount]],
) -> list[Quantity]:  # fmt: skip
    """Return fraction and length of both sets, to be compared."""
    return [
        Quantity(
            name=f"{prefix}_{kind}",
            title=f"{title}, {how}",
            unit=unit,
            extractor=extractor,
            synthetic=(np.array([getattr(amount, kind) for amount in synthetic[1]]), synthetic[0]),
            real=(np.array([getattr(amount, kind) for amount in real[1]]), real[0]),
        )
        for kind, title, unit in (
            ("fraction", "Vessel amount", "of the field of view"),
            ("length", "Vessel length", "diameters of the field of view"),
        )
    ]
