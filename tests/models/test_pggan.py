"""The progressive GAN: its schedule, its fused layers against the literal ones, what its losses are."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import PRESETS
from fundusforge.models.equalized import EqualConv, UpConv, minibatch_deviation, pixel_norm
from fundusforge.models.growing import Stage, at_stage, stacked
from fundusforge.models.pggan import PGGAN, Generator, PGGANConfig, Reader

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = PGGANConfig(widths=(12, 8, 8, 4), latent=10, masks=("vessels", "disc"), budget=800)


def batch_of(c: PGGANConfig, n: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    side = c.size
    return {
        "image": torch.rand(n, 3, side, side, generator=generator) * 2 - 1,
        "masks": (torch.rand(n, len(c.masks), side, side, generator=generator) > 0.7).float(),
        "draws": torch.randn(n, 2 * c.latent + 1, generator=generator),
    }


# ---- schedule ----------------------------------------------------------------------------------------------


def test_levels_share_the_budget_and_fade_over_their_first_half() -> None:
    assert SMALL.growth.starts() == [0, 200, 400, 600, 800]
    assert [SMALL.stage(n) for n in (0, 199, 200, 250, 300, 399, 400, 799, 800, 10**9)] == [
        Stage(0, 1.0), Stage(0, 1.0), Stage(1, 0.0), Stage(1, 0.5), Stage(1, 1.0), Stage(1, 1.0),
        Stage(2, 0.0), Stage(3, 1.0), Stage(3, 1.0), Stage(3, 1.0),
    ]  # fmt: skip
    assert replace(SMALL, fade=0.0).stage(200) == Stage(1, 1.0)


def test_beers_numbers() -> None:
    """40,000 batches of 16 at each of seven levels, and of 8 at 512 px; 128, 64 and 16 filters."""
    beers = replace(PRESETS["pggan"]["beers"][1], budget=4_800_000)
    starts = beers.growth.starts()
    lengths = [b - a for a, b in itertools.pairwise(starts)]
    assert lengths[:7] == [40_000 * 16] * 7
    assert lengths[7] == 40_000 * 8
    assert (beers.size, beers.latent) == (512, 128)
    assert {beers.stage(n).side: w for n, w in zip(starts, beers.widths, strict=False)} == {
        4: 128, 8: 128, 16: 128, 32: 128, 64: 128, 128: 128, 256: 64, 512: 16
    }  # fmt: skip
    with torch.device("meta"):
        view = beers.build().view
    assert view.batch_at(starts[7] - 16, 16) == 16
    assert view.batch_at(starts[7], 16) == 8
    mri = PRESETS["pggan"]["mri"][1]
    assert (mri.size, mri.channels) == (256, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"widths": ()},
        {"latent": 0},
        {"fade": 1.5},
        {"budget": -1},
        {"generator_rate": 0.0},
        {"contrasts": ("t3",)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        PGGANConfig(**wrong)


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_upsampling_is_the_literal_one(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = UpConv(5, 7)
    nn.init.normal_(layer.bias)
    found, wanted = (torch.randn(2, 5, 6, 9).to(memory_format=layout) for _ in range(2))
    wanted.copy_(found)
    found.requires_grad_()
    wanted.requires_grad_()
    literal = F.conv2d(
        F.interpolate(wanted, scale_factor=2.0), layer.weight * layer.scale, layer.bias, padding=1
    )
    out = layer(found)
    assert torch.allclose(out, literal, atol=1e-5)
    target = torch.randn_like(out)
    gradients = [
        torch.autograd.grad((x * target).sum(), (source, layer.weight, layer.bias))
        for x, source in ((out, found), (literal, wanted))
    ]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", [EqualConv, UpConv])
def test_kept_kernels_follow_the_weights(kind: type) -> None:
    """After a step, a copy, a move in memory; and what was kept never stands in a gradient's way."""
    torch.manual_seed(0)
    layer = EqualConv(3, 4, 3) if kind is EqualConv else UpConv(3, 4)
    x = torch.randn(1, 3, 5, 5)
    with torch.inference_mode():
        before = layer(x)
        assert torch.equal(layer(x), before)
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        layer.weight.mul_(2)
        assert torch.allclose(layer(x), 2 * before, atol=1e-6)
        assert torch.equal(copied(x), before)
        copied.load_state_dict(layer.state_dict())
        assert torch.equal(copied(x), layer(x))
        copied.weight.data = torch.zeros_like(copied.weight)
        assert not copied(x).any()
    with torch.inference_mode():
        assert copy.deepcopy(layer)(x).shape == before.shape
    point = x.clone().requires_grad_()
    layer(point).sum().backward()
    assert point.grad is not None and layer.weight.grad is not None


