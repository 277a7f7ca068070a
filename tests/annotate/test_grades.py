"""The classifier as annotator: any picture, calibrated answers; and training one from end to end."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from fundusforge.annotate.grades import Grader
from fundusforge.annotate.picture import Picture
from fundusforge.annotate.segmenter import known_patients
from fundusforge.annotate.spaces import GradingSpaces
from fundusforge.cli.classifying import begin, truths
from fundusforge.cli.fitting import fit
from fundusforge.models.classifier import Classification, ClassifierConfig
from fundusforge.records import DatasetError, Record, read_folder, write_metadata
from fundusforge.training.checkpoint import CheckpointError, read_metadata
from fundusforge.training.run import LoopConfig

pytestmark = pytest.mark.usefixtures("one_thread")
GRADES = ClassifierConfig(size=32, widths=(4, 8), pool="all", tint=True, vertical=True)
FINDINGS = replace(GRADES, targets=("laser_marks", "glaucoma"))
LOOP = LoopConfig(batch=4, stop_after="24img", device="cpu", workers=0, tensorboard=False)


def grader(config: ClassifierConfig, **options: object) -> Grader:
    torch.manual_seed(0)
    return Grader(net=Classification(config).eval(), config=config, **options)


@pytest.fixture(scope="module")
def eyes(drawn_folder: Callable[..., Path]) -> Path:
    """Twenty eyes of all grades; every third has a finding, and one only a model's."""
    folder = drawn_folder(20)
    records = [
        replace(record, labels=("glaucoma", "laser") if place % 3 == 0 else ("normal",))
        for place, record in enumerate(read_folder(folder))
    ]
    records[0] = replace(records[0], predicted=("grade", "glaucoma", "laser"))
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def run(eyes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "grade"
    result = fit(GRADES, [eyes], folder, loop=LOOP, quiet=True)
    assert result is not None
    assert {"kappa", "accuracy", "ece"} <= set(result["figures"])
    assert result["start"] == "random"
    return folder


def test_pictures_of_any_size_are_graded_at_once(fundus: Callable[..., dict]) -> None:
    drawings = [fundus(size, seed=seed) for seed, size in enumerate((64, 97, 40, *[48] * 9))]
    wide = np.pad(drawings[1]["image"], ((10, 30), (50, 0), (0, 0)))
    field = np.pad(drawings[1]["field_of_view"], ((10, 30), (50, 0)))
    pictures = [Picture(image=d["image"], field_of_view=d["field_of_view"]) for d in drawings]
    found = grader(GRADES, temperature=(2.0,)).read([*pictures, Picture(image=wide, field_of_view=field)])
    assert len(found) == 13
    assert all(0 <= one.values["grade"] <= 4 for one in found)
    assert all(0.2 <= one.confidences["grade"] <= 1 for one in found)
    assert found[-1] == found[1], "where the field of view lies in the picture does not matter"
    assert grader(GRADES).gives == ("grade",)


def test_answers_are_calibrated() -> None:
    logits = np.array([[2.0, -1.0], [0.5, 4.0]])
    finder = grader(FINDINGS, temperature=(2.0, 1.0), bias=(0.0, -1.0), thresholds={"glaucoma": 0.1})
    told = finder.probabilities(logits)
    assert np.allclose(told, expit(np.array([[1.0, -2.0], [0.25, 3.0]])))
    found = finder.found(told[0])
    assert found.labels == {"laser": True, "glaucoma": True}, "labels are called as sources do"
    assert found.confidences == pytest.approx({"laser": told[0, 0], "glaucoma": told[0, 1]})
    unsure = finder.found(np.array([0.4, 0.05]))
    assert unsure.labels == {"laser": False, "glaucoma": False}
    assert unsure.confidences == pytest.approx({"laser": 0.6, "glaucoma": 0.95})
    assert finder.gives == ("laser", "glaucoma")
    row = np.array([[0.0, 1.0, 3.0, 1.0, 0.0]])
    warm = grader(GRADES, temperature=(2.0,)).probabilities(row)
    assert np.allclose(warm, softmax(row / 2, axis=1))
    graded = grader(GRADES).found(warm[0])
    assert (graded.values, graded.confidences) == ({"grade": 2}, {"grade": pytest.approx(warm[0, 2])})


def test_the_field_of_view_has_the_size_of_training(fundus: Callable[..., dict]) -> None:
    drawing = fundus(80)
    image, inside = drawing["image"], drawing["field_of_view"]
    whole, half = (grader(GRADES, diameter=d).cut(image, inside) for d in (None, 16.0))
    assert whole.shape == half.shape == (32, 32, 3)
    extents = [int((cut.max(2) > 20).any(0).sum()) for cut in (whole, half)]
    assert extents[0] >= 30
    assert 14 <= extents[1] <= 18
    bright = grader(GRADES).cut(np.full_like(image, 255), inside)
    assert bright[0, 0].tolist() == [0, 0, 0], "black outside the field of view"


def test_what_cannot_be_read_is_refused(fundus: Callable[..., dict], eyes: Path) -> None:
    image = fundus(40)["image"]
    with pytest.raises(DatasetError, match="field of view is empty"):
        grader(GRADES).read([Picture(image=image, field_of_view=np.zeros((40, 40), np.uint8))])
    with pytest.raises(ValueError, match="field of view is"):
        grader(GRADES).read([Picture(image=image, field_of_view=np.zeros((20, 40), np.uint8))])
    assert grader(GRADES).read([]) == []
    with pytest.raises(CheckpointError, match="without best"):
        Grader.load(eyes)


def test_a_run_knows_what_it_needs(run: Path, eyes: Path) -> None:
    loaded = Grader.load(run, device="cpu")
    records = read_folder(eyes, splits=("train",))
    assert loaded.patients == known_patients(r.patient for r in records if "grade" not in r.predicted)
    assert loaded.diameter == pytest.approx(32 * 0.92, abs=2)
    assert loaded.start == "random"
    assert loaded.temperature[0] != 1.0
    assert (run / "tsne.png").stat().st_size > 1000
    spaces = GradingSpaces.load(run / "grades.safetensors")
    graded = [r.grade for r in records if "grade" not in r.predicted]
    assert spaces.counts == {grade: graded.count(grade) for grade in range(5)}
    assert spaces.model.partition("-")[0] == loaded.name.partition("-")[0] == "grade"
    drawn = spaces.sample(2, 3, torch.Generator().manual_seed(0))
    assert drawn.shape == (3, 12)


def test_training_goes_on_and_remembers_its_start(eyes: Path, tmp_path: Path) -> None:
    first = fit(replace(GRADES, size=40), [eyes], tmp_path / "a", loop=LOOP, quiet=True)
    warm = fit(GRADES, [eyes], tmp_path / "b", loop=LOOP, quiet=True, warm_start=tmp_path / "a")
    assert warm["start"].startswith("a-")
    more = replace(LOOP, stop_after="32img")
    again = fit(GRADES, [eyes], tmp_path / "b", loop=more, quiet=True, resume=True)
    assert (again["images"], again["start"]) == (32, warm["start"])
    assert read_metadata(tmp_path / "b")["start"] == warm["start"]
    assert first["start"] == "random"


def test_findings_are_learnt_with_thresholds(eyes: Path, tmp_path: Path) -> None:
    result = fit(FINDINGS, [eyes], tmp_path / "run", loop=LOOP, quiet=True)
    assert {"auc", "laser_marks_auc", "glaucoma_sensitivity"} <= set(result["figures"])
    finder = Grader.load(tmp_path / "run", device="cpu")
    assert set(finder.thresholds) == {"laser_marks", "glaucoma"}
    assert len(finder.temperature) == len(finder.bias) == 2
    assert not (tmp_path / "run" / "grades.safetensors").exists()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["train"] == 11, "what only a model said is not learnt from"


def test_nothing_to_tell_apart_is_refused(eyes: Path, tmp_path: Path) -> None:
    for target, match in (("drusen", "only 0 occurs"), ("erm", "only 0 occurs")):
        config = replace(FINDINGS, targets=(target,))
        with pytest.raises(DatasetError, match=f"{target} cannot be learnt from 12 training images: {match}"):
            fit(config, [eyes], tmp_path / target, loop=LOOP, quiet=True)


def test_truth_is_what_people_said() -> None:
    records = [
        Record(image="a.png", patient="a", source="made", **facts)
        for facts in ({"grade": 3}, {"grade": 3, "predicted": ("grade",)}, {"labels": ("laser",)}, {})
    ]
    assert truths(GRADES, records)[:, 0].tolist() == [3, -1, -1, -1]
    assert truths(FINDINGS, records).tolist() == [[-1, -1], [-1, -1], [1, 0], [-1, -1]]


def test_the_retina_start_is_embedded(tmp_path: Path) -> None:
    config = ClassifierConfig(start="retina")
    net = Classification(config)
    path, words = begin(net, config, tmp_path, None)
    assert path.stem == "retina-features"
    assert words.startswith("retina-features-")
    assert begin(net, replace(config, start="random"), tmp_path, None) == (None, "random")
