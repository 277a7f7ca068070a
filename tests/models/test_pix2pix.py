"""The painter: black outside, colours from the code, noise from nothing, codes as measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fundusforge.images import CODE_SIZE
from fundusforge.models import Pix2PixConfig
from fundusforge.models.pix2pix import Discriminators, Generator

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Pix2PixConfig(size=64, widths=(8, 16, 16, 16), discriminator_widths=(8, 16, 16), scales=2)


def layout(n: int = 1, side: int = 64) -> Tensor:
    """Masks (n, 3, side, side): vessels, disc, field of view."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    field = (rows**2 + columns**2 < 0.9).float()
    vessels = ((rows - 0.4 * torch.sin(4 * columns)).abs() < 0.06).float() * field
    disc = ((rows**2 + (columns - 0.5) ** 2) < 0.03).float() * field
    return torch.stack([vessels, disc, field])[None].repeat(n, 1, 1, 1)


def generator(config: Pix2PixConfig = TINY, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(config).eval()


@torch.no_grad()
def test_black_outside_the_field_of_view() -> None:
    masks = layout(2)
    found = generator()(masks, torch.randn(2, CODE_SIZE), torch.randn(2, 1, 64, 64))
    assert found.shape == (2, 3, 64, 64)
    outside = masks[:, -1:].expand_as(found) == 0
    assert (found[outside] == -1).all()
    assert (found[~outside] > -1).all()
    assert found.max() <= 1


@torch.no_grad()
def test_noise_begins_without_strength_and_then_acts() -> None:
    net, masks = generator(), layout()
    one, two = torch.randn(2, 1, 1, 64, 64)
    assert torch.equal(net(masks, noise=one), net(masks, noise=None))
    for name, parameter in net.named_parameters():
        if name.endswith("strength"):
            parameter.fill_(0.5)
    assert not torch.equal(net(masks, noise=one), net(masks, noise=two))
    assert torch.equal(net(masks, noise=one), net(masks, noise=one))


@torch.no_grad()
def test_options_that_are_off_change_nothing() -> None:
    net = generator(replace(TINY, code=False, noise=False))
    masks = layout()
    plain = net(masks)
    assert torch.equal(plain, net(masks, torch.randn(1, CODE_SIZE), torch.randn(1, 1, 64, 64)))
    coded = generator()
    assert not torch.equal(coded(masks, torch.zeros(1, CODE_SIZE)), coded(masks, torch.ones(1, CODE_SIZE)))
    assert torch.equal(coded(masks), coded(masks, coded.code_mean[None]))


@torch.no_grad()
@pytest.mark.parametrize(
    "masks",
    [
        torch.zeros(1, 2, 64, 64),
        torch.zeros(1, 3, 60, 64),
        torch.zeros(1, 3, 64, 61),
        torch.zeros(1, 3, 8, 64),
    ],
    ids=["channels", "rows", "columns", "too small"],
)
def test_masks_that_do_not_fit_are_refused(masks: Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"expected masks \(N, 3, H, W\) with sides divisible by 8.*vessels, disc"
    ):
        generator()(masks)


@torch.no_grad()
def test_other_sizes_than_the_trained_one_are_painted() -> None:
    assert generator()(layout(1, 128)).shape == (1, 3, 128, 128)
    assert generator()(layout(1, 128)[:, :, :64]).shape == (1, 3, 64, 128)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 500}, "multiple of 64"),
        ({"size": 64}, "between 128 and 2048"),
        ({"size": 4096}, "2048"),
        ({"size": 64, "widths": (8, 8), "scales": 3}, "need a size of 96"),
        ({"scales": 0}, "scales"),
    ],
)
def test_sizes_that_the_networks_cannot_read_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Pix2PixConfig(**changes)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_the_smallest_allowed_sizes_train(size: int) -> None:
    config = replace(TINY, size=size, scales=2 if size == 64 else 3, spectral_norm=False, widths=(4, 4, 4))
    recipe = config.build()
    masks = layout(1, size)
    batch = {"image": torch.zeros(1, 3, size, size), "masks": masks[:, :2], "field_of_view": masks[:, 2:]}
    assert all(loss.isfinite() for loss in recipe.losses("generator", batch, 0).values())
    assert recipe.losses("discriminator", batch, 0)["adversarial"].isfinite()