def test_equalised_rate_keeps_the_variance() -> None:
    torch.manual_seed(0)
    out = EqualConv(64, 256, 3, gain=1.0)(torch.randn(2, 64, 32, 32))
    assert out[..., 1:-1, 1:-1].var().item() == pytest.approx(1.0, rel=0.05)


def test_pixel_norm_by_hand_and_without_touching_what_learns() -> None:
    x = torch.tensor([[3.0, 4.0]])[..., None, None]
    expected = x / torch.tensor(12.5).sqrt()
    learnt = x.clone().requires_grad_()
    assert torch.allclose(pixel_norm(learnt), expected)
    assert torch.equal(learnt.detach(), x)
    assert torch.allclose(pixel_norm(x), expected)


def test_minibatch_deviation_by_hand() -> None:
    """Two groups of consecutive images: deviations 1 and 0, whichever way the batch is shared out."""
    x = torch.tensor([1.0, 3.0, 1.0, 3.0, 5.0, 5.0])[:, None, None, None].expand(-1, 2, 3, 3)
    found = minibatch_deviation(x)
    assert found.shape == (6, 3, 3, 3)
    assert torch.allclose(found[:, 2, 0, 0], torch.tensor([1.0, 1, 1, 1, 0, 0]), atol=1e-3)
    assert torch.equal(found[:, :2], x)
    assert torch.equal(torch.cat([minibatch_deviation(x[:4]), minibatch_deviation(x[4:])]), found)


# ---- networks ----------------------------------------------------------------------------------------------


def literal_generator(net: Generator, latent: Tensor, stage: Stage) -> Tensor:
    """The formulation of the papers, with every upsampled map made."""

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    def conv(layer: EqualConv, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight * layer.scale, layer.bias, padding="same")

    x = net.first(norm(latent)).view(len(latent), -1, 4, 4)
    x = norm(F.leaky_relu(x, 0.2))
    x = norm(F.leaky_relu(conv(net.conv, x), 0.2))
    picture = conv(net.paint[0], x)
    for level in range(1, stage.level + 1):
        grow, older = net.grow[level - 1], picture
        x = norm(F.leaky_relu(conv(grow.up, F.interpolate(x, scale_factor=2.0)), 0.2))
        x = norm(F.leaky_relu(conv(grow.conv, x), 0.2))
        picture = conv(net.paint[level], x)
    if stage.level and stage.share < 1:
        picture = stage.share * picture + (1 - stage.share) * F.interpolate(older, scale_factor=2.0)
    return picture


@pytest.mark.parametrize("stage", [Stage(0, 1.0), Stage(1, 0.3), Stage(3, 0.0), Stage(3, 0.6), Stage(3, 1.0)])
def test_generator_is_the_literal_one(stage: Stage) -> None:
    torch.manual_seed(0)
    net, latent = Generator(SMALL), torch.randn(3, SMALL.latent)
    kept = latent.clone()
    expected = literal_generator(net, latent, stage)
    assert expected.shape == (3, 5, stage.side, stage.side)
    with torch.no_grad():
        assert torch.allclose(net(latent, stage), expected, atol=1e-5)
    assert torch.equal(latent, kept)
    assert torch.allclose(net(latent, stage), expected, atol=1e-5)
    assert torch.allclose(net(3 * latent, stage), expected, atol=1e-5), "only the direction counts"


