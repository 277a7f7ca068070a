"""Progressive GAN that draws an image and its masks together, from a vector and nothing else.

Beers et al. 2018, "High-resolution medical image synthesis using progressively grown generative adversarial
networks"; what they leave open as in Karras et al. 2018. Training begins at 4 px. Every level doubles the
side: a pair of convolutions joins both networks, faded in over the first half of the level's images. Masks
are further channels of the picture, judged with it by the discriminator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.equalized import (
    GAIN,
    EqualConv,
    EqualLinear,
    UpConv,
    leaky,
    minibatch_deviation,
    pixel_norm,
)
from fundusforge.models.growing import FIRST, Growth, Stage, at_stage, doubled, shown, stacked
from fundusforge.models.recipe import Phase, View, check_contrasts, check_masks

PENALTY, DRIFT = 10.0, 1e-3
"""Weights of the gradient penalty and of the drift penalty (Karras et al., appendix A.1)."""


@dataclass(frozen=True)
class PGGANConfig:
    """Progressive GAN of photographs, or of magnetic-resonance contrasts, with their masks."""

    kind: Literal["pggan"] = "pggan"
    masks: tuple[str, ...] = ("vessels",)
    """Masks to draw beside the image; none draws images alone."""
    contrasts: tuple[str, ...] = ()
    """Magnetic-resonance contrasts to draw in place of colours."""
    latent: int = 128
    """Numbers that an image is drawn from."""
    widths: tuple[int, ...] = (128, 128, 128, 128, 128, 128, 64, 16)
    """Filters of each level from 4 px on, doubling; their number says how large images become."""
    budget: int = 0
    """Images of the whole schedule, divided among the levels so that each gets as many batches; 0 takes
    --stop-after. Beers et al. have 40,000 batches a level: 4,800,000 images to 512 px, 4,480,000 to 256."""
    fade: float = 0.5
    """Part of each level's images over which it is faded in."""
    mirror: bool = False
    """Also learn from mirror images: twice as many eyes, of which left and right are no longer told apart by
    who has them."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    generator_rate: float = 1.0
    """Learning rate of the generator over that of the discriminator. Below 1 (Heusel et al. 2017) it does not
    run ahead of a discriminator that has seen little."""

    def __post_init__(self) -> None:
        """Refuse unknown masks and contrasts, and a schedule that cannot be.

        Raises:
            ValueError: Which setting, and what was expected.
        """
        if self.masks:
            check_masks(self.masks)
        check_contrasts(self.contrasts)
        if not self.widths or min(self.widths) < 1 or self.latent < 1:
            raise ValueError(f"widths and latent must be positive, not {self.widths} and {self.latent}")
        if not 0 <= self.fade <= 1 or self.budget < 0 or self.generator_rate <= 0:
            raise ValueError(
                "fade must be 0 to 1, budget not negative and generator_rate positive, "
                f"not {self.fade}, {self.budget} and {self.generator_rate}"
            )

    @property
    def channels(self) -> int:
        """Channels of what is drawn: colours or contrasts, then masks."""
        return (len(self.contrasts) or 3) + len(self.masks)

    @property
    def size(self) -> int:
        """Side in pixels of the finished images."""
        return FIRST << (len(self.widths) - 1)

    @property
    def code(self) -> int:
        """Numbers of the code of a picture."""
        return self.latent

    @property
    def growth(self) -> Growth:
        """The schedule."""
        return Growth(len(self.widths), self.budget, self.fade)

    def stage(self, images: int) -> Stage:
        """Return where growing stands when so many images have been seen."""
        return self.growth.stage(images)

    def build(self) -> PGGAN:
        """Return the recipe with fresh networks."""
        return PGGAN(self)


class Grow(nn.Module):
    """Level of the generator: upsampling and a pair of convolutions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the pair."""
        super().__init__()
        self.up = UpConv(inputs, outputs)
        self.conv = EqualConv(outputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
        x = pixel_norm(leaky(self.up(x)))
        return pixel_norm(leaky(self.conv(x)))


class Generator(nn.Module):
    """Latent vectors to pictures. Its buffer `seen` is the clock, so that weights know their stage."""

    seen: Tensor

    def __init__(self, c: PGGANConfig) -> None:
        """Build every level at once; those not reached yet are not used."""
        super().__init__()
        self.config = c
        widths = c.widths
        self.first = EqualLinear(c.latent, widths[0] * FIRST * FIRST, gain=GAIN / 4)
        self.conv = EqualConv(widths[0], widths[0], 3)
        self.grow = nn.ModuleList(Grow(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.paint = nn.ModuleList(EqualConv(width, c.channels, 1, gain=1.0) for width in widths)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def stage(self) -> Stage:
        """Where the weights stand in the schedule."""
        return self.config.stage(int(self.seen))

    def forward(self, latent: Tensor, stage: Stage | None = None) -> Tensor:
        """Draw pictures.

        Args:
            latent: (N, latent) standard normal; only its direction counts.
            stage: Where growing stands; where the weights do, if None.

        Returns:
            (N, channels, S, S): colours, or contrasts in units of `recipe.CONTRAST_UNIT`, then masks, all of
            them mostly in [-1, 1] (the last layer is linear), S being the side of the stage.
        """
        stage = stage or self.stage
        x = leaky(self.first(pixel_norm(latent.clone())))
        x = pixel_norm(x.view(len(x), -1, FIRST, FIRST).contiguous(memory_format=torch.channels_last))
        x = pixel_norm(leaky(self.conv(x)))
        for grow in self.grow[: max(0, stage.level - 1)]:
            x = grow(x)
        if not stage.level:
            return self.paint[0](x)
        new = self.paint[stage.level](self.grow[stage.level - 1](x))
        if stage.share >= 1:
            return new
        return torch.lerp(doubled(self.paint[stage.level - 1](x)), new, stage.share)

    def codes(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return latent vectors (N, latent) as they are read: scaled to a mean square of 1."""
        return self.tidy(latents)

    def tidy(self, codes: Tensor) -> Tensor:
        """Return codes (N, latent) that were changed as they are read."""
        return pixel_norm(codes.clone())

    def drawn(self, codes: Tensor) -> Tensor:
        """Draw codes (N, latent)."""
        return self(codes)


