"""Style-based generators: both generations, what they learn from, and codes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fundusforge.models import adain, modulated
from fundusforge.models.adaptive import DRAWS
from fundusforge.models.growing import Stage
from fundusforge.models.stylegan import SURE, Balance, StyleGAN, StyleGANConfig, steepness
from fundusforge.models.styles import Generator

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = StyleGANConfig(widths=(8, 8, 8, 8, 4), latent=6, style=5)
FIRST = replace(SMALL, generation=1, budget=800, adaptive=False)


def shaken(net: nn.Module) -> nn.Module:
    """Give biases and noise strengths values that show."""
    torch.manual_seed(3)
    for name, parameter in net.named_parameters():
        if name.endswith(("bias", "strength")):
            nn.init.normal_(parameter, std=0.3)
    return net


def batch_of(c: StyleGANConfig, n: int = 4) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(5)
    return {
        "image": torch.rand(n, 3, c.size, c.size, generator=random) * 2 - 1,
        "masks": torch.rand(n, len(c.masks), c.size, c.size, generator=random),
        "draws": torch.randn(n, c.build().view.draws, generator=random),
        "grade": torch.tensor([0, 3, -1, 4])[:n],
        "labels": torch.tensor([[1.0], [0.0], [-1.0], [1.0]])[:n],
    }


# ---- the networks ------------------------------------------------------------------------------------------


def test_drawing_one_at_a_time_is_drawing_together() -> None:
    synthesis = shaken(modulated.Synthesis(4, (6, 6, 5, 5, 4), 7))
    styles = torch.randn(3, synthesis.styles, 7)
    together = synthesis(styles)
    with torch.no_grad():
        alone = synthesis(styles)
    assert together.shape == (3, 4, 64, 64) and together.requires_grad and not alone.requires_grad
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_styled_convolution_is_one_with_a_kernel_for_each_image() -> None:
    layer = shaken(modulated.StyleConv(3, 5, 4, side=8, up=False))
    x, style = torch.randn(2, 3, 8, 8), torch.randn(2, 4)
    for row, image in enumerate(x):
        kernel = layer.weight * layer.affine(style)[row][:, None, None]
        kernel = kernel / (kernel.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        wanted = F.conv2d(image[None], kernel, layer.bias, padding=1) + layer.noise * layer.strength
        wanted = F.leaky_relu(wanted, 0.2) * 2**0.5
        assert torch.allclose(layer(x, style)[row], wanted[0], atol=1e-5)


@pytest.mark.parametrize("sides", [(17, 20), (16, 8), (3, 5)])
def test_the_transposed_convolution_by_parts(sides: tuple[int, int]) -> None:
    x, weight = torch.randn(2, 3, *sides), torch.randn(4, 3, 3, 3)
    wanted = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    with torch.no_grad():
        assert torch.allclose(modulated.spaced(x, weight), wanted, atol=1e-5)


def test_doubling_is_the_low_pass_filter_between_zeros() -> None:
    x = torch.randn(1, 2, 5, 6)
    spaced = torch.zeros(1, 2, 10, 12)
    spaced[:, :, ::2, ::2] = x
    taps = torch.tensor(modulated.TAPS) / 4
    kernel = torch.outer(taps, taps).expand(2, 1, 4, 4)
    wanted = F.conv2d(F.pad(spaced, (2, 1, 2, 1)), kernel, groups=2)
    assert torch.allclose(modulated.doubled(x), wanted, atol=1e-6)


@pytest.mark.parametrize(("padding", "stride"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_the_low_pass_filter_can_be_differentiated_twice(padding: int, stride: int) -> None:
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    taps = torch.tensor(modulated.TAPS, dtype=torch.float64) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    wanted = F.conv2d(x, kernel, padding=padding, stride=stride, groups=3)
    assert torch.allclose(modulated.blurred(x, 1.0, padding, stride=stride), wanted)
    assert torch.autograd.gradgradcheck(lambda y: modulated.blurred(y, 1.0, padding, stride=stride) ** 2, x)


def test_adaptive_normalisation_gives_each_map_the_style_s_mean_and_spread() -> None:
    layer = adain.Epilogue(3, 4, 8)
    style = torch.randn(2, 4)
    scale, shift = layer.style(style).chunk(2, 1)
    found = layer(torch.randn(2, 3, 8, 8), style, None)
    assert torch.allclose(found.mean((2, 3)), shift, atol=1e-5)
    assert torch.allclose(found.std((2, 3), unbiased=False), (scale + 1).abs(), atol=1e-4)


def test_the_first_generation_grows_from_8_px_and_fades() -> None:
    generator = shaken(Generator(FIRST))
    assert [FIRST.stage(images).side for images in (0, 199, 200, 599, 800)] == [8, 8, 16, 32, 64]
    assert FIRST.stage(0).share == 1.0 and FIRST.stage(250).share == 0.5
    latents = torch.randn(2, 6)
    half, old, new = (generator(latents, stage=Stage(2, share)) for share in (0.5, 0.0, 1.0))
    assert half.shape == (2, 4, 16, 16)
    assert torch.allclose(half, (old + new) / 2, atol=1e-5) and not torch.allclose(old, new, atol=1e-3)
    assert torch.allclose(F.avg_pool2d(old, 2), generator(latents, stage=Stage(1, 1.0)), atol=1e-5)


def test_style_mixing_keeps_the_coarse_layers() -> None:
    generator = shaken(Generator(SMALL))
    first, second = generator.mapping(torch.randn(2, 6)).split(1)
    whole = first[:, None].expand(-1, 10, -1)
    fine = torch.cat([whole[:, :8], second[:, None].expand(-1, 2, -1)], 1)
    a, b = generator.render(whole), generator.render(fine)
    assert not torch.allclose(a, b, atol=1e-3)
    assert (F.avg_pool2d(a - b, 8)).abs().mean() < 0.5 * (a - b).abs().mean()


# ---- codes -------------------------------------------------------------------------------------------------


def test_codes_are_styles_about_their_centre() -> None:
    generator = shaken(Generator(replace(SMALL, classes=("grade",))))
    latents, asked = torch.randn(512, 6), F.one_hot(torch.arange(512) % 5, 5).float()
    generator.settle(torch.eye(5))
    codes = generator.codes(latents, asked)
    assert codes.mean(0).abs().max() < 0.3 and 0.9 < codes.square().mean().sqrt() < 1.1
    assert torch.allclose(generator.drawn(codes[:3]), generator(latents[:3], asked[:3]), atol=1e-4)
    middle = generator.drawn(torch.zeros(1, 5))
    near, far = (generator.drawn(codes[:8] * share) for share in (0.3, 1.0))
    assert (near - middle).square().mean() < (far - middle).square().mean()


def test_what_is_asked_for_changes_pictures_and_opinions() -> None:
    c = replace(SMALL, classes=("laser_marks", "grade"))
    recipe = StyleGAN(c)
    asked = recipe.asked(batch_of(c))
    assert c.condition(3, ()) == (0, 0, 0, 1, 0, 0) and c.shown((0, 0, 0, 1, 0, 1)) == (3, ("laser_marks",))
    assert c.shown((0,) * 6) == (None, ())
    assert asked is not None and asked.tolist() == [
        [1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]
    ]  # fmt: skip
    shaken(recipe.nets)
    latents, other = torch.randn(4, 6), asked.roll(1, 0)
    pictures = recipe.nets["generator"](latents, asked)
    assert not torch.allclose(pictures, recipe.nets["generator"](latents, other), atol=1e-4)
    stage = c.stage(0)
    assert not torch.allclose(recipe.opinion(pictures, stage, asked), recipe.opinion(pictures, stage, other))


# ---- learning ----------------------------------------------------------------------------------------------


def test_the_probability_of_changes_follows_the_discriminator() -> None:
    c = replace(SMALL, adaptive_over=40)  # images; a batch has 4
    recipe = StyleGAN(c)
    state, optimizer = recipe.nets["balance"], recipe.phases[-1].optimizer
    assert isinstance(state, Balance) and recipe.phases[-1].name == "balance"

    def turn(*signs: float) -> float:
        recipe._seen.extend((torch.tensor(sign), 4) for sign in signs)
        optimizer.zero_grad()
        sum(sum(recipe.losses("balance", {}, 0).values()) / len(signs) for _ in signs).backward()
        optimizer.step()
        return float(state.strength.detach())

    assert turn(1.0) == pytest.approx(0.1)
    assert turn(1.0, SURE) == pytest.approx(0.15)  # two parts of a batch count half each
    assert turn(SURE) == pytest.approx(0.15)
    assert turn(-1.0) < 0 and turn(SURE) == 0.0
    for _ in range(12):
        turn(1.0)
    assert turn(SURE) == 1.0


def test_nothing_is_kept_that_is_not_used() -> None:
    for c in (replace(SMALL, adaptive=False), FIRST):
        recipe, batch = StyleGAN(c), batch_of(c)
        for _ in range(3):
            for phase in recipe.phases:
                if phase.name != "paths":
                    assert recipe.losses(phase.name, batch, 8)
        assert not recipe._seen and not recipe._lengths


def test_eyes_are_mirrored_only_on_request() -> None:
    draws = torch.zeros(64, DRAWS)
    draws[:, :13] = -9.0  # every change is made, and all but mirroring do nothing
    draws[:, 13] = torch.linspace(-2, 2, 64)
    pictures = torch.rand(64, 4, 16, 16)
    for mirror in (False, True):
        recipe = StyleGAN(replace(SMALL, mirror=mirror))
        recipe.nets["balance"].strength.data.fill_(1.0)
        changed = recipe._changed(pictures, draws)
        flipped = torch.isclose(changed, pictures.flip(-1), atol=1e-4).flatten(1).all(1)
        assert bool(flipped.any()) == mirror


def test_pictures_are_changed_only_as_often_as_is_needed() -> None:
    recipe, batch = StyleGAN(SMALL), batch_of(SMALL)
    pictures = torch.cat([batch["image"], batch["masks"]], 1)
    draws = torch.randn(4, DRAWS)
    assert torch.equal(recipe._changed(pictures, draws), pictures)
    recipe.nets["balance"].strength.data.fill_(1.0)
    assert not torch.allclose(recipe._changed(pictures, draws), pictures)


def test_the_penalty_is_the_squared_slope_at_real_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.randn(4, 64, 64)
    x = torch.randn(3, 4, 64, 64, requires_grad=True)
    found = steepness((x * weights).sum((1, 2, 3))[:, None], x)
    assert float(found) == pytest.approx(float(weights.square().sum()), rel=1e-4)
    c = replace(SMALL, gamma=3.0, penalty_every=4)
    recipe = StyleGAN(c)
    monkeypatch.setattr(recipe, "opinion", lambda p, stage, asked: (p * weights).sum((1, 2, 3))[:, None])
    slope = recipe.losses("penalty", batch_of(c), 0)["slope"]
    assert float(slope) == pytest.approx(3 / 2 * 4 * float(weights.square().sum()), rel=1e-4)


def test_paths_teach_the_whole_generator_and_their_mean_is_kept() -> None:
    recipe, batch = StyleGAN(SMALL), batch_of(SMALL)
    recipe.losses("paths", batch, 0)["length"].backward()
    lacking = [n for n, p in recipe.nets["generator"].named_parameters() if p.grad is None]
    assert not [name for name in lacking if not name.endswith(("bias", "strength"))]
    (length,) = recipe._lengths
    found = recipe.losses("balance", {}, 0)
    assert float(found["length"].detach()) == pytest.approx(0.005 * float(length) ** 2, rel=1e-4)


def test_fewer_pictures_are_guarded_more() -> None:
    many, some, few = (SMALL.suited(count) for count in (5000, 200, 20))
    assert many.gamma == pytest.approx(0.0002 * 64**2 / 16) and many.adaptive_over == 500_000
    assert many.gamma < some.gamma < few.gamma == pytest.approx(5 * many.gamma)
    assert many.adaptive_over > some.adaptive_over > few.adaptive_over >= 50_000
    own = replace(SMALL, gamma=7.0, adaptive_over=9)
    assert own.suited(20) == own


def test_frozen_levels_of_the_discriminator_keep_their_weights() -> None:
    for c in (replace(SMALL, frozen=2), replace(FIRST, frozen=2)):
        net = c.build().nets["discriminator"]
        frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
        assert frozen and any(name.startswith("read") for name in frozen)
        assert any(p.requires_grad for p in net.parameters()) and not any("conv." in n for n in frozen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation": 1, "classes": ("grade",)}, "no classes"),
        ({"classes": ("grade", "grade")}, "once each"),
        ({"masks": ("nothing",)}, "unknown mask"),
        ({"widths": ()}, "positive"),
        ({"mixing": 2.0}, "0 to 1"),
        ({"frozen": 9}, "frozen must be 0 to 5"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_pairs_are_judged_by_differences_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    c = replace(SMALL, loss="relativistic", penalty_every=1, paths=0.0)
    found: list[tuple[list[float], float]] = []
    for shift in (0.0, 50.0):
        torch.manual_seed(0)
        recipe, batch = StyleGAN(c), batch_of(c)
        plain = recipe.opinion
        monkeypatch.setattr(recipe, "opinion", lambda *a, plain=plain, shift=shift: plain(*a) + shift)
        losses = recipe.losses("discriminator", batch, 0) | recipe.losses("generator", batch, 0)
        sign, seen = recipe._seen.pop()
        assert seen == 4 and set(losses) == {"slope", "pair"}
        found.append(([float(losses["slope"]), float(losses["pair"])], float(sign)))
    (first, sign), (second, other) = found
    assert second == pytest.approx(first, rel=1e-4) and sign == other


def test_pairs_have_a_penalty_of_their_own_scale() -> None:
    pairs = replace(SMALL, loss="relativistic")
    assert pairs.suited(5000).gamma == pytest.approx(20 * SMALL.suited(5000).gamma)
    assert pairs.suited(20).gamma == pytest.approx(5 * pairs.suited(5000).gamma)
