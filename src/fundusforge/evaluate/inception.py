"""Inception-v3 as published for TensorFlow in 2015, with which the published Frechet distances are measured.

The network differs from the Inception-v3 of libraries: average pools do not count their padding, and the last
block pools by maxima. Weights have the names of torch-fidelity's `weights-inception-2015-12-05`. For speed,
batch normalisation is folded into the convolutions, 1x1 convolutions of one input are made in one, and
averages are taken after the 1x1 convolution, of fewer channels (both are linear, so their order is free).
The vectors equal torch-fidelity's to 1e-4 of their size; the resize equals it bit for bit.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fundusforge.images import Image

SIZE = 299
DIMENSIONS = 2048
Layer = tuple[Tensor, Tensor]
"""Weight and bias."""
_EPS = 1e-3
"""Of the batch normalisations."""
_FIRST = {
    "Mixed_5": ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool"),
    "Mixed_6": ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool"),
    "Mixed_6a": ("branch3x3dbl_1",),
    "Mixed_7": ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool"),
    "Mixed_7a": ("branch3x3_1", "branch7x7x3_1"),
    "Mixed_7c": ("branch1x1", "branch3x3_1", "branch3x3dbl_1"),
}
"""1x1 convolutions that read a block's own input, by block or by the blocks of one resolution."""


def tf1_resize(image: Image) -> NDArray[np.float32]:
    """Resize (H, W, 3) uint8 to (299, 299, 3) float32 as TensorFlow 1 did: bilinear, not antialiased.

    Place i of the result is place i * H / 299 of the picture (corners aligned neither way).
    """
    left, right, right_part = _places(image.shape[1])
    top, bottom, bottom_part = _places(image.shape[0])
    rows = np.unique(np.concatenate([top, bottom]))  # no others enter
    picked = image[rows]
    wide = picked[:, left].astype(np.float32)
    wide += (picked[:, right].astype(np.float32) - wide) * right_part[:, None]
    resized = wide[np.searchsorted(rows, top)]
    resized += (wide[np.searchsorted(rows, bottom)] - resized) * bottom_part[:, None, None]
    return resized


