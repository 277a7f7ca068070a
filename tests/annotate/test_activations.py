"""Activation maps: they show what a network of known answers sees, beside the library's; their scale."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fundusforge.annotate.activations import Activations
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.picture import Picture
from fundusforge.cli.fitting import fit
from fundusforge.evaluate.vessels import area_under_curve
from fundusforge.images import read_image, read_mask, resize, write_image
from fundusforge.models.classifier import Classification, ClassifierConfig
from fundusforge.records import DatasetError, read_folder, with_mask, write_metadata
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = ClassifierConfig(
    size=64, widths=(4, 8), targets=("laser_marks", "proliferative_membranes"), pool="last"
)


def random_grader(config: ClassifierConfig = CONFIG, **options: object) -> Grader:
    torch.manual_seed(0)
    return Grader(net=Classification(config).eval(), config=config, thresholds=ALWAYS, **options)


ALWAYS = {"laser_marks": 0.0, "proliferative_membranes": 0.0}


def spot_finder(**options: object) -> Grader:
    """A network made by hand: laser marks are what is green beyond a half, membranes are nowhere."""
    grader = random_grader(**options)
    with torch.no_grad():
        for parameter in grader.net.parameters():
            parameter.zero_()
        first, second = (stage[0] for stage in grader.net.encoder.stages)
        for conv, norm, _ in (first, second):
            norm.weight.fill_(1)
            conv.weight[0, 0, 1, 1] = 1
        first[0].weight.zero_()
        first[0].weight[0, 1] = 1 / 9  # the mean of green, 0 to 2
        first[1].bias[0] = -1.0
        grader.net.head.weight[0, 0] = 50.0
        grader.net.head.bias.copy_(torch.tensor([-1.0, -20.0]))
    return grader


def eye(
    fundus: Callable[..., dict], spots: list[tuple[int, int]], size: int = 96
) -> tuple[Picture, np.ndarray]:
    drawing = fundus(size)
    image = drawing["image"] // 2
    truth = np.zeros((size, size), np.uint8)
    for row, column in spots:
        cv2.circle(truth, (column, row), 8, 255, -1)
    image[truth > 0] = (250, 250, 220)
    return Picture(image=image, field_of_view=drawing["field_of_view"]), truth


def test_maps_show_the_spots_and_nothing_else(fundus: Callable[..., dict]) -> None:
    picture, truth = eye(fundus, [(30, 40), (70, 50)])
    clear, _ = eye(fundus, [])
    with_spots, without = Activations(grader=spot_finder()).read([picture, clear])
    shown = with_spots.masks["laser_marks"]
    assert shown.shape == (96, 96)
    assert shown.dtype == np.uint8
    assert with_spots.soft == {"laser_marks", "proliferative_membranes"}
    near = cv2.dilate(truth, np.ones((17, 17), np.uint8)) > 0
    assert shown[~near].max() < 0.05 * shown.max()
    assert area_under_curve(shown[truth > 0].astype(np.float32), shown[truth == 0].astype(np.float32)) > 0.97
    assert without.masks["laser_marks"].max() == 0, "nothing speaks for it"
    assert with_spots.masks["proliferative_membranes"].max() == 0


def test_the_brightest_pixel_is_the_probability(fundus: Callable[..., dict]) -> None:
    picture, _ = eye(fundus, [(30, 40), (70, 50)])
    finder = spot_finder()
    (found,) = Activations(grader=finder).read([picture])
    square = finder.cut(picture.image, picture.field_of_view)
    probability = finder.probabilities(finder.logits([square]))[0, 0]
    assert 0.2 < probability < 1
    assert found.masks["laser_marks"].max() == round(255 * probability)
    assert found.confidences["laser_marks"] == found.confidences["laser"] == pytest.approx(probability)
    assert found.labels["laser"] is True
    strict = replace(finder, thresholds={"laser_marks": probability + 1e-3})
    (absent,) = Activations(grader=strict).read([picture])
    assert not absent.masks["laser_marks"].any()
    assert "laser_marks" in absent.soft, "an empty map says that somebody looked"
    assert absent.confidences["laser_marks"] == pytest.approx(1 - probability)
    assert absent.labels["laser"] is False


def test_maps_stay_inside_the_field_of_view(fundus: Callable[..., dict]) -> None:
    drawing = fundus(90, seed=2)
    wide = np.pad(drawing["image"], ((7, 20), (31, 0), (0, 0)))
    field = np.pad(drawing["field_of_view"], ((7, 20), (31, 0)))
    for diameter in (None, 30.0):
        activations = Activations(grader=random_grader(diameter=diameter))
        (alone,) = activations.read([Picture(image=drawing["image"], field_of_view=drawing["field_of_view"])])
        (placed,) = activations.read([Picture(image=wide, field_of_view=field)])
        for name, mask in placed.masks.items():
            assert not mask[field == 0].any()
            assert np.array_equal(mask[7:-20, 31:], alone.masks[name])


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, backbone="mobilenetv3_small_050")])
def test_grad_cam_is_cam_for_these_heads(fundus: Callable[..., dict], config: ClassifierConfig) -> None:
    """Behind a global average and one linear map both are the same but for scale (Selvaraju et al. 2017)."""
    grader = random_grader(config)
    squares = [grader.cut(d["image"], d["field_of_view"]) for d in (fundus(64), fundus(64, seed=1))]
    exact = Activations(grader=grader).evidence(squares)
    library = Activations(grader=grader, method="gradcam").evidence(squares)
    assert library.shape == (2, 2, 64, 64)
    for one, other in zip(exact.reshape(4, *exact.shape[2:]), library.reshape(4, 64, 64), strict=True):
        if one.max() - one.min() < 1e-6:
            continue
        expected = cv2.resize(one, (64, 64))  # linear, then scaled to 0 and 1, as the library does
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        assert np.abs(expected - other).max() < 1e-3
    assert all(p.grad is None for p in grader.net.parameters())


def test_only_masks_have_maps() -> None:
    with pytest.raises(DatasetError, match="'grade' is no mask"):
        Activations(grader=random_grader(ClassifierConfig(size=32, widths=(4, 8))))
    activations = Activations(grader=random_grader(), method="gradcam")
    assert activations.gives == ("laser_marks", "proliferative_membranes", "laser")
    assert activations.name == "classifier-gradcam"
    assert activations.read([]) == []


@pytest.mark.slow
def test_a_trained_map_finds_what_was_never_outlined(
    drawn_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Taught by labels alone, the maps lie on the pale spots that are the only difference."""
    folder = drawn_folder(60, size=64, seed=5)
    (folder / "laser_marks").mkdir()
    records, rng = [], np.random.default_rng(0)
    for place, record in enumerate(read_folder(folder)):
        image, truth = read_image(folder / record.image), np.zeros((64, 64), np.uint8)
        for _ in range(6 if place % 2 else 0):
            angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(8, 24)
            middle = (int(32 + far * np.cos(angle)), int(32 + far * np.sin(angle)))
            cv2.circle(truth, middle, 2, 255, -1)
        image[truth > 0] = (150, 160, 150)
        write_image(folder / record.image, image)
        write_image(folder / f"laser_marks/{place}.png", truth)
        records.append(with_mask(record, "laser_marks", f"laser_marks/{place}.png", "phantom"))
    write_metadata(folder, records)
    config = replace(CONFIG, targets=("laser_marks",), widths=(8, 16, 32), pool="all", lr=3e-3)
    loop = LoopConfig(
        batch=10, stop_after="3000img", ema_images=300, device="cpu", workers=0, tensorboard=False
    )
    result = fit(config, [folder], tmp_path / "run", loop=loop, quiet=True)
    assert result["figures"]["laser_marks_auc"] > 0.95
    activations = Activations(grader=Grader.load(tmp_path / "run", device="cpu"))
    tested = [
        r for r in records if r.split == "test" and read_mask(folder / r.masks["laser_marks"].path).any()
    ]
    areas = []
    for record in tested:
        image, field = read_image(folder / record.image), read_mask(folder / record.field_of_view)
        truth = read_mask(folder / record.masks["laser_marks"].path) > 0
        square = activations.grader.cut(image, field)
        shown = resize(activations.evidence([square])[0, 0], 64)
        near = cv2.dilate(truth.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        areas.append(area_under_curve(shown[near], shown[~near & (field > 0)]))
    assert len(areas) >= 4
    assert np.mean(areas) > 0.65, areas
