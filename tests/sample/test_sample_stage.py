"""The stage: a folder of synthetic images that says what it is, and is the same for the same seed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from test_conditions import drawn_by
from test_painter import tiny_generator

from fundusforge.images import read_image, read_mask
from fundusforge.records import DatasetError, read_folder
from fundusforge.sample.painter import Painter
from fundusforge.sample.stage import SampleConfig, sample

Folder = Callable[..., Path]


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(generator=tiny_generator(), name="tiny-1", terms=("drawn: CC0",))


def make(painter: Painter, out: Path, **settings: object) -> Path:
    list(sample(painter, out, SampleConfig(**({"count": 3, "seed": 7} | settings))))
    return out


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_dataset_folder_is_written(painter: Painter, tmp_path: Path) -> None:
    folder = make(painter, tmp_path / "out")
    records = read_folder(folder)
    assert len(records) == 3
    for index, record in enumerate(records):
        assert record.synthetic and not record.structure_from_patient
        assert record.provenance is not None
        assert (record.provenance.model, record.provenance.seed, record.provenance.index) == (
            "tiny-1",
            7,
            index,
        )
        assert record.provenance.condition.startswith("phantom:") and len(record.provenance.code) == 10
        assert record.camera in {"one", "two"} and record.terms == "drawn: CC0"
        assert {mask.origin for mask in record.masks.values()} == {"phantom"}
        image, field = read_image(folder / record.image), read_mask(folder / record.field_of_view)
        vessels = read_mask(folder / record.masks["vessels"].path)
        assert image.shape == (64, 64, 3)
        assert not image[field == 0].any() and not vessels[field == 0].any() and vessels.any()


def test_every_file_says_that_it_is_synthetic(painter: Painter, tmp_path: Path) -> None:
    folder = make(painter, tmp_path / "out")
    with Pillow.open(folder / "images/000001.png") as picture:
        text = dict(picture.text)
    assert text["fundusforge:synthetic"] == "true" and text["fundusforge:seed"] == "7/1"
    assert text["fundusforge:structure_from_patient"] == "false"
    assert "trainedAlgorithmicMedia" in text["XML:com.adobe.xmp"]


@pytest.mark.parametrize("settings", [{}, {"jobs": 2}])
def test_the_same_seed_gives_the_same_bytes(
    painter: Painter, tmp_path: Path, settings: dict[str, int]
) -> None:
    one = contents(make(painter, tmp_path / "one"))
    two = contents(make(painter, tmp_path / "two", **settings))
    assert one == two
    more = contents(make(painter, tmp_path / "more", count=5))
    assert {name: data for name, data in more.items() if name in one and name.endswith(".png")} == {
        name: data for name, data in one.items() if name.endswith(".png")
    }
    assert contents(make(painter, tmp_path / "other", seed=8)) != one


def test_masks_of_patients_mark_the_images(painter: Painter, tmp_path: Path, dataset_folder: Path) -> None:
    drawn_by(dataset_folder, "human")
    folder = make(painter, tmp_path / "out", masks=str(dataset_folder), split="train")
    for record in read_folder(folder):
        assert record.structure_from_patient and record.split == "train"
        assert record.masks["vessels"].origin == "human"
        assert record.patient.startswith("drawn-")
    with Pillow.open(folder / "images/000000.png") as picture:
        assert picture.text["fundusforge:structure_from_patient"] == "true"


def test_a_larger_size_and_one_camera(painter: Painter, tmp_path: Path) -> None:
    folder = make(painter, tmp_path / "out", count=1, size=128, camera="two")
    record = read_folder(folder)[0]
    assert read_image(folder / record.image).shape == (128, 128, 3) and record.camera == "two"


def test_what_cannot_be_is_refused_before_anything_is_written(painter: Painter, tmp_path: Path) -> None:
    for settings, said in (
        ({"camera": "three"}, "one.*two"),
        ({"size": 65}, "multiples of 4"),
        ({"masks": str(tmp_path / "absent")}, "absent"),
    ):
        with pytest.raises(DatasetError, match=said):
            make(painter, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="at least 1"):
        SampleConfig(count=0)
    folder = make(painter, tmp_path / "twice", count=1)
    with pytest.raises(DatasetError, match="holds a dataset already"):
        make(painter, folder, count=1)


def test_an_interrupted_folder_is_no_dataset_yet(painter: Painter, tmp_path: Path) -> None:
    begun = sample(painter, tmp_path / "out", SampleConfig(count=3, seed=7))
    next(begun)
    begun.close()
    with pytest.raises(DatasetError, match="metadata.jsonl"):
        read_folder(tmp_path / "out")
    assert len(read_folder(make(painter, tmp_path / "out"))) == 3


def test_metadata_holds_no_path_of_this_machine(
    painter: Painter, tmp_path: Path, dataset_folder: Path
) -> None:
    folder = make(painter, tmp_path / "out", masks=str(dataset_folder))
    text = (folder / "metadata.jsonl").read_text("utf-8")
    assert str(tmp_path) not in text and str(dataset_folder) not in text
    assert all(json.loads(line)["synthetic"] is True for line in text.splitlines())
    assert np.all([record.masks for record in read_folder(folder)])