class Shrink(nn.Module):
    """Level of the discriminator: a pair of convolutions and averaging by 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the pair."""
        super().__init__()
        self.first, self.second = EqualConv(inputs, inputs, 3), EqualConv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, 2 H, 2 W) to (N, outputs, H, W)."""
        return F.avg_pool2d(leaky(self.second(leaky(self.first(x)))), 2)


class Reader(nn.Module):
    """Pictures to numbers: the discriminator, and the encoder of latent vectors."""

    def __init__(
        self, channels: int, widths: Sequence[int], outputs: int, *, deviation: bool,
        level: Callable[[int, int], nn.Module] = Shrink,
    ) -> None:  # fmt: skip
        """Build every level at once.

        Args:
            channels: Channels of the pictures.
            widths: Filters of each level from 4 px on.
            outputs: Numbers to return for each picture.
            deviation: Show the last level how much the pictures of a group differ.
            level: What halves the side, from its numbers of filters.
        """
        super().__init__()
        self.deviation = deviation
        self.read = nn.ModuleList(EqualConv(channels, width, 1) for width in widths)
        self.shrink = nn.ModuleList(level(b, a) for a, b in zip(widths, widths[1:], strict=False))
        self.conv = EqualConv(widths[0] + deviation, widths[0], 3)
        self.dense = EqualLinear(widths[0] * FIRST * FIRST, widths[0])
        self.head = EqualLinear(widths[0], outputs, gain=1.0)

    def forward(self, pictures: Tensor, stage: Stage) -> Tensor:
        """Map pictures (N, channels, S, S) of the stage's side to (N, outputs)."""
        x = leaky(self.read[stage.level](pictures))
        if stage.level:
            x = self.shrink[stage.level - 1](x)
            if stage.share < 1:
                older = leaky(self.read[stage.level - 1](F.avg_pool2d(pictures, 2)))
                x = torch.lerp(older, x, stage.share)
        for level in range(stage.level - 1, 0, -1):
            x = self.shrink[level - 1](x)
        x = leaky(self.conv(minibatch_deviation(x) if self.deviation else x))
        return self.head(leaky(self.dense(x.flatten(1))))


class PGGAN:
    """Recipe: one step of the discriminator, one of the generator."""

    pictures = ("paint", "read")
    """Layers that another number of channels changes."""

    def __init__(self, c: PGGANConfig) -> None:
        """Build networks and optimizers."""
        self.config = c
        discriminator = Reader(c.channels, c.widths, 1, deviation=True)
        self.nets = nn.ModuleDict({"generator": Generator(c), "discriminator": discriminator})
        adam = {
            name: torch.optim.Adam(net.parameters(), rate, betas=(0.0, 0.99), eps=1e-8)
            for (name, net), rate in zip(self.nets.items(), (c.lr * c.generator_rate, c.lr), strict=True)
        }
        self.phases = tuple(Phase(name, (name,), adam[name]) for name in ("discriminator", "generator"))
        self.ema = ("generator",)
        self.view = View(
            masks=c.masks,
            contrasts=c.contrasts,
            size=c.size,
            augment="mirror" if c.mirror else "none",
            needs=c.masks,
            coverage=True,
            # What is drawn for an image is a function of the image alone, in however many processes.
            draws=2 * c.latent + 1,
            halved_from=c.growth.halved_from(),
        )

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Wasserstein losses; the discriminator's with gradient penalty and drift."""
        c, stage = self.config, self.config.stage(images)
        for_discriminator, for_generator, mix = batch["draws"].split([c.latent, c.latent, 1], 1)
        generator, discriminator = cast(Generator, self.nets["generator"]), self.nets["discriminator"]
        if phase == "generator":
            generator.seen.fill_(images)
            return {"wasserstein": -discriminator(generator(for_generator, stage), stage).mean()}
        with torch.no_grad():
            fake = generator(for_discriminator, stage)
        real = at_stage(stacked(batch), stage)
        on_real, on_fake = discriminator(real, stage), discriminator(fake, stage)
        share = torch.special.ndtr(mix)[..., None, None]  # normal to uniform
        between = torch.lerp(real, fake.to(real.dtype), share).requires_grad_(True)
        total = discriminator(between, stage).sum()
        slope = torch.autograd.grad(total, between, create_graph=True)[0].float().flatten(1).norm(dim=1)
        return {
            "wasserstein": on_fake.mean() - on_real.mean(),
            "penalty": PENALTY * (slope - 1).square().mean(),
            "drift": DRIFT * on_real.square().mean(),
        }

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Drawn pictures at full size, with each mask below."""
        drawn = nets["generator"](batch["draws"][:, : self.config.latent])
        return shown(drawn, len(self.config.masks), self.config.size)
