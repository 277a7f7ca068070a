"""Residual variational auto-encoder that draws vessel trees, learnt from a few dozen of them.

After Sengupta et al. 2019, "Generative modeling for retinal fundus image synthesis", who train on 20 trees a
residual auto-encoder with an adversarial part and say no more about it. Here a picture is one vector
(Kingma and Welling 2014): no place of it is copied into a drawing. What is drawn from a tree's own vector is
compared with that tree, and must pass a discriminator of patches (Larsen et al. 2016), which knows how
vessels run, but sees too little of a tree to know whose it is. What is drawn from random vectors must not:
nothing else would bind it, and it became a weave that passes everywhere and is a tree nowhere.

Vessels cover a tenth of the picture and most of them are as thin as a pixel. Squared error and plain
cross-entropy are content with a grey haze in their place, so what counts is focal cross-entropy (pixels
that are wrong), overlap (Dice), overlap of middle lines (clDice), which alone feels a gap, and overlap in
smaller pictures, which alone tells a vessel that lies beside its place where to go.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.growing import Stage
from fundusforge.models.pix2pix import Discriminator
from fundusforge.models.recipe import Phase, View, check_masks

CALIBRE = 96
"""Sides of the picture in which the widest vessels are about two pixels of the skeleton's steps across."""
ACTIVE = 0.01
"""Variance, over pictures, of a number's mean above which the number tells pictures apart (Burda et al.
2016)."""
_WIDEST_LOG = 8.0
"""Bound of the logarithm of variances."""


