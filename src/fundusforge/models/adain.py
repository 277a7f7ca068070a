"""First style-based generator and its discriminator, which Kim et al. 2022 trained.

Karras et al. 2019, "A style-based generator architecture for generative adversarial networks": adaptive
instance normalisation, noise, and growing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.equalized import EqualConv, EqualLinear, UpConv, leaky
from fundusforge.models.growing import FIRST, Stage, doubled

TAPS = (1.0, 2.0, 1.0)
"""Low-pass filter after upsampling and before downsampling, separable."""


class Epilogue(nn.Module):
    """What follows a convolution: noise, rectifier, instance normalisation, style."""

    noise: Tensor

    def __init__(self, width: int, style: int, side: int) -> None:
        """Build it for maps of `side` pixels."""
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(width))
        self.style = EqualLinear(style, 2 * width, gain=1.0)
        self.register_buffer("noise", torch.randn(side, side))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        """Map (N, width, S, S) and styles (N, style) to maps of the same shape."""
        x = leaky(x + (self.noise if noise is None else noise) * self.strength[:, None, None])
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, F.instance_norm(x, eps=1e-8), scale + 1)


class Level(nn.Module):
    """Level of the generator: upsampling, low-pass filter and two convolutions."""

    def __init__(self, inputs: int, outputs: int, style: int, side: int) -> None:
        """Build the level of `side` pixels."""
        super().__init__()
        self.up, self.conv = UpConv(inputs, outputs), EqualConv(outputs, outputs, 3)
        self.first, self.second = Epilogue(outputs, style, side), Epilogue(outputs, style, side)

    def forward(self, x: Tensor, styles: tuple[Tensor, Tensor], noises: tuple[Tensor | None, ...]) -> Tensor:
        """Map (N, inputs, H, W) and two styles (N, style) to (N, outputs, 2 H, 2 W)."""
        x = self.first(blurred(self.up(x)), styles[0], noises[0])
        return self.second(self.conv(x), styles[1], noises[1])


class Synthesis(nn.Module):
    """Styles to pictures, by levels from 4 px on."""

    def __init__(self, channels: int, widths: Sequence[int], style: int) -> None:
        """Build every level at once; those not reached yet are not used.

        Args:
            channels: Channels of the picture.
            widths: Filters of each level from 4 px on, doubling.
            style: Numbers of a style.
        """
        super().__init__()
        self.start = nn.Parameter(torch.ones(widths[0], FIRST, FIRST))
        self.bias = nn.Parameter(torch.zeros(widths[0], 1, 1))
        self.conv = EqualConv(widths[0], widths[0], 3)
        self.first, self.second = (Epilogue(widths[0], style, FIRST) for _ in range(2))
        pairs = enumerate(zip(widths, widths[1:], strict=False), 1)
        self.grow = nn.ModuleList(Level(a, b, style, FIRST << level) for level, (a, b) in pairs)
        self.paint = nn.ModuleList(EqualConv(width, channels, 1, gain=1.0) for width in widths)
        self.styles = 2 * len(widths)
        """Styles of a picture: two for each level."""

    def forward(self, styles: Tensor, stage: Stage, noises: Sequence[Tensor] = ()) -> Tensor:
        """Draw (N, channels, S, S) from styles (N, `styles`, style).

        Args:
            styles: The style of each layer.
            stage: Where growing stands; S is its side.
            noises: For each layer (N, 1, s, s) standard normal; each layer's own if empty.
        """
        drawn = [*noises] if noises else [None] * self.styles
        x = (self.start + self.bias).expand(len(styles), -1, -1, -1)
        x = self.first(x.contiguous(memory_format=torch.channels_last), styles[:, 0], drawn[0])
        x = self.second(self.conv(x), styles[:, 1], drawn[1])
        if not stage.level:
            return self.paint[0](x)
        older = x
        for level, grow in enumerate(self.grow[: stage.level], 1):
            older, at = x, 2 * level
            x = grow(x, (styles[:, at], styles[:, at + 1]), (drawn[at], drawn[at + 1]))
        new = self.paint[stage.level](x)
        if stage.share >= 1:
            return new
        return torch.lerp(doubled(self.paint[stage.level - 1](older)), new, stage.share)


class Shrink(nn.Module):
    """Level of the discriminator: two convolutions with a low-pass filter between, and averaging by 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the pair."""
        super().__init__()
        self.first, self.second = EqualConv(inputs, inputs, 3), EqualConv(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, 2 H, 2 W) to (N, outputs, H, W)."""
        return leaky(F.avg_pool2d(self.second(blurred(leaky(self.first(x)))), 2))


def blurred(x: Tensor) -> Tensor:
    """Low-pass filter (N, C, H, W), padded with zeros."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])