def _places(side: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return for each place of the result the pixels before and after it, and the part of the latter."""
    place = np.arange(SIZE, dtype=np.float32) * np.float32(side / SIZE)
    before = place.astype(np.intp)
    return before, np.minimum(before + 1, side - 1), place - before.astype(np.float32)


class Inception:
    """The network up to its 2,048 pooled features."""

    def __init__(self, weights: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Fold the weights.

        Raises:
            ValueError: A tensor is missing or does not fit.
        """
        self._device = device
        self._layers: dict[str, Layer] = {}
        self._widths: dict[str, list[int]] = {}
        try:
            layers = _folded(weights)
            for block in sorted({name.split(".")[0] for name in layers if name.startswith("Mixed")}):
                names = [f"{block}.{name}" for name in _FIRST.get(block, _FIRST.get(block[:-1], ()))]
                parts = [layers.pop(name) for name in names]
                layers[block] = torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts])
                self._widths[block] = [len(b) for _, b in parts]
            for name, (weight, bias) in layers.items():
                weight = weight.to(device).contiguous(memory_format=torch.channels_last)
                self._layers[name] = weight, bias.to(device)
            self(np.zeros((1, 75, 75, 3), np.float32))
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"not the weights of the 2015 Inception-v3 under torch-fidelity's names ({error})"
            ) from None

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.float32]) -> Tensor:
        """Return (N, 2048) features of (N, H, W, 3) float32 in [0, 255]."""
        x = torch.from_numpy(pixels).to(self._device).sub_(128).div_(128).permute(0, 3, 1, 2)
        x = self._conv(x, "Conv2d_1a_3x3", stride=2)
        x = self._conv(x, "Conv2d_2a_3x3")
        x = F.max_pool2d(self._conv(x, "Conv2d_2b_3x3", padding=1), 3, 2)
        x = F.relu_(self._pointwise(x, "Conv2d_3b_1x1"))
        x = F.max_pool2d(self._conv(x, "Conv2d_4a_3x3"), 3, 2)
        for name in "bcd":
            x = self._fine(x, f"Mixed_5{name}")
        x = self._to_middle(x)
        for name in "bcde":
            x = self._middle(x, f"Mixed_6{name}")
        x = self._to_coarse(x)
        x = self._coarse(self._coarse(x, "Mixed_7b"), "Mixed_7c")
        return x.mean((2, 3))

    def _conv(self, x: Tensor, name: str, *, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        return F.relu_(F.conv2d(x, *self._layers[name], stride, padding))

    def _pointwise(self, x: Tensor, name: str) -> Tensor:
        """Return a 1x1 convolution as the product of matrices that it is where channels lie side by side."""
        weight, bias = self._layers[name]
        return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)

    def _first(self, x: Tensor, block: str) -> list[Tensor]:
        """Return the block's 1x1 convolutions of its input, rectified but for the pooled branch, if any."""
        parts = self._pointwise(x, block).split_with_sizes(self._widths[block], 1)
        return [F.relu(part) for part in parts[:3]] + [_average(part) for part in parts[3:]]

    def _fine(self, x: Tensor, block: str) -> Tensor:
        """35 x 35: 1x1, 5x5 and twice 3x3."""
        one, five, three, pool = self._first(x, block)
        five = self._conv(five, f"{block}.branch5x5_2", padding=2)
        three = self._conv(three, f"{block}.branch3x3dbl_2", padding=1)
        three = self._conv(three, f"{block}.branch3x3dbl_3", padding=1)
        return torch.cat([one, five, three, pool], 1)

    def _to_middle(self, x: Tensor) -> Tensor:
        """35 x 35 to 17 x 17."""
        (twice,) = self._first(x, "Mixed_6a")
        twice = self._conv(twice, "Mixed_6a.branch3x3dbl_2", padding=1)
        twice = self._conv(twice, "Mixed_6a.branch3x3dbl_3", stride=2)
        return torch.cat([self._conv(x, "Mixed_6a.branch3x3", stride=2), twice, F.max_pool2d(x, 3, 2)], 1)

    def _middle(self, x: Tensor, block: str) -> Tensor:
        """17 x 17: 1x1, 7x7 in two parts, and twice 7x7 in four."""
        one, seven, twice, pool = self._first(x, block)
        row, column = (0, 3), (3, 0)
        seven = self._conv(seven, f"{block}.branch7x7_2", padding=row)
        seven = self._conv(seven, f"{block}.branch7x7_3", padding=column)
        for place, padding in enumerate((column, row, column, row), 2):
            twice = self._conv(twice, f"{block}.branch7x7dbl_{place}", padding=padding)
        return torch.cat([one, seven, twice, pool], 1)

    def _to_coarse(self, x: Tensor) -> Tensor:
        """17 x 17 to 8 x 8."""
        three, seven = self._first(x, "Mixed_7a")
        three = self._conv(three, "Mixed_7a.branch3x3_2", stride=2)
        seven = self._conv(seven, "Mixed_7a.branch7x7x3_2", padding=(0, 3))
        seven = self._conv(seven, "Mixed_7a.branch7x7x3_3", padding=(3, 0))
        seven = self._conv(seven, "Mixed_7a.branch7x7x3_4", stride=2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def _coarse(self, x: Tensor, block: str) -> Tensor:
        """8 x 8: 1x1, 3x3 side by side in two parts, the same after another 3x3."""
        one, three, twice, *pool = self._first(x, block)
        if not pool:  # the last block of the published graph pools by maxima, which 1x1 must not precede
            pool = [F.relu_(self._pointwise(F.max_pool2d(x, 3, 1, 1), f"{block}.branch_pool"))]
        twice = self._conv(twice, f"{block}.branch3x3dbl_2", padding=1)
        pairs = [
            self._conv(branch, f"{block}.{name}{part}", padding=padding)
            for branch, name in ((three, "branch3x3_2"), (twice, "branch3x3dbl_3"))
            for part, padding in (("a", (0, 1)), ("b", (1, 0)))
        ]
        return torch.cat([one, *pairs, *pool], 1)


def _average(x: Tensor) -> Tensor:
    return F.relu_(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


def _folded(weights: Mapping[str, Tensor]) -> dict[str, Layer]:
    """Return weight and bias of every convolution by name, batch normalisation folded in."""
    layers: dict[str, Layer] = {}
    for name in [key.removesuffix(".conv.weight") for key in weights if key.endswith(".conv.weight")]:
        mean, variance = weights[f"{name}.bn.running_mean"], weights[f"{name}.bn.running_var"]
        gain = weights[f"{name}.bn.weight"].double() / (variance.double() + _EPS).sqrt()
        bias = weights[f"{name}.bn.bias"].double() - mean.double() * gain
        weight = weights[f"{name}.conv.weight"].double() * gain[:, None, None, None]
        layers[name] = weight.float(), bias.float()
    return layers


def read(images: Sequence[Image]) -> NDArray[np.float32]:
    """Return (N, 299, 299, 3) float32 in [0, 255] of pictures of any size."""
    return np.stack([tf1_resize(image) for image in images])
