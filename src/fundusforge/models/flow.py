"""Photographs of a wanted severity on structure and lesion masks, by flow matching.

Lipman et al. 2023, "Flow matching for generative modeling"; Liu et al. 2023, "Flow straight and fast". On the
straight line x(t) = (1 - t) noise + t photograph, a network learns the mean velocity at every place and time;
following it from fresh noise paints a photograph. There is no adversary, and one mask has as many pictures as
there is noise. As in Li and He 2025, "Back to basics: let denoising generative models denoise", the network
foretells the photograph and the error is that of the velocity, its input is cut into patches, and a time is
the logistic function of a normal number.

Masks stand beside the noisy picture; time and severity scale and shift the channels of every block (Dhariwal
and Nichol 2021). Severity between two grades is between what was learnt for each. `regions` of the error is
counted for each mask alike (`docs/decisions/0017-pixels-of-every-mask.md`): a weight that only the masks
decide changes how fast, and not what, is learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.drgan import STRUCTURES, conditions
from fundusforge.models.recipe import Phase, View, check_masks
from fundusforge.models.twostage import framed
from fundusforge.severity import GRADES, LESIONS

TIME = (-1.2, 1.4)
"""Mean and deviation of the normal number behind a time. Wider than usual, and earlier: a photograph of a
retina is smooth, so its colours can be read from the noise after a hundredth of the way, and what decides
them, the grade for one, is learnt only before. Li and He 2025 have -0.8 and 0.8."""
CROWDED = 1.5
"""Power of the even steps by which a path is followed, for the same reason shorter near the noise."""
NEAR = 0.25
"""The rest of the way, 1 - t, below which velocities are not divided by it in training, lest a few late times
outweigh a batch. Li and He 2025 have 0.05."""
_WAVES = 32
"""Frequencies of the time."""
_GROUPS = 8
"""Groups of channels that are normalised together."""


@dataclass(frozen=True)
class FlowConfig:
    """Photographs of a wanted severity, painted on masks by flow matching."""

    kind: Literal["flow"] = "flow"
    masks: tuple[str, ...] = ("vessels", "disc", *LESIONS)
    """Masks to paint on, one input channel each; the field of view is always one more. Photographs without
    one of the structures (vessels, disc, ...) are left out; a lesion that is not known is one half inside the
    field of view, one that a person's grade 0 rules out is empty."""
    size: int = 256
    """Side of the images in pixels, 64 to 2048, a multiple of patch * 2 ** (levels - 1)."""
    patch: int = 4
    """Side in pixels of the patches that are one place of the finest level."""
    widths: tuple[int, ...] = (64, 128, 192)
    """Channels of each level from the finest on, multiples of 8."""
    blocks: int = 2
    """Residual blocks of each level, on the way down and again on the way up."""
    style: int = 256
    """Numbers that tell a block time and severity."""
    grades: bool = True
    """Learn severity; without it, masks alone say what is ill."""
    unknown: float = 0.1
    """Share of the photographs whose grade is hidden, so that one may also be left open."""
    regions: float = 0.5
    """Share of the error that the masks have, each alike; the field of view has the rest."""
    steps: int = 10
    """Steps of Heun's method from noise to photograph, two passes each."""
    lr: float = 5e-4
    """Learning rate of Adam."""

    def __post_init__(self) -> None:
        """Refuse unknown masks, and sizes that the levels do not divide.

        Raises:
            ValueError: Which setting, and what was expected.
        """
        check_masks(self.masks)
        if not self.widths or any(width % _GROUPS or width < _GROUPS for width in self.widths):
            raise ValueError(f"widths must be multiples of {_GROUPS}, not {self.widths}")
        if min(self.patch, self.blocks, self.style, self.steps) < 1:
            raise ValueError("patch, blocks, style and steps must be at least 1")
        if self.size % self.step or not max(64, 2 * self.step) <= self.size <= 2048:
            raise ValueError(f"size must be a multiple of {self.step} between 64 and 2048, not {self.size}")
        if not 0 <= self.unknown < 1 or not 0 <= self.regions <= 1:
            raise ValueError(f"unknown and regions must be shares, not {self.unknown} and {self.regions}")

    @property
    def conditions(self) -> tuple[str, ...]:
        """Masks that are painted on: all."""
        return self.masks

    @property
    def step(self) -> int:
        """What sides must be multiples of."""
        return self.patch << (len(self.widths) - 1)

    def build(self) -> Flow:
        """Return the recipe with fresh networks."""
        return Flow(self)


