"""Features of the retina, learnt without labels: a small encoder for distances, graders and discriminators.

Instances are told apart by their views as in SimCLR (Chen et al. 2020, "A simple framework for contrastive
learning of visual representations", eq. 1), with two differences that suit judging images:

- views are crops, flips and quarter turns only, which keep every pixel: nothing is blurred, recoloured or
  interpolated, so the features have no reason to overlook it;
- each eye enters twice, as it is and damaged (blurred, recoloured, without some of its vessels or with gaps
  in them, with a checkerboard). The damaged one is another instance, the hardest negative of the first, and a
  linear head on the features says what was done to it and how strongly.

An `Encoder` is one call, (N, 3, H, W) in [-1, 1] to (N, D); size and normalisation are part of it:

    file = Path("runs/retina/model.safetensors")
    tensors, metadata = load_model(file, kind="selfsupervised")  # fundusforge.training.checkpoint
    encoder = Encoder(from_json(SelfSupervisedConfig, metadata["config"]))
    own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    fill(encoder, own, where=file)
    features = encoder.eval()(images)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from fundusforge.models.recipe import Phase, View

DAMAGES = ("blur", "colour", "missing_vessels", "broken_vessels", "checkerboard")
"""What is done to the damaged instance, in the order of the head's outputs."""
WEAKEST = 0.15
"""Least strength of a damage in training; the most is 1."""


@dataclass(frozen=True)
class SelfSupervisedConfig:
    """Features learnt without labels, for distances between sets of images and to start other models from."""

    kind: Literal["selfsupervised"] = "selfsupervised"
    size: int = 512
    """Side in pixels at which the encoder reads whole images, in training and after."""
    crop: int = 160
    """Side of the random training crops, in pixels."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels after each halving of the resolution; the last is the number of features."""
    projection: int = 128
    """Numbers per view in which instances are compared."""
    temperature: float = 0.2
    """Softness of the comparison."""
    damage_weight: float = 1.0
    """Weight of naming the damage against telling instances apart."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""

    def __post_init__(self) -> None:
        """Refuse crops larger than the image or smaller than one feature."""
        least = 2 ** len(self.widths)
        if len(self.widths) < 2 or not least <= self.crop <= self.size:
            raise ValueError(f"crop must be between {least} and size, {self.size}, not {self.crop}")

    def build(self) -> SelfSupervised:
        """Return the recipe with fresh networks."""
        return SelfSupervised(self)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        """Keep the number of channels."""
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        return F.relu(x + self.norm(self.second(self.first(x))))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Encoder(nn.Module):
    """Small residual network; batch statistics, since normalising each image would hide its colours."""

    def __init__(self, c: SelfSupervisedConfig) -> None:
        """Build a halving convolution per width, each but the first two followed by a residual block."""
        super().__init__()
        self.config, self.size, self.features = c, c.size, c.widths[-1]
        stages: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip((3, *c.widths), c.widths, strict=False)):
            stages.append(_conv(inputs, outputs, stride=2))
            if level > 1 or level == len(c.widths) - 1:
                stages.append(Residual(outputs))
        self.stages = nn.Sequential(*stages)

    def forward(self, images: Tensor) -> Tensor:
        """Map whole images (N, 3, H, W) in [-1, 1], of any one size, to features (N, D)."""
        if images.shape[1:2] != (3,) or images.dim() != 4:
            raise ValueError(f"expected images (N, 3, H, W), not {tuple(images.shape)}")
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return self.maps(images).mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) in [-1, 1] to features in place (N, D, H / 2^levels, W / 2^levels)."""
        # Black becomes 0, as the padding of the convolutions is.
        return self.stages(images + 1.0)


