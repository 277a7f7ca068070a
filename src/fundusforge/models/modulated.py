"""Second style-based generator and its discriminator, in plain operators.

Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN". The paper scales the kernels of a
convolution anew for every image. Here the image is scaled before an ordinary convolution and its output
after, which is the same; while nothing is learnt, large maps are drawn one image at a time, with kernels,
demodulation, rectifier's gain and bias in one convolution, by fewer multiplications where that pays. The
transposed convolution that doubles a map is four small ones, one for each place in a pixel, before the
low-pass filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.equalized import (
    GAIN,
    EqualConv,
    EqualLinear,
    Kept,
    leaky,
    minibatch_deviation,
    pixel_norm,
)
from fundusforge.models.winograd import convolved, pays

FIRST = 4
"""Side in pixels of the first level."""
TAPS = (1.0, 3.0, 3.0, 1.0)
"""Low-pass filter of up- and downsampling, separable."""
LAYERS, RATE = 8, 0.01
"""Layers of the mapping network, and their learning rate relative to the other layers'."""
_ALONE = 32
"""Side in pixels from which images are drawn one at a time while nothing is learnt."""
_FEW = 256
"""Places of a batch's maps up to which they are doubled by whole kernels (measured with 512 channels)."""


class Dense(nn.Module):
    """Linear layer whose weights and biases learn at `rate` times the usual pace; rectified if `active`."""

    def __init__(
        self, inputs: int, outputs: int, *, rate: float = 1.0, bias: float = 0.0, active: bool = False
    ) -> None:
        """Draw weights; `bias` is where all biases begin."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.rate, self.active = rate, active
        self.scale = rate / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs) to (N, outputs)."""
        gain = GAIN if self.active else 1.0
        found = F.linear(x * (self.scale * gain), self.weight, self.bias * (self.rate * gain))
        return leaky(found) if self.active else found


class Mapping(nn.Module):
    """Latent vectors, and what is asked for, to styles."""

    def __init__(self, latent: int, style: int, conditions: int = 0) -> None:
        """Build the layers; `latent` may be 0, and then only the condition is read."""
        super().__init__()
        inputs = latent + (style if conditions else 0)
        self.embed = Dense(conditions, style) if conditions else None
        sizes = [inputs] + [style] * LAYERS
        self.layers = nn.Sequential(
            *(Dense(a, b, rate=RATE, active=True) for a, b in zip(sizes, sizes[1:], strict=False))
        )

    def forward(self, latent: Tensor | None, condition: Tensor | None = None) -> Tensor:
        """Map (N, latent), of which only the direction counts, and (N, conditions) to (N, style)."""
        parts = [] if latent is None else [pixel_norm(latent.clone())]
        if self.embed is not None:
            assert condition is not None
            parts.append(pixel_norm(self.embed(condition)))
        return self.layers(torch.cat(parts, 1))


class StyleConv(nn.Module):
    """3x3 convolution whose kernels a style scales, noise, bias and rectifier; doubles the side if `up`."""

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, style: int, *, side: int, up: bool) -> None:
        """Build it for an output of `side` pixels."""
        super().__init__()
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise", torch.randn(side, side))
        self.up = up
        self._lengths = Kept()

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map (N, inputs, H, W) and styles (N, style) to (N, outputs, S, S).

        Args:
            x: Maps.
            style: Styles.
            noise: (N, 1, S, S) standard normal; the layer's own, the same for all images, if None.
        """
        scales = self.affine(style)
        weight = self.weight
        x = x * scales[:, :, None, None]
        x = blurred(spaced(x, weight), 4.0, 1) if self.up else F.conv2d(x, weight, padding=1)
        factor = self._factor(scales)[:, :, None, None]
        x = torch.addcmul((self.bias * GAIN)[None, :, None, None], x, factor)
        return leaky(x.add_((self.noise if noise is None else noise) * (self.strength * GAIN)))

    def alone(self, x: Tensor, style: Tensor) -> Tensor:
        """The same for one image (1, inputs, H, W) with the layer's own noise; nothing is learnt from it."""
        scales = self.affine(style)
        kernel = self.weight * (scales * self._factor(scales).t())[:, :, None, None]
        bias = self.bias * GAIN
        if not self.up and pays(x, kernel):
            x = convolved(x, kernel, bias)
        else:
            kernel = kernel.contiguous(memory_format=torch.channels_last)
            x = blurred(spaced(x, kernel), 4.0, 1, bias) if self.up else F.conv2d(x, kernel, bias, padding=1)
        return leaky(x.add_(self.noise * (self.strength * GAIN)))

    def _factor(self, scales: Tensor) -> Tensor:
        """Gain over the lengths (N, outputs) of the kernels that `scales` (N, inputs) scales."""
        lengths = self._lengths(self.weight, lambda weight: weight.square().sum((2, 3)))
        return (scales.square() @ lengths.t() + 1e-8).rsqrt() * GAIN


