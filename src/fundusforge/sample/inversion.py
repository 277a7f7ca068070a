"""Photographs to codes: what a generator would have to draw from to come near them.

An encoder tells the vector at once (Beers et al. 2018); gradient steps on the vector itself then bring the
drawn picture nearer, at several scales at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.models.encoder import EncoderConfig
from fundusforge.models.growing import stacked
from fundusforge.models.pggan import Reader
from fundusforge.models.recipe import View
from fundusforge.records import DatasetError, Record
from fundusforge.sample.latents import Drawer, Latents
from fundusforge.training import parallel
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import fill, load_model, model_file

_TOGETHER = 16
"""Pictures that are refined at once."""
_RATE = 0.05
"""Step of Adam on vectors whose numbers are about 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Inverter:
    """An encoder with what it needs to be used on its own."""

    encoder: Reader
    """In evaluation mode, on its device."""
    config: EncoderConfig
    name: str = "encoder"
    """Name and first digits of the SHA-256 of its weights."""
    generator: str = ""
    """Name of the generator that it inverts."""

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> Inverter:
        """Load an encoder.

        Args:
            path: A run folder or a file of weights.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
        """
        file = model_file(Path(path))
        tensors, metadata = load_model(file, kind="encoder")
        config = from_json(EncoderConfig, metadata["config"], where=str(file))
        encoder = config.network()
        fill(encoder, {name.removeprefix("encoder."): t for name, t in tensors.items()}, where=file)
        return cls(
            encoder=encoder.to(parallel.start(device).device).eval(),
            config=config,
            name=weights.name_of(file),
            generator=metadata.get("generator", ""),
        )

    def check(self, drawer: Drawer) -> None:
        """Refuse a generator that it was not trained for.

        Raises:
            DatasetError: Another generator.
        """
        if self.generator and drawer.name != self.generator:
            raise DatasetError(f"{self.name} inverts {self.generator}, not {drawer.name}")

    def pictures(self, folder: Path, records: Sequence[Record]) -> Tensor:
        """Read records as the generator draws them, (N, channels, S, S), masks only if the encoder does.

        Raises:
            DatasetError: A picture cannot be read, or a record lacks a mask or a contrast that is read.
        """
        c, masks = self.config, self.config.drawn.masks if self.config.with_masks else ()
        view = View(masks=masks, contrasts=c.drawn.contrasts, size=c.stage.side, needs=masks, coverage=True)
        batches = Batches(folder, records, view, batch=1, seed=0, cache_gb=0)
        if len(batches) < len(records):
            lacking = next(r for i, r in enumerate(records) if i not in set(batches.members))
            raise DatasetError(f"{folder / lacking.image}: lacks what {self.name} reads: {masks}")
        rows = {int(row["index"]): row for row in map(batches.sample, range(len(records)))}
        ordered = [rows[index] for index in range(len(records))]
        return stacked({name: torch.stack([row[name] for row in ordered]) for name in ("image", "masks")})

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Latents:
        """Return the codes (N, L) of pictures (N, channels, S, S)."""
        device = next(self.encoder.parameters()).device
        found = [self.encoder(part.to(device), self.config.stage) for part in pictures.split(_TOGETHER)]
        return torch.cat(found).float().cpu().numpy()


def refine(drawer: Drawer, pictures: Tensor, latents: Latents, *, steps: int) -> tuple[Latents, Tensor]:
    """Move vectors so that what is drawn from them comes nearer to pictures.

    The distance is the mean absolute difference, averaged over the picture and its halvings down to 8 px.

    Args:
        drawer: The generator.
        pictures: (N, C, S, S), the first channels of what the generator draws.
        latents: (N, L) codes to start from.
        steps: Gradient steps; 0 only measures.

    Returns:
        The best codes (N, L) seen, and their distances (N,).
    """
    device = drawer.generator.seen.device
    moved: list[Tensor] = []
    distances: list[Tensor] = []
    for start in range(0, len(pictures), _TOGETHER):
        wanted = pictures[start : start + _TOGETHER].to(device)
        vector = torch.tensor(latents[start : start + _TOGETHER], device=device)
        vector = drawer.generator.tidy(vector).requires_grad_(True)
        optimizer = torch.optim.Adam([vector], _RATE)
        best, lowest = vector.detach().clone(), torch.full((len(wanted),), torch.inf, device=device)
        for step in range(steps + 1):
            distance = apart(drawer.generator.drawn(vector)[:, : wanted.shape[1]], wanted)
            better = distance.detach() < lowest
            best[better], lowest[better] = vector.detach()[better], distance.detach()[better]
            if step < steps:
                (gradient,) = torch.autograd.grad(distance.sum(), vector)
                vector.grad = gradient
                optimizer.step()
        moved.append(drawer.generator.tidy(best))
        distances.append(lowest)
    return torch.cat(moved).cpu().numpy(), torch.cat(distances).cpu()


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute difference (N,) of pictures (N, C, S, S), averaged over their halvings down to 8 px."""
    found: list[Tensor] = []
    while True:
        found.append((first - second).abs().flatten(1).mean(1))
        if first.shape[-1] <= 8:
            return torch.stack(found).mean(0)
        first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
