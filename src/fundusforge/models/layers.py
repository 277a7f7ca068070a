"""Building blocks that several model families share."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ModulatedNorm(nn.Module):
    """Instance normalisation whose gain and bias come from a style vector (AdaIN).

    Huang and Belongie 2017, "Arbitrary style transfer in real-time with adaptive instance normalization", eq.
    8. A code that is merely concatenated at a network's input is removed by the next instance normalisation;
    here it acts after it. With `style` 0 the layer begins as plain instance normalisation with a learned
    affine map.
    """

    def __init__(self, channels: int, style: int) -> None:
        """Prepare for (N, channels, H, W) features and (N, style) style vectors."""
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.style = nn.Linear(style, 2 * channels, bias=False) if style else None
        if self.style is not None:
            nn.init.normal_(self.style.weight, std=0.05)

    def forward(self, features: Tensor, style: Tensor | None = None) -> Tensor:
        """Return features (N, C, H, W) normalised over H and W, then scaled and shifted by the style."""
        gain, bias = self.gain[None], self.bias[None]
        if self.style is not None:
            more_gain, more_bias = self.style(style).chunk(2, 1)  # (N, C) each
            gain, bias = gain + more_gain, bias + more_bias
        normal = F.instance_norm(features, eps=1e-5)
        return torch.addcmul(bias[..., None, None], normal, gain[..., None, None])


class LocalContrast(nn.Module):
    """Remove illumination and camera colour: subtract the local mean, divide by the local standard deviation.

    Means are Gaussian with a standard deviation of `sigma` pixels and take only pixels of the field of view,
    so that its rim leaves no halo. They are smooth, so they are found on a grid `step` times as coarse, which
    changes them by less than a hundredth and costs a fraction. There is nothing to learn. It always computes
    in single precision: the variance is a small difference of large numbers.
    """

    kernel: Tensor

    def __init__(self, sigma: float) -> None:
        """Prepare a separable kernel of three standard deviations to either side."""
        super().__init__()
        self.step = max(1, int(sigma / 8))
        deviation = sigma / self.step
        reach = int(3 * deviation)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
        self.register_buffer("kernel", line / line.sum(), persistent=False)

    def _blur(self, x: Tensor) -> Tensor:
        (channels, height, width), reach = x.shape[1:], len(self.kernel) // 2
        coarse = F.avg_pool2d(F.pad(x, (0, -width % self.step, 0, -height % self.step)), self.step)
        line = self.kernel.float().expand(channels, 1, -1)
        coarse = F.conv2d(coarse, line[:, :, :, None], padding=(reach, 0), groups=channels)
        coarse = F.conv2d(coarse, line[:, :, None, :], padding=(0, reach), groups=channels)
        fine = F.interpolate(coarse, scale_factor=self.step, mode="bilinear", align_corners=False)
        return fine[..., :height, :width]

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        """Map image (N, C, H, W) and field of view (N, 1, H, W) to local contrast (N, C, H, W), 0 outside."""
        channels, dtype = image.shape[1], image.dtype
        with torch.autocast(image.device.type, enabled=False):
            field = field.float()
            image = image.float() * field
            sums = self._blur(torch.cat([image, image.square(), field], 1))
            mean, square = (sums[:, : 2 * channels] / sums[:, -1:].clamp_min(1e-3)).chunk(2, 1)
            deviation = (square - mean.square()).clamp_min(0).add(1e-4).sqrt()
            return ((image - mean) / deviation.add(0.02) * field).to(dtype)


def fuse(net: nn.Module) -> None:
    """Fold batch normalisation into the convolution before it, in place: the same map in fewer passes.

    Only pairs within an `nn.Sequential` of a network in evaluation mode are folded.
    """
    for block in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for place, (conv, norm) in enumerate(pairwise(list(block))):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[place], block[place + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3x3 convolutions with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
