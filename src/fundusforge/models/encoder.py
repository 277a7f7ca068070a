"""Encoder: a picture to the code from which a generator would draw it.

Beers et al. 2018: the discriminator's architecture, not grown, ending in as many numbers as the code has,
with the mean squared error on pictures that the generator draws. A progressive GAN reads only the direction
of a vector, so its code is the vector scaled to a mean square of 1; the code of a style-based generator is
the style, about its centre, in spreads. An encoder that knows nothing has an error of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import pggan, stylegan
from fundusforge.models.growing import Stage
from fundusforge.models.pggan import PGGANConfig, Reader
from fundusforge.models.recipe import Phase, View
from fundusforge.models.stylegan import StyleGANConfig


@dataclass(frozen=True)
class EncoderConfig:
    """Encoder that inverts a generator that draws from vectors."""

    kind: Literal["encoder"] = "encoder"
    generator: Path | None = None
    """Run folder or weights of the generator to invert."""
    with_masks: bool = False
    """Also read the masks, and not the image alone; then every picture to be encoded needs them."""
    drawn: Annotated[PGGANConfig | StyleGANConfig, Field(discriminator="kind")] = PGGANConfig()
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
        return Reader(self.channels, widths, self.drawn.code, deviation=False)

    def build(self) -> Encoder:
        """Return the recipe with a fresh network; it needs a `generator` before it can learn."""
        return Encoder(self)


class Encoder:
    """Recipe: one phase, Adam, on pictures drawn anew for every step."""

    generator: pggan.Generator | stylegan.Generator | None = None
    """What draws the pictures; it does not learn."""
    asked: Tensor | None = None
    """(K, conditions) what may be asked of it, each as often as any; None if nothing can be."""

    def __init__(self, c: EncoderConfig) -> None:
        """Build the network and its optimizer."""
        self.config = c
        self.nets = nn.ModuleDict({"encoder": c.network()})
        optimizer = torch.optim.Adam(self.nets.parameters(), c.lr, betas=(0.0, 0.99), eps=1e-8)
        self.phases = (Phase("encoder", ("encoder",), optimizer),)
        self.ema = ("encoder",)
        self.view = View(draws=c.drawn.latent + 1)

    @torch.no_grad()
    def codes(self, draws: Tensor) -> Tensor:
        """Return codes (N, code) from random numbers (N, latent + 1), the last of which is for the condition.

        Raises:
            RuntimeError: The recipe has no generator.
        """
        if self.generator is None:
            raise RuntimeError("an encoder learns from a generator: set `generator`")
        self.generator.to(draws.device)
        condition = None
        if self.asked is not None:
            places = (
                (torch.special.ndtr(draws[:, -1]) * len(self.asked)).long().clamp(max=len(self.asked) - 1)
            )
            condition = self.asked.to(draws.device)[places]
        return self.generator.codes(draws[:, :-1], condition)

    @torch.no_grad()
    def pictures(self, codes: Tensor) -> Tensor:
        """Draw what the encoder reads, (N, channels, S, S), from codes (N, code)."""
        assert self.generator is not None
        return self.generator.drawn(codes)[:, : self.config.channels]

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Mean squared error of the codes."""
        codes = self.codes(batch["draws"])
        return {"squared": F.mse_loss(self.nets["encoder"](self.pictures(codes), self.config.stage), codes)}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Drawn pictures, and below what is drawn from the codes found in them."""
        pictures = self.pictures(self.codes(batch["draws"]))
        again = self.pictures(nets["encoder"](pictures, self.config.stage))
        shown = [x if x.shape[1] == 3 else x[:, :1].expand(-1, 3, -1, -1) for x in (pictures, again)]
        return torch.cat([x[:, :3] for x in shown], 2).clamp(-1, 1)