class Styled(nn.Module):
    """Group normalisation, then channels scaled and shifted by the style, and rectified (SiLU)."""

    def __init__(self, channels: int, style: int) -> None:
        """Begin near plain normalisation."""
        super().__init__()
        self.split = nn.Linear(style, 2 * channels)
        nn.init.normal_(self.split.weight, std=0.01)
        nn.init.zeros_(self.split.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (N, C, H, W) and (N, style) to (N, C, H, W)."""
        scale, shift = self.split(style)[..., None, None].chunk(2, 1)  # (N, C, 1, 1) each
        return F.silu(torch.addcmul(shift, F.group_norm(x, _GROUPS), 1 + scale))


class Block(nn.Module):
    """Two 3x3 convolutions beside the identity, the second one's input scaled and shifted by the style."""

    def __init__(self, inputs: int, outputs: int, style: int) -> None:
        """Change channels from `inputs` to `outputs`."""
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.styled = Styled(outputs, style)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.beside = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (N, inputs, H, W) and (N, style) to (N, outputs, H, W)."""
        found = self.first(F.silu(self.norm(x)))
        return self.beside(x) + self.second(self.styled(found, style))


class Generator(nn.Module):
    """Noisy picture, time, masks and severity to the photograph behind the noise.

    Its buffer `known` notes the grades that were learnt.
    """

    known: Tensor

    def __init__(self, c: FlowConfig) -> None:
        """Build the network that the configuration describes."""
        super().__init__()
        self.config = c
        inputs, w = (len(c.masks) + 4) * c.patch**2, c.widths
        self.time = nn.Sequential(nn.Linear(2 * _WAVES, c.style), nn.SiLU(), nn.Linear(c.style, c.style))
        if c.grades:
            self.severity = nn.Parameter(torch.randn(len(GRADES) + 1, c.style))
        self.read = nn.Conv2d(inputs, w[0], 3, padding=1)
        self.encode = nn.ModuleList(
            nn.ModuleList(Block(width, width, c.style) for _ in range(c.blocks)) for width in w
        )
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(w, w[1:], strict=False))
        self.enlarge = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in zip(w, w[1:], strict=False))
        self.decode = nn.ModuleList(
            nn.ModuleList(Block(width if number else 2 * width, width, c.style) for number in range(c.blocks))
            for width in w[:-1]
        )
        self.last = Styled(w[0], c.style)
        self.join = nn.Conv2d(w[0] + inputs, w[0], 3, padding=1)
        self.paint = nn.Conv2d(w[0], 3 * c.patch**2, 3, padding=1)
        self.register_buffer("known", torch.zeros(len(GRADES), dtype=torch.bool))

    def forward(self, noisy: Tensor, time: Tensor, masks: Tensor, severity: Tensor) -> Tensor:
        """Foretell photographs.

        Args:
            noisy: (N, 3, H, W), `time` of the way from noise to photograph.
            time: (N,) in [0, 1].
            masks: (N, M + 1, H, W) in [0, 1]: the masks of the configuration, then the field of view.
            severity: (N,) in [0, 4]; not a number where it is left open.

        Returns:
            (N, 3, H, W), about [-1, 1], -1 outside the field of view.

        Raises:
            ValueError: Another number of mask channels, or a side that the levels do not divide.
        """
        c = self.config
        self._check_shape(masks)
        style = self.time(waves(time))
        style = F.silu(style + self._graded(severity) if c.grades else style)
        inputs = F.pixel_unshuffle(torch.cat([noisy, masks], 1), c.patch)
        x, skips = self.read(inputs), list[Tensor]()
        for place, blocks in enumerate(self.encode):
            x = self.shrink[place - 1](x) if place else x
            for block in cast(nn.ModuleList, blocks):
                x = block(x, style)
            skips.append(x)
        skips.pop()
        for place in reversed(range(len(self.decode))):
            x = self.enlarge[place](F.interpolate(x, scale_factor=2.0, mode="nearest"))
            x = torch.cat([x, skips[place]], 1)
            for block in cast(nn.ModuleList, self.decode[place]):
                x = block(x, style)
        x = self.join(torch.cat([self.last(x, style), inputs.to(x.dtype)], 1))
        found = F.pixel_shuffle(self.paint(F.silu(x)), c.patch)
        return framed(found.float(), masks[:, -1:])

    @torch.no_grad()
    def drawn(
        self,
        masks: Tensor,
        severity: Tensor,
        noise: Tensor,
        *,
        guidance: float = 1.0,
        steps: int | None = None,
    ) -> Tensor:
        """Paint photographs by Heun's method, the last step by Euler's.

        Args:
            masks: See `forward`.
            severity: See `forward`.
            noise: (N, 3, H, W) standard normal.
            guidance: How far to go from what masks alone foretell (0) to what the severity adds (1), and
                beyond (Ho and Salimans 2022). Other than 1 it takes twice the time.
            steps: Number of steps; the configuration's if None.

        Returns:
            (N, 3, H, W) in [-1, 1], black (-1) outside the field of view.
        """
        steps = steps or self.config.steps
        at = [(step / steps) ** CROWDED for step in range(steps + 1)]
        x, left_open = noise, torch.full_like(severity, torch.nan)

        def velocity(x: Tensor, time: float) -> Tensor:
            now = x.new_full((len(x),), time)
            found = self(x, now, masks, severity)
            if guidance != 1:
                found = torch.lerp(self(x, now, masks, left_open), found, guidance)
            return (found - x) / (1 - time)

        for time, then in pairwise(at):
            slope = velocity(x, time)
            if then < 1:
                slope = (slope + velocity(x + (then - time) * slope, then)) / 2
            x = x + (then - time) * slope
        return framed(x.clamp(-1, 1), masks[:, -1:])

    def check(self, severity: float) -> None:
        """Refuse a severity that was not learnt.

        Raises:
            ValueError: Outside 0 to 4, beside a grade that no photograph had, or of a model without grades.
        """
        last = GRADES[-1]
        if not self.config.grades:
            raise ValueError("was trained without grades; it takes no severity")
        if not 0 <= severity <= last:
            raise ValueError(f"severity must be between 0 and {last}, not {severity}")
        needed = {int(severity), min(last, int(severity) + (severity % 1 > 0))}
        if lacking := sorted(grade for grade in needed if not self.known[grade]):
            raise ValueError(f"severity {severity:g}: this model never saw grade {lacking[0]}")

    def _graded(self, severity: Tensor) -> Tensor:
        """What blocks are told of severities (N,): (N, style) between grades, or the row of none."""
        asked = severity.isfinite()
        place = severity.nan_to_num(0.0).clamp(0, GRADES[-1])
        below = place.floor().clamp(max=GRADES[-1] - 1).long()
        share = (place - below)[:, None]
        between = self.severity[below] * (1 - share) + self.severity[below + 1] * share
        return torch.where(asked[:, None], between, self.severity[-1])

    def _check_shape(self, masks: Tensor) -> None:
        channels, step, sides = len(self.config.masks) + 1, self.config.step, masks.shape[2:]
        if masks.shape[1] != channels or any(side % step or side < 2 * step for side in sides):
            raise ValueError(
                f"expected masks (N, {channels}, H, W) with sides divisible by {step}, at least {2 * step} "
                f"({', '.join(self.config.masks)}, field of view), got {tuple(masks.shape)}"
            )


def waves(time: Tensor) -> Tensor:
    """Times (N,) in [0, 1] as (N, 64) sines and cosines of frequencies from 1 to 1,000 radians."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), _WAVES, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def times(count: int, device: torch.device) -> Tensor:
    """Draw (N,) times, one in each N-th of their distribution: every batch has early and late ones."""
    mean, deviation = TIME
    share = (torch.randperm(count, device=device) + torch.rand(count, device=device)) / count
    return torch.sigmoid(mean + deviation * torch.special.ndtri(share.clamp(1e-4, 1 - 1e-4)))


class Flow:
    """Recipe: one step of the network a batch."""

    def __init__(self, c: FlowConfig) -> None:
        """Build network and optimizer."""
        self.config = c
        self.nets = nn.ModuleDict({"generator": Generator(c)})
        adam = torch.optim.Adam(self.nets["generator"].parameters(), c.lr, betas=(0.9, 0.95))
        self.phases = (Phase("generator", ("generator",), adam),)
        self.ema = ("generator",)
        needs = tuple(name for name in c.masks if name in STRUCTURES)
        self.view = View(masks=c.masks, size=c.size, augment="translation", needs=needs)

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Squared error of the velocity at a time of each picture's own."""
        c, net = self.config, cast(Generator, self.nets["generator"])
        masks, real = conditions(batch), batch["image"]
        time = times(len(real), real.device)
        severity = batch["grade"].float()
        hidden = (severity < 0) | (torch.rand(len(real), device=real.device) < c.unknown)
        net.known[batch["grade"][batch["grade"] >= 0]] = True
        severity = severity.masked_fill(hidden, torch.nan)
        along = time[:, None, None, None]
        noisy = torch.lerp(torch.randn_like(real), real, along)
        error = ((net(noisy, time, masks, severity) - real) / (1 - along).clamp_min(NEAR)).square()
        found = {"velocity": (1 - c.regions) * losses.masked_mean(error, masks[:, -1:])}
        if c.regions:
            found["regions"] = c.regions * losses.regional_mean(error, masks[:, :-1])
        return found

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Painted photographs with their first mask below."""
        masks, grade = conditions(batch), batch["grade"].float()
        severity = grade.masked_fill(grade < 0, torch.nan)
        painted = cast(Generator, nets["generator"]).drawn(masks, severity, torch.randn_like(batch["image"]))
        return torch.cat([painted, masks[:, :1].expand(-1, 3, -1, -1) * 2 - 1], 2)
