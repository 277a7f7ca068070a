"""Features of the retina, learnt without labels: a small encoder for distances, graders and discriminators.

The pretext is to say where a photograph was damaged, how, and how strongly (`fundusforge.models.damages`).
Crops, flips and quarter turns are the only other changes, since they keep every pixel: the usual views of
self-supervised learning (Chen et al. 2020) are blurred and recoloured, which teaches an encoder to overlook
just what is to be judged.

The features of a photograph summarise the answers of the finest levels: mean and spread of each channel over
the picture, brought to the few directions in which damage moves photographs most, measured by how much
photographs differ among themselves. These are Fisher's discriminants (1936) of damage, with the covariance
shrunk towards a multiple of the identity (Ledoit and Wolf 2004). Without them, camera and colour, in which
eyes differ most, drown everything else in a distance; and a distance of few numbers needs few images.

An `Encoder` is one call, (N, 3, H, W) in [-1, 1] to (N, D), with size, normalisation and projection in it:

    encoder = load_encoder(Path("runs/retina"))  # fundusforge.evaluate.extractors; no path: the embedded one
    features = encoder(images)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models.damages import DAMAGES, damaged
from fundusforge.models.recipe import Phase, View

WEAKEST = 0.15
"""Least strength of a damage in training; the most is 1."""
GRAIN = 8
"""Side in pixels of the places at which damages are told."""
DAMAGED_WEIGHT = 4.0
"""How much more a damaged place counts in the loss than a clean one."""
_DRAWN = (*DAMAGES, *(kind for kind in DAMAGES if kind.endswith("vessels")))
"""Damages as they are drawn: those of vessels, which are the hardest to see, twice as often."""


@dataclass(frozen=True)
class SelfSupervisedConfig:
    """Features learnt without labels, for distances between sets of images and to start other models from."""

    kind: Literal["selfsupervised"] = "selfsupervised"
    size: int = 512
    """Side in pixels at which the encoder reads whole images, in training and after."""
    crop: int = 160
    """Side of the random training crops, in pixels."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Channels after each halving of the resolution."""
    levels: int = 3
    """Finest levels that the features summarise; the others serve the pretext, and models started from it."""
    features: int = 24
    """Numbers per photograph."""
    shrinkage: float = 0.01
    """What is added to every variance among photographs, as a part of the mean variance."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of AdamW."""

    def __post_init__(self) -> None:
        """Refuse crops larger than the image or smaller than one answer, and more features than answers."""
        least = 2 ** len(self.widths)
        if len(self.widths) < 2 or not least <= self.crop <= self.size:
            raise ValueError(f"crop must be between {least} and size, {self.size}, not {self.crop}")
        if not 1 <= self.levels <= len(self.widths):
            raise ValueError(f"levels must be between 1 and {len(self.widths)}, not {self.levels}")
        most = 2 * sum(self.widths[: self.levels])
        if not 1 <= self.features <= most:
            raise ValueError(f"features must be between 1 and {most}, not {self.features}")

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


