"""Convolution by 3x3 kernels with fewer multiplications, in plain operators, while nothing is learnt.

Lavin and Gray 2016, "Fast algorithms for convolutional neural networks": tiles of 6 by 6 pixels and the
kernel are carried to 36 numbers each, multiplied there, and carried back to 4 by 4 results. That is a quarter
of the multiplications, for more additions and memory traffic: it pays for many channels on a processor.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

OUT, TILE = 4, 6
"""Sides in pixels of a tile's results, and of what they are made from."""
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
"""Where the polynomials are evaluated, beside infinity: of three usual choices that with the least error."""
LEAST = 256
"""Channels from which it pays to carry tiles to and fro (measured on two cores with AVX-512)."""
_TOGETHER = 128
"""Tiles carried at a time, so that they stay near the processor."""


def pays(x: Tensor, kernel: Tensor) -> bool:
    """Whether `convolved` can do it, and sooner than `torch.nn.functional.conv2d`."""
    outputs, inputs, *sides = kernel.shape
    return (
        not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
        and (x.device.type, len(x), x.dtype, sides) == ("cpu", 1, torch.float32, [3, 3])
        and min(outputs, inputs) >= LEAST
        and all(side % OUT == 0 and side >= 64 for side in x.shape[2:])
    )


def convolved(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolve one image, padded with zeros to keep its size, as `conv2d(x, kernel, bias, padding=1)` does.

    Args:
        x: (1, I, H, W) float32, the sides multiples of 4.
        kernel: (O, I, 3, 3).
        bias: (O,).

    Returns:
        (1, O, H, W), channels last; equal to about 1e-5 of the largest value.
    """
    outputs, inputs = kernel.shape[:2]
    height, width = x.shape[2:]
    before, kernels, after = _carriers()
    wide = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)[0].contiguous()
    step = wide.stride()
    flat = kernels @ kernel.permute(2, 3, 0, 1).reshape(9, -1)
    turned = flat.view(TILE**2, outputs, inputs).transpose(1, 2)
    found = torch.empty(1, height, width, outputs)
    across = width // OUT
    rows = max(1, _TOGETHER // across) * OUT
    for top in range(0, height, rows):
        down = min(rows, height - top) // OUT
        tiles = wide.as_strided(
            (TILE, TILE, down, across, inputs),
            (*step[:2], OUT * step[0], OUT * step[1], 1),
            wide.storage_offset() + top * step[0],
        )
        carried = (before @ tiles.reshape(TILE**2, -1)).view(TILE**2, down * across, inputs)
        results = (after @ torch.bmm(carried, turned).view(TILE**2, -1)).view(OUT, OUT, down, across, outputs)
        place = found[0, top : top + down * OUT].view(down, OUT, across, OUT, outputs)
        torch.add(results.permute(2, 0, 3, 1, 4), bias, out=place)
    return found.permute(0, 3, 1, 2)


@functools.cache
def _carriers() -> tuple[Tensor, Tensor, Tensor]:
    """Matrices that carry flat tiles (36, 36), flat kernels (36, 9) and back to flat results (16, 36).

    Multiplying polynomials point by point, after Toom and Cook: evaluation, and its inverse transposed.
    """

    def evaluated(count: int) -> np.ndarray:
        powers = np.power.outer(np.array(POINTS), np.arange(count))
        return np.vstack([powers, np.eye(count)[-1]])

    whole = np.linalg.inv(evaluated(TILE)).T
    pair = whole, evaluated(TILE - OUT + 1), evaluated(OUT).T
    before, kernels, after = (torch.from_numpy(np.kron(side, side)).float() for side in pair)
    return before, kernels, after
