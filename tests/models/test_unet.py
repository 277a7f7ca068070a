"""Segmentation networks: sizes, patches, mirrors, and masks that some records lack."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fundusforge.models import UNetConfig, unet
from fundusforge.models.layers import LocalContrast, fuse
from fundusforge.models.unet import SmallUNet, predict

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = UNetConfig(widths=(4, 8, 8), crop=32, diameter=64)


def eye(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    field = ((rows**2 + columns**2) < 0.95).float()[None, None]
    image = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    return image * field + (field - 1), field


class Point(nn.Module):
    """A network that sees one pixel at a time."""

    multiple = 1

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        return torch.stack([image[:, 0] * 3, image[:, 1] - image[:, 2]], 1)


class Place(nn.Module):
    """A network that answers with the column inside what it was given."""

    multiple = 1

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        return (torch.arange(image.shape[3]) / 4).expand(len(image), 1, image.shape[2], -1)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (61, 77), (100, 48)])
@pytest.mark.parametrize("overlap", [0, 3, 15])
def test_patches_give_what_the_whole_image_gives(height: int, width: int, overlap: int) -> None:
    image, field = eye(height, width)
    whole = UNetConfig(masks=("vessels", "disc"))
    patches = replace(whole, patch=16, overlap=overlap)
    found = predict(Point(), patches, image, field)
    assert found.shape == (1, 2, height, width)
    torch.testing.assert_close(found, predict(Point(), whole, image, field))


def test_overlapping_patches_are_averaged() -> None:
    image, _ = eye(16, 28)
    config = UNetConfig(patch=16, overlap=4)
    found = predict(Place(), config, image, torch.ones(1, 1, 16, 28)).logit()[0, 0, 0] * 4
    wanted = torch.cat(
        [torch.arange(12.0), (torch.arange(12.0, 16) + torch.arange(4)) / 2, torch.arange(4.0, 16)]
    )
    torch.testing.assert_close(found, wanted, atol=2e-2, rtol=0)


@pytest.mark.parametrize("inputs", ["rgb", "both"])
def test_tiles_join_to_what_the_whole_image_gives(monkeypatch: pytest.MonkeyPatch, inputs: str) -> None:
    torch.manual_seed(0)
    config = replace(TINY, inputs=inputs)
    net = config.build().nets["net"].eval()
    images = torch.rand(2, 3, 150, 109) * 2 - 1
    fields = torch.zeros(2, 1, 150, 109)
    fields[:, :, 40:90, 5:60] = 1
    whole = predict(net, config, images, fields)
    seen: list[tuple[int, ...]] = []
    net.net.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    monkeypatch.setattr(unet, "TILE", 32)
    monkeypatch.setattr(unet, "MARGIN", 16)
    torch.testing.assert_close(predict(net, config, images, fields), whole, atol=1e-6, rtol=0)
    assert len(seen) == 4 and max(max(shape[2:]) for shape in seen) == 64, "tiles without retina are left out"


def test_the_margin_of_tiles_is_wider_than_five_levels_see() -> None:
    net = UNetConfig(widths=(2, 2, 2, 2, 2)).build().nets["net"].eval()
    for weights in net.parameters():  # all positive: nothing that is seen is lost
        weights.data.abs_().add_(0.01)
    reach = 0
    for place in range(256, 272):  # every place within a cell of the coarsest level
        image = torch.rand(1, 3, 32, 512, requires_grad=True)
        net(image, torch.ones(1, 1, 32, 512))[..., place].sum().backward()
        touched = torch.nonzero(image.grad[0].abs().sum((0, 1)))[:, 0]
        reach = max(reach, int((touched - place).abs().max()))
    assert 32 < reach <= unet.MARGIN
    assert unet.TILE % 32 == unet.MARGIN % 32 == 0, "tiles must keep the grid of the coarsest level"


def test_folded_normalisation_changes_nothing() -> None:
    torch.manual_seed(0)
    net = UNetConfig(widths=(4, 8, 8), inputs="both").build().nets["net"]
    image, field = torch.rand(4, 3, 32, 32) * 2 - 1, torch.ones(4, 1, 32, 32)
    net(image, field)  # statistics that are not those of a fresh network
    before = net.eval()(image, field)
    fuse(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    torch.testing.assert_close(net(image, field), before, atol=1e-5, rtol=1e-5)


def test_an_image_smaller_than_the_patch_is_refused() -> None:
    with pytest.raises(ValueError, match="side 10 is smaller than the patch side 16"):
        predict(Point(), UNetConfig(patch=16), *eye(10, 40))


@pytest.mark.parametrize("patch", [0, 16])
@pytest.mark.parametrize(("height", "width"), [(40, 40), (37, 51)])
def test_mirrors_make_the_prediction_symmetric(patch: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    config = replace(TINY, tta=True, patch=patch)
    net = config.build().nets["net"].eval()
    image, field = eye(height, width)
    straight = predict(net, config, image, field)
    for axes in ([3], [2], [2, 3]):
        turned = predict(net, config, image.flip(axes), field.flip(axes))
        torch.testing.assert_close(turned.flip(axes), straight, atol=1e-5, rtol=0)
    plain = replace(config, tta=False)
    assert not torch.allclose(
        predict(net, plain, image.flip(3), field.flip(3)).flip(3),
        predict(net, plain, image, field),
        atol=1e-5,
    )


@pytest.mark.parametrize("inputs", ["rgb", "local", "grey"])
@pytest.mark.parametrize(("height", "width"), [(33, 50), (5, 7), (64, 64)])
def test_any_size_is_predicted_and_nothing_outside_the_field(inputs: str, height: int, width: int) -> None:
    torch.manual_seed(0)
    config = replace(TINY, inputs=inputs, masks=("vessels", "disc", "cup"))
    image, field = eye(height, width)
    found = predict(config.build().nets["net"].eval(), config, image, field)
    assert found.shape == (1, 3, height, width)
    assert found.isfinite().all()
    assert ((found >= 0) & (found <= 1)).all()
    assert not found[0, :, field[0, 0] == 0].any()
    assert found[0, :, field[0, 0] > 0].all()


@pytest.mark.parametrize("architecture", ["unet", "fpn"])
def test_any_size_through_a_timm_encoder(architecture: str) -> None:
    config = UNetConfig(architecture=architecture, encoder="mobilenetv3_small_050", crop=32)
    found = predict(config.build().nets["net"].eval(), config, *eye(45, 70))
    assert found.shape == (1, 1, 45, 70)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"crop": 50}, "crop must be a multiple of 8"),
        ({"crop": 0}, "crop must be"),
        ({"patch": 50}, "patch must be a multiple of 8"),
        ({"patch": 48, "overlap": 48}, "overlap must be between"),
        ({"patch": 48, "overlap": -1}, "overlap must be between"),
        ({"architecture": "fpn", "crop": 80}, "crop must be a multiple of 32"),
    ],
)
def test_sides_that_the_levels_do_not_divide_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        UNetConfig(**changes)


@pytest.mark.parametrize("loss", ["bce", "bce_dice", "focal_dice"])
def test_an_unknown_mask_moves_nothing_of_its_channel(loss: str) -> None:
    torch.manual_seed(0)
    config = replace(TINY, masks=("vessels", "disc"), loss=loss)
    recipe = config.build()
    image, field = eye(32, 32)
    batch = {
        "image": image,
        "field_of_view": field,
        "masks": (torch.rand(1, 2, 32, 32) > 0.5).float() * field,
        "masks_known": torch.tensor([[1.0, 0.0]]),
    }
    torch.stack(list(recipe.losses("main", batch, 0).values())).sum().backward()
    head = recipe.nets["net"].net.head
    assert head.weight.grad[0].any()
    assert not head.weight.grad[1].any()
    assert not head.bias.grad[1].any()


def test_nothing_is_learnt_outside_the_field_of_view() -> None:
    torch.manual_seed(0)
    recipe = TINY.build()
    recipe.nets.eval()
    image, field = eye(32, 32)
    masks = (torch.rand(1, 1, 32, 32) > 0.5).float()
    batch = {"image": image, "field_of_view": field, "masks_known": torch.ones(1, 1)}
    inside = recipe.losses("main", batch | {"masks": masks * field}, 0)
    filled = recipe.losses("main", batch | {"masks": masks * field + (1 - field)}, 0)
    for name in inside:
        torch.testing.assert_close(inside[name], filled[name])
    none = recipe.losses("main", batch | {"masks": masks, "field_of_view": field * 0}, 0)
    assert all(loss.isfinite() for loss in none.values())


def test_small_network_of_one_level() -> None:
    assert SmallUNet(3, 2, (4,))(torch.zeros(1, 3, 9, 9)).shape == (1, 2, 9, 9)


def test_local_contrast_removes_gain_offset_and_colour() -> None:
    layer = LocalContrast(sigma=4)
    generator = torch.Generator().manual_seed(0)
    texture = torch.rand(1, 3, 80, 80, generator=generator)
    field = torch.ones(1, 1, 80, 80)
    plain = layer(texture, field)
    tinted = layer(texture * torch.tensor([0.6, 0.8, 0.5])[:, None, None] + 0.2, field)
    ramp = layer(texture + torch.linspace(0, 0.5, 80), field)
    assert (plain - tinted).abs().mean() < 0.1 * plain.abs().mean()
    assert (plain - ramp)[..., 12:-12].abs().mean() < 0.1 * plain.abs().mean()


def test_local_contrast_leaves_no_halo_at_the_rim() -> None:
    _, field = eye(96, 96)
    found = LocalContrast(sigma=4)(torch.full((1, 3, 96, 96), 0.3), field)
    assert found.abs().max() < 1e-2
    assert not LocalContrast(sigma=4)(torch.rand(1, 3, 96, 96), field * 0).any()


def test_local_contrast_keeps_its_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    image = 0.9 + 0.02 * torch.rand(1, 3, 64, 64, generator=generator)  # bright and nearly flat
    field = torch.ones(1, 1, 64, 64)
    layer = LocalContrast(sigma=4)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = layer(image, field)
    torch.testing.assert_close(reduced, layer(image, field))
