"""Random changes of one image and its masks together, by torchvision's `transforms.v2` functions.

Draws come from a NumPy generator handed in, never from global state, so samples may be prepared in any thread
and in any order. Geometry works on a window just large enough for the crop, not on the whole image.
"""

# torch and torchvision annotate themselves only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from fundusforge.models.recipe import View

TILT = 8.0
"""Most that `trees` augmentation turns, degrees: heads are not held straighter."""
AFFINE_SHARE = 0.5
"""Share of samples that are rotated by any angle and zoomed; the others keep their pixels as they are, since
interpolation blurs thin vessels, and are only flipped and turned by right angles."""
ELASTIC_SHARE = 0.1
SHIFT, ZOOM, ANGLE = 0.0625, 0.1, 5.0
"""Most of what `classification` augmentation does: parts of the side, of the size, and degrees (Kim et al.
2022)."""


@dataclass(frozen=True)
class Sample:
    """Image (3, H, W), masks (C, H, W), field of view (1, H, W): uint8 as stored, float32 in [0, 1] later.

    Magnetic-resonance contrasts (K, H, W) in place of the image are float32 from the start.
    """

    image: Tensor
    masks: Tensor
    field_of_view: Tensor

    @property
    def layers(self) -> Tensor:
        """Masks and field of view as one stack (C + 1, H, W)."""
        return torch.cat([self.masks, self.field_of_view])

    def window(self, top: int, left: int, height: int, width: int) -> Sample:
        """Cut a window out, zeros where it leaves the image."""
        return Sample(
            *(_window(t, top, left, height, width) for t in (self.image, self.masks, self.field_of_view))
        )