@dataclass(frozen=True)
class VAEConfig:
    """Variational auto-encoder of masks."""

    kind: Literal["vae"] = "vae"
    masks: tuple[str, ...] = ("vessels",)
    """Masks to draw."""
    size: int = 512
    """Side of the drawings in pixels."""
    latent: int = 128
    """Numbers that a drawing is made from."""
    patch: int = 8
    """Side in pixels of the block that is read and drawn at once."""
    widths: tuple[int, ...] = (96, 128, 192, 256)
    """Filters of each level, from that of the blocks on; each has half the side of the one before."""
    blocks: int = 1
    """Residual blocks of a level."""
    kl: float = 0.1
    """Weight of what a picture's vector says beyond chance, in nats per number."""
    warmup: int = 8000
    """Images over which that weight and `adversarial` rise from 0: vectors must be used before they must be
    brief, and there must be vessels before it matters whether they pass for some."""
    free: float = 0.1
    """Nats per number that cost nothing (Kingma et al. 2016): so many are kept from falling silent."""
    focal: float = 10.0
    """Weight of focal cross-entropy."""
    dice: float = 1.0
    """Weight of one minus the overlap."""
    layout: float = 3.0
    """Weight of one minus the overlap of both pictures made 2, 4, 8 and 16 times smaller, on average."""
    centreline: float = 1.0
    """Weight of one minus the overlap of middle lines."""
    adversarial: float = 0.05
    """Weight of passing for a tree; 0 learns without a discriminator."""
    discriminator_widths: tuple[int, ...] = (16, 32, 64, 64)
    """Filters of each of its layers."""
    lr: float = 1e-3
    """Learning rate of Adam; the discriminator's is half of it."""

    def __post_init__(self) -> None:
        """Refuse unknown masks and sides that the levels do not divide.

        Raises:
            ValueError: Which setting, and what was expected.
        """
        check_masks(self.masks)
        step = self.patch << (len(self.widths) - 1)
        if not self.widths or min(*self.widths, self.latent, self.patch, self.blocks) < 1:
            raise ValueError(f"widths, latent, patch and blocks must be positive, not {self}")
        if self.size % step or self.size < 2 * step:
            raise ValueError(
                f"size must be a multiple of {step} (patch {self.patch}, {len(self.widths)} levels) and at "
                f"least {2 * step}, not {self.size}"
            )
        weights = self.kl, self.free, self.focal, self.dice, self.layout, self.centreline, self.adversarial
        if min(*weights, self.warmup) < 0:
            raise ValueError(f"weights and warmup must not be negative, not {weights} and {self.warmup}")

    @property
    def contrasts(self) -> tuple[str, ...]:
        """It draws none."""
        return ()

    @property
    def channels(self) -> int:
        """Channels of what is drawn."""
        return len(self.masks)

    @property
    def code(self) -> int:
        """Numbers of the code of a drawing."""
        return self.latent

    @property
    def ground(self) -> int:
        """Side of the last level."""
        return self.size // self.patch >> (len(self.widths) - 1)

    @property
    def steps(self) -> int:
        """Steps that thin the widest vessels."""
        return max(2, self.size // CALIBRE)

    def stage(self, images: int) -> Stage:
        """Return where growing stands: always at the end."""
        return Stage(self.size.bit_length() - 3, 1.0)

    def build(self) -> VAE:
        """Return the recipe with fresh networks."""
        return VAE(self)


class Block(nn.Module):
    """Residual block (He et al. 2016) that begins near the identity (as De and Smith 2020)."""

    def __init__(self, width: int) -> None:
        """Build two convolutions and the factor of what they add."""
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.share = nn.Parameter(torch.full((), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, width, H, W) to the same."""
        return x + self.share * self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.2)), 0.2))


class Encoder(nn.Module):
    """Pictures to means and logarithms of variances of their vectors."""

    def __init__(self, c: VAEConfig) -> None:
        """Build every level."""
        super().__init__()
        self.patch = c.patch
        parts: list[nn.Module] = [nn.Conv2d(c.channels * c.patch**2, c.widths[0], 3, padding=1)]
        for width, following in pairwise((*c.widths, 0)):
            parts += [Block(width) for _ in range(c.blocks)]
            if following:
                parts += [nn.AvgPool2d(2), nn.Conv2d(width, following, 1)]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(c.widths[-1] * c.ground**2, 2 * c.latent)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, channels, S, S) in [0, 1] to two (N, latent)."""
        x = self.body(F.pixel_unshuffle(pictures * 2 - 1, self.patch))
        mean, log = self.head(F.leaky_relu(x, 0.2).flatten(1)).chunk(2, 1)
        return mean, log.clamp(-_WIDEST_LOG, _WIDEST_LOG)


class Decoder(nn.Module):
    """Vectors to drawings; every level sees the vector.

    Its buffers say what is measured on the training pictures at the end: the field of view that most of them
    share (S, S) of 0 and 1, the standard deviation in pixels by which drawings are blurred, and for each mask
    the probability from which a pixel is drawn.
    """

    seen: Tensor
    field: Tensor
    blur: Tensor
    threshold: Tensor

    def __init__(self, c: VAEConfig) -> None:
        """Build every level."""
        super().__init__()
        self.config = c
        widths = c.widths[::-1]
        self.first = nn.Linear(c.latent, widths[0] * c.ground**2)
        self.bring = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.styles = nn.ModuleList(nn.Linear(c.latent, width) for width in widths)
        self.blocks = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(c.blocks))) for w in widths)
        self.compose = nn.Conv2d(widths[-1], 2 * widths[-1], 3, padding=1)
        self.paint = nn.Conv2d(2 * widths[-1], c.channels * c.patch**2, 1)
        assert self.paint.bias is not None
        nn.init.constant_(self.paint.bias, -2.0)  # most of a picture is no vessel
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("field", torch.ones(c.size, c.size, dtype=torch.uint8))
        self.register_buffer("blur", torch.zeros(()))
        self.register_buffer("threshold", torch.full((c.channels,), 0.5))

    @property
    def stage(self) -> Stage:
        """Where the weights stand in the schedule: at its end."""
        return self.config.stage(int(self.seen))

    def logits(self, latents: Tensor) -> Tensor:
        """Map vectors (N, latent) to logits (N, channels, S, S)."""
        c = self.config
        x = self.first(latents).view(len(latents), -1, c.ground, c.ground)
        x = x.contiguous(memory_format=torch.channels_last)
        for level, (style, blocks) in enumerate(zip(self.styles, self.blocks, strict=True)):
            if level:
                x = F.interpolate(self.bring[level - 1](x), scale_factor=2.0, mode="nearest")
            x = blocks(x + style(latents)[..., None, None])
        x = F.leaky_relu(self.compose(F.leaky_relu(x, 0.2)), 0.2)
        return F.pixel_shuffle(self.paint(x), c.patch)

    def forward(self, latents: Tensor) -> Tensor:
        """Draw (N, channels, S, S) in [-1, 1] from vectors (N, latent)."""
        return self.logits(latents).sigmoid() * 2 - 1

    def codes(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return latent vectors (N, latent): they are the codes."""
        return latents

    def tidy(self, codes: Tensor) -> Tensor:
        """Return codes (N, latent) that were changed: any is one."""
        return codes

    def drawn(self, codes: Tensor) -> Tensor:
        """Draw codes (N, latent)."""
        return self(codes)


class VAE:
    """Recipe: one step of both halves of the auto-encoder, one of the discriminator."""

    pictures = ("body.0", "paint")
    """Layers that another number of channels changes."""

    def __init__(self, c: VAEConfig) -> None:
        """Build networks and optimizers."""
        self.config = c
        nets = {"encoder": Encoder(c), "decoder": Decoder(c)}
        if c.adversarial:
            nets["discriminator"] = Discriminator(c.channels, c.discriminator_widths, spectral=True)
        self.nets = nn.ModuleDict(nets)
        own = [*nets["encoder"].parameters(), *nets["decoder"].parameters()]
        drawing = torch.optim.Adam(own, c.lr, betas=(0.9, 0.99))
        self.phases = (Phase("drawing", ("encoder", "decoder"), drawing),)
        if c.adversarial:
            judging = torch.optim.Adam(nets["discriminator"].parameters(), c.lr / 2, betas=(0.5, 0.99))
            self.phases += (Phase("discriminator", ("discriminator",), judging),)
        self.ema = ("encoder", "decoder")
        self.view = View(
            masks=c.masks, size=c.size, augment="trees", needs=c.masks, coverage=True, draws=2 * c.latent
        )

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Losses of one phase; the first leaves its drawings in the batch for the discriminator's."""
        c, real = self.config, batch["masks"]
        if phase == "discriminator":
            judge = self.nets["discriminator"]
            on_real, on_fake = judge(real)[0], judge(batch.pop("fake"))[0]
            return {"hinge": losses.discriminator_loss(on_real, on_fake, "hinge")}
        decoder = cast(Decoder, self.nets["decoder"])
        decoder.seen.fill_(images)
        chance = batch["draws"][:, c.latent :]
        mean, log = self.nets["encoder"](real)
        spread = (0.5 * log).exp()
        again = decoder.logits(mean + spread * chance)
        nats = 0.5 * (mean.square() + spread.square() - 1 - log)  # (N, latent)
        rise = min(1.0, images / c.warmup) if c.warmup else 1.0
        everywhere = torch.ones_like(real[:, :1])
        found = {
            "focal": c.focal * losses.focal(again, real, everywhere),
            "dice": c.dice * losses.dice(again, real, everywhere),
            "layout": c.layout * layout_loss(again.sigmoid(), real),
            "centreline": c.centreline * losses.centreline_dice(again, real, c.steps),
            "kl": c.kl * rise * nats.mean(0).clamp(min=c.free).mean(),
        }
        if c.adversarial:
            fake = again.sigmoid()
            batch["fake"] = fake.detach()
            on_fake = self.nets["discriminator"](fake)[0]
            found["adversarial"] = c.adversarial * rise * losses.generator_loss(on_fake, "hinge")
        return found

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Drawings of random vectors; below each what is drawn from a training picture's own."""
        free = batch["draws"][:, : self.config.latent]
        own = nets["decoder"](nets["encoder"](batch["masks"])[0])
        return torch.cat([nets["decoder"](free)[:, :1], own[:, :1]], 2).expand(-1, 3, -1, -1)


def layout_loss(drawn: Tensor, pictures: Tensor) -> Tensor:
    """One minus the overlap of (N, C, H, W) in [0, 1] made smaller by averaging, of each, then averaged.

    A vessel that is drawn two of its calibres beside its place overlaps with it as little as none at all;
    made smaller, it lies nearly there, and is told where to go.
    """
    found: list[Tensor] = []
    for _ in range(4):
        drawn, pictures = F.avg_pool2d(drawn, 2), F.avg_pool2d(pictures, 2)
        both = drawn.square().sum((2, 3)) + pictures.square().sum((2, 3))
        found.append((1 - 2 * (drawn * pictures).sum((2, 3)) / (both + 1e-3)).mean())
    return torch.stack(found).mean()


def active_share(means: Tensor) -> float:
    """Return the share of a vector's numbers that tell pictures apart, from means (N, latent) of N pictures.

    None, or hardly any: the posterior has collapsed to the prior, and drawings do not depend on vectors.
    """
    return float((means.var(0, unbiased=False) > ACTIVE).float().mean())
