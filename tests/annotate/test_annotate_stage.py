"""The stage: what is predicted, what is kept, what is rejected, and that a stopped run goes on."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fundusforge.annotate.files import key_of
from fundusforge.annotate.picture import Annotator, Found, Picture
from fundusforge.annotate.segmenter import Segmenter
from fundusforge.annotate.shapes import largest_part, to_mask
from fundusforge.annotate.stage import AnnotateConfig, annotate, rejects
from fundusforge.annotate.structures import Structures
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


def vessels(segmenter: Segmenter, threshold: float | None = None) -> list[Annotator]:
    return [Structures(segmenter=segmenter, masks=("vessels",), threshold=threshold)]


@pytest.fixture
def unmarked(drawn_folder: Folder) -> Path:
    """A dataset folder without any masks, with fields of view."""
    folder = drawn_folder(4, size=128)
    write_metadata(folder, [replace(record, masks={}) for record in read_folder(folder)])
    return folder


def test_predictions_fill_gaps(unmarked: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    out = tmp_path / "out"
    done = list(annotate(unmarked, out, vessels(segmenter), AnnotateConfig(probabilities=True)))
    records = read_folder(out)
    assert len(records) == len(done) == 4
    for old, record in zip(read_folder(unmarked), records, strict=True):
        assert record.masks["vessels"].origin == "predicted"
        assert replace(record, masks={}, confidences={}) == old
        image, field = read_image(out / record.image), read_mask(out / record.field_of_view)
        np.testing.assert_array_equal(image, read_image(unmarked / old.image))
        wanted = segmenter.probability(image, field)
        mask = read_mask(out / record.masks["vessels"].path)
        np.testing.assert_array_equal(mask > 0, wanted >= 0.4)
        assert 0 < (mask > 0).mean() < 0.5
        assert record.confidences["vessels"] == pytest.approx(wanted[mask > 0].mean(), abs=1e-3)
        stored = read_image(out / "probabilities/vessels" / Path(record.image).name)[..., 0]
        assert np.abs(stored / 255 - wanted).max() <= 0.5 / 255 + 1e-6


def test_what_others_drew_is_kept(drawn_folder: Folder, tmp_path: Path, segmenter: Segmenter) -> None:
    folder, out = drawn_folder(3, size=128, seed=9), tmp_path / "out"
    done = list(annotate(folder, out, vessels(segmenter), AnnotateConfig(probabilities=True)))
    assert all(one.kept == ("vessels",) and not one.predicted for one in done)
    assert read_folder(out) == read_folder(folder)
    for record in read_folder(folder):
        path = record.masks["vessels"].path
        assert (out / path).read_bytes() == (folder / path).read_bytes()
    assert len(list((out / "probabilities/vessels").glob("*.png"))) == 3


def test_older_predictions_are_replaced(unmarked: Path, tmp_path: Path, segmenter: Segmenter) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    list(annotate(unmarked, once, vessels(segmenter, 0.9), AnnotateConfig()))
    before = [read_mask(once / record.masks["vessels"].path).sum() for record in read_folder(once)]
    list(annotate(once, twice, vessels(segmenter, 0.1), AnnotateConfig()))
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
    done = list(annotate(photographs, out, vessels(segmenter), AnnotateConfig()))
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
    stopped = annotate(unmarked, out, vessels(segmenter), AnnotateConfig())
    next(stopped)
    next(stopped)
    stopped.close()
    made = sorted((out / "vessels").glob("*.png"))
    assert len(made) == 2 and not (out / "metadata.jsonl").exists()
    for path in made:
        os.utime(path, (1, 1))
    list(annotate(unmarked, out, vessels(segmenter), AnnotateConfig()))
    assert [path.stat().st_mtime for path in made] == [1, 1], "finished pictures must not be done again"
    assert len(read_folder(out)) == 4


def test_a_run_begun_with_another_model_is_refused(
    unmarked: Path, tmp_path: Path, segmenter: Segmenter
) -> None:
    out = tmp_path / "out"
    list(annotate(unmarked, out, vessels(segmenter), AnnotateConfig()))
    with pytest.raises(DatasetError, match="dark-1.*dark-2"):
        list(annotate(unmarked, out, vessels(replace(segmenter, name="dark-2")), AnnotateConfig()))


def test_unfit_input_is_refused(tmp_path: Path, segmenter: Segmenter) -> None:
    with pytest.raises(DatasetError, match="is not a folder"):
        list(annotate(tmp_path / "absent", tmp_path / "out", vessels(segmenter), AnnotateConfig()))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds neither"):
        list(annotate(tmp_path / "empty", tmp_path / "out", vessels(segmenter), AnnotateConfig()))
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / "empty" / name, np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"a\.jpg and a\.png need different names"):
        list(annotate(tmp_path / "empty", tmp_path / "out", vessels(segmenter), AnnotateConfig()))
    with pytest.raises(DatasetError, match="predicts vessels, not disc"):
        Structures(segmenter=segmenter, masks=("disc",))
    assert not (tmp_path / "out").exists()


def test_an_eye_has_one_disc() -> None:
    probability = np.zeros((40, 40), np.float32)
    probability[5:15, 5:15] = 0.9
    probability[30:33, 30:33] = 0.99
    both, one = to_mask(probability, 0.5), largest_part(to_mask(probability, 0.5))
    assert (both > 0).sum() == 109 and 80 <= (one > 0).sum() <= 100 and not one[20:].any()
    assert not largest_part(to_mask(np.zeros((4, 4), np.float32), 0.5)).any()


def test_keys_keep_folders_apart() -> None:
    assert key_of("images/a.png") == "a"
    assert key_of("images/left/a.b.jpg") == "left/a.b"
    assert key_of("left/a.jpg") == "left/a"


class Scribe:
    """Stands for an annotator: answers what it is told to, and notes what it was shown."""

    def __init__(self, *answers: Found, gives: tuple[str, ...], name: str = "scribe") -> None:
        self.name, self.gives, self.answers = name, gives, list(answers)
        self.seen: list[Picture] = []
        self.calls: list[int] = []

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        self.calls.append(len(pictures))
        self.seen += pictures
        return [self.answers[min(len(self.seen), len(self.answers)) - 1] for _ in pictures]


def test_fields_labels_and_soft_masks_are_marked_as_predicted(unmarked: Path, tmp_path: Path) -> None:
    soft = np.full((128, 128), 77, np.uint8)
    scribe = Scribe(
        Found(
            masks={"laser_marks": soft}, soft=frozenset({"laser_marks"}), values={"grade": 3, "eye": "left"},
            labels={"laser": True, "erm": False}, missing={"cup": "too pale"},
            confidences={"grade": 0.6, "eye": 0.7, "laser": 0.8, "erm": 0.9, "laser_marks": 0.8},
        ),
        gives=("laser_marks", "grade", "eye", "laser", "erm", "cup"),
    )  # fmt: skip
    first = read_folder(unmarked)[0]
    write_metadata(unmarked, [replace(first, grade=None, eye="right"), *read_folder(unmarked)[1:]])
    out = tmp_path / "out"
    done = list(annotate(unmarked, out, [scribe], AnnotateConfig(batch=3)))
    assert scribe.calls == [3, 1]
    record, other = read_folder(out)[:2]
    assert (record.grade, record.eye, record.labels) == (3, "right", ("laser",)), "the eye was known"
    assert record.predicted == ("grade", "laser")
    assert record.confidences == {"grade": 0.6, "laser": 0.8, "erm": 0.9, "laser_marks": 0.8}
    assert record.masks["laser_marks"].soft and record.masks["laser_marks"].origin == "predicted"
    np.testing.assert_array_equal(read_mask(out / record.masks["laser_marks"].path, soft=True), soft)
    assert done[0].missing == {"cup": "too pale"} and "eye" in done[0].kept
    assert other.grade == read_folder(unmarked)[1].grade and "grade" not in other.predicted
    # another look takes back what the first one filled in, and nothing else
    again = Scribe(Found(labels={"laser": False}, confidences={"laser": 0.7}), gives=("laser", "grade"))
    list(annotate(out, tmp_path / "again", [again], AnnotateConfig()))
    taken = read_folder(tmp_path / "again")[0]
    assert taken.labels == () and taken.grade is None and taken.predicted == ()
    assert taken.confidences == {"laser": 0.7, "erm": 0.9, "laser_marks": 0.8}


def test_each_annotator_sees_what_those_before_it_found(unmarked: Path, tmp_path: Path) -> None:
    disc = np.zeros((128, 128), np.uint8)
    disc[40:60, 40:60] = 255
    one = Scribe(Found(masks={"disc": disc}, confidences={"disc": 1.0}), gives=("disc",), name="one")
    two = Scribe(Found(values={"eye": "left"}, confidences={"eye": 1.0}), gives=("eye",), name="two")
    list(annotate(unmarked, tmp_path / "out", [one, two], AnnotateConfig()))
    assert all((picture.masks["disc"] == disc).all() for picture in two.seen)


def test_a_folder_is_annotated_in_place_and_again(unmarked: Path, segmenter: Segmenter) -> None:
    before = {path: path.read_bytes() for path in (unmarked / "images").iterdir()}
    list(annotate(unmarked, unmarked, vessels(segmenter), AnnotateConfig()))
    scribe = Scribe(Found(labels={"erm": True}, confidences={"erm": 0.9}), gives=("erm",))
    list(annotate(unmarked, unmarked, [scribe], AnnotateConfig()))
    records = read_folder(unmarked)
    assert all("vessels" in record.masks and "erm" in record.labels for record in records)
    assert {path: path.read_bytes() for path in before} == before
    # a finished annotation does nothing when it is asked for once more
    silent = Scribe(Found(), gives=("erm",))
    list(annotate(unmarked, unmarked, [silent], AnnotateConfig()))
    assert not silent.seen and read_folder(unmarked) == records


def test_one_hopeless_picture_does_not_take_the_batch_with_it(unmarked: Path, tmp_path: Path) -> None:
    class Picky(Scribe):
        def read(self, pictures: Sequence[Picture]) -> list[Found]:
            if any(picture.image.mean() == worst for picture in pictures):
                raise DatasetError("cannot make head or tail of it")
            return super().read(pictures)

    worst = max(read_image(unmarked / record.image).mean() for record in read_folder(unmarked))
    picky = Picky(Found(labels={"erm": True}, confidences={"erm": 0.9}), gives=("erm",))
    done = list(annotate(unmarked, tmp_path / "out", [picky], AnnotateConfig(batch=4)))
    assert [one.reason for one in rejects(done)] == ["cannot make head or tail of it"]
    assert len(read_folder(tmp_path / "out")) == 3


def test_a_picture_that_changed_its_record_is_done_again(unmarked: Path, tmp_path: Path) -> None:
    scribe = Scribe(Found(labels={"erm": True}, confidences={"erm": 0.9}), gives=("erm",))
    list(annotate(unmarked, tmp_path / "out", [scribe], AnnotateConfig()))
    records = read_folder(unmarked)
    write_metadata(unmarked, [replace(records[0], age=44.0), *records[1:]])
    list(annotate(unmarked, tmp_path / "out", [scribe], AnnotateConfig()))
    assert len(scribe.seen) == 5 and read_folder(tmp_path / "out")[0].age == 44


def test_a_disc_that_cannot_be_one_is_missing_with_a_reason(
    drawn_folder: Folder, tmp_path: Path, segmenter: Segmenter
) -> None:
    folder = drawn_folder(2, size=128)
    write_metadata(folder, [replace(record, masks={}) for record in read_folder(folder)])
    config = UNetConfig(masks=("disc",), widths=(4, 8), diameter=128)
    everywhere = replace(segmenter, config=config, thresholds={"disc": 0.01})
    finder = Structures(segmenter=everywhere, masks=("disc",))
    done = list(annotate(folder, tmp_path / "out", [finder], AnnotateConfig()))
    assert all("of the field of view" in one.missing["disc"] for one in done)
    assert all("disc" not in record.masks for record in read_folder(tmp_path / "out"))
    lines = (tmp_path / "out" / "annotation.jsonl").read_text("utf-8").splitlines()
    assert "dark-1 (disc from 0.01)" in json.loads(lines[0])["fingerprint"]
    assert [bool(json.loads(line)["missing"]) for line in lines[1:]] == [True, True]