def _window(tensor: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    rows, columns = tensor.shape[-2:]
    inside = tensor[
        ..., max(0, top) : max(0, min(rows, top + height)), max(0, left) : max(0, min(columns, left + width))
    ]
    above, before = min(height, max(0, -top)), min(width, max(0, -left))
    below, behind = height - above - inside.shape[-2], width - before - inside.shape[-1]
    return (
        functional.pad(inside, (before, behind, above, below)) if above + before + below + behind else inside
    )


def draw(sample: Sample, view: View, rng: np.random.Generator) -> Sample:
    """Return one random view of a stored sample.

    Args:
        sample: Stored image, masks and field of view, uint8 of 0 to 255.
        view: What the model wants; its `crop`, `focus`, `augment` and `scale` count here.
        rng: Source of every draw.

    Returns:
        float32 in [0, 1], the image black outside the field of view if anything was changed; outlined
        structures and the field of view are 0 or 1, unless the view wants their coverage. Crops are centred
        on a point inside the field of view, or near a structure.
    """
    geometry = _Geometry.draw(view, rng)
    if view.crop:
        side = geometry.side(view.crop)
        row, column = _centre(sample, view, rng)
        sample = sample.window(row - side // 2, column - side // 2, side, side)
    sample = Sample(*(_unit(layer) for layer in (sample.image, sample.masks, sample.field_of_view)))
    sample = geometry.apply(sample, view.crop, smooth=view.coverage)
    if view.augment == "segmentation":
        if rng.random() < ELASTIC_SHARE:
            sample = _elastic(sample, rng)
        sample = replace(sample, image=_recolour(sample.image, rng))
    if view.augment == "trees":
        sample = _elastic(sample, rng, smooth=view.coverage, reach=0.01, knots=4)
    if view.augment == "classification" and view.tint:
        sample = replace(sample, image=_tint(sample.image, rng))
    if view.augment not in {"none", "mirror"}:  # interpolation and noise reach over the rim
        sample = replace(sample, image=sample.image * sample.field_of_view)
    return sample


def _unit(layer: Tensor) -> Tensor:
    """Bring stored values of 0 to 255 to 0 to 1; contrasts are stored as they are."""
    return layer if layer.is_floating_point() else layer.float() / 255.0


def _centre(sample: Sample, view: View, rng: np.random.Generator) -> tuple[int, int]:
    """Where to crop: near a structure as often as the view says, else anywhere inside the field of view."""
    if view.focus and view.crop and rng.random() < view.focus:
        present = [mask for mask in sample.masks if mask.any()]
        if present:
            mask = present[int(rng.integers(len(present)))].numpy()
            pixels = np.flatnonzero(mask)
            row, column = divmod(int(pixels[rng.integers(len(pixels))]), mask.shape[1])
            reach = view.crop // 3
            down, right = rng.integers(-reach, reach + 1, 2).tolist()
            return row + down, column + right
    return _point_inside(sample.field_of_view[0], rng)


def _point_inside(field_of_view: Tensor, rng: np.random.Generator) -> tuple[int, int]:
    """A random point of the field of view; of the whole image where the field of view is (nearly) empty."""
    height, width = field_of_view.shape
    row, column = height // 2, width // 2
    for _ in range(100):
        row, column = int(rng.integers(height)), int(rng.integers(width))
        if field_of_view[row, column]:
            break
    return row, column


@dataclass(frozen=True)
class _Geometry:
    """Flips, quarter turns, and perhaps a rotation, a zoom and a shift."""

    flip: bool = False
    turns: int = 0
    """Quarter turns."""
    angle: float = 0.0
    """Degrees."""
    zoom: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """To the right and down, in parts of the side."""

    @staticmethod
    def draw(view: View, rng: np.random.Generator) -> _Geometry:
        if view.augment == "none":
            return _Geometry()
        if view.augment == "mirror":
            return _Geometry(flip=rng.random() < 0.5)
        if view.augment == "classification":
            flip, turns = rng.random() < 0.5, 2 * int(view.vertical and rng.random() < 0.5)
            angle, zoom = rng.uniform(-ANGLE, ANGLE), rng.uniform(1 - ZOOM, 1 + ZOOM)
            right, down = rng.uniform(-SHIFT, SHIFT, 2).tolist()
            return _Geometry(flip, turns, angle, zoom, (right, down))
        if view.augment == "trees":
            angle, zoom = rng.uniform(-TILT, TILT), rng.uniform(1 - ZOOM, 1 + ZOOM)
            right, down = rng.uniform(-SHIFT, SHIFT, 2).tolist()
            return _Geometry(rng.random() < 0.5, 0, angle, zoom, (right, down))
        low, high = view.scale
        exact = rng.random() >= AFFINE_SHARE
        if view.augment == "translation":
            # A fundus has an upright: left and right eyes mirror each other, but no eye stands on its head.
            if exact:
                return _Geometry(flip=rng.random() < 0.5)
            return _Geometry(rng.random() < 0.5, 0, rng.uniform(-10.0, 10.0), rng.uniform(0.95, 1.05))
        flip, turns = rng.random() < 0.5, int(rng.integers(4))
        if exact and low <= 1.0 <= high:
            return _Geometry(flip, turns)
        return _Geometry(
            flip, turns, rng.uniform(-45.0, 45.0), math.exp(rng.uniform(math.log(low), math.log(high)))
        )

    def side(self, crop: int) -> int:
        """Side of the window that a crop needs after rotation and zoom."""
        if self.angle == 0.0 and self.zoom == 1.0:
            return crop
        turn = math.radians(abs(self.angle))
        needed = math.ceil(crop / self.zoom * (math.cos(turn) + math.sin(turn))) + 2
        return max(crop, needed + (needed - crop) % 2)

    def apply(self, sample: Sample, crop: int | None, *, smooth: bool) -> Sample:
        """Move image, masks and field of view alike, the latter two `smooth` or as outlines."""
        image, layers = sample.image, sample.layers
        how = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST
        if self.flip:
            image, layers = transforms.horizontal_flip(image), transforms.horizontal_flip(layers)
        if self.turns:
            image, layers = image.rot90(self.turns, (-2, -1)), layers.rot90(self.turns, (-2, -1))
        if self.angle != 0.0 or self.zoom != 1.0:
            image = self._turn(image, InterpolationMode.BILINEAR)
            layers = self._turn(layers, how)
            if crop:
                image, layers = transforms.center_crop(image, [crop]), transforms.center_crop(layers, [crop])
        return Sample(image, layers[:-1], layers[-1:])

    def _turn(self, layers: Tensor, how: InterpolationMode) -> Tensor:
        """Rotate and zoom about the middle, and shift; zeros from outside."""
        moved = [part * layers.shape[-1] for part in self.shift]
        return transforms.affine(layers, self.angle, moved, self.zoom, [0.0, 0.0], interpolation=how)


def _elastic(
    sample: Sample, rng: np.random.Generator, *, smooth: bool = False, reach: float = 0.025, knots: int = 5
) -> Sample:
    """Warp by a smooth random field, masks `smooth` or as outlines.

    The standard deviation of what it moves its `knots` x `knots` knots by is `reach` half sides: 0.025 moves
    pixels by up to about 3 % of the side.
    """
    how = InterpolationMode.BILINEAR if smooth else InterpolationMode.NEAREST
    height, width = sample.image.shape[-2:]
    coarse = torch.from_numpy(rng.normal(0.0, reach, (1, 2, knots, knots)).astype(np.float32))
    fine = functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
    field = fine.permute(0, 2, 3, 1)  # (1, H, W, 2)
    layers = transforms.elastic(sample.layers, field, interpolation=how)
    image = transforms.elastic(sample.image, field, interpolation=InterpolationMode.BILINEAR)
    return Sample(image, layers[:-1], layers[-1:])


def _recolour(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast, colours, gamma, sharpness, resolution and noise, each sometimes."""
    gains = torch.from_numpy(rng.uniform(0.9, 1.1, (3, 1, 1)).astype(np.float32))
    changes: tuple[tuple[float, Callable[[Tensor], Tensor]], ...] = (
        (0.5, lambda x: transforms.adjust_brightness(x, rng.uniform(0.75, 1.3))),
        (0.5, lambda x: transforms.adjust_contrast(x, rng.uniform(0.75, 1.3))),
        (0.5, lambda x: transforms.adjust_gamma(x, math.exp(rng.uniform(-0.35, 0.35)))),
        (0.3, lambda x: transforms.adjust_saturation(x, rng.uniform(0.5, 1.4))),
        (0.2, lambda x: transforms.adjust_hue(x, rng.uniform(-0.03, 0.03))),
        (0.3, lambda x: (x * gains).clamp(0.0, 1.0)),
        (0.15, lambda x: transforms.gaussian_blur(x, [5, 5], [rng.uniform(0.3, 1.2)])),
        (0.2, lambda x: _coarser(x, rng.uniform(1.2, 2.5))),
        (0.2, lambda x: _noisy(x, rng)),
    )
    for share, change in changes:
        if rng.random() < share:
            image = change(image)
    return image


def _tint(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change the strength of each colour by up to a tenth, and gamma by as much."""
    gains = torch.from_numpy(rng.uniform(0.9, 1.1, (3, 1, 1)).astype(np.float32))
    return (image * gains).clamp(0.0, 1.0).pow(rng.uniform(0.9, 1.1))


def _coarser(image: Tensor, factor: float) -> Tensor:
    """The image as a camera of fewer pixels would give it, at its size."""
    size = [max(1, round(side / factor)) for side in image.shape[-2:]]
    few = transforms.resize(image, size, antialias=True)
    return transforms.resize(few, list(image.shape[-2:]), antialias=False).clamp(0.0, 1.0)


def _noisy(image: Tensor, rng: np.random.Generator) -> Tensor:
    noise = rng.standard_normal(tuple(image.shape), np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return (image + torch.from_numpy(noise)).clamp(0.0, 1.0)