def test_a_discriminator_sees_seventy_pixels() -> None:
    """Isola et al. 2017: the 70 x 70 PatchGAN; instance norm would mix in the whole image."""
    torch.manual_seed(0)
    net = Discriminators(Pix2PixConfig(scales=1, spectral_norm=True))
    image = torch.randn(1, 3, 256, 256, requires_grad=True)
    logits, features = net(torch.zeros(1, 3, 256, 256), image)
    middle = logits[0].shape[2] // 2
    logits[0][0, 0, middle, middle].backward()
    seen = image.grad.abs().sum((0, 1)).nonzero()
    extent = (seen.max(0).values - seen.min(0).values + 1).tolist()
    assert extent == [70, 70]
    assert len(features) == 4


@pytest.mark.parametrize("spectral", [True, False])
def test_spectral_norm_bounds_every_layer(spectral: bool) -> None:
    torch.manual_seed(0)
    net = Discriminators(replace(TINY, spectral_norm=spectral))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(20)
    net.train()
    for _ in range(30):
        net(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64))
    largest = max(
        torch.linalg.matrix_norm(module.weight.flatten(1), 2).item()
        for module in net.modules()
        if isinstance(module, torch.nn.Conv2d)
    )
    assert (largest < 1.1) is spectral


def _codes() -> tuple[Tensor, list[str]]:
    draw = torch.Generator().manual_seed(3)
    mix = torch.randn(2, CODE_SIZE, CODE_SIZE, generator=draw) * 0.1
    raw = torch.randn(2, 2000, CODE_SIZE, generator=draw)
    codes = torch.einsum("cij,cnj->cni", mix, raw) + torch.tensor([[[0.5]], [[-1.0]]])
    return codes.reshape(-1, CODE_SIZE), ["a"] * 2000 + ["b"] * 2000


