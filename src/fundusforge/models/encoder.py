"""Encoder of latent vectors: a picture to the vector from which a progressive GAN would draw it.

Beers et al. 2018: the discriminator's architecture, not grown, ending in as many numbers as the latent vector
has, with the mean squared error on pictures that the generator draws. The generator reads only the direction
of a vector, so its scaled form (mean square 1) is what is to be found: an encoder that knows nothing has an
error of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.equalized import pixel_norm
from fundusforge.models.pggan import Generator, PGGANConfig, Reader, Stage
from fundusforge.models.recipe import Phase, View


@dataclass(frozen=True)
class EncoderConfig:
    """Encoder that inverts a progressive GAN."""

    kind: Literal["encoder"] = "encoder"
    generator: Path | None = None
    """Run folder or weights of the progressive GAN to invert."""
    with_masks: bool = False
    """Also read the masks, and not the image alone; then every picture to be encoded needs them."""
    drawn: PGGANConfig = PGGANConfig()
    """Configuration of that generator; filled in."""
    side: int = 0
    """Side in pixels of what it draws; filled in."""
    lr: float = 1e-3
    """Learning rate of Adam."""

    @property
    def channels(self) -> int:
        """Channels that are read."""
        return self.drawn.channels - (0 if self.with_masks else len(self.drawn.masks))

    @property
    def stage(self) -> Stage:
        """The level at which pictures are read."""
        return Stage((self.side or self.drawn.size).bit_length() - 3, 1.0)

    def network(self) -> Reader:
        """Return the network with fresh weights."""
        widths = self.drawn.widths[: self.stage.level + 1]
        return Reader(self.channels, widths, self.drawn.latent, deviation=False)

    def build(self) -> Encoder:
        """Return the recipe with a fresh network; it needs a `generator` before it can learn."""
        return Encoder(self)


class Encoder:
    """Recipe: one phase, Adam, on pictures drawn anew for every step."""

    generator: Generator | None = None
    """What draws the pictures; it does not learn."""

    def __init__(self, c: EncoderConfig) -> None:
        """Build the network and its optimizer."""
        self.config = c
        self.nets = nn.ModuleDict({"encoder": c.network()})
        optimizer = torch.optim.Adam(self.nets.parameters(), c.lr, betas=(0.0, 0.99), eps=1e-8)
        self.phases = (Phase("encoder", ("encoder",), optimizer),)
        self.ema = ("encoder",)
        self.view = View(draws=c.drawn.latent)

    def pictures(self, latents: Tensor) -> Tensor:
        """Draw what the encoder reads, (N, channels, S, S), from latent vectors (N, latent).

        Raises:
            RuntimeError: The recipe has no generator.
        """
        if self.generator is None:
            raise RuntimeError("an encoder learns from a generator: set `generator`")
        self.generator.to(latents.device)
        with torch.no_grad():
            return self.generator(latents)[:, : self.config.channels]

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Mean squared error of the vectors."""
        latents = batch["draws"]
        found = self.nets["encoder"](self.pictures(latents), self.config.stage)
        return {"squared": F.mse_loss(found, pixel_norm(latents.clone()))}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Drawn pictures, and below what is drawn from the vectors found in them."""
        pictures = self.pictures(batch["draws"])
        again = self.pictures(nets["encoder"](pictures, self.config.stage))
        shown = [x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1) for x in (pictures, again)]
        return torch.cat([x[:, :3] for x in shown], 2).clamp(-1, 1)
