"""The second style-based networks as their paper writes them, for comparison (Karras et al. 2020).

Every image has kernels of its own (eq. 1 and 3), applied in a grouped convolution, transposed with stride 2
where the map is doubled; the low-pass filter, noise, bias, rectifier and its gain are passes of their own.
Maps are in torch's default layout. Weights go by their published names (`fundusforge.models.published`), with
their constant scales applied at each use. Steps work in place where that changes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
GAIN, LAYERS, RATE = math.sqrt(2), 8, 0.01


def rectified(x: Tensor, bias: Tensor) -> Tensor:
    """Bias, leaky rectifier and gain of the fresh output of a layer."""
    x = x.add_(bias[:, None, None] if x.ndim == 4 else bias)
    return F.leaky_relu(x, 0.2).mul_(GAIN)


def filtered(x: Tensor, padding: int, *, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Low-pass filter of 1, 3, 3, 1 in rows and columns."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) * (gain / 64)
    kernel = kernel.expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, padding=padding, stride=stride, groups=x.shape[1])


def upsampled(x: Tensor) -> Tensor:
    """Zeros between pixels, then the filter; the zeros around the map are made with them."""
    count, channels, height, width = x.shape
    wide = x.new_zeros(count, channels, 2 * height + 3, 2 * width + 3)
    wide[:, :, 2:-1:2, 2:-1:2] = x
    return filtered(wide, 0, gain=4.0)


def linear(p: Weights, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
    """Linear layer whose weights and biases are scaled at each use."""
    weight = p[f"{name}.weight"]
    return F.linear(x, weight * (rate / math.sqrt(weight.shape[1])), p[f"{name}.bias"] * rate)


def mapped(p: Weights, latent: Tensor | None, condition: Tensor | None = None) -> Tensor:
    """Styles (N, style)."""

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()

    parts = [] if latent is None else [norm(latent)]
    if condition is not None:
        parts.append(norm(linear(p, "mapping.embed", condition)))
    x = torch.cat(parts, 1)
    for layer in range(LAYERS):
        x = F.leaky_relu(linear(p, f"mapping.fc{layer}", x, RATE), 0.2).mul_(GAIN)
    return x


def styled(p: Weights, name: str, x: Tensor, style: Tensor, *, up: bool = False) -> Tensor:
    """3x3 convolution with a modulated and demodulated kernel for each image."""
    scales = linear(p, f"{name}.affine", style)
    kernels = p[f"{name}.weight"] * scales[:, None, :, None, None]  # (N, O, I, 3, 3)
    kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    count, outputs, inputs = kernels.shape[:3]
    x = x.reshape(1, count * inputs, *x.shape[2:])
    if up:
        kernels = kernels.transpose(1, 2).reshape(count * inputs, outputs, 3, 3)
        x = F.conv_transpose2d(x, kernels, stride=2, groups=count)
        x = filtered(x.view(count, outputs, *x.shape[2:]), 1, gain=4.0)
    else:
        x = F.conv2d(x, kernels.view(count * outputs, inputs, 3, 3), padding=1, groups=count)
        x = x.view(count, outputs, *x.shape[2:])
    x = x.add_(p[f"{name}.noise_const"] * p[f"{name}.noise_strength"])
    return rectified(x, p[f"{name}.bias"])


def painted(p: Weights, name: str, x: Tensor, style: Tensor) -> Tensor:
    """1x1 convolution to the picture with a modulated kernel for each image."""
    weight = p[f"{name}.weight"]
    scales = linear(p, f"{name}.affine", style) / math.sqrt(weight.shape[1])
    kernels = weight * scales[:, None, :, None, None]
    count, outputs, inputs = kernels.shape[:3]
    flat = x.reshape(1, count * inputs, *x.shape[2:])
    found = F.conv2d(flat, kernels.view(count * outputs, inputs, 1, 1), groups=count)
    return found.view(count, outputs, *x.shape[2:]).add_(p[f"{name}.bias"][:, None, None])


def drawn(p: Weights, style: Tensor) -> Tensor:
    """Pictures (N, channels, S, S) of styles (N, style), the same in all layers."""
    x = p["synthesis.b4.const"].expand(len(style), -1, -1, -1)
    x = styled(p, "synthesis.b4.conv1", x, style)
    picture, side = painted(p, "synthesis.b4.torgb", x, style), 8
    while f"synthesis.b{side}.conv0.weight" in p:
        x = styled(p, f"synthesis.b{side}.conv0", x, style, up=True)
        x = styled(p, f"synthesis.b{side}.conv1", x, style)
        picture = upsampled(picture).add_(painted(p, f"synthesis.b{side}.torgb", x, style))
        side *= 2
    return picture


def equalized(p: Weights, name: str, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """Convolution whose weights are scaled at each use, without bias."""
    weight = p[f"{name}.weight"]
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)


def deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append how much the images of a batch of at most `group` differ."""
    assert len(x) <= group
    spread = ((x - x.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
    return torch.cat([x, spread.expand(len(x), 1, *x.shape[2:])], 1)


def judged(p: Weights, pictures: Tensor, condition: Tensor | None = None) -> Tensor:
    """Scores (N, 1) of pictures."""
    side = pictures.shape[-1]
    x = rectified(equalized(p, f"b{side}.fromrgb", pictures), p[f"b{side}.fromrgb.bias"])
    while side > 4:
        name = f"b{side}"
        beside = equalized(p, f"{name}.skip", filtered(x, 1, stride=2))
        x = rectified(equalized(p, f"{name}.conv0", x, padding=1), p[f"{name}.conv0.bias"])
        x = equalized(p, f"{name}.conv1", filtered(x, 2), stride=2)
        x = rectified(x, p[f"{name}.conv1.bias"]).add_(beside).mul_(math.sqrt(0.5))
        side //= 2
    x = rectified(equalized(p, "b4.conv", deviation(x), padding=1), p["b4.conv.bias"])
    x = F.leaky_relu(linear(p, "b4.fc", x.flatten(1)), 0.2).mul_(GAIN)
    x = linear(p, "b4.out", x)
    if condition is None:
        return x
    return (x * mapped(p, None, condition)).sum(1, keepdim=True) / math.sqrt(x.shape[1])