def test_codes_are_drawn_as_they_were_measured() -> None:
    codes, cameras = _codes()
    net = generator(replace(TINY, cameras=("a", "b")))
    net.fit_codes(codes, cameras)
    torch.testing.assert_close(net.code_mean, codes.mean(0), atol=1e-4, rtol=0)
    torch.testing.assert_close(net.code_deviation, codes.std(0), atol=1e-3, rtol=0)
    draw = torch.Generator().manual_seed(0)
    # A normal deviate clipped at 2 has 0.92 of its variance.
    for camera, own in (("a", codes[:2000]), ("b", codes[2000:])):
        drawn = net.sample_codes(8000, draw, camera)
        torch.testing.assert_close(drawn.mean(0), own.mean(0), atol=0.03, rtol=0)
        wanted = torch.cov(own.T) * 0.92
        scale = wanted.diag().sqrt()
        assert ((torch.cov(drawn.T) - wanted) / scale[:, None] / scale[None]).abs().max() < 0.08
    both = net.sample_codes(8000, draw)
    assert (both[:, 0] > -0.25).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_codes_are_a_function_of_the_generator() -> None:
    net = generator(replace(TINY, cameras=("a", "b")))
    net.fit_codes(*_codes())
    one, two = (net.sample_codes(5, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, net.sample_codes(5, torch.Generator().manual_seed(8)))


def test_cameras_that_are_not_known_are_refused() -> None:
    net = generator(replace(TINY, cameras=("a", "b")))
    net.fit_codes(*_codes())
    with pytest.raises(ValueError, match="unknown camera 'c'; this model knows 'a', 'b'"):
        net.sample_codes(1, torch.Generator(), "c")
    with pytest.raises(ValueError, match="camera 'c' is not both"):
        net.fit_codes(torch.zeros(3, CODE_SIZE), ["a", "b", "c"])
    with pytest.raises(ValueError, match="camera 'b' is not both"):
        net.fit_codes(torch.zeros(1, CODE_SIZE), ["a"])


def test_few_codes_still_give_a_distribution() -> None:
    net = generator(replace(TINY, cameras=("a", "b")))
    net.fit_codes(torch.rand(4, CODE_SIZE), ["a", "a", "a", "b"])
    assert net.sample_codes(50, torch.Generator().manual_seed(0)).isfinite().all()
    alone = generator()
    alone.fit_codes(torch.rand(1, CODE_SIZE), ["any"])
    drawn = alone.sample_codes(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, alone.code_mean.expand_as(drawn), atol=1e-3, rtol=0)


def test_one_mask_gives_differently_coloured_eyes() -> None:
    """Toy data: the same masks, red photographs under one code and blue ones under another."""
    torch.manual_seed(0)
    recipe = replace(TINY, lr=2e-3, cameras=("blue", "red")).build()
    masks = layout(2)
    field = masks[:, 2:]
    colour = torch.tensor([[0.6, -0.5, -0.8], [-0.8, -0.5, 0.6]])[:, :, None, None]
    code = torch.zeros(2, CODE_SIZE)
    code[0, 0] = code[1, 2] = 1.0
    recipe.nets["generator"].fit_codes(code, ["red", "blue"])
    for _ in range(40):
        batch = {
            "image": (colour + 1) * field - 1,
            "masks": masks[:, :2],
            "field_of_view": field,
            "code": code,
        }
        for phase in recipe.phases:
            phase.optimizer.zero_grad()
            torch.stack(list(recipe.losses(phase.name, batch, 0).values())).sum().backward()
            phase.optimizer.step()
    with torch.no_grad():
        painted = recipe.nets["generator"].eval()(masks, code)
    red, blue = ((image * field[0]).sum((1, 2)) / field[0].sum() for image in painted)
    assert red[0] - blue[0] > 0.7
    assert blue[2] - red[2] > 0.7
    assert (red[1] - blue[1]).abs() < 0.3


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for timm's smallest VGG."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg11.safetensors"
    with torch.device("meta"):
        net = timm.create_model("vgg11", pretrained=False)
    # Without the classifier, whose 120 million weights the loss has no use for.
    shapes = {k: v.shape for k, v in net.state_dict().items() if k.startswith("features.")}
    save_file({name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}, path)
    return path


def test_perceptual_loss_from_a_local_file(vgg_weights: Path) -> None:
    config = replace(TINY, perceptual=1.0, perceptual_model="vgg11", perceptual_weights=vgg_weights)
    torch.manual_seed(0)
    recipe = config.build()
    from safetensors import safe_open

    with safe_open(vgg_weights, "pt") as file:
        wanted = file.get_tensor("features.0.weight")
    assert any(torch.equal(wanted, p) for p in recipe.perceptual.net.parameters())
    masks = layout()
    batch = {
        "image": masks.clone(),
        "masks": masks[:, :2],
        "field_of_view": masks[:, 2:],
        "code": torch.zeros(1, 10),
    }
    losses = recipe.losses("generator", batch, 0)
    assert losses["perceptual"] > 0
    losses["perceptual"].backward()
    assert all(p.grad is None for p in recipe.perceptual.net.parameters())
    assert any(p.grad is not None and p.grad.any() for p in recipe.nets["generator"].parameters())
    assert recipe.perceptual(masks, masks).item() == 0
    assert not any("perceptual" in name for name in recipe.nets.state_dict())


def test_perceptual_loss_without_weights_says_so(tmp_path: Path) -> None:
    config = replace(
        TINY, perceptual=1.0, perceptual_model="vgg11", perceptual_weights=tmp_path / "none.safetensors"
    )
    with pytest.raises(ValueError, match=r"no weights for 'vgg11'.*none\.safetensors.*set perceptual to 0"):
        config.build()
    (tmp_path / "none.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="no weights for 'vgg11'"):
        config.build()
    with pytest.raises(ValueError, match="no weights for 'no_such_model'"):
        replace(config, perceptual_model="no_such_model").build()
