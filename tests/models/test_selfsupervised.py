"""Self-supervised features: views keep pixels, damages do what they say, the encoder is one call."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import draw_fundus, write_drawn_folder
from fundusforge.cli.fitting import fit
from fundusforge.config import from_json
from fundusforge.models.selfsupervised import (
    DAMAGES,
    Encoder,
    SelfSupervisedConfig,
    _partners,
    _similarities,
    damaged,
    instances,
    pretext_scores,
)
from fundusforge.training.checkpoint import fill, load_model
from fundusforge.training.run import LoopConfig

TINY = SelfSupervisedConfig(size=64, crop=32, widths=(4, 8, 8), projection=8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eyes(count: int, size: int = 128) -> tuple[Tensor, Tensor]:
    """Drawn eyes (N, 3, S, S) in [-1, 1] and their vessels (N, 1, S, S) of 0 and 1."""
    drawn = [draw_fundus(size, seed=seed) for seed in range(count)]
    image = torch.from_numpy(np.stack([d["image"] for d in drawn])).permute(0, 3, 1, 2) / 127.5 - 1
    return image, torch.from_numpy(np.stack([d["vessels"] > 0 for d in drawn]))[:, None].float()


def orientations(image: Tensor) -> list[Tensor]:
    return [turned.rot90(k, (1, 2)) for turned in (image, image.flip(2)) for k in range(4)]


def test_views_keep_every_pixel_as_it_is() -> None:
    """A blurred or recoloured view would teach the encoder to overlook just that."""
    image = torch.arange(3 * 40 * 40.0).reshape(1, 3, 40, 40) / 2400 - 1
    torch.manual_seed(0)
    views, strengths = instances(image, 24)
    assert views.shape == (2, 2, 3, 24, 24)
    assert strengths.shape == (2, len(DAMAGES))
    for view in views[:, 0]:  # the undamaged instance
        place = int(((view.min() + 1) * 2400).round())
        top, left = divmod(place, 40)
        cut = image[0, :, top : top + 24, left : left + 24]
        assert sum(torch.equal(turned, cut) for turned in orientations(view)) == 1


def test_half_of_the_instances_are_damaged_once_and_all_kinds_occur() -> None:
    image, _ = eyes(10)
    torch.manual_seed(1)
    views, strengths = instances(image, 64)
    assert not strengths[:10].any()
    assert ((strengths[10:] > 0).sum(1) == 1).all()
    assert (strengths[10:] > 0).any(0).all()
    assert strengths.max() <= 1
    assert views.abs().max() <= 1


def test_views_are_a_function_of_the_seed() -> None:
    image, _ = eyes(3, 64)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(instances(image, 32)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_stronger_damage_changes_more_and_leaves_black_black(kind: str) -> None:
    image, _ = eyes(2)
    change = []
    for strength in (0.2, 0.5, 1.0):
        torch.manual_seed(3)
        found = damaged(image, kind, strength)
        assert found.shape == image.shape
        assert found.isfinite().all()
        assert found.abs().max() <= 1
        assert (found[..., :4, :4] == -1).all()
        change.append((found - image).abs().mean().item())
    assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("kind", ["missing_vessels", "broken_vessels"])
def test_vessel_damages_change_vessels_and_little_else(kind: str) -> None:
    image, vessels = eyes(4)
    ground = (image[:, 1:2] > -0.9).float() * (nn.functional.max_pool2d(vessels, 9, 1, 4) == 0)
    torch.manual_seed(0)
    change = (damaged(image, kind, 1.0) - image).abs().mean(1, keepdim=True)
    on_vessels = (change * vessels).sum() / vessels.sum()
    beside = (change * ground).sum() / ground.sum()
    assert on_vessels > 10 * beside


def test_missing_vessels_are_nearly_as_light_as_their_surroundings() -> None:
    image, vessels = eyes(4)
    near = nn.functional.max_pool2d(vessels, 13, 1, 6) - nn.functional.max_pool2d(vessels, 5, 1, 2)

    def contrast(picture: Tensor) -> float:
        green = picture[:, 1:2]
        return float((green * near).sum() / near.sum() - (green * vessels).sum() / vessels.sum())

    assert contrast(damaged(image, "missing_vessels", 1.0)) < 0.4 * contrast(image)


def test_an_unknown_damage_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown damage 'scratch'"):
        damaged(torch.zeros(1, 3, 8, 8), "scratch", 1.0)


def test_partners_are_the_two_views_of_an_instance() -> None:
    assert _partners(6, torch.device("cpu")).tolist() == [3, 4, 5, 0, 1, 2]
    unit = nn.functional.normalize(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    near = _similarities(unit.repeat(2, 1)).argmax(1)
    assert near.tolist() == [3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("size", [64, 40, 100])
def test_the_encoder_takes_images_of_any_size(size: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    with torch.no_grad():
        found = encoder(torch.rand(3, 3, size, size) * 2 - 1)
    assert found.shape == (3, encoder.features) == (3, 8)
    assert found.isfinite().all()
    assert (found >= 0).all()


def test_the_encoder_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), not \(3, 64, 64\)"):
        Encoder(TINY)(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="expected images"):
        Encoder(TINY)(torch.zeros(1, 1, 64, 64))


def test_features_of_an_image_do_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    image, _ = eyes(4, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image)[2:3], encoder(image[2:3]))


@pytest.mark.parametrize("changes", [{"crop": 4}, {"crop": 65}, {"widths": (8,)}])
def test_crops_that_do_not_fit_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="crop must be between"):
        replace(TINY, **changes)


def test_a_short_training_teaches_to_tell_instances_apart() -> None:
    torch.manual_seed(1)
    config = replace(TINY, widths=(8, 16, 16), lr=1e-2)
    recipe = config.build()
    image, _ = eyes(8, 64)
    image = image * torch.linspace(0.6, 1.0, 8)[:, None, None, None]  # eyes that differ

    def scores() -> dict[str, float]:
        torch.manual_seed(9)
        return pretext_scores(recipe.nets.eval(), config, image)

    before = scores()
    optimizer = recipe.phases[0].optimizer
    for number in range(60):
        torch.manual_seed(number)
        recipe.nets.train()
        optimizer.zero_grad()
        sum(recipe.losses("main", {"image": image}, 0).values()).backward()
        optimizer.step()
    after = scores()
    assert set(after) == {"retrieval", "damage_named"}
    assert after["retrieval"] > before["retrieval"] + 0.2
    assert after["retrieval"] > 0.4  # by chance it would be 1 in 31


def test_a_run_leaves_an_encoder_with_its_figures(tmp_path: Path) -> None:
    folder = write_drawn_folder(tmp_path / "eyes", 10)
    loop = LoopConfig(batch=4, stop_after="8img", threads=1, tensorboard=False, device="cpu")
    result = fit(TINY, [folder], tmp_path / "run", loop=loop, quiet=True)
    assert result
    assert set(result["figures"]) == {"retrieval", "damage_named"}
    tensors, metadata = load_model(tmp_path / "run", kind="selfsupervised")
    assert json.loads(metadata["figures"]) == result["figures"]
    assert json.loads(metadata["patients"])
    encoder = Encoder(from_json(SelfSupervisedConfig, metadata["config"]))
    own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    fill(encoder, own, where=tmp_path)
    assert encoder.eval()(eyes(2, 64)[0]).shape == (2, 8)
