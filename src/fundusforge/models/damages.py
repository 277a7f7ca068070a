"""Damages of photographs that teach an encoder what a picture of a retina must not look like.

They are made on crops, by torch's own random numbers, on any device. Each tells also where it struck.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

BLACK = 0.05
"""Light, in [0, 1], below which a pixel counts as outside the field of view."""
_Found = tuple[Tensor, Tensor]
"""The damaged light (1, 3, H, W), and where and how strongly (1, 1, H, W), both in [0, 1]."""


def damaged(view: Tensor, kind: str, strength: float) -> tuple[Tensor, Tensor]:
    """Damage a view.

    Args:
        view: (3, H, W) in [-1, 1].
        kind: One of `DAMAGES`.
        strength: In (0, 1]; for vessels the share of the area in which they are damaged.

    Returns:
        (3, H, W) in [-1, 1], black where it was black except beside a blurred rim; and where it is damaged
        how strongly, (H, W) in [0, 1].
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown damage {kind!r}; known are {', '.join(DAMAGES)}")
    light = view[None].add(1).div(2)  # (1, 3, H, W) in [0, 1], black is 0
    found, where = _KINDS[kind](light, strength)
    return (found.clamp(0, 1) * 2 - 1)[0], where[0, 0]


def _blur(light: Tensor, strength: float) -> _Found:
    return _blurred(light, 4.0 * strength), _inside(light, strength)


def _colour(light: Tensor, strength: float) -> _Found:
    """Another balance of red, green and blue; the usual one is learnt from the photographs."""
    direction = F.normalize(torch.randn(3), dim=0).to(light.device)
    return light * (1 + 0.6 * strength * direction[:, None, None]), _inside(light, strength)


def _contrast(light: Tensor, strength: float) -> _Found:
    """Fine structure flattened, or overdone as by sharpening."""
    gain = 1 - 0.8 * strength if torch.rand(()) < 0.5 else 1 + 2.0 * strength
    ground = _blurred(light, 4.0)
    inside = _inside(light, 1.0)
    return light + inside * (gain - 1) * (light - ground), strength * inside


def _missing_vessels(light: Tensor, strength: float) -> _Found:
    return _without_lines(light, _patches(light, cell=48, share=strength))


def _broken_vessels(light: Tensor, strength: float) -> _Found:
    return _without_lines(light, _patches(light, cell=12, share=0.5 * strength))


def _false_vessels(light: Tensor, strength: float) -> _Found:
    """Pieces of the view's own vessels once more, turned and elsewhere: orphans and wrong crossings."""
    turned = light.rot90(int(torch.randint(1, 4, ())), (2, 3)) if light.shape[2] == light.shape[3] else light
    turned = turned.roll(torch.randint(turned.shape[2], (2,)).tolist(), (2, 3))
    smooth = _blurred(turned, 1.0)
    ratio = smooth / _closing(smooth, 13).clamp_min(BLACK)
    where = _lines(turned) * _patches(light, cell=32, share=strength) * _inside(light, 1.0)
    soft = _blurred(where, 1.0)
    return light * (1 - soft * (1 - ratio)), soft


def _checkerboard(light: Tensor, strength: float) -> _Found:
    """Squares of 1, 2 or 4 pixels, as strided convolutions leave them."""
    square = int(2 ** torch.randint(3, ()))
    rows, columns = (torch.arange(side, device=light.device) // square for side in light.shape[2:])
    pattern = ((rows[:, None] + columns) % 2 * 2 - 1).float()
    return light * (1 + 0.2 * strength * pattern), _inside(light, strength)


_KINDS: dict[str, Callable[[Tensor, float], _Found]] = {
    "blur": _blur,
    "colour": _colour,
    "contrast": _contrast,
    "missing_vessels": _missing_vessels,
    "broken_vessels": _broken_vessels,
    "false_vessels": _false_vessels,
    "checkerboard": _checkerboard,
}
DAMAGES = tuple(_KINDS)
"""What is done to photographs in training, in the order in which a head names it."""


# ---- parts -------------------------------------------------------------------------------------------------


def _inside(light: Tensor, strength: float) -> Tensor:
    """The strength inside the field of view, 0 outside, (N, 1, H, W)."""
    return strength * (light.amax(1, keepdim=True) > BLACK).float()


def _blurred(light: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    return transforms.gaussian_blur(light, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def _patches(light: Tensor, *, cell: int, share: float) -> Tensor:
    """A random mask (N, 1, H, W) of 0 and 1: blobs about `cell` pixels wide over a share of the area."""
    size = [max(2, round(side / cell)) for side in light.shape[2:]]
    noise = torch.rand(len(light), 1, *size, device=light.device)
    smooth = F.interpolate(noise, light.shape[2:], mode="bilinear", align_corners=False)
    borders = smooth.flatten(1).quantile(share, dim=1)[:, None, None, None]
    return (smooth <= borders).float()


def _lines(light: Tensor) -> Tensor:
    """Dark lines up to 13 pixels wide, found by a morphological closing: (N, 1, H, W) of 0 and 1."""
    green = _blurred(light[:, 1:2], 1.0)
    return (_closing(green, 13) - green > 0.03).float()


def _without_lines(light: Tensor, where: Tensor) -> _Found:
    """Fill dark lines with the light of their sides and the grain of the ground some way off."""
    lines = F.max_pool2d(_lines(light), 5, 1, 2)
    ground = (1 - lines) * (light[:, 1:2] > BLACK)
    sums = _blurred(torch.cat([light * ground, ground], 1), 5.0)
    fill = sums[:, :3] / sums[:, 3:].clamp_min(1e-3)
    shift = torch.randint(9, 32, (2,)).tolist()
    grain = ((light - fill) * ground).roll(shift, (2, 3))
    soft = _blurred(lines * where, 1.0) * (sums[:, 3:] > 0.02)
    return light + soft * (fill + grain - light), soft


def _closing(light: Tensor, side: int) -> Tensor:
    """Grey closing of (N, C, H, W) by a square: the least of the greatest values around."""
    for sign in (1, -1):
        light = sign * F.max_pool2d(sign * light, (side, 1), 1, (side // 2, 0))
        light = sign * F.max_pool2d(sign * light, (1, side), 1, (0, side // 2))
    return light
