"""The segmenter on its own: any size of photograph, its thresholds, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fundusforge import weights
from fundusforge.annotate.segmenter import (
    Segmenter,
    detect_field,
    field_extent,
    known_patients,
    patient_digest,
)
from fundusforge.config import ConfigError, to_json
from fundusforge.images import resize
from fundusforge.models.unet import Segmentation, UNetConfig
from fundusforge.records import DatasetError
from fundusforge.training.checkpoint import CheckpointError, annotate_metadata, save_model
from fundusforge.training.loop import Clock

Drawing = Callable[..., dict[str, np.ndarray]]
TINY = UNetConfig(widths=(4, 8), diameter=64, crop=32)


class Redness(nn.Module):
    """Stands for a network: its probability is a function of each pixel's red."""

    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        return self.gain * image[:, :1]


def save_tiny(path: Path, config: UNetConfig = TINY, **facts: object) -> Path:
    torch.manual_seed(0)
    nets = nn.ModuleDict({"net": Segmentation(config)})
    save_model(path, nets, config_json=to_json(config), clock=Clock(images=8))
    if facts:
        annotate_metadata(path, **facts)
    return path


@pytest.mark.parametrize("size", [(64, 64), (100, 140), (256, 256), (333, 512)])
def test_the_map_has_the_size_of_the_photograph_and_is_empty_outside(
    fundus: Drawing, size: tuple[int, int]
) -> None:
    drawing = fundus(256, seed=1)
    image, field = resize(drawing["image"], size), resize(drawing["field_of_view"], size) // 255 * 255
    found = Segmenter(net=Segmentation(TINY).eval(), config=TINY).probability(image, field)
    assert found.shape == size and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert not found[field == 0].any() and found[field > 0].any()


def test_what_is_found_lies_where_it_is(fundus: Drawing) -> None:
    """An off-centre field of view is cut out, scaled, and pasted back in its place."""
    drawing = fundus(300, seed=2)
    image, field = np.zeros((420, 640, 3), np.uint8), np.zeros((420, 640), np.uint8)
    image[60:360, 250:550], field[60:360, 250:550] = drawing["image"], drawing["field_of_view"]
    config = UNetConfig(widths=(4, 8), diameter=200)
    segmenter = Segmenter(net=Redness().eval(), config=config)
    found = segmenter.probability(image, field)
    wanted = 1 / (1 + np.exp(-4 * (image[..., 0] / 127.5 - 1)))
    inside = field > 0
    assert np.abs(found - wanted)[inside].mean() < 0.05
    assert np.corrcoef(found[inside], wanted[inside])[0, 1] > 0.9


def test_the_network_sees_the_field_at_its_training_diameter(fundus: Drawing) -> None:
    seen: list[tuple[tuple[int, ...], int]] = []

    class Watch(Redness):
        def forward(self, image: Tensor, field: Tensor) -> Tensor:
            seen.append((tuple(image.shape[2:]), field_extent(field[0, 0].numpy().astype(np.uint8) * 255)))
            return super().forward(image, field)

    drawing = fundus(400, seed=3)
    for diameter in (None, 50.0):
        segmenter = Segmenter(net=Watch().eval(), config=TINY, diameter=diameter)
        segmenter.probability(drawing["image"], drawing["field_of_view"])
    assert [shape for shape, _ in seen] == [(64, 64), (64, 64)]
    assert seen[0][1] == pytest.approx(64, abs=1) and seen[1][1] == pytest.approx(50, abs=1)


def test_a_missing_field_of_view_is_found(fundus: Drawing) -> None:
    drawing = fundus(256, seed=4)
    segmenter = Segmenter(net=Segmentation(TINY).eval(), config=TINY)
    found = segmenter.probability(drawing["image"])
    inside = drawing["field_of_view"] > 0
    assert ((found > 0) == inside).mean() > 0.98


def test_no_field_of_view_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no field of view"):
        detect_field(np.full((128, 128, 3), 7, np.uint8))
    segmenter = Segmenter(net=Redness(), config=TINY)
    with pytest.raises(DatasetError, match="empty"):
        segmenter.probability(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))
    with pytest.raises(ValueError, match="field of view is"):
        segmenter.probability(np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64), np.uint8))


def test_a_saved_model_says_what_is_needed_to_use_it(tmp_path: Path, fundus: Drawing) -> None:
    path = save_tiny(
        tmp_path / "vessels.safetensors",
        calibration={"threshold": {"vessels": 0.37}, "diameter": 60.0},
        patients=sorted(known_patients(["a", "b"])),
    )
    segmenter = Segmenter.load(path)
    assert segmenter.threshold == 0.37 and segmenter.diameter == 60.0
    assert segmenter.patients == {patient_digest("a"), patient_digest("b")}
    assert segmenter.name == f"vessels-{weights.sha256(path)[:12]}"
    drawing = fundus(64, seed=5)
    torch.manual_seed(0)
    fresh = Segmenter(net=Segmentation(TINY).eval(), config=TINY, diameter=60.0)
    np.testing.assert_allclose(  # normalisation folded into the convolutions
        segmenter.probability(drawing["image"], drawing["field_of_view"]),
        fresh.probability(drawing["image"], drawing["field_of_view"]),
        atol=1e-6,
    )


def test_a_run_gives_its_name_to_its_model(tmp_path: Path) -> None:
    (tmp_path / "my-run").mkdir()
    save_tiny(tmp_path / "my-run" / "best.safetensors")
    assert Segmenter.load(tmp_path / "my-run").name.startswith("my-run-")


def test_a_structure_that_the_model_does_not_know_is_refused(fundus: Drawing) -> None:
    drawing = fundus(64)
    segmenter = Segmenter(net=Redness(), config=TINY)
    with pytest.raises(DatasetError, match="predicts vessels, not disc"):
        segmenter.probability(drawing["image"], mask="disc")


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        Segmenter.load(tmp_path / "absent.safetensors")
    path = save_tiny(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        Segmenter.load(path)
    strange = tmp_path / "b.safetensors"
    nets = nn.ModuleDict({"net": Segmentation(TINY)})
    save_model(strange, nets, config_json='{"kind": "unet", "width": 3}', clock=Clock())
    with pytest.raises(ConfigError, match="width"):
        Segmenter.load(strange)


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown device"):
        Segmenter.load(save_tiny(tmp_path / "a.safetensors"), device="abacus")


def test_many_at_once_are_as_one_by_one(fundus: Drawing) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(net=Segmentation(TINY).eval(), config=TINY)
    drawings = [fundus(size, seed=size) for size in (64, 96, 100)]
    pictures = [(drawing["image"], drawing["field_of_view"]) for drawing in drawings]
    for (image, inside), maps in zip(pictures, segmenter.stream(pictures, batch=2), strict=True):
        np.testing.assert_allclose(maps["vessels"], segmenter.probability(image, inside), atol=1e-6)
