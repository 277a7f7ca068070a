"""Spatial and channel attention over whole feature maps, without the map of every place against every other.

Zhou et al. 2020 (DR-GAN), section II-B and figure 2, after Fu et al. 2019, "Dual attention network for scene
segmentation". Of features I, (C, L) with L = W H places, three 1x1 convolutions make I1 and I2, (C / d, L),
and I3, (C, L):

    a^s = softmax(I2' I1)    (L, L),    I^s = I + I3 a^s
    a^c = softmax(I I')      (C, C),    I^c = I + a^c I
    out = alpha conv(I^s) + beta conv(I^c)

The paper does not say along which side its softmax runs. Here it runs along the side that is then summed
over, as in Fu et al.: each column of a^s and each row of a^c sums to 1, so that what is added to a place is a
mean over all places, and to a channel a mean over all channels.

At 320x320 places a^s would have 10^10 numbers, 39 GiB. `attend` never makes it: torch's fused attention meets
it a tile at a time, with a running maximum and sum (Milakov and Gimelshein 2018, "Online normalizer
calculation for softmax"), and makes each tile anew on the way back (Dao et al. 2022, "FlashAttention"). The
numbers are those of the literal form up to rounding.
"""

# torch annotates its choice of kernels only in part.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
"""Kernels that never make the map."""
SMALL = 1 << 26
"""Numbers of a map that may be made after all, 256 MiB, where a device has no fused kernel for the shapes."""


class SpatialAttention(nn.Module):
    """Adds to each place the mean of what all places answer it: I^s of the paper."""

    def __init__(self, channels: int, reduction: int) -> None:
        """Prepare for (N, channels, H, W) features, compared by channels / reduction numbers or one."""
        super().__init__()
        compared = max(1, channels // reduction)
        self.ask = nn.Conv2d(channels, compared, 1)
        self.answer = nn.Conv2d(channels, compared, 1)
        self.value = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        ask, answer, value = (part(x).flatten(2) for part in (self.ask, self.answer, self.value))
        return x + attend(ask, answer, value).to(x.dtype).view(x.shape)


class SCA(nn.Module):
    """Spatial and channel attention: the weighted sum of both, each after one more 3x3 convolution.

    The paper names neither the size of that kernel (Fu et al.: 3) nor the weights; here they are learnt, and
    begin at one half each.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        """Prepare for (N, channels, H, W) features; `reduction` is the paper's d."""
        super().__init__()
        self.spatial = SpatialAttention(channels, reduction)
        self.places = nn.Conv2d(channels, channels, 3, padding=1)
        self.channels = nn.Conv2d(channels, channels, 3, padding=1)
        self.weights = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        alpha, beta = self.weights
        return alpha * self.places(self.spatial(x)) + beta * self.channels(channel_attention(x))


def channel_attention(x: Tensor) -> Tensor:
    """Add to each channel (N, C, H, W) the mean of all that go with it: I^c of the paper.

    In single precision: energies are sums over all places, beyond what half precision tells apart.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = x.float().flatten(2)  # (N, C, L)
        weights = (rows @ rows.mT).softmax(-1)  # (N, C, C)
        return x + (weights @ rows).to(x.dtype).view(x.shape)


def attend(ask: Tensor, answer: Tensor, value: Tensor) -> Tensor:
    """Mean of the values of all places, for each place by how well it goes with them.

    `value @ softmax(answer' @ ask, 1)` in single precision, with memory that grows with the places and not
    with their square, gradients included. Energies are not scaled, as the paper does not scale them.

    Args:
        ask: (N, K, L), of the places that ask; K at most C.
        answer: (N, K, M), of the places that answer.
        value: (N, C, M), what they answer.

    Returns:
        (N, C, L) float32.

    Raises:
        ValueError: The shapes do not fit each other.
        RuntimeError: The device has no fused kernel, and the map would be larger than `SMALL`.
    """
    more = value.shape[1] - ask.shape[1]
    if ask.shape[:2] != answer.shape[:2] or answer.shape[::2] != value.shape[::2] or more < 0:
        raise ValueError(
            "expected (N, K, L), (N, K, M) and (N, C, M) with K <= C, not "
            f"{tuple(ask.shape)}, {tuple(answer.shape)} and {tuple(value.shape)}"
        )
    small = ask.shape[0] * ask.shape[2] * answer.shape[2] <= SMALL
    with torch.autocast(ask.device.type, enabled=False):
        # Fused kernels want all rows equally long; zeros add nothing to an energy.
        query, key = (F.pad(part.float().mT, (0, more)).contiguous()[:, None] for part in (ask, answer))
        rows = value.float().mT.contiguous()[:, None]  # (N, 1, M, C)
        with sdpa_kernel([*FUSED, SDPBackend.MATH] if small else FUSED):
            return F.scaled_dot_product_attention(query, key, rows, scale=1.0)[:, 0].mT
