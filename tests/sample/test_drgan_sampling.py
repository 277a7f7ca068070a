"""Sampling a wanted severity: the same bytes for the same seed, provenance, refusals, and a run from data."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.images import read_image, read_mask
from fundusforge.models.drgan import DRGANConfig, Generator
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.sample.painter import Painter
from fundusforge.sample.severity_painter import SeverityPainter, load_painter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.training.checkpoint import annotate_metadata, read_metadata, save_model
from fundusforge.training.loop import Clock

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = DRGANConfig(
    masks=("vessels", "disc", "hard_exudates"), size=64, width=4, blocks=1, vector=6, directions=3
)


def painter_of(config: DRGANConfig = TINY) -> SeverityPainter:
    torch.manual_seed(3)
    return SeverityPainter(generator=Generator(config).eval(), name="tiny-1", terms=("drawn: CC0",))


@pytest.fixture(scope="module")
def painter() -> SeverityPainter:
    return painter_of()


def make(painter: SeverityPainter, out: Path, **settings: object) -> Path:
    list(sample(painter, out, SampleConfig(**({"count": 1, "seed": 7} | settings))))
    return out


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_same_seed_gives_the_same_bytes(painter: SeverityPainter, tmp_path: Path) -> None:
    one = pictures(make(painter, tmp_path / "one", severity=2.5))
    more = pictures(make(painter, tmp_path / "more", severity=2.5, count=2))
    assert {name: data for name, data in more.items() if name in one} == one
    for name, settings in (("seed", {"seed": 8, "severity": 2.5}), ("severity", {"severity": 1.5})):
        assert pictures(make(painter, tmp_path / name, **settings)) != one


def test_severity_changes_the_photograph_and_not_the_structure(
    painter: SeverityPainter, tmp_path: Path
) -> None:
    mild, severe = (pictures(make(painter, tmp_path / str(s), severity=s)) for s in (0.0, 4.0))
    for name in mild:
        assert (mild[name] != severe[name]) is name.startswith("images/"), name


def test_records_say_what_was_painted(painter: SeverityPainter, tmp_path: Path) -> None:
    for index, record in enumerate(read_folder(make(painter, tmp_path / "asked", severity=2.6))):
        assert record.synthetic and record.grade == 3 and not record.predicted
        assert record.provenance is not None
        assert (record.provenance.seed, record.provenance.index) == (7, index)
        assert record.provenance.code == pytest.approx((2.6,))
        assert set(record.masks) == set(TINY.masks) and record.terms == "drawn: CC0"
    for record in read_folder(make(painter, tmp_path / "own")):  # the phantom's grade
        assert record.provenance is not None and record.provenance.code == (float(record.grade or 0),)
        assert not record.predicted
    plain = painter_of(replace(TINY, agm=False))
    for record in read_folder(make(plain, tmp_path / "plain")):
        assert record.provenance is not None and record.provenance.code == ()


def test_without_a_grade_the_masks_speak(painter: SeverityPainter, fundus: Callable) -> None:
    own = painter_of()
    with torch.no_grad():
        own.generator.grade.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 99.0]))
    drawing = fundus(64, seed=1)
    masks = {name: drawing.get(name, np.zeros_like(drawing["disc"])) for name in TINY.masks}
    stack, inside = own.stack(masks, drawing["field_of_view"], size=64)
    chosen = own.choose(stack, inside, torch.Generator(), grade=None)
    assert chosen.grade == 4 and chosen.predicted
    assert own.choose(stack, inside, torch.Generator(), grade=1).grade == 1
    assert own.choose(stack, inside, torch.Generator(), grade=1, severity=2.5).code == 2.5
    image = own.paint(stack, inside, seed=1, code=chosen.code)
    np.testing.assert_array_equal(image, own.paint(stack, inside, seed=1, code=None))
    assert not image[inside == 0].any() and image[inside > 0].any()


def test_what_cannot_be_is_refused_before_anything_is_written(
    painter: SeverityPainter, tmp_path: Path
) -> None:
    for settings, said in (
        ({"severity": 4.5}, "between 0 and 4"),
        ({"camera": "one"}, "no cameras"),
        ({"size": 72}, "multiples of 16"),
    ):
        with pytest.raises(DatasetError, match=said):
            make(painter, tmp_path / "out", **settings)
    with pytest.raises(DatasetError, match="takes no severity"):
        make(painter_of(replace(TINY, agm=False)), tmp_path / "out", severity=1.0)
    unseen = painter_of()
    unseen.generator.spaces.known[2] = False
    with pytest.raises(DatasetError, match="never saw grade 2"):
        make(unseen, tmp_path / "out", severity=1.5)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DatasetError, match="drgan model takes a severity"):
        Painter(generator=None).check_wish(camera=None, severity=1.0)


def test_a_generator_comes_back_from_its_file(painter: SeverityPainter, tmp_path: Path) -> None:
    path = tmp_path / "severity.safetensors"
    nets = nn.ModuleDict({"generator": painter.generator})
    save_model(path, nets, config_json=to_json(TINY), clock=Clock(images=4))
    annotate_metadata(path, terms=["drawn: CC0"], patients=["00"])
    found = load_painter(path, device="cpu")
    assert isinstance(found, SeverityPainter)
    assert found.terms == ("drawn: CC0",) and found.patients == {"00"} and found.name.startswith("severity-")
    image = "images/000000.png"  # the files name their model, so their bytes differ
    one, two = (read_image(make(p, tmp_path / p.name, count=1) / image) for p in (found, painter))
    np.testing.assert_array_equal(one, two)


def graded(folder: Path, grades: list[int | None]) -> Path:
    records = read_folder(folder)
    told = [replace(r, grade=grades[place % len(grades)]) for place, r in enumerate(records)]
    write_metadata(folder, told)
    return folder


def test_trained_from_a_folder_then_sampled(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    graded(dataset_folder, [3])
    run, out = tmp_path / "run", tmp_path / "out"
    words = [
        "train", "drgan", str(dataset_folder), "--out", str(run), "--model.masks", "vessels", "disc",
        "--model.size", "64", "--model.width", "4", "--model.blocks", "0", "--model.no-attention",
        "--model.directions", "3", "--loop.batch", "2", "--loop.accumulate", "1", "--loop.no-tensorboard",
        "--loop.workers", "0", "--loop.device", "cpu", "--quiet", "--json",
    ]  # fmt: skip
    assert main([*words, "--stop-after", "5s"]) != 0
    assert "--model.budget" in capsys.readouterr().err
    assert main([*words, "--stop-after", "8img"]) == 0
    said = capsys.readouterr()
    assert "the embedded features of" in said.err
    result = json.loads(said.out)
    assert result["grader"].startswith("grader-retina-")
    metadata = read_metadata(run)
    config = json.loads(metadata["config"])
    assert config["budget"] == 8 and config["grader"] is None and config["vector"] > 64
    painter = load_painter(run, device="cpu")
    assert isinstance(painter, SeverityPainter) and painter.generator.whole
    known = painter.generator.spaces.known.tolist()
    train = [r.grade for r in read_folder(dataset_folder, splits=("train",))]
    assert known == [train.count(grade) >= 2 for grade in range(5)] and any(known)
    asked = str(known.index(True))
    assert main(["sample", str(run), "--grade", asked, "-n", "1", "--out", str(out), "--quiet"]) == 0
    record = read_folder(out)[0]
    assert record.grade == int(asked) and read_image(out / record.image).shape == (64, 64, 3)
    assert main(["sample", str(run), "--grade", "1", "--severity", "1", "--out", str(tmp_path / "x")]) != 0
    assert main(["sample", str(run), "--severity", "1", "--out", str(tmp_path / "x")]) != 0
    assert main(["sample", "--severity", "1", "--out", str(tmp_path / "x")]) != 0
    said = capsys.readouterr().err
    assert "give one" in said and "never saw grade 1" in said and "needs a drgan, flow or stylegan" in said


def test_training_needs_grades_and_masks_that_somebody_knows(dataset_folder: Path, tmp_path: Path) -> None:
    from fundusforge.cli.fitting import fit, gather
    from fundusforge.cli.grading import learnable
    from fundusforge.training.run import LoopConfig

    records = gather([graded(dataset_folder, [None])])
    with pytest.raises(DatasetError, match="has a grade"):
        fit(replace(TINY, perceptual=0.0), [dataset_folder], tmp_path / "run", loop=LoopConfig())
    records = gather([graded(dataset_folder, [2, None])])
    structures = replace(TINY, masks=("vessels", "disc"))
    assert len(learnable(structures, records)) == sum(r.grade == 2 for r in records)
    assert len(learnable(replace(structures, agm=False, classification=0.0), records)) == len(records)
    with pytest.raises(DatasetError, match="'hard_exudates'"):
        learnable(TINY, records)


def test_imitated_lesions_are_of_the_grade_that_is_asked_for(
    painter: SeverityPainter, tmp_path: Path
) -> None:
    settings = {"size": 256, "lesions": "imitated", "grade": 3, "severity": 3.0}
    out = make(painter, tmp_path / "severe", **settings)
    (record,) = read_folder(out)
    assert record.grade == 3 and record.provenance and record.provenance.condition.endswith("+grade-3")
    assert read_mask(out / record.masks["hard_exudates"].path).shape == (256, 256)
    own = make(painter, tmp_path / "own", size=256, severity=3.0)
    assert pictures(own)["vessels/000000.png"] == pictures(out)["vessels/000000.png"], "the same eye"
    with pytest.raises(DatasetError, match="imitated"):
        make(painter, tmp_path / "wrong", grade=3)
