"""Losses that several model families share; every one returns a scalar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Adversarial = Literal["least_squares", "hinge", "logistic"]


def discriminator_loss(real: Tensor, fake: Tensor, kind: Adversarial) -> Tensor:
    """Loss of a discriminator from its logits on real and on fake images, any shape.

    `logistic`: Goodfellow et al. 2014. `least_squares`: Mao et al. 2017. `hinge`: Lim and Ye 2017.
    """
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "least_squares":
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, kind: Adversarial) -> Tensor:
    """Loss of a generator from the discriminator's logits on its images (non-saturating for `logistic`)."""
    if kind == "hinge":
        return -fake.mean()
    if kind == "least_squares":
        return (fake - 1).square().mean()
    return F.softplus(-fake).mean()


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of discriminator features, averaged over layers (Wang et al. 2018, eq. 4)."""
    return torch.stack([F.l1_loss(f, r.detach()) for r, f in zip(real, fake, strict=True)]).mean()


def feature_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Root mean square difference of features per image, averaged over images and layers (DR-GAN, eq. 1)."""
    pairs = zip(real, fake, strict=True)
    squares = [(f - r.detach()).float().square().flatten(1).mean(1) for r, f in pairs]
    return torch.stack([(square + 1e-8).sqrt().mean() for square in squares]).mean()


def regional_error(fake: Tensor, real: Tensor, masks: Tensor) -> Tensor:
    """Mean absolute error of (N, C, H, W) over each mask; see `regional_mean`."""
    return regional_mean((fake - real).abs(), masks)


def regional_mean(values: Tensor, masks: Tensor) -> Tensor:
    """Mean over each mask, averaged over those that cover anything, so that small ones count; 0 if none does.

    Args:
        values: (N, C, H, W).
        masks: (N, M, H, W) in [0, 1].
    """
    area = masks.sum((0, 2, 3))
    means = (values.mean(1, keepdim=True) * masks).sum((0, 2, 3)) / area.clamp_min(1e-6)
    return (means * (area > 0)).sum() / (area > 0).sum().clamp_min(1)


def masked_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` weighted by `weights` (broadcast), 0 where all weights are 0."""
    weights = weights.expand_as(values)
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


def bce(logits: Tensor, target: Tensor, weights: Tensor, positive: float = 1.0) -> Tensor:
    """Binary cross-entropy of logits (N, C, H, W) inside `weights` (N, C or 1, H, W).

    Positives count `positive` times, for structures so small that none is soon learnt as the answer.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(
        logits, target, reduction="none", pos_weight=logits.new_tensor(positive)
    )
    return masked_mean(cross_entropy, weights)


def focal(logits: Tensor, target: Tensor, weights: Tensor, gamma: float = 2.0) -> Tensor:
    """Binary focal loss (Lin et al. 2017, eq. 4 without alpha) of logits inside `weights`."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return masked_mean((1 - torch.exp(-cross_entropy)).pow(gamma) * cross_entropy, weights)


def dice(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice overlap inside `weights`, per channel over the batch, then averaged."""
    weights = weights.expand_as(logits)
    probability, target = logits.sigmoid() * weights, target * weights
    over = (0, 2, 3)
    overlap = 2 * (probability * target).sum(over) + 1
    return (1 - overlap / (probability.sum(over) + target.sum(over) + 1)).mean()


def soft_skeleton(probability: Tensor, steps: int) -> Tensor:
    """Thin probabilities (N, C, H, W) to their middle lines (Shit et al. 2021, algorithm 1).

    What a minimum filter takes away and a maximum filter does not give back is a ridge; ridges of ever
    thinner remains are gathered.

    Args:
        probability: (N, C, H, W) in [0, 1].
        steps: How often it is eroded: half the calibre of the widest vessel, in pixels.
    """

    def eroded(x: Tensor) -> Tensor:
        across = -F.max_pool2d(-x, (3, 1), 1, (1, 0))
        along = -F.max_pool2d(-x, (1, 3), 1, (0, 1))
        return torch.minimum(across, along)

    found = torch.zeros_like(probability)
    for _ in range(steps):
        thinner = eroded(probability)
        ridge = F.relu(probability - F.max_pool2d(thinner, 3, 1, 1))
        found = found + F.relu(ridge - found * ridge)
        probability = thinner
    return found


def centreline_dice(logits: Tensor, target: Tensor, steps: int) -> Tensor:
    """One minus centreline Dice (Shit et al. 2021, eq. 3), per channel over the batch, then averaged.

    The middle line of either map must lie within the other: a gap in a thin vessel costs as much as one in
    a wide one of the same length, where overlap of areas would hardly see it.

    Args:
        logits: (N, C, H, W).
        target: (N, C, H, W) in [0, 1].
        steps: See `soft_skeleton`.
    """
    probability, over = logits.sigmoid(), (0, 2, 3)
    line, true_line = soft_skeleton(probability, steps), soft_skeleton(target, steps)
    precision = ((line * target).sum(over) + 1) / (line.sum(over) + 1)
    recall = ((true_line * probability).sum(over) + 1) / (true_line.sum(over) + 1)
    return (1 - 2 * precision * recall / (precision + recall)).mean()
