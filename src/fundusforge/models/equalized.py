"""Layers of growing and style-based generators: equalised learning rate, pixel norm, minibatch deviation.

Karras et al. 2018, "Progressive growing of GANs for improved quality, stability, and variation", section 4.
Weights are kept with unit variance and scaled at each use (He et al. 2015, eq. 10), so that every layer
learns at the same pace.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAIN = math.sqrt(2)
"""Of layers before a rectifier."""
SLOPE = 0.2
"""Of the leaky rectifier for negative values."""


class Kept:
    """A tensor made of weights; while nothing is learnt it is kept until the weights change."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self._kept: tuple[tuple[int, int], Tensor] | None = None

    def __call__(self, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `make` makes of the weights."""
        if torch.is_grad_enabled() or weight.is_inference():  # the latter have no version
            return make(weight)
        state = weight._version, weight.data_ptr()
        if self._kept is None or self._kept[0] != state:
            self._kept = state, make(weight)
        return self._kept[1]


class EqualConv(nn.Module):
    """Convolution of stride 1 with padding that keeps the size, at the equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, side: int, *, gain: float = GAIN) -> None:
        """Draw weights (outputs, inputs, side, side) of variance 1; biases begin at 0."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs * side * side)
        self._kept = Kept()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        return F.conv2d(x, self.kernel(), self.bias, padding=self.weight.shape[-1] // 2)

    def kernel(self) -> Tensor:
        """Return the kernel as it is used."""
        return self._kept(self.weight, self._kernel)

    def _kernel(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class UpConv(EqualConv):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution, without ever making the upsampled map.

    Of the nine pixels that a 3x3 kernel sees after upsampling, those that are copies of one another share a
    weight that is their sum. What is left is a 2x2 kernel for each of the four places in a pixel: 16
    multiplications instead of 36, in one convolution with four times the outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        """Draw weights (outputs, inputs, 3, 3) of variance 1."""
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, 2 H, 2 W)."""
        (count, _, height, width), outputs = x.shape, len(self.bias)
        found = F.conv2d(x, self.kernel(), self.bias.repeat(4), padding=1)
        channels_last = found.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        out = torch.empty(
            (count, outputs, 2 * height, 2 * width),
            dtype=found.dtype, device=found.device, memory_format=layout,
        )  # fmt: skip
        for place, part in enumerate(found.split(outputs, 1)):  # (N, outputs, H + 1, W + 1) each
            row, column = divmod(place, 2)
            out[:, :, row::2, column::2] = part[:, :, row : row + height, column : column + width]
        return out

    def _kernel(self, weight: Tensor) -> Tensor:
        return phases(weight * self.scale).contiguous(memory_format=torch.channels_last)


def phases(weight: Tensor) -> Tensor:
    """Return the 2x2 kernels (4 * O, I, 2, 2) of the four places in a pixel, of a 3x3 kernel (O, I, 3, 3)."""
    above, middle, below = weight.unbind(2)  # (O, I, 3) each
    found: list[Tensor] = []
    for upper, lower in ((above, middle + below), (above + middle, below)):
        left, centre, right = torch.stack((upper, lower), 2).unbind(3)  # (O, I, 2) each
        found += [torch.stack((left, centre + right), 3), torch.stack((left + centre, right), 3)]
    return torch.cat(found)


class EqualLinear(nn.Module):
    """Linear layer at the equalised learning rate."""

    def __init__(self, inputs: int, outputs: int, *, gain: float = GAIN) -> None:
        """Draw weights (outputs, inputs) of variance 1; biases begin at 0."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs) to (N, outputs)."""
        return F.linear(x, self.weight * self.scale, self.bias)


def leaky(x: Tensor) -> Tensor:
    """Leaky rectifier, in place: `x` must be the fresh output of a layer."""
    return F.leaky_relu_(x, SLOPE)


def pixel_norm(x: Tensor) -> Tensor:
    """Scale the channels of (N, C, ...) at each place to a mean square of 1 (section 4.2)."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    factor = (length.square() / x.shape[1] + 1e-8).rsqrt()
    return x * factor if x.requires_grad else x.mul_(factor)


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append to (N, C, H, W) one channel: how much images of a group differ, one number each (section 3).

    Groups are consecutive images, so that processes that share a batch find what one would. The last group
    is smaller where `group` does not divide N.
    """
    parts = [part.float() - part.float().mean(0) for part in x.split(group)]
    spreads = [(part.square().mean(0) + 1e-8).sqrt().mean() for part in parts]
    values = [spread.expand(len(part)) for spread, part in zip(spreads, parts, strict=True)]
    channel = torch.cat(values).to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, channel], 1)
