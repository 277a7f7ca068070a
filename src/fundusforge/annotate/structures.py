"""Masks of structures and lesions, by a trained segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fundusforge.annotate.disc import doubts
from fundusforge.annotate.picture import Found, Picture
from fundusforge.annotate.segmenter import Probability, Segmenter
from fundusforge.annotate.shapes import SINGLE, implausible, largest_part, to_mask
from fundusforge.images import Grey
from fundusforge.records import DatasetError


@dataclass(frozen=True, kw_only=True, eq=False)
class Structures:
    """Annotator: what one segmenter finds.

    A disc of a size that no disc has, or against which something else speaks, is missing, with the reason.

    The confidence of a mask is the mean probability of its pixels; of an empty one, the probability that its
    likeliest pixel is none.
    """

    segmenter: Segmenter
    masks: tuple[str, ...]
    """Which of the segmenter's masks to add."""
    threshold: float | None = None
    """Probability from which a pixel belongs to a mask; the segmenter's own if None."""

    def __post_init__(self) -> None:
        """Refuse masks that the segmenter does not know."""
        if unknown := [name for name in self.masks if name not in self.segmenter.config.masks]:
            known = ", ".join(self.segmenter.config.masks)
            raise DatasetError(f"{self.segmenter.name} predicts {known}, not {unknown[0]}")

    @property
    def name(self) -> str:
        """The segmenter's name, with the thresholds."""
        limits = ", ".join(f"{name} from {self._threshold(name):.4g}" for name in self.masks)
        return f"{self.segmenter.name} ({limits}{', mirrored' if self.segmenter.config.tta else ''})"

    @property
    def gives(self) -> tuple[str, ...]:
        """The masks."""
        return self.masks

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        """Find the masks: all pictures at once on a GPU, one after the other on a CPU."""
        batch = 1 if next(self.segmenter.net.parameters()).device.type == "cpu" else len(pictures)
        stream = self.segmenter.stream(((p.image, p.field_of_view) for p in pictures), batch=max(1, batch))
        return [self._found(picture, maps) for picture, maps in zip(pictures, stream, strict=True)]

    def _found(self, picture: Picture, maps: Mapping[str, Probability]) -> Found:
        masks, missing, sure = dict[str, Grey](), dict[str, str](), dict[str, float]()
        for name in self.masks:
            every = to_mask(maps[name], self._threshold(name))
            mask = largest_part(every) if name in SINGLE else every
            reason = implausible(name, mask, picture.field_of_view)
            if name == "disc" and not reason:
                reason = doubts(every, picture.masks.get("vessels"), picture.field_of_view)
            if reason:
                missing[name] = reason
                continue
            masks[name] = mask
            sure[name] = float(maps[name][mask > 0].mean() if mask.any() else 1 - maps[name].max())
        return Found(
            masks=masks,
            probabilities={name: maps[name] for name in self.masks},
            confidences={name: float(np.clip(value, 0, 1)) for name, value in sure.items()},
            missing=missing,
        )

    def _threshold(self, name: str) -> float:
        return self.threshold or self.segmenter.threshold_of(name)
