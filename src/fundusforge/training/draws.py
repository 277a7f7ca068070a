"""Random numbers of each image of a training's sequence: a function of the seed and the image's place."""

# torch annotates itself only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_DRAWS = 3
"""Stream of the seed beside those of `batches`."""


def draws_of(seed: int, place: int, count: int) -> Tensor:
    """Return the standard normal numbers (count,) of one image of the sequence."""
    rng = np.random.default_rng([seed, _DRAWS, place])
    return torch.from_numpy(rng.standard_normal(count, np.float32))


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Endless batches of nothing but draws, for models that learn from what another one draws."""

    count: int
    """Numbers for each image."""
    batch: int
    """Images per batch, over all processes."""
    seed: int
    rank: int = 0
    world: int = 1

    def starting_at(self, image: int) -> Iterator[dict[str, Tensor]]:
        """Batches `draws` (N, count) of this process's share from this image of the sequence on."""
        share = self.batch // self.world
        while True:
            first = image + self.rank * share
            rows = [draws_of(self.seed, place, self.count) for place in range(first, first + share)]
            yield {"draws": torch.stack(rows)}
            image += self.batch
