"""Damages do what they say, where they say, and leave the rest alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import draw_fundus
from fundusforge.models.damages import DAMAGES, damaged

pytestmark = pytest.mark.usefixtures("one_thread")

EVERYWHERE = ("blur", "colour", "contrast", "checkerboard")


def eye(seed: int = 0, size: int = 128) -> tuple[Tensor, Tensor]:
    """A drawn eye (3, S, S) in [-1, 1] and its vessels (1, S, S) of 0 and 1."""
    drawn = draw_fundus(size, seed=seed)
    image = torch.from_numpy(drawn["image"]).permute(2, 0, 1) / 127.5 - 1
    return image, torch.from_numpy(drawn["vessels"] > 0)[None].float()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_stronger_damage_changes_more_and_leaves_black_black(kind: str) -> None:
    image, _ = eye()
    change = []
    for strength in (0.2, 0.5, 1.0):
        torch.manual_seed(3)
        found, where = damaged(image, kind, strength)
        assert found.shape == image.shape
        assert where.shape == image.shape[1:]
        assert found.isfinite().all()
        assert found.abs().max() <= 1
        assert (found[..., :4, :4] == -1).all()
        assert where.min() >= 0
        assert where.max() <= 1 + 1e-6
        change.append((found - image).abs().mean().item())
    assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("kind", DAMAGES)
def test_where_it_struck_is_where_the_picture_changed(kind: str) -> None:
    image, _ = eye(1)
    torch.manual_seed(0)
    found, where = damaged(image, kind, 0.6)
    change = (found - image).abs().mean(0)
    rim = nn.functional.max_pool2d((image.amax(0) < -0.9).float()[None, None], 25, 1, 12)[0, 0] > 0
    inside = ~rim
    assert change[inside & (where < 1e-3)].sum() <= 0.02 * change[inside].sum()
    if kind in EVERYWHERE:
        assert ((where[inside] - 0.6).abs() < 1e-6).all()


@pytest.mark.parametrize("kind", ["missing_vessels", "broken_vessels"])
def test_vessel_damages_change_vessels_and_little_else(kind: str) -> None:
    on_vessels, beside = 0.0, 0.0
    for seed in range(4):
        image, vessels = eye(seed)
        ground = (image[1:2] > -0.9).float() * (nn.functional.max_pool2d(vessels, 9, 1, 4) == 0)
        torch.manual_seed(seed)
        change = (damaged(image, kind, 1.0)[0] - image).abs().mean(0, keepdim=True)
        on_vessels += float((change * vessels).sum() / vessels.sum())
        beside += float((change * ground).sum() / ground.sum())
    assert on_vessels > 6 * beside


def contrast(image: Tensor, vessels: Tensor) -> float:
    """How much lighter the green of the vessels' sides is than that of the vessels."""
    near = nn.functional.max_pool2d(vessels, 13, 1, 6) - nn.functional.max_pool2d(vessels, 5, 1, 2)
    green = image[1:2]
    return float((green * near).sum() / near.sum() - (green * vessels).sum() / vessels.sum())


def test_missing_vessels_are_nearly_as_light_as_their_surroundings() -> None:
    before, after = 0.0, 0.0
    for seed in range(4):
        image, vessels = eye(seed)
        torch.manual_seed(seed)
        before += contrast(image, vessels)
        after += contrast(damaged(image, "missing_vessels", 1.0)[0], vessels)
    assert after < 0.4 * before


def test_false_vessels_are_darker_than_the_ground_they_lie_on() -> None:
    image, _ = eye(2)
    torch.manual_seed(1)
    found, where = damaged(image, "false_vessels", 1.0)
    assert (where > 0.5).any()
    assert ((found - image)[:, where > 0.5] <= 1e-6).all()
    assert (found - image)[1][where > 0.5].mean() < -0.02


def test_a_damage_is_a_function_of_the_seed() -> None:
    image, _ = eye()
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(damaged(image, "broken_vessels", 0.5)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_an_unknown_damage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown damage 'scratch'"):
        damaged(torch.zeros(3, 8, 8), "scratch", 1.0)


def test_damaging_leaves_the_image_itself_as_it_was() -> None:
    image, _ = eye()
    before = image.clone()
    for kind in DAMAGES:
        damaged(image, kind, 1.0)
    np.testing.assert_array_equal(before.numpy(), image.numpy())
