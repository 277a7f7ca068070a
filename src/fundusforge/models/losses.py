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
