"""Super-resolution: the fast form is the paper's, and what is learnt is to undo the stated kernel."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fundusforge.models import edsr
from fundusforge.models.edsr import EDSRConfig, EDSRNet, degraded, fitted, merged, turned

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = EDSRConfig(blocks=3, width=12, crop=32, start="random")


def network(config: EDSRConfig = TINY) -> EDSRNet:
    torch.manual_seed(0)
    return EDSRNet(config).eval()


def smooth(count: int = 4, side: int = 64, seed: int = 0) -> Tensor:
    """Pictures (N, 3, S, S) whose detail can be told from what is left when they are made small."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, side // 4, side // 4, generator=draw)
    return F.interpolate(coarse, (side, side), mode="bicubic").tanh()


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.1])
@pytest.mark.parametrize("sides", [(40, 52), (70, 20), (5, 4), (2, 3), (1, 1)])
@pytest.mark.parametrize("band", [1, 400, 65536])
def test_the_fast_form_is_the_literal_one(
    monkeypatch: pytest.MonkeyPatch, scale: float, sides: tuple[int, int], band: int
) -> None:
    """In bands, at every border, with the scale in the weights and the last convolutions in one."""
    monkeypatch.setattr(edsr, "BAND", band)
    net = network(replace(TINY, residual_scale=scale))
    pictures = torch.rand(2, 3, *sides) * 2 - 1
    found, wanted = net(pictures), net.literal(pictures)
    assert found.shape == (2, 3, 2 * sides[0], 2 * sides[1])
    torch.testing.assert_close(found, wanted, atol=3e-6, rtol=0)
    laid_out = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(laid_out(pictures), wanted, atol=3e-6, rtol=0)


@torch.no_grad()
def test_the_merged_convolution_alone_is_wrong_at_the_border() -> None:
    """So that the test above would notice if the border were left out."""
    net = network()
    features = torch.randn(1, 12, 9, 9)
    weight, bias = merged(net.up, net.tail)
    alone = F.pixel_shuffle(F.conv2d(features, weight, bias, padding=2), 2)
    wanted = net.tail(F.pixel_shuffle(net.up(features), 2))
    wrong = (alone - wanted).abs().amax((0, 1))
    assert wrong[2:-2, 2:-2].max() < 1e-5
    assert min(wrong[0].max(), wrong[-1].max(), wrong[:, 0].max(), wrong[:, -1].max()) > 1e-3


def test_learning_takes_the_literal_form_and_keeps_gradients() -> None:
    net = network()
    pictures = torch.rand(1, 3, 8, 8)
    assert torch.equal(net(pictures), net.literal(pictures))
    assert net(pictures).requires_grad


