"""The auto-encoder of vessel trees: what its losses see, and that it can be held to a tree."""

from __future__ import annotations

import pytest
import torch

from fundusforge.models.losses import centreline_dice, dice, soft_skeleton
from fundusforge.models.vae import VAE, Decoder, VAEConfig, active_share
from fundusforge.training.checkpoint import fill

TINY = VAEConfig(size=32, patch=2, widths=(8, 16), latent=6, warmup=8, discriminator_widths=(8, 8))


def lines(count: int, side: int = 32) -> torch.Tensor:
    """(count, 1, side, side): each a horizontal and a vertical vessel in a place of its own."""
    masks = torch.zeros(count, 1, side, side)
    for number in range(count):
        masks[number, 0, 4 + 3 * number : 6 + 3 * number] = 1
        masks[number, 0, :, 20 - 2 * number] = 1
    return masks


def logits_of(masks: torch.Tensor) -> torch.Tensor:
    return (masks * 2 - 1) * 8


def test_soft_skeleton_is_the_middle_line() -> None:
    bar = torch.zeros(1, 1, 15, 40)
    bar[0, 0, 5:10, 5:35] = 1
    line = soft_skeleton(bar, 4)[0, 0]
    assert line[7, 10:30].min() > 0.99, "along the middle"
    assert line[[5, 6, 8, 9], 10:30].max() < 0.01, "and nowhere else across"


def test_centreline_dice_feels_a_gap_in_a_thin_vessel_that_dice_does_not() -> None:
    whole = torch.zeros(1, 1, 64, 64)
    whole[0, 0, 4:14] = 1  # a wide vessel
    whole[0, 0, 40] = 1  # a thin one
    gap, thinned = whole.clone(), whole.clone()
    gap[0, 0, 40, 10:54] = 0
    thinned[0, 0, 13, 10:54] = 0  # the same number of pixels off the wall of the wide one
    everywhere = torch.ones_like(whole)
    overlap = [float(dice(logits_of(x), whole, everywhere)) for x in (gap, thinned)]
    along = [float(centreline_dice(logits_of(x), whole, 6)) for x in (gap, thinned)]
    assert overlap[0] == pytest.approx(overlap[1], abs=1e-3)
    assert along[0] > 5 * along[1]
    assert float(centreline_dice(logits_of(whole), whole, 6)) < 0.01


def trained(config: VAEConfig, masks: torch.Tensor, steps: int) -> VAE:
    torch.manual_seed(0)
    recipe = config.build()
    random = torch.Generator().manual_seed(0)
    for step in range(steps):
        draws = torch.randn(len(masks), 2 * config.latent, generator=random)
        batch = {"masks": masks, "draws": draws}
        for phase in recipe.phases:
            for name, net in recipe.nets.items():
                net.requires_grad_(name in phase.nets)
            phase.optimizer.zero_grad()
            torch.stack([*recipe.losses(phase.name, batch, step * len(masks)).values()]).sum().backward()
            phase.optimizer.step()
    return recipe


def test_learns_to_draw_trees_again_from_their_vectors() -> None:
    masks = lines(5)
    recipe = trained(VAEConfig(**{**vars(TINY), "lr": 3e-3, "kl": 0.01}), masks, 150)
    mean, _ = recipe.nets["encoder"](masks)
    again = recipe.nets["decoder"](mean) > 0
    overlap = 2 * (again & (masks > 0)).sum() / (again.sum() + masks.sum())
    assert overlap > 0.8
    assert active_share(mean) > 0.3


def test_a_heavy_price_on_vectors_makes_them_silent_and_is_noticed() -> None:
    masks = lines(5)
    settings = {**vars(TINY), "lr": 3e-3, "kl": 50.0, "free": 0.0, "warmup": 0, "adversarial": 0.0}
    recipe = trained(VAEConfig(**settings), masks, 100)
    assert active_share(recipe.nets["encoder"](masks)[0]) < 0.2


def test_drawings_depend_on_the_vector_at_every_level() -> None:
    torch.manual_seed(1)
    decoder = Decoder(TINY)
    for style in decoder.styles:
        torch.nn.init.normal_(style.weight, std=1.0)
    drawn = decoder(torch.randn(2, TINY.latent))
    assert drawn.shape == (2, 1, 32, 32)
    assert drawn.abs().max() <= 1
    assert (drawn[0] - drawn[1]).abs().mean() > 1e-3


def test_what_was_measured_travels_with_the_weights() -> None:
    first, second = Decoder(TINY), Decoder(TINY)
    first.blur.fill_(0.75)
    first.threshold.fill_(0.3)
    first.field[:4] = 0
    fill(second, dict(first.state_dict()), where=__file__)
    assert float(second.blur) == 0.75 and float(second.threshold) == pytest.approx(0.3)
    assert torch.equal(first.field, second.field)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 48, "patch": 8, "widths": (8, 8, 8)}, "multiple of 32"),
        ({"masks": ("branches",)}, "unknown mask"),
        ({"kl": -1.0}, "must not be negative"),
        ({"blocks": 0}, "must be positive"),
    ],
)
def test_refuses_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VAEConfig(**{**vars(TINY), **changes})