class Levels(nn.Module):
    """Small residual network; batch statistics, since normalising each image would hide its colours."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        """Build a halving convolution per width, each but the first two followed by a residual block."""
        super().__init__()
        self.channels = widths
        self.stages = nn.ModuleList()
        for level, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
            layers = [_conv(inputs, outputs, stride=2)] + ([Residual(outputs)] if level > 1 else [])
            self.stages.append(nn.Sequential(*layers))

    def maps(self, images: Tensor, *, levels: int | None = None) -> list[Tensor]:
        """Map images (N, 3, H, W) in [-1, 1] to the answers of each level, (N, width, H / 2^k, W / 2^k).

        Args:
            images: The images.
            levels: How many, from the finest; all by default.
        """
        found = [images + 1.0]  # black becomes 0, as the padding of the convolutions is
        for stage in self.stages[:levels]:
            found.append(stage(found[-1]))
        return found[1:]


class Encoder(Levels):
    """The levels with what summarises their answers in features."""

    centre: Tensor
    projection: Tensor

    def __init__(self, c: SelfSupervisedConfig) -> None:
        """Build the levels; the features are still those of an unfitted encoder."""
        super().__init__(c.widths)
        self.config, self.size, self.features = c, c.size, c.features
        length = 2 * sum(c.widths[: c.levels])
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("projection", torch.eye(length, c.features))

    def forward(self, images: Tensor) -> Tensor:
        """Map whole images (N, 3, H, W) in [-1, 1], of any one size, to features (N, D)."""
        return (self.summary(images) - self.centre) @ self.projection

    def summary(self, images: Tensor) -> Tensor:
        """Map whole images (N, 3, H, W) in [-1, 1] to means, then deviations, of the finest levels (N, S)."""
        if images.shape[1:2] != (3,) or images.dim() != 4:
            raise ValueError(f"expected images (N, 3, H, W), not {tuple(images.shape)}")
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        answers = self.maps(images, levels=self.config.levels)
        means = [level.mean((2, 3)) for level in answers]
        return torch.cat([*means, *(level.flatten(2).std(2) for level in answers)], 1)

    @torch.no_grad()
    def fit(self, clean: Tensor, harmed: Tensor, kinds: Tensor) -> None:
        """Find the directions in which damage moves photographs most, as measured by how much they differ.

        Args:
            clean: Summaries of photographs (N, S).
            harmed: Summaries of the same photographs, each damaged (N, S).
            kinds: What was done to each, a number (N,); every kind weighs the same.

        Raises:
            ValueError: Fewer than two photographs.
        """
        if len(clean) < 2:
            raise ValueError("features need at least two photographs to be fitted to")
        clean, harmed = clean.double(), harmed.double()
        spread = clean.std(0).clamp_min(1e-6)
        values, vectors = torch.linalg.eigh(torch.cov((clean / spread).T))
        floor = self.config.shrinkage * values.mean().clamp_min(1e-12)
        whitening = vectors / (values.clamp_min(0) + floor).sqrt() / spread[:, None]
        moved = (harmed - clean) @ whitening
        scatters = [m.T @ m for m in (moved[kinds == kind] for kind in kinds.unique())]
        scatter = torch.stack([s / s.trace().clamp_min(1e-12) for s in scatters]).mean(0)
        strongest = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, : self.features]
        self.centre.copy_(clean.mean(0))
        self.projection.copy_(whitening @ strongest)


@torch.no_grad()
def fit_features(encoder: Encoder, batches: Iterable[Tensor]) -> None:
    """Fit the features of an encoder in evaluation mode to whole, clean photographs, each once.

    Damages are drawn by torch's own random numbers, all kinds in turn.

    Args:
        encoder: Its weights stay; its centre and projection are replaced.
        batches: Photographs (N, 3, S, S) in [-1, 1], of the encoder's size.

    Raises:
        ValueError: Fewer than two photographs.
    """
    clean, harmed, kinds = [encoder.centre.new_empty(0, len(encoder.centre))], list[Tensor](), list[int]()
    for images in batches:
        strengths = _strengths(len(images))
        drawn = [(len(kinds) + place) % len(DAMAGES) for place in range(len(images))]
        kinds += drawn
        worse = [damaged(x, DAMAGES[k], s)[0] for x, k, s in zip(images, drawn, strengths, strict=True)]
        clean.append(encoder.summary(images))
        harmed.append(encoder.summary(torch.stack(worse)))
    encoder.fit(torch.cat(clean), torch.cat([*clean[:1], *harmed]), torch.tensor(kinds))


class Head(nn.Module):
    """Strength of each damage at each place, straight from the answers of all levels."""

    def __init__(self, channels: int) -> None:
        """One linear map, so that what it reads is also in the mean answers."""
        super().__init__()
        self.damage = nn.Conv2d(channels, len(DAMAGES), 1)

    def forward(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Map the levels' answers to logits of strengths (N, damages, *size)."""
        same = [
            F.adaptive_avg_pool2d(level, size)
            if level.shape[2] > size[0]
            else F.interpolate(level, size, mode="bilinear", align_corners=False)
            for level in levels
        ]
        return self.damage(torch.cat(same, 1))