class Head(nn.Module):
    """What the encoder is trained with: projections to compare, and the strength of each damage."""

    def __init__(self, features: int, projection: int) -> None:
        """Two layers for the comparison, one for the damage, which must be readable from the features."""
        super().__init__()
        self.project = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, projection)
        )
        self.damage = nn.Linear(features, len(DAMAGES))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (N, D) to unit projections (N, P) and logits of strengths (N, damages)."""
        return F.normalize(self.project(features), dim=1), self.damage(features)


class SelfSupervised:
    """Recipe: one phase, AdamW, telling instances apart and naming their damage."""

    def __init__(self, c: SelfSupervisedConfig) -> None:
        """Build networks and optimizer."""
        self.config = c
        encoder = Encoder(c)
        self.nets = nn.ModuleDict({"encoder": encoder, "head": Head(encoder.features, c.projection)})
        optimizer = torch.optim.AdamW(self.nets.parameters(), c.lr, weight_decay=c.weight_decay)
        self.phases = (Phase("main", ("encoder", "head"), optimizer),)
        self.ema = ("encoder", "head")
        self.view = View(size=c.size)

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Contrastive loss over views, and cross-entropy of the damages' strengths."""
        views, strengths = instances(batch["image"], self.config.crop)
        projections, damage = _read(self.nets, views)
        logits = _similarities(projections) / self.config.temperature
        naming = F.binary_cross_entropy_with_logits(damage, strengths.repeat(2, 1))
        return {
            "contrast": F.cross_entropy(logits, _partners(len(logits), logits.device)),
            "damage": self.config.damage_weight * naming,
        }

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Images above; below, how strongly the encoder answers at each place."""
        image = batch["image"]
        strength = cast(Encoder, nets["encoder"]).maps(image).norm(dim=1, keepdim=True)
        strength = strength / strength.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
        shown = F.interpolate(strength, image.shape[2:]).expand_as(image)
        return torch.cat([image, shown * 2 - 1], 2)


@torch.no_grad()
def pretext_scores(nets: nn.ModuleDict, c: SelfSupervisedConfig, images: Tensor) -> dict[str, float]:
    """Return how well networks do what they were trained for.

    Args:
        nets: Encoder and head, in evaluation mode.
        c: Their configuration.
        images: (N, 3, S, S) in [-1, 1].

    Returns:
        `retrieval`, the share of views whose nearest other view is of the same instance, and `damage_named`,
        the share of views of damaged instances whose damage has the highest logit.
    """
    views, strengths = instances(images, c.crop)
    projections, damage = _read(nets, views)
    near = _similarities(projections).argmax(1)
    truth = strengths.repeat(2, 1)
    damaged = truth.amax(1) > 0
    named = damage.argmax(1)[damaged] == truth.argmax(1)[damaged]
    found = near == _partners(len(near), near.device)
    return {"retrieval": found.float().mean().item(), "damage_named": named.float().mean().item()}


def _read(nets: nn.ModuleDict, views: Tensor) -> tuple[Tensor, Tensor]:
    """Map views (2, M, 3, H, W) to projections (2M, P) and logits of damages (2M, damages)."""
    return nets["head"](cast(Encoder, nets["encoder"]).maps(views.flatten(0, 1)).mean((2, 3)))


def _similarities(projections: Tensor) -> Tensor:
    """Cosines between all views (2M, 2M), a view with itself left out."""
    cosines = projections.float() @ projections.float().T
    return cosines.masked_fill(torch.eye(len(cosines), dtype=torch.bool, device=cosines.device), -1e4)


def _partners(count: int, device: torch.device) -> Tensor:
    """The other view of each of (2M,) views, of which the second ones follow the first."""
    return torch.arange(count, device=device).roll(count // 2)


# ---- views and damages -------------------------------------------------------------------------------------


def instances(images: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Cut two views of every image as it is and damaged, by torch's own random numbers.

    Args:
        images: (N, 3, S, S) in [-1, 1].
        crop: Side of the views.

    Returns:
        Views (2, 2N, 3, crop, crop), the damaged instances after the others, and the strengths of the damages
        (2N, damages) in [0, 1], 0 where nothing was done.
    """
    count = len(images)
    pairs = [torch.stack([_cut(image, crop), _cut(image, crop)]) for image in images.repeat(2, 1, 1, 1)]
    kinds = (torch.randperm(count) + int(torch.randint(len(DAMAGES), ()))) % len(DAMAGES)
    amounts = WEAKEST + (1 - WEAKEST) * torch.rand(count)
    strengths = torch.zeros(2 * count, len(DAMAGES))
    for place, (kind, amount) in enumerate(zip(kinds.tolist(), amounts.tolist(), strict=True), count):
        pairs[place] = damaged(pairs[place], DAMAGES[kind], amount)
        strengths[place, kind] = amount
    return torch.stack(pairs, 1), strengths.to(images.device)