@torch.no_grad()
def test_a_pixel_depends_on_no_more_than_it_is_said_to() -> None:
    net, side = network(replace(TINY, blocks=2)), 41
    picture = torch.rand(1, 3, side, side)
    other = picture.clone()
    other[:, :, side // 2, side // 2] += 1
    moved = (net(picture) - net(other)).abs().amax((0, 1)).nonzero()
    reach = int((moved // 2 - side // 2).abs().max())
    assert 2 * 2 < reach <= net.config.reach


@torch.no_grad()
def test_it_starts_as_cubic_interpolation() -> None:
    small = degraded(smooth(1))
    wanted = F.interpolate(small, scale_factor=2.0, mode="bicubic")[..., 4:-4, 4:-4]
    for start in ("fitted", "interpolation"):
        net = network(replace(TINY, width=28, start=start))
        torch.testing.assert_close(net(small)[..., 4:-4, 4:-4], wanted, atol=1e-5, rtol=0)
    assert (network()(small)[..., 4:-4, 4:-4] - wanted).square().mean() > 1e-2


@torch.no_grad()
def test_the_fitted_filter_knows_more_than_cubic_interpolation_and_nothing_from_outside() -> None:
    net = network(replace(TINY, width=28, start="fitted"))
    sharp, inside = smooth(6, 64), torch.ones(6, 1, 64, 64)
    inside[0, :, :, 30:] = 0
    kernel, spoilt = fitted([(sharp[:3], inside[:3]), (sharp[3:], inside[3:])]), sharp.clone()
    spoilt[0, :, :, 30:] = torch.rand(3, 64, 34)
    torch.testing.assert_close(fitted([(spoilt, inside)]), kernel, atol=1e-5, rtol=0)
    net.begin(kernel)
    other = smooth(4, 64, seed=9)
    small = degraded(other)
    cubic = F.interpolate(small, scale_factor=2.0, mode="bicubic")
    ours, theirs = ((one - other)[..., 8:-8, 8:-8].square().mean() for one in (net(small), cubic))
    assert ours < 0.7 * theirs
    flat = torch.full((1, 3, 12, 12), 0.3)
    torch.testing.assert_close(net(flat)[..., 6:-6, 6:-6], torch.full((1, 3, 12, 12), 0.3), atol=1e-5, rtol=0)


def test_the_kernels_are_what_they_are_called() -> None:
    sharp = smooth(1)
    pixels = ((sharp[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    sharp = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    area = ((degraded(sharp)[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    wanted = cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(area - wanted).max() <= 1.001  # both round, halves to different sides
    levels = (degraded(sharp, "bicubic") + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-4
    assert not torch.equal(degraded(sharp, "bicubic"), degraded(sharp))
    with pytest.raises(ValueError, match="even sides"):
        degraded(torch.zeros(1, 3, 5, 4))


def test_crops_are_turned_every_way_and_only_turned() -> None:
    picture = torch.arange(16.0).view(1, 1, 4, 4)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    found = turned(picture.expand(8, -1, -1, -1), signs)
    assert len({tuple(one.flatten().tolist()) for one in found}) == 8
    assert torch.equal(found.flatten(1).sort(1).values, picture.flatten(1).expand(8, -1))
    assert torch.equal(found[0], picture[0])
    assert torch.equal(turned(picture, torch.ones(1, 1)), picture.flip(3))
    assert EDSRConfig(turns=True).build().view.draws == 3 and EDSRConfig().build().view.draws == 1


def test_it_learns_to_beat_cubic_interpolation() -> None:
    torch.manual_seed(0)
    recipe = EDSRConfig(blocks=2, width=28, crop=32, lr=1e-3).build()
    inside = torch.ones(4, 1, 32, 32)
    for number in range(60):
        batch = {"image": smooth(4, 32, seed=number), "field_of_view": inside, "draws": torch.randn(4, 3)}
        recipe.phases[0].optimizer.zero_grad()
        recipe.losses("main", batch, 0)["l1"].backward()
        recipe.phases[0].optimizer.step()
    sharp = smooth(8, 64, seed=1000)
    small = degraded(sharp)
    with torch.no_grad():
        learnt = recipe.nets["net"](small)
    cubic = F.interpolate(small, scale_factor=2.0, mode="bicubic")
    learnt, cubic = ((one - sharp)[..., 8:-8, 8:-8].square().mean() for one in (learnt, cubic))
    assert learnt < 0.8 * cubic


def test_what_lies_outside_the_field_of_view_is_not_learnt() -> None:
    torch.manual_seed(0)
    recipe = TINY.build()
    batch = {
        "image": smooth(2, 32), "field_of_view": torch.zeros(2, 1, 32, 32), "draws": torch.ones(2, 3)
    }  # fmt: skip
    assert recipe.losses("main", batch, 0)["l1"] == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blocks": 0}, "at least 1 block"),
        ({"width": 26}, "27 channels are needed with start fitted"),
        ({"width": 2, "start": "random"}, "3 channels"),
        ({"crop": 33}, "even"),
        ({"crop": 30}, "at least 32"),
        ({"residual_scale": 0.0}, "residual_scale"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EDSRConfig(**changes)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected pictures \(N, 3, H, W\), got \(1, 4, 8, 8\)"):
        network()(torch.zeros(1, 4, 8, 8))