class Paint(nn.Module):
    """1x1 convolution to the channels of the picture, whose weights a style scales."""

    def __init__(self, inputs: int, channels: int, style: int) -> None:
        """Draw weights of variance 1."""
        super().__init__()
        self.affine = Dense(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Map (N, inputs, S, S) and styles (N, style) to (N, channels, S, S)."""
        scales = self.affine(style) * self.scale
        if len(x) == 1:
            weight = self.weight.flatten(1) * scales
            return F.linear(x.permute(0, 2, 3, 1), weight, self.bias).permute(0, 3, 1, 2)
        return F.conv2d(x * scales[:, :, None, None], self.weight, self.bias)


class Level(nn.Module):
    """Level of the generator: doubled map, two convolutions, and what they add to the picture."""

    def __init__(self, inputs: int, outputs: int, channels: int, style: int, side: int) -> None:
        """Build the level of `side` pixels."""
        super().__init__()
        self.up = StyleConv(inputs, outputs, style, side=side, up=True)
        self.conv = StyleConv(outputs, outputs, style, side=side, up=False)
        self.paint = Paint(outputs, channels, style)


class Synthesis(nn.Module):
    """Styles to pictures, by levels from 4 px on; each level adds to the picture of the one before."""

    def __init__(self, channels: int, widths: Sequence[int], style: int) -> None:
        """Build every level.

        Args:
            channels: Channels of the picture.
            widths: Filters of each level from 4 px on, doubling.
            style: Numbers of a style.
        """
        super().__init__()
        self.start = nn.Parameter(torch.randn(widths[0], FIRST, FIRST))
        self.conv = StyleConv(widths[0], widths[0], style, side=FIRST, up=False)
        self.paint = Paint(widths[0], channels, style)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.levels = nn.ModuleList(
            Level(a, b, channels, style, (2 * FIRST) << level) for level, (a, b) in enumerate(pairs)
        )
        self.styles = 2 * len(widths)
        """Styles of a picture: two for each level."""

    def forward(self, styles: Tensor, noises: Sequence[Tensor] | None = None) -> Tensor:
        """Draw (N, channels, S, S) from styles (N, `styles`, style).

        Args:
            styles: The style of each layer.
            noises: For each level's convolutions (N, 1, s, s) standard normal; each layer's own if None.
        """
        drawn = iter(noises or ())
        x = self.start.expand(len(styles), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        x = self.conv(x, styles[:, 0], next(drawn, None))
        picture = self.paint(x, styles[:, 1])
        for place, level in enumerate(cast(Sequence[Level], self.levels)):
            if not (torch.is_grad_enabled() or noises) and (2 * FIRST) << place >= _ALONE:
                rows = zip(x.split(1), picture.split(1), styles.split(1), strict=True)
                return torch.cat([self._finish(*row, place) for row in rows])
            x = level.up(x, styles[:, 2 * place + 1], next(drawn, None))
            x = level.conv(x, styles[:, 2 * place + 2], next(drawn, None))
            picture = doubled(picture) + level.paint(x, styles[:, 2 * place + 3])
        return picture

    def _finish(self, x: Tensor, picture: Tensor, styles: Tensor, place: int) -> Tensor:
        """Draw the levels from `place` on of one image."""
        for at, level in enumerate(cast(Sequence[Level], self.levels[place:]), place):
            x = level.up.alone(x, styles[:, 2 * at + 1])
            x = level.conv.alone(x, styles[:, 2 * at + 2])
            picture = doubled(picture).add_(level.paint(x, styles[:, 2 * at + 3]))
        return picture


class Halve(nn.Module):
    """Residual level of the discriminator: two convolutions and a low-pass filter, beside a 1x1 way."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the level."""
        super().__init__()
        self.first = EqualConv(inputs, inputs, 3)
        self.second = EqualConv(
            inputs, outputs, 3, gain=1.0
        )  # the rectifier's sqrt(2) and the sum's sqrt(1/2)
        self.beside = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.scale = math.sqrt(0.5 / inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, 2 H, 2 W) to (N, outputs, H, W)."""
        beside = F.conv2d(blurred(x, 1.0, 1, stride=2), self.beside * self.scale)
        x = blurred(leaky(self.first(x)), 1.0, 2)
        return beside.add_(leaky(F.conv2d(x, self.second.kernel(), self.second.bias, stride=2)))


class Discriminator(nn.Module):
    """Pictures, and what was asked for, to one number each: the larger, the more real."""

    def __init__(self, channels: int, widths: Sequence[int], conditions: int = 0) -> None:
        """Build every level.

        Args:
            channels: Channels of the pictures.
            widths: Filters of each level from 4 px on.
            conditions: Numbers of what may be asked for.
        """
        super().__init__()
        self.read = EqualConv(channels, widths[-1], 1)
        down = list(reversed(widths))
        self.levels = nn.ModuleList(Halve(a, b) for a, b in zip(down, down[1:], strict=False))
        self.conv = EqualConv(widths[0] + 1, widths[0], 3)
        self.dense = EqualLinear(widths[0] * FIRST * FIRST, widths[0])
        self.head = EqualLinear(widths[0], widths[0] if conditions else 1, gain=1.0)
        self.asked = Mapping(0, widths[0], conditions) if conditions else None

    def forward(self, pictures: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map (N, channels, S, S) and (N, conditions) to (N, 1)."""
        x = leaky(self.read(pictures))
        for level in self.levels:
            x = level(x)
        x = leaky(self.conv(minibatch_deviation(x)))
        x = self.head(leaky(self.dense(x.flatten(1))))
        if self.asked is None:
            return x
        return (x * self.asked(None, condition)).sum(1, keepdim=True) / math.sqrt(x.shape[1])


class LowPass(torch.autograd.Function):
    """The low-pass filter, which can be differentiated as often as one likes at the price of filtering.

    torch's second derivative of a convolution by groups goes through the groups one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float, padding: int, stride: int) -> Tensor:
        """Filter (N, C, H, W), padded with zeros, and take every `stride`-th place."""
        ctx.how, ctx.sides = (gain, padding, stride), x.shape[2:]
        return F.conv2d(x, _taps(x, gain), padding=padding, stride=stride, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        """Filter the gradient the other way round."""
        return cast(Tensor, Spread.apply(slopes[0], *ctx.how, ctx.sides)), None, None, None


class Spread(torch.autograd.Function):
    """The adjoint of `LowPass`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float, padding: int, stride: int, sides: torch.Size) -> Tensor:
        """Spread (N, C, h, w) over maps of the given sides."""
        ctx.how, kernel, groups = (gain, padding, stride), _taps(x, gain), x.shape[1]
        if stride == 1:
            return F.conv2d(x, kernel, padding=len(TAPS) - 1 - padding, groups=groups)
        rest = [
            side + 2 * padding - len(TAPS) - stride * (n - 1)
            for side, n in zip(sides, x.shape[2:], strict=True)
        ]
        return F.conv_transpose2d(x, kernel, None, stride, padding, rest, groups)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Filter the gradient."""
        return cast(Tensor, LowPass.apply(slopes[0], *ctx.how)), None, None, None, None


def _taps(x: Tensor, gain: float) -> Tensor:
    """Kernels (C, 1, 4, 4) of the filter for maps (N, C, H, W)."""
    taps = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS)
    return (torch.outer(taps, taps) * gain).expand(x.shape[1], 1, 4, 4)


def blurred(x: Tensor, gain: float, padding: int, bias: Tensor | None = None, *, stride: int = 1) -> Tensor:
    """Low-pass filter (N, C, H, W), padded with zeros: (N, C, (H + 2 * padding - 4) // stride + 1, ...)."""
    if bias is not None:
        return F.conv2d(x, _taps(x, gain), bias, padding=padding, stride=stride, groups=x.shape[1])
    return cast(Tensor, LowPass.apply(x, gain, padding, stride))


def doubled(picture: Tensor) -> Tensor:
    """Upsample (N, C, H, W) by 2 with the low-pass filter, zeros outside: (N, C, 2 H, 2 W).

    Its two phases have the weights 1/4 and 3/4 of linear interpolation, which differs at the edge only.
    """
    wide = F.interpolate(F.pad(picture, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    return wide[:, :, 2:-2, 2:-2]


def spaced(x: Tensor, weight: Tensor) -> Tensor:
    """Transposed convolution of stride 2 of (N, I, H, W) by kernels (O, I, 3, 3): (N, O, 2 H + 1, 2 W + 1).

    On a processor it is done as four convolutions: even places see the first and last row of the kernel, odd
    ones the middle row, and columns likewise. For small maps the kernels are the larger part, and are not
    moved: each place is multiplied by all nine of their places, and the products summed where they belong.
    """
    count, inputs, height, width = x.shape
    if x.is_cuda or torch.is_grad_enabled():
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    if count * height * width <= _FEW:
        places = x.permute(0, 2, 3, 1).reshape(count, height * width, inputs)
        products = F.linear(places, weight.permute(0, 2, 3, 1).reshape(-1, inputs))
        return F.fold(products.transpose(1, 2), (2 * height + 1, 2 * width + 1), 3, stride=2)
    out = torch.empty(
        (count, len(weight), 2 * height + 1, 2 * width + 1), dtype=x.dtype, device=x.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    turned = weight.flip(2, 3)
    for row in (0, 1):
        for column in (0, 1):
            part = turned[:, :, row::2, column::2]
            out[:, :, row::2, column::2] = F.conv2d(x, part, padding=(1 - row, 1 - column))
    return out
