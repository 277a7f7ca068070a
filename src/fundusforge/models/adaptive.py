"""Random changes of pictures with their masks, for a discriminator that has few images to learn from.

Karras et al. 2020, "Training generative adversarial networks with limited data", appendix B: blits (flip,
quarter turn, shift by whole pixels), general geometry, colours. Each transform is made with probability p,
which training adapts; as long as p stays below about 0.8, generators do not learn to draw changed pictures
(section 2.2).

Every transform is a number that leaves the picture alone when it is 0, so what is not made is a 0. Geometry
becomes one matrix and one sampling, colour one matrix.

Other than in the paper, pictures are not upsampled by a wavelet filter before they are sampled: they are
smoothed as far as they shrink, and their edges mirrored rather than padded.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

ZOOM, DRIFT, BRIGHTNESS, CONTRAST, SATURATION = 0.2, 0.125, 0.2, 0.5, 1.0
"""Standard deviations: of log2 of the scales, of the shift in sides, of the added light, of log2 of contrast
and of log2 of saturation."""
SHIFT = 0.125
"""Furthest shift by whole pixels, in sides."""
TURNS = ("turned_before", "turned_after")
"""Rotations, which share their probability: either or both are made with probability p."""
NUMBERS = {
    "mirror": "mirror", "quarter": "quarter", "shift_x": "shift", "shift_y": "shift", "scale": "scale",
    "turned_before": "turned_before", "stretch": "stretch", "turned_after": "turned_after",
    "drift_x": "drift", "drift_y": "drift", "brightness": "brightness", "contrast": "contrast",
    "inverted": "inverted", "hue": "hue", "saturation": "saturation",
}  # fmt: skip
"""The numbers, in the order of their draws, and the transform each belongs to."""
TRANSFORMS = tuple(dict.fromkeys(NUMBERS.values()))
"""In the order in which they are made; also that of the draws that decide whether they are."""
DRAWS = len(TRANSFORMS) + len(NUMBERS)
"""Random numbers of one picture: first what is decided by, then what is made."""


def augment(
    pictures: Tensor, colours: int, strength: Tensor, draws: Tensor, *, mirror: bool = True
) -> Tensor:
    """Change each picture at random, as a function of its own draws and the strength alone.

    The second derivative by the pictures does not exist (`grid_sample` has none): a gradient penalty must be
    taken at the changed pictures, which are what the discriminator sees.

    Args:
        pictures: (N, C, H, W), about [-1, 1], of any floating type.
        colours: How many leading channels are red, green and blue: 3, or 0 if there are none, and then no
            colour is changed. The others, masks or contrasts, only move, and all move together.
        strength: () in [0, 1], the probability p of each transform; mirroring and inverting then toss a
            coin, and one quarter turn of four is none. No gradient reaches it.
        draws: (N, DRAWS) standard normal.
        mirror: Also exchange left and right. The mirror image of an eye is the other eye.

    Returns:
        (N, C, H, W) of the same type; a picture of which nothing is changed, bit for bit.

    Raises:
        ValueError: Another number of colours or draws.
    """
    if colours not in (0, 3) or pictures.shape[1] < colours:
        raise ValueError(f"colours must be 0 or 3 of the {pictures.shape[1]} channels, not {colours}")
    if draws.shape != (len(pictures), DRAWS):
        raise ValueError(f"draws must be ({len(pictures)}, {DRAWS}), not {tuple(draws.shape)}")
    numbers = decided(draws.detach().float(), strength.detach().float())
    if not mirror:
        numbers["mirror"] = torch.zeros_like(numbers["mirror"])
    kind = pictures.dtype
    x = pictures.to(torch.promote_types(kind, torch.float32))  # 8 bits cannot say where a pixel is
    place = geometry(numbers, *x.shape[-2:])
    x = torch.where(changes(place), moved(x, place), x)
    if colours:
        tint = colouring(numbers)
        x = torch.cat([torch.where(changes(tint), tinted(x[:, :3], tint), x[:, :3]), x[:, 3:]], 1)
    return x.to(kind)


def decided(draws: Tensor, strength: Tensor) -> dict[str, Tensor]:
    """Return the normal numbers (N,) of `NUMBERS`, 0 where a transform is not made.

    Args:
        draws: (N, DRAWS) standard normal.
        strength: () in [0, 1].
    """
    chances = torch.stack([strength, 1 - (1 - strength).sqrt()])
    limit, shared = cast(Tensor, torch.special.ndtri(chances)).unbind()
    made = {
        name: draw < (shared if name in TURNS else limit)
        for name, draw in zip(TRANSFORMS, draws[:, : len(TRANSFORMS)].unbind(1), strict=True)
    }
    return {
        name: torch.where(made[transform], draw, 0.0)
        for (name, transform), draw in zip(
            NUMBERS.items(), draws[:, len(TRANSFORMS) :].unbind(1), strict=True
        )
    }


def uniform(normal: Tensor) -> Tensor:
    """Return standard normal numbers as uniform ones in [-1, 1]; 0 stays 0."""
    return 2 * cast(Tensor, torch.special.ndtr(normal)) - 1


def geometry(numbers: dict[str, Tensor], height: int, width: int) -> Tensor:
    """Return where pixels come from: (N, 3, 3), from a place in the result to one in the picture.

    Places are in pixels from the centre, to the right and down; turns are counterclockwise. Each transform
    is made inversely, on the right of those before it.
    """
    n = numbers
    one, zero = torch.ones_like(n["mirror"]), torch.zeros_like(n["mirror"])

    def shift(x: Tensor, y: Tensor) -> Tensor:
        return matrix((one, zero, -x), (zero, one, -y), (zero, zero, one))

    def scale(x: Tensor, y: Tensor) -> Tensor:
        return matrix((1 / x, zero, zero), (zero, 1 / y, zero), (zero, zero, one))

    def turn(cosine: Tensor, sine: Tensor) -> Tensor:
        return matrix((cosine, -sine, zero), (sine, cosine, zero), (zero, zero, one))

    # -2 to 1 quarters, of which sine and cosine are whole numbers.
    quarter = math.pi / 2 * (2 * uniform(n["quarter"])).floor().clamp(max=1)
    before, after = math.pi * uniform(n["turned_before"]), math.pi * uniform(n["turned_after"])
    right, down = SHIFT * width * uniform(n["shift_x"]), SHIFT * height * uniform(n["shift_y"])
    zoom, stretch = torch.exp2(ZOOM * n["scale"]), torch.exp2(ZOOM * n["stretch"])
    found = scale(torch.where(n["mirror"] > 0, -one, one), one)
    for inverse in (
        turn(quarter.cos().round(), quarter.sin().round()),
        shift(right.round(), down.round()),
        scale(zoom, zoom),
        turn(before.cos(), before.sin()),
        scale(stretch, 1 / stretch),
        turn(after.cos(), after.sin()),
        shift(DRIFT * width * n["drift_x"], DRIFT * height * n["drift_y"]),
    ):
        found = product(found, inverse)
    return found


def moved(pictures: Tensor, place: Tensor) -> Tensor:
    """Sample pictures (N, C, H, W) where the matrices of `geometry` (N, 3, 3) say."""
    height, width = pictures.shape[-2:]
    x = torch.arange(width, device=place.device) - (width - 1) / 2
    y = torch.arange(height, device=place.device)[:, None] - (height - 1) / 2
    by_x, by_y, shift = place[:, :2, :, None, None].unbind(2)  # (N, 2, 1, 1) each
    from_x, from_y = (by_x * x + by_y * y + shift).unbind(1)  # (N, H, W) each, in pixels from the centre
    # In half sides, which is exact where the side is a power of 2; affine_grid rounds, also to TF32.
    grid = torch.stack([from_x * (2 / width), from_y * (2 / height)], -1).to(pictures.dtype)
    return F.grid_sample(smoothed(pictures, place), grid, padding_mode="reflection", align_corners=False)


def smoothed(pictures: Tensor, place: Tensor) -> Tensor:
    """Blur pictures (N, C, H, W) along each axis as far as the matrices (N, 3, 3) shrink them.

    Sampling between pixels is a tent, 1/6 pixels square of variance. One made of the pixels of the result is
    larger in the picture by the squared length of a row of the matrix; (a, 1 - 2 a, a) adds the difference,
    2 a, up to half the size, where a = 1/4 wipes out what alternates from pixel to pixel.
    """
    for row, axis in ((0, 3), (1, 2)):
        size = place[:, row, :2].square().sum(1)  # (N,)
        share = ((size - 1) / 12).clamp(0, 0.25).to(pictures.dtype)
        flow = share[:, None, None, None] * pictures.diff(dim=axis)
        before, after = ((1, 0), (0, 1)) if axis == 3 else ((0, 0, 1, 0), (0, 0, 0, 1))
        pictures = pictures + F.pad(flow, after) - F.pad(flow, before)
    return pictures


def colouring(numbers: dict[str, Tensor]) -> Tensor:
    """Return what becomes of colours: (N, 4, 4), of (red, green, blue, 1).

    All transforms keep apart what is grey in a colour, its part along (1, 1, 1), and what is not. Light is
    added to the grey part, which may be inverted; the other is turned by the hue and scaled by the
    saturation; contrast scales both. So their product can be written down.
    """
    n = numbers
    spread = torch.exp2(CONTRAST * n["contrast"])
    grey = torch.where(n["inverted"] > 0, -spread, spread)
    vivid, hue = spread * torch.exp2(SATURATION * n["saturation"]), math.pi * uniform(n["hue"])
    along, across = vivid * hue.cos(), vivid * hue.sin() / math.sqrt(3)
    mean = (grey - along) / 3
    light, zero = grey * BRIGHTNESS * n["brightness"], torch.zeros_like(mean)
    same, next_, last = along + mean, mean - across, mean + across
    return matrix(
        (same, next_, last, light),
        (last, same, next_, light),
        (next_, last, same, light),
        (zero, zero, zero, torch.ones_like(zero)),
    )


def tinted(colours: Tensor, tint: Tensor) -> Tensor:
    """Return colours (N, 3, H, W) by the matrices (N, 4, 4)."""
    red, green, blue, light = tint[:, :3, :, None, None].to(colours.dtype).unbind(2)  # (N, 3, 1, 1) each
    return light + red * colours[:, :1] + green * colours[:, 1:2] + blue * colours[:, 2:]


def matrix(*rows: tuple[Tensor, ...]) -> Tensor:
    """Return matrices (N, R, C) of R rows of C numbers (N,)."""
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices (N, I, J) and (N, J, K) in full precision: `@` may round to TF32 or bfloat16."""
    return (a[..., None] * b[:, None]).sum(2)


def changes(matrices: Tensor) -> Tensor:
    """Return which of the matrices (N, K, K) are not the identity: (N, 1, 1, 1)."""
    same = torch.eye(matrices.shape[1], device=matrices.device)
    return (matrices != same).flatten(1).any(1)[:, None, None, None]
