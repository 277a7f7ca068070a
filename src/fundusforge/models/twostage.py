"""The two parts of a generator that paints photographs on masks (DR-GAN).

Zhou et al. 2020, sections II-A and II-B. `Coarse` is their G_m, `Fine` their G_l; `fundusforge.models.drgan`
says what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.attention import SCA
from fundusforge.models.grading import Manipulation

REDUCTIONS = (8, 16, 32)
"""d of the attention in each synthesis block, from the coarsest (section II-B)."""


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution with batch normalisation and ReLU."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def enlarging(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution to twice the side with batch normalisation and ReLU."""
    layer = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, output_padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation beside the identity (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.first = conv(channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return x + self.norm(self.second(self.first(x)))


class Synthesis(nn.Module):
    """Grading manipulation, encoder features and masks joined, attention, twice the side (section II-B)."""

    def __init__(self, channels: int, masks: int, style: int, reduction: int) -> None:
        """Halve the channels; without manipulation if `style` is 0, without attention if `reduction` is."""
        super().__init__()
        self.manipulate = Manipulation(channels, style) if style else None
        self.join = conv(2 * channels + masks, channels, 3)
        self.attention = SCA(channels, reduction) if reduction else nn.Identity()
        self.up = enlarging(channels, channels // 2)

    def forward(
        self, x: Tensor, skip: Tensor, masks: Tensor, style: Tensor | None, noise: Tensor | None
    ) -> Tensor:
        """Map (N, C, H, W), the encoder's features of that shape and masks of any to (N, C / 2, 2 H, 2 W)."""
        if self.manipulate is not None and style is not None:
            x = self.manipulate(x, style, noise)
        resized = F.adaptive_avg_pool2d(masks, (x.shape[2], x.shape[3])).to(x.dtype)
        return self.up(self.attention(self.join(torch.cat([x, skip, resized], 1))))


class Coarse(nn.Module):
    """G_m: masks of half the side to features and a picture of that side."""

    def __init__(self, masks: int, w: int, blocks: int, *, style: int, attention: bool) -> None:
        """Build encoder, residual blocks, synthesis blocks.

        Args:
            masks: Channels of the masks.
            w: Channels at the full side of this part.
            blocks: Number of residual blocks.
            style: Numbers of a style; 0 for no grading manipulation.
            attention: Whether there is attention.
        """
        super().__init__()
        self.encode = nn.ModuleList(
            [conv(masks, w, 7), *(conv(w << level, w << (level + 1), 3, 2) for level in range(3))]
        )
        self.blocks = nn.Sequential(*(Residual(8 * w) for _ in range(blocks)))
        self.synthesis = nn.ModuleList(
            Synthesis(w << (3 - place), masks, style, d if attention else 0)
            for place, d in enumerate(REDUCTIONS)
        )
        self.paint = nn.Conv2d(w, 3, 7, padding=3)

    def encoded(self, masks: Tensor) -> list[Tensor]:
        """Map masks (N, M, h, w) to the features of each of the four convolutions, the finest first."""
        found = [masks]
        for layer in self.encode:
            found.append(layer(found[-1]))
        return found[1:]

    def forward(
        self, skips: list[Tensor], masks: Tensor, style: Tensor | None, noise: Sequence[Tensor | None]
    ) -> Tensor:
        """Map the encoder's features to the last ones before the picture, (N, width, h, w)."""
        x = self.blocks(skips[-1])
        for block, skip, volume in zip(self.synthesis, reversed(skips[1:]), noise, strict=True):
            x = block(x, skip, masks, style, volume)
        return x


class Fine(nn.Module):
    """G_l: masks of the full side, and the last features of G_m, to a picture."""

    def __init__(self, masks: int, w: int) -> None:
        """Build two convolutions and two transposed ones, of `w` channels at half the side."""
        super().__init__()
        self.encode = nn.Sequential(conv(masks, w // 2, 7), conv(w // 2, w, 3, 2))
        self.up = enlarging(w, w // 2)
        self.paint = nn.ConvTranspose2d(w // 2, 3, 7, padding=3)

    def forward(self, masks: Tensor, features: Tensor) -> Tensor:
        """Map masks (N, M, H, W) and features (N, width, H / 2, W / 2) to (N, 3, H, W)."""
        return self.paint(self.up(self.encode(masks) + features))


def framed(picture: Tensor, field: Tensor) -> Tensor:
    """Make a picture (N, 3, H, W) black (-1) outside a field of view (N, 1, H, W) of 0 and 1."""
    return picture * field + (field - 1)