def _cut(image: Tensor, crop: int) -> Tensor:
    """A random crop (3, crop, crop), flipped and turned by right angles; its pixels stay as they are."""
    top, left, turns, flip = torch.randint(2**30, (4,)).tolist()
    rows, columns = (side - crop + 1 for side in image.shape[1:])
    view = image[:, top % rows :, left % columns :][:, :crop, :crop]
    view = view.flip(2) if flip % 2 else view
    return view.rot90(turns % 4, (1, 2))


def damaged(views: Tensor, kind: str, strength: float) -> Tensor:
    """Damage views of one instance alike.

    Args:
        views: (N, 3, H, W) in [-1, 1].
        kind: One of `DAMAGES`.
        strength: In (0, 1].

    Returns:
        (N, 3, H, W) in [-1, 1]; what was black stays black, except beside a blurred rim.
    """
    light = views.add(1).div(2)  # in [0, 1], black is 0
    if kind == "blur":
        light = _blurred(light, 4.0 * strength)
    elif kind == "colour":
        direction = F.normalize(torch.randn(3), dim=0).to(light.device)
        light = light * (1 + 0.6 * strength * direction[:, None, None])
    elif kind == "missing_vessels":
        light = _without_lines(light, _patches(light, cell=48, share=strength))
    elif kind == "broken_vessels":
        light = _without_lines(light, _patches(light, cell=12, share=0.5 * strength))
    elif kind == "checkerboard":
        light = light * (1 + 0.2 * strength * _checkerboard(light))
    else:
        raise ValueError(f"unknown damage {kind!r}; known are {', '.join(DAMAGES)}")
    return light.clamp(0, 1) * 2 - 1


def _blurred(light: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    return transforms.gaussian_blur(light, [2 * reach + 1, 2 * reach + 1], [sigma, sigma])


def _checkerboard(light: Tensor) -> Tensor:
    """A pattern (H, W) of -1 and 1 with squares of 1, 2 or 4 pixels, as strided convolutions leave it."""
    square = int(2 ** torch.randint(3, ()))
    rows, columns = (torch.arange(side, device=light.device) // square for side in light.shape[2:])
    return ((rows[:, None] + columns) % 2 * 2 - 1).float()


def _patches(light: Tensor, *, cell: int, share: float) -> Tensor:
    """A random mask (N, 1, H, W) of 0 and 1: blobs about `cell` pixels wide over a share of the area."""
    size = [max(2, round(side / cell)) for side in light.shape[2:]]
    noise = torch.rand(len(light), 1, *size, device=light.device)
    smooth = F.interpolate(noise, light.shape[2:], mode="bilinear", align_corners=False)
    borders = smooth.flatten(1).quantile(share, dim=1)[:, None, None, None]
    return (smooth <= borders).float()


def _without_lines(light: Tensor, where: Tensor) -> Tensor:
    """Fill dark lines up to 13 pixels wide, found by a morphological closing, with their surroundings."""
    green = _blurred(light[:, 1:2], 1.0)
    lines = (_closing(green, 13) - green > 0.03).float()
    lines = F.max_pool2d(lines, 5, 1, 2) * where
    ground = (1 - lines) * (light[:, 1:2] > 0.05)
    sums = _blurred(torch.cat([light * ground, ground], 1), 5.0)
    fill = sums[:, :3] / sums[:, 3:].clamp_min(1e-3)
    soft = _blurred(lines, 1.0) * (sums[:, 3:] > 0.02)
    return light + soft * (fill - light)


def _closing(light: Tensor, side: int) -> Tensor:
    """Grey closing of (N, 1, H, W) by a square: the least of the greatest values around."""
    for sign in (1, -1):
        light = sign * F.max_pool2d(sign * light, (side, 1), 1, (side // 2, 0))
        light = sign * F.max_pool2d(sign * light, (1, side), 1, (0, side // 2))
    return light
