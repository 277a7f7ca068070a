"""The upscaler: tiles and orientations leave no trace, outlines stay smooth, connected and of their area."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.config import to_json
from fundusforge.images import resize_mask
from fundusforge.models.edsr import EDSRConfig, EDSRNet
from fundusforge.records import DatasetError
from fundusforge.sample.upscaling import Upscaler, bicubic, psnr, shrink, upscale_mask
from fundusforge.training.checkpoint import CheckpointError, annotate_metadata, save_model
from fundusforge.training.loop import Clock

pytestmark = pytest.mark.usefixtures("one_thread")
Drawing = Callable[..., dict[str, np.ndarray]]
TINY = EDSRConfig(blocks=2, width=28, turns=True)


def upscaler(config: EDSRConfig = TINY, **changes: object) -> Upscaler:
    torch.manual_seed(1)
    net = EDSRNet(config).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter += 0.02 * torch.randn_like(parameter)  # so that it is no plain interpolation
    return Upscaler(net=net, **changes)


def parts(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask, connectivity=8)[0] - 1


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    return ((first > 0) & (second > 0)).sum() / ((first > 0) | (second > 0)).sum()


def test_a_photograph_is_twice_as_large_and_repeatable(fundus: Drawing) -> None:
    image = fundus(48)["image"][:, :33]
    large = upscaler().upscale(image)
    assert large.shape == (96, 66, 3) and large.dtype == np.uint8
    np.testing.assert_array_equal(large, upscaler().upscale(image))
    with pytest.raises(ValueError, match="uint8"):
        upscaler().upscale(image.astype(np.float32))


def test_tiles_leave_no_seams(fundus: Drawing, monkeypatch: pytest.MonkeyPatch) -> None:
    image = fundus(80, seed=3)["image"][:, :71]
    whole = upscaler().upscale(image).astype(int)
    for tile in (16, 25, 40):
        assert np.abs(upscaler(tile=tile).upscale(image) - whole).max() <= 1  # rounding alone
    monkeypatch.setattr(EDSRConfig, "reach", 0)
    assert np.abs(upscaler(tile=16).upscale(image) - whole).max() > 1


def test_the_edge_of_a_photograph_is_no_edge_to_the_network(fundus: Drawing) -> None:
    """A picture of one colour stays so up to its edge; the network alone reads grey beyond it."""
    plain = np.full((24, 24, 3), 200, np.uint8)
    made = Upscaler(net=EDSRNet(TINY).eval())
    found = made.upscale(plain).astype(int)
    assert np.ptp(found.reshape(-1, 3), axis=0).max() <= 2
    with torch.no_grad():
        bare = made.net(torch.full((1, 3, 24, 24), 200 / 127.5 - 1))
    assert np.ptp(bare.numpy()) * 127.5 > 20


def test_the_ensemble_turns_with_the_photograph(fundus: Drawing) -> None:
    image = fundus(32)["image"]
    alone, together = upscaler(), upscaler(ensemble=True)
    for change in (lambda x: np.rot90(x, axes=(0, 1)), lambda x: x[:, ::-1], lambda x: x.transpose(1, 0, 2)):
        turned = np.ascontiguousarray(change(image))
        off = together.upscale(turned).astype(int) - change(together.upscale(image))
        assert np.abs(off).max() <= 1
        assert np.abs(alone.upscale(turned).astype(int) - change(alone.upscale(image))).max() > 1


def test_where_nothing_was_turned_the_ensemble_is_that_of_mirror_images(fundus: Drawing) -> None:
    image = fundus(32)["image"]
    together = upscaler(replace(TINY, turns=False), ensemble=True)
    mirrored = together.upscale(np.ascontiguousarray(image[:, ::-1]))[:, ::-1]
    assert np.abs(mirrored.astype(int) - together.upscale(image)).max() <= 1
    assert together.orientations == ((0, False), (0, True))
    assert upscaler().orientations == ((0, False),)


@pytest.mark.parametrize("seed", range(4))
def test_outlines_keep_area_and_connections(fundus: Drawing, seed: int) -> None:
    drawing = fundus(128, seed=seed)
    inside = upscale_mask(drawing["field_of_view"])
    for name in ("field_of_view", "vessels", "disc"):
        mask = drawing[name]
        large = upscale_mask(mask, inside=None if name == "field_of_view" else inside)
        assert large.shape == (256, 256) and set(np.unique(large)) == {0, 255}
        assert parts(large) <= parts(mask)
        assert (large > 0).sum() / 4 == pytest.approx((mask > 0).sum(), rel=0.02)
        assert not large[inside == 0].any()
        # Nothing moves: each small pixel of the middle is still covered.
        assert (cv2.dilate(mask, np.ones((3, 3), np.uint8)).repeat(2, 0).repeat(2, 1) >= large).all()


def test_outlines_come_nearer_to_the_truth_than_larger_pixels() -> None:
    """A tree drawn large, made small, and enlarged again."""
    large = np.zeros((256, 256), np.uint8)
    for place, width in enumerate((2, 3, 5, 7)):
        path = [(x, int(40 + 50 * place + 18 * np.sin(x / 17 + place))) for x in range(8, 248)]
        cv2.polylines(large, [np.array(path, np.int32)], isClosed=False, color=255, thickness=width)
    small = resize_mask(large, 128)
    found = upscale_mask(small)
    pixels = small.repeat(2, 0).repeat(2, 1)
    assert likeness(found, large) > likeness(pixels, large) + 0.01
    lengths = [
        sum(cv2.arcLength(c, True) for c in cv2.findContours(m, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0])
        for m in (found, pixels)
    ]
    assert lengths[0] < lengths[1]  # fewer stairs


def test_lines_one_pixel_wide_and_single_pixels_stay() -> None:
    mask = np.zeros((40, 40), np.uint8)
    cv2.line(mask, (3, 5), (36, 20), 255, 1)
    mask[30, 30] = mask[34, 5] = 255
    assert parts(mask) == 3
    large = upscale_mask(mask)
    assert parts(large) == 3
    assert large[60:62, 60:62].all()


def test_empty_masks_stay_empty_and_other_sizes_are_refused() -> None:
    assert not upscale_mask(np.zeros((8, 9), np.uint8)).any()
    assert not upscale_mask(np.full((8, 8), 255, np.uint8), inside=np.zeros((16, 16), np.uint8)).any()
    assert upscale_mask(np.full((8, 8), 255, np.uint8)).all()
    with pytest.raises(ValueError, match="field of view"):
        upscale_mask(np.zeros((8, 8), np.uint8), inside=np.zeros((8, 8), np.uint8))


def test_signal_to_noise_by_hand(fundus: Drawing) -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    other = image.copy()
    other[:2] += 10
    assert psnr(image, other) == pytest.approx(20 * np.log10(255) - 10 * np.log10(50))
    inside = np.zeros((4, 4), np.uint8)
    inside[:2] = 255
    assert psnr(image, other, inside) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(image, image) == float("inf")
    with pytest.raises(ValueError, match="one shape"):
        psnr(image, image[:2])
    with pytest.raises(ValueError, match="empty"):
        psnr(image, image, 0 * inside)
    drawn = fundus(64)["image"]
    small = shrink(drawn[:63], "area")
    assert small.shape == (31, 32, 3) and bicubic(small).shape == (62, 64, 3)
    assert psnr(bicubic(small), drawn[:62]) > 20


def test_a_network_is_loaded_with_its_terms(tmp_path: Path, fundus: Drawing) -> None:
    made = upscaler()
    path = tmp_path / "sharp.safetensors"
    save_model(path, nn.ModuleDict({"net": made.net}), config_json=to_json(TINY), clock=Clock(images=8))
    annotate_metadata(path, terms=["drawn: CC0"], patients=["abc"])
    loaded = Upscaler.load(path, device="cpu", tile=64)
    assert loaded.name.startswith("sharp-") and loaded.terms == ("drawn: CC0",)
    assert loaded.patients == {"abc"} and loaded.config == TINY and loaded.tile == 64
    image = fundus(32)["image"]
    np.testing.assert_array_equal(loaded.upscale(image), made.upscale(image))
    with pytest.raises(DatasetError, match="16 pixels"):
        Upscaler.load(path, tile=4)
    with pytest.raises(CheckpointError, match="no such file"):
        Upscaler.load(tmp_path / "none.safetensors")
