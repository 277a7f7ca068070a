"""Self-supervised features: views keep pixels, the encoder is one call, its features point at damage."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import draw_fundus, write_drawn_folder
from fundusforge.cli.fitting import fit
from fundusforge.config import from_json
from fundusforge.models.damages import DAMAGES
from fundusforge.models.selfsupervised import (
    Encoder,
    SelfSupervisedConfig,
    fit_features,
    pairs,
    pretext_scores,
)
from fundusforge.training.checkpoint import fill, load_model
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = SelfSupervisedConfig(size=64, crop=32, widths=(4, 8, 8), levels=2, features=6)


def eyes(count: int, size: int = 128) -> Tensor:
    """Drawn eyes (N, 3, S, S) in [-1, 1]."""
    drawn = [draw_fundus(size, seed=seed)["image"] for seed in range(count)]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2) / 127.5 - 1


def orientations(image: Tensor) -> list[Tensor]:
    return [turned.rot90(k, (1, 2)) for turned in (image, image.flip(2)) for k in range(4)]


def test_clean_views_keep_every_pixel_as_it_is() -> None:
    """A blurred or recoloured view would teach the encoder to overlook just that."""
    image = torch.arange(3 * 40 * 40.0).reshape(1, 3, 40, 40) / 2400 - 1
    torch.manual_seed(0)
    views, strengths = pairs(image, 24)
    assert views.shape == (2, 3, 24, 24)
    assert strengths.shape == (2, len(DAMAGES), 24, 24)
    place = int(((views[0].min() + 1) * 2400).round())
    top, left = divmod(place, 40)
    cut = image[0, :, top : top + 24, left : left + 24]
    assert sum(torch.equal(turned, cut) for turned in orientations(views[0])) == 1


def test_half_of_the_views_are_damaged_once_and_all_kinds_occur() -> None:
    torch.manual_seed(1)
    views, strengths = pairs(eyes(20), 64)
    assert not strengths[:20].any()
    struck = strengths[20:].amax((2, 3)) > 0
    assert (struck.sum(1) <= 1).all()
    assert struck.any(0).all()
    assert views.abs().max() <= 1
    changed = (views[20:] != views[:20]).flatten(1).any(1)
    assert torch.equal(changed, struck.any(1))


def test_views_are_a_function_of_the_seed() -> None:
    image = eyes(3, 64)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(pairs(image, 32)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("size", [64, 40, 100])
def test_the_encoder_takes_images_of_any_size(size: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    with torch.no_grad():
        found = encoder(torch.rand(3, 3, size, size) * 2 - 1)
    assert found.shape == (3, encoder.features) == (3, 6)
    assert found.isfinite().all()


def test_the_encoder_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 3, H, W\), not \(3, 64, 64\)"):
        Encoder(TINY)(torch.zeros(3, 64, 64))
    with pytest.raises(ValueError, match="expected images"):
        Encoder(TINY)(torch.zeros(1, 1, 64, 64))


def test_features_of_an_image_do_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    image = eyes(4, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image)[2:3], encoder(image[2:3]))


def test_a_summary_holds_means_and_deviations_of_the_finest_levels() -> None:
    encoder = Encoder(TINY).eval()
    image = eyes(2, 64)
    with torch.no_grad():
        found, levels = encoder.summary(image), encoder.maps(image)
    assert found.shape == (2, 2 * (4 + 8))
    torch.testing.assert_close(found[:, :4], levels[0].mean((2, 3)))
    torch.testing.assert_close(found[:, 12:16], levels[0].std((2, 3)))
    torch.testing.assert_close(found[:, 4:12], levels[1].mean((2, 3)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 4}, "crop must be between"),
        ({"crop": 65}, "crop must be between"),
        ({"widths": (8,)}, "crop must be between"),
        ({"levels": 4}, "levels must be between 1 and 3"),
        ({"features": 25}, "features must be between 1 and 24"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


# ---- fitted features ---------------------------------------------------------------------------------------


def drawn_summaries(length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Summaries of 400 photographs, which differ most in number 0, damaged in numbers 3 and 5."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.ones(length)
    spread[0] = 50.0
    clean = torch.randn(400, length, generator=generator) * spread
    kinds = torch.arange(400) % 2
    moved = torch.zeros(400, length)
    moved[kinds == 0, 3] = 8.0
    moved[kinds == 1, 5] = 0.5  # weaker by far, but of a kind that weighs the same
    return clean, clean + moved, kinds


def test_fitted_features_point_where_damage_moves_photographs() -> None:
    encoder = Encoder(replace(TINY, features=2))
    clean, harmed, kinds = drawn_summaries(24)
    encoder.fit(clean, harmed, kinds)
    weights = (encoder.projection * clean.std(0)[:, None]).square().sum(1)
    assert set(weights.topk(2).indices.tolist()) == {3, 5}
    assert weights.topk(2).values.sum() > 0.9 * weights.sum()


def test_fitted_features_of_clean_photographs_are_white() -> None:
    encoder = Encoder(TINY)
    encoder.fit(*drawn_summaries(24))
    features = (drawn_summaries(24)[0] - encoder.centre) @ encoder.projection
    torch.testing.assert_close(features.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(features.T), torch.eye(6), atol=0.03, rtol=0)


def test_features_are_not_fitted_to_one_photograph() -> None:
    encoder = Encoder(TINY)
    with pytest.raises(ValueError, match="at least two photographs"):
        fit_features(encoder.eval(), [eyes(1, 64)])
    assert torch.equal(encoder.projection, torch.eye(24, 6)), "nothing may be half-fitted"


def test_fitting_makes_damage_stand_out() -> None:
    """Blurred eyes must be farther from clean ones, in clean eyes' own spread, than before."""
    torch.manual_seed(0)
    encoder = Encoder(replace(TINY, widths=(8, 16, 16))).eval()
    image = eyes(42, 64)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)

    def distance() -> float:
        with torch.no_grad():
            clean, worse = encoder(image), encoder(blurred)
        return float(((worse.mean(0) - clean.mean(0)) / clean.std(0)).norm())

    before = distance()
    fit_features(encoder, image.split(6))
    assert distance() > 2 * before


# ---- training ----------------------------------------------------------------------------------------------


def test_a_short_training_teaches_to_see_damage() -> None:
    torch.manual_seed(1)
    config = replace(TINY, widths=(8, 16, 16), crop=48, lr=1e-2)
    recipe = config.build()
    image = eyes(8, 64)

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
    assert set(after) == {f"{name}_auc" for name in DAMAGES}
    assert np.mean(list(after.values())) > np.mean(list(before.values())) + 0.1
    assert after["checkerboard_auc"] > 0.9


def test_a_run_leaves_a_fitted_encoder_with_its_figures(tmp_path: Path) -> None:
    folder = write_drawn_folder(tmp_path / "eyes", 10)
    loop = LoopConfig(batch=4, stop_after="8img", threads=1, tensorboard=False, device="cpu")
    result = fit(TINY, [folder], tmp_path / "run", loop=loop, quiet=True)
    assert result
    assert set(result["figures"]) <= {f"{name}_auc" for name in DAMAGES}
    tensors, metadata = load_model(tmp_path / "run", kind="selfsupervised")
    assert json.loads(metadata["figures"]) == result["figures"]
    assert json.loads(metadata["patients"])
    assert metadata["images"] == "8"
    encoder = Encoder(from_json(SelfSupervisedConfig, metadata["config"]))
    own = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
    fill(encoder, own, where=tmp_path)
    assert not torch.equal(encoder.projection, torch.eye(24, 6))
    assert encoder.eval()(eyes(2, 64)).shape == (2, 6)