class SelfSupervised:
    """Recipe: one phase, AdamW, cross-entropy of the strength of each damage at each place."""

    def __init__(self, c: SelfSupervisedConfig) -> None:
        """Build networks and optimizer."""
        self.config = c
        self.nets = nn.ModuleDict({"encoder": Encoder(c), "head": Head(sum(c.widths))})
        optimizer = torch.optim.AdamW(self.nets.parameters(), c.lr, weight_decay=c.weight_decay)
        self.phases = (Phase("main", ("encoder", "head"), optimizer),)
        self.ema = ("encoder", "head")
        self.view = View(size=c.size)

    def losses(self, phase: str, batch: dict[str, Tensor], images: int) -> dict[str, Tensor]:
        """Cross-entropy, in which damaged places count for more since they are few."""
        views, strengths = pairs(batch["image"], self.config.crop)
        logits, target = _read(self.nets, views, strengths)
        return {"damage": F.binary_cross_entropy_with_logits(logits, target, 1 + DAMAGED_WEIGHT * target)}

    def preview(self, nets: nn.ModuleDict, batch: dict[str, Tensor]) -> Tensor:
        """Images above; below, the strongest damage that is seen at each place."""
        image = batch["image"]
        size = (image.shape[2] // GRAIN, image.shape[3] // GRAIN)
        strength = nets["head"](cast(Encoder, nets["encoder"]).maps(image), size).sigmoid()
        shown = F.interpolate(strength.amax(1, keepdim=True), image.shape[2:]).expand_as(image)
        return torch.cat([image, shown * 2 - 1], 2)


@torch.no_grad()
def pretext_scores(nets: nn.ModuleDict, c: SelfSupervisedConfig, images: Tensor) -> dict[str, float]:
    """Return how well networks do what they were trained for.

    Args:
        nets: Encoder and head, in evaluation mode.
        c: Their configuration.
        images: (N, 3, S, S) in [-1, 1].

    Returns:
        Per damage its `auc`: how often a damaged view is thought more damaged so than a clean one, by the
        mean of its logits. Damages that no view happened to get are left out.
    """
    views, strengths = pairs(images.repeat(len(DAMAGES), 1, 1, 1), c.crop)
    logits, target = _read(nets, views, strengths)
    mean, damaged_so = logits.mean((2, 3)), target.amax((2, 3)) > 0
    clean = mean[: len(mean) // 2]
    return {
        f"{name}_auc": (mean[damaged_so[:, place], place][:, None] > clean[None, :, place])
        .float()
        .mean()
        .item()
        for place, name in enumerate(DAMAGES)
        if damaged_so[:, place].any()
    }


def _read(nets: nn.ModuleDict, views: Tensor, strengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and targets (N, damages, H / GRAIN, W / GRAIN) of views and strengths of their pixels."""
    target = F.adaptive_max_pool2d(strengths, [side // GRAIN for side in strengths.shape[2:]])
    size = (target.shape[2], target.shape[3])
    return nets["head"](cast(Encoder, nets["encoder"]).maps(views), size), target


# ---- views -------------------------------------------------------------------------------------------------


def pairs(images: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Cut a view of every image, as it is and damaged, by torch's own random numbers.

    Args:
        images: (N, 3, S, S) in [-1, 1].
        crop: Side of the views.

    Returns:
        Views (2N, 3, crop, crop), the damaged ones after the others, and the strength of each damage at each
        pixel (2N, damages, crop, crop) in [0, 1].
    """
    views = torch.stack([_cut(image, crop) for image in images])
    drawn = (torch.randperm(len(images)) + int(torch.randint(len(_DRAWN), ()))) % len(_DRAWN)
    strengths = torch.zeros(2 * len(images), len(DAMAGES), crop, crop, device=images.device)
    changed = torch.empty_like(views)
    for place, (number, amount) in enumerate(zip(drawn.tolist(), _strengths(len(images)), strict=True)):
        kind = _DRAWN[number]
        changed[place], where = damaged(views[place], kind, amount)
        strengths[len(images) + place, DAMAGES.index(kind)] = where
    return torch.cat([views, changed]), strengths


def _strengths(count: int) -> list[float]:
    return (WEAKEST + (1 - WEAKEST) * torch.rand(count)).tolist()


def _cut(image: Tensor, crop: int) -> Tensor:
    """A random crop (3, crop, crop), flipped and turned by right angles; its pixels stay as they are."""
    top, left, turns, flip = torch.randint(2**30, (4,)).tolist()
    rows, columns = (side - crop + 1 for side in image.shape[1:])
    view = image[:, top % rows :, left % columns :][:, :crop, :crop]
    view = view.flip(2) if flip % 2 else view
    return view.rot90(turns % 4, (1, 2))