def test_growing_is_continuous() -> None:
    """A level that has just begun changes nothing: neither what is drawn nor what is thought of it."""
    torch.manual_seed(0)
    recipe, latent = SMALL.build(), torch.randn(4, SMALL.latent)
    generator, discriminator = recipe.nets["generator"], recipe.nets["discriminator"]
    before, after = Stage(1, 1.0), Stage(2, 0.0)
    small, large = generator(latent, before), generator(latent, after)
    assert torch.allclose(F.interpolate(small, scale_factor=2.0), large, atol=1e-6)
    assert torch.allclose(discriminator(small, before), discriminator(large, after), atol=1e-5)
    real = torch.rand(4, 5, 32, 32)
    faded = F.interpolate(at_stage(real, before), scale_factor=2.0)
    assert torch.allclose(at_stage(real, after), faded, atol=1e-6)


def test_weights_know_their_stage() -> None:
    recipe, batch = SMALL.build(), batch_of(SMALL)
    generator = recipe.nets["generator"]
    assert generator(batch["draws"][:, :10]).shape[-1] == 4
    recipe.losses("generator", batch, 520)
    assert generator.stage == SMALL.stage(520)
    assert generator(batch["draws"][:, :10]).shape[-1] == 16
    assert recipe.preview(recipe.nets, batch).shape == (8, 3, 3 * 32, 32)


# ---- losses ------------------------------------------------------------------------------------------------


class Affine(nn.Module):
    """A discriminator whose slope is known: it multiplies the sum of a picture."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, pictures: Tensor, _stage: Stage) -> Tensor:
        return self.factor * pictures.flatten(1).sum(1, keepdim=True)


def with_discriminator(factor: float) -> PGGAN:
    torch.manual_seed(0)
    recipe = SMALL.build()
    recipe.nets["discriminator"] = Affine(factor)
    return recipe


def test_losses_by_hand() -> None:
    """Of a linear discriminator: its slope is its factor times the root of the picture's numbers."""
    recipe, batch, images = with_discriminator(0.5), batch_of(SMALL), 799
    stage = SMALL.stage(images)
    found = recipe.losses("discriminator", batch, images)
    real = at_stage(stacked(batch), stage)
    with torch.no_grad():
        fake = recipe.nets["generator"](batch["draws"][:, :10], stage)
    on_real, on_fake = (0.5 * x.flatten(1).sum(1) for x in (real, fake))
    assert found["wasserstein"].item() == pytest.approx((on_fake.mean() - on_real.mean()).item(), rel=1e-4)
    slope = 0.5 * (5 * 32 * 32) ** 0.5
    assert found["penalty"].item() == pytest.approx(10 * (slope - 1) ** 2, rel=1e-4)
    assert found["drift"].item() == pytest.approx(1e-3 * on_real.square().mean().item(), rel=1e-4)
    drawn = recipe.nets["generator"](batch["draws"][:, 10:20], stage)
    found = recipe.losses("generator", batch, images)["wasserstein"]
    assert found.item() == pytest.approx(-0.5 * drawn.flatten(1).sum(1).mean().item(), rel=1e-4)


def test_the_penalty_teaches_the_discriminator() -> None:
    """It needs a gradient of a gradient, through every layer."""
    recipe, batch = SMALL.build(), batch_of(SMALL)
    recipe.losses("discriminator", batch, 799)["penalty"].backward()
    discriminator = recipe.nets["discriminator"]
    assert all(layer.first.weight.grad.abs().sum() > 0 for layer in discriminator.shrink)
    assert all(p.grad is None for p in recipe.nets["generator"].parameters())


def test_a_shared_batch_gives_the_same_losses() -> None:
    """Latents and mixing come with the images, and groups are consecutive: halves average to the whole."""
    recipe, batch = SMALL.build(), batch_of(SMALL, 16)
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(0, 8), slice(8, 16))]
    for phase in ("discriminator", "generator"):
        whole = recipe.losses(phase, batch, 500)
        shared = [recipe.losses(phase, half, 500) for half in halves]
        for name, value in whole.items():
            assert value.item() == pytest.approx(sum(s[name].item() for s in shared) / 2, abs=1e-5), name


def test_reader_without_deviation_reads_each_picture_alone() -> None:
    torch.manual_seed(0)
    net, pictures = Reader(3, (8, 8, 8), 5, deviation=False), torch.rand(4, 3, 16, 16)
    stage = Stage(2, 1.0)
    assert torch.allclose(net(pictures, stage)[:1], net(pictures[:1], stage), atol=1e-6)
