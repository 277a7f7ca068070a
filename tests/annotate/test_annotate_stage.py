"""The stage: what is predicted, what is kept, what is rejected, and that a stopped run goes on."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fundusforge.annotate.segmenter import Segmenter
from fundusforge.annotate.shapes import to_mask
from fundusforge.annotate.stage import AnnotateConfig, annotate, key_of, rejects
from fundusforge.images import read_image, read_mask, write_image
from fundusforge.models.unet import UNetConfig
from fundusforge.records import DatasetError, read_folder, write_metadata

Folder = Callable[..., Path]


class Dark(nn.Module):
    """Stands for a network: dark pixels are vessels."""

    multiple = 1

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: Tensor, field: Tensor) -> Tensor:
        return -self.gain * image[:, :1]


@pytest.fixture
def segmenter() -> Segmenter:
    config = UNetConfig(widths=(4, 8), diameter=128)
    return Segmenter(net=Dark().eval(), config=config, name="dark-1", thresholds={"vessels": 0.4})


@pytest.fixture
def unmarked(drawn_folder: Folder) -> Path:
    """A dataset folder without any masks, with fields of view."""
    folder = drawn_folder(4, size=128)
    write_metadata(folder, [replace(record, masks={}) for record in read_folder(folder)])
    return folder


def test_predictions_fill_gaps(unmarked: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    done = list(annotate(unmarked, out, AnnotateConfig(probabilities=True), segmenter))
    records = read_folder(out)
    assert len(records) == len(done) == 4
    for old, record in zip(read_folder(unmarked), records, strict=True):
        assert record.masks["vessels"].origin == "predicted"
        assert replace(record, masks={}) == old
        image, field = read_image(out / record.image), read_mask(out / record.field_of_view)
        np.testing.assert_array_equal(image, read_image(unmarked / old.image))
        wanted = segmenter.probability(image, field)
        mask = read_mask(out / record.masks["vessels"].path)
        np.testing.assert_array_equal(mask > 0, wanted >= 0.4)
        assert 0 < (mask > 0).mean() < 0.5
        stored = read_image(out / "probabilities/vessels" / Path(record.image).name)[..., 0]
        assert np.abs(stored / 255 - wanted).max() <= 0.5 / 255 + 1e-6


def test_what_others_drew_is_kept(drawn_folder: Folder, tmp_path: Path, segmenter: Segmenter) -> None:
    folder, out = drawn_folder(3, size=128, seed=9), tmp_path / "out"
    done = list(annotate(folder, out, AnnotateConfig(probabilities=True), segmenter))
    assert all(one.kept == ("vessels",) and not one.predicted for one in done)
    assert read_folder(out) == read_folder(folder)
    for record in read_folder(folder):
        path = record.masks["vessels"].path
        assert (out / path).read_bytes() == (folder / path).read_bytes()
    assert len(list((out / "probabilities/vessels").glob("*.png"))) == 3


def test_older_predictions_are_replaced(unmarked: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    list(annotate(unmarked, once, AnnotateConfig(threshold=0.9), segmenter))
    before = [read_mask(once / record.masks["vessels"].path).sum() for record in read_folder(once)]
    list(annotate(once, twice, AnnotateConfig(threshold=0.1), segmenter))
    after = [read_mask(twice / record.masks["vessels"].path).sum() for record in read_folder(twice)]
    assert all(b < a for b, a in zip(before, after, strict=True))
    unchanged = [read_mask(once / record.masks["vessels"].path).sum() for record in read_folder(once)]
    assert unchanged == before, "the folder that was read must not change"


def test_a_folder_of_pictures_becomes_a_dataset(
    drawn_folder: Folder, tmp_path: Path, segmenter: Segmenter
) -> None:
    photographs = tmp_path / "my photographs"
    (photographs / "left").mkdir(parents=True)
    drawn = drawn_folder(3, size=256, seed=5)
    for index, path in enumerate(sorted((drawn / "images").glob("*.png"))):
        target = photographs / ("left/öl 1.jpg" if index == 0 else f"{index}.png")
        write_image(target, read_image(path), xmp="<x>Doe, Jane</x>" if index == 0 else None)
    (photographs / "black.png").write_bytes(b"no picture")
    write_image(photographs / "dark.png", np.zeros((90, 90, 3), np.uint8))
    out = tmp_path / "out"
    done = list(annotate(photographs, out, AnnotateConfig(), segmenter))
    records = read_folder(out)
    assert [record.image for record in records] == ["images/1.png", "images/2.png", "images/left/öl 1.png"]
    assert {one.file for one in rejects(done)} == {"black.png", "dark.png"}
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text("utf-8").splitlines()]
    assert {line["file"] for line in lines} == {"black.png", "dark.png"}
    assert all(line["reason"] for line in lines)
    field = read_mask(out / records[0].field_of_view) > 0
    truth = read_mask(drawn / "field_of_view/001.png") > 0
    assert (field == truth).mean() > 0.97
    assert b"Doe" in (photographs / "left/öl 1.jpg").read_bytes()
    assert not any(b"Doe" in path.read_bytes() for path in out.rglob("*") if path.is_file())


def test_a_stopped_run_goes_on(unmarked: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    stopped = annotate(unmarked, out, AnnotateConfig(), segmenter)
    next(stopped)
    next(stopped)
    stopped.close()
    made = sorted((out / "vessels").glob("*.png"))
    assert len(made) == 2 and not (out / "metadata.jsonl").exists()
    for path in made:
        os.utime(path, (1, 1))
    list(annotate(unmarked, out, AnnotateConfig(), segmenter))
    assert [path.stat().st_mtime for path in made] == [1, 1], "finished pictures must not be done again"
    assert len(read_folder(out)) == 4


def test_a_run_begun_with_another_model_is_refused(
    unmarked: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    list(annotate(unmarked, out, AnnotateConfig(), segmenter))
    with pytest.raises(DatasetError, match="dark-1.*dark-2"):
        list(annotate(unmarked, out, AnnotateConfig(), replace(segmenter, name="dark-2")))


def test_unfit_input_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        list(annotate(tmp_path / "absent", tmp_path / "out", AnnotateConfig(), segmenter))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds neither"):
        list(annotate(tmp_path / "empty", tmp_path / "out", AnnotateConfig(), segmenter))
    with pytest.raises(DatasetError, match="predicts vessels, not disc"):
        list(annotate(tmp_path / "empty", tmp_path / "out", AnnotateConfig(masks=("disc",)), segmenter))
    assert not (tmp_path / "out").exists()


def test_an_eye_has_one_disc() -> None:
    probability = np.zeros((40, 40), np.float32)
    probability[5:15, 5:15] = 0.9
    probability[30:33, 30:33] = 0.99
    both, one = to_mask(probability, 0.5), to_mask(probability, 0.5, single=True)
    assert (both > 0).sum() == 109 and (one > 0).sum() == 100
    assert not to_mask(np.zeros((4, 4), np.float32), 0.5, single=True).any()


def test_keys_keep_folders_apart() -> None:
    assert key_of("images/a.png") == "a"
    assert key_of("images/left/a.b.jpg") == "left/a.b"
    assert key_of("left/a.jpg") == "left/a"
