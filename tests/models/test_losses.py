"""Losses against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from fundusforge.models import losses
from fundusforge.models.losses import Adversarial

KINDS: list[Adversarial] = ["least_squares", "hinge", "logistic"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_discriminator_pays_less(kind: Adversarial) -> None:
    high, low = torch.full((2, 1, 3, 3), 2.0), torch.full((2, 1, 3, 3), -2.0)
    one, zero = high / 2, low * 0
    right = losses.discriminator_loss(one, zero, kind) if kind == "least_squares" else None
    right = losses.discriminator_loss(high, low, kind) if right is None else right
    assert right < losses.discriminator_loss(low, high, kind)
    assert losses.generator_loss(one, kind) < losses.generator_loss(low, kind)
    assert right.shape == ()


def test_adversarial_losses_by_hand() -> None:
    real, fake = torch.tensor([0.5, 2.0]), torch.tensor([-0.5, 1.0])
    assert losses.discriminator_loss(real, fake, "hinge").item() == pytest.approx(0.25 + (0.5 + 2) / 2)
    assert losses.generator_loss(fake, "hinge").item() == pytest.approx(-0.25)
    squares = 0.5 * ((0.25 + 1) / 2 + (0.25 + 1) / 2)
    assert losses.discriminator_loss(real, fake, "least_squares").item() == pytest.approx(squares)
    assert losses.generator_loss(fake, "least_squares").item() == pytest.approx((2.25 + 0) / 2)
    target = lambda x, y: F.binary_cross_entropy_with_logits(x, torch.full_like(x, y))  # noqa: E731
    expected = target(real, 1.0) + target(fake, 0.0)
    torch.testing.assert_close(losses.discriminator_loss(real, fake, "logistic"), expected)
    torch.testing.assert_close(losses.generator_loss(fake, "logistic"), target(fake, 1.0))


def test_feature_matching_moves_only_the_fake() -> None:
    real = [torch.ones(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 1, 1, 1, requires_grad=True)]
    fake = [torch.zeros(1, 2, 2, 2, requires_grad=True), torch.full((1, 1, 1, 1), 3.0, requires_grad=True)]
    loss = losses.feature_matching(real, fake)
    assert loss.item() == pytest.approx((1 + 3) / 2)
    loss.backward()
    assert all(r.grad is None for r in real)
    assert all(f.grad is not None for f in fake)


def test_masked_mean() -> None:
    values = torch.tensor([[[[1.0, 5.0]], [[3.0, 7.0]]]])
    assert losses.masked_mean(values, torch.tensor([[[[1.0, 0.0]]]])).item() == pytest.approx(2)
    assert losses.masked_mean(values, torch.zeros(1, 1, 1, 2)).item() == 0


def test_focal_without_focus_is_cross_entropy_and_forgives_the_easy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, generator=generator)
    target = (torch.rand(2, 2, 4, 4, generator=generator) > 0.5).float()
    weights = torch.ones(2, 1, 4, 4)
    torch.testing.assert_close(
        losses.focal(logits, target, weights, gamma=0.0), losses.bce(logits, target, weights)
    )
    easy, hard = (losses.focal(torch.full((1, 1, 1, 1), x), torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
                  for x in (3.0, -3.0))  # fmt: skip
    plain = F.softplus(torch.tensor([-3.0, 3.0]))
    assert easy / plain[0] < 0.01
    assert hard / plain[1] > 0.9


def test_dice_is_one_minus_overlap_per_channel() -> None:
    target = torch.zeros(1, 2, 10, 10)
    target[:, 0, :5] = 1
    target[:, 1, :, :2] = 1
    weights = torch.ones(1, 1, 10, 10)
    perfect = (target * 2 - 1) * 50
    assert losses.dice(perfect, target, weights).item() == pytest.approx(0, abs=1e-4)
    shifted = perfect.clone()
    shifted[:, 0] = -shifted[:, 0]  # the first channel is wrong everywhere
    assert losses.dice(shifted, target, weights).item() == pytest.approx(0.5, abs=0.01)
    assert losses.dice(perfect, target, weights * 0).item() == pytest.approx(0)
