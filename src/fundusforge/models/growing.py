"""Growing: which side pictures have when so many images have been seen, and pictures as they look then.

Karras et al. 2018: training begins with small pictures; every level doubles the side and is faded in. Where
growing stands is a pure function of the images seen, and one number, the budget, stretches all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FIRST = 4
"""Side in pixels of the first level."""
HALVED_FROM = 512
"""Side in pixels from which batches are half as large (Beers et al.: 16, and 8 from 512 px)."""


class Stage(NamedTuple):
    """Where growing stands."""

    level: int
    """0 at 4 px, one more with every doubling."""
    share: float
    """How much of the newest level's picture counts, 0 to 1; the rest is the older level's, upsampled."""

    @property
    def side(self) -> int:
        """Side in pixels."""
        return FIRST << self.level


@dataclass(frozen=True)
class Growth:
    """The schedule."""

    levels: int
    """Levels from 4 px on."""
    budget: int
    """Images of the whole schedule; 0 if it has been gone through before the first image."""
    fade: float
    """Part of each level's images over which it is faded in."""
    first: int = 0
    """Level with which training begins."""

    def starts(self) -> list[int]:
        """Return the image of the clock at which each level begins, and at last the budget."""
        shares = [
            0.0 if level < self.first else 0.5 if FIRST << level >= HALVED_FROM else 1.0
            for level in range(self.levels)
        ]
        ends = [sum(shares[: level + 1]) / sum(shares) for level in range(len(shares))]
        return [0, *(round(self.budget * end) for end in ends)]

    def stage(self, images: int) -> Stage:
        """Return where growing stands when so many images have been seen."""
        starts = self.starts()
        level = sum(images >= start for start in starts[1:-1])
        length = self.fade * (starts[level + 1] - starts[level])
        share = min(1.0, (images - starts[level]) / length) if level > self.first and length else 1.0
        return Stage(level, share)

    def halved_from(self) -> int | None:
        """Return the image of the clock from which batches are half as large, if there is one."""
        sides = [FIRST << level for level in range(self.levels)]
        halved = [start for side, start in zip(sides, self.starts(), strict=False) if side >= HALVED_FROM]
        return halved[0] if halved and self.budget else None


def doubled(pictures: Tensor) -> Tensor:
    """Return pictures (N, C, H, W) with every pixel as four."""
    return F.interpolate(pictures, scale_factor=2.0, mode="nearest")


def at_stage(pictures: Tensor, stage: Stage) -> Tensor:
    """Return real pictures (N, C, S, S) as they look at a stage: smaller, and faded while a level is new."""
    pictures = F.avg_pool2d(pictures, pictures.shape[-1] // stage.side)
    if stage.share >= 1:
        return pictures
    return torch.lerp(doubled(F.avg_pool2d(pictures, 2)), pictures, stage.share)


def shown(pictures: Tensor, masks: int, size: int) -> Tensor:
    """Return pictures (N, channels, s, s) to look at, (N, 3, (1 + masks) * size, size): each mask below."""
    image, *layers = pictures.clamp(-1, 1).split([pictures.shape[1] - masks, *(1 for _ in range(masks))], 1)
    colours = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    whole = torch.cat([colours, *(layer.expand(-1, 3, -1, -1) for layer in layers)], 2)
    return F.interpolate(whole, scale_factor=size // pictures.shape[-1], mode="nearest")


def stacked(batch: dict[str, Tensor]) -> Tensor:
    """Return images and masks as one picture (N, channels, S, S), masks in [-1, 1]."""
    return torch.cat([batch["image"], batch["masks"] * 2 - 1], 1)
