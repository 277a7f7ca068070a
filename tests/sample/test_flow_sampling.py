"""Sampling by flow matching: the same bytes for the same seed, records, refusals, and a run from data."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.cli import main
from fundusforge.config import to_json
from fundusforge.images import read_image
from fundusforge.models.flow import FlowConfig, Generator
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.sample.severity_painter import FlowPainter, guided, load_painter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.severity import LESIONS
from fundusforge.training.checkpoint import annotate_metadata, save_model
from fundusforge.training.loop import Clock

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = FlowConfig(
    masks=("vessels", "disc", "hard_exudates"), size=64, patch=8, widths=(8, 8), blocks=1, style=8, steps=2
)


def painter_of(config: FlowConfig = TINY) -> FlowPainter:
    torch.manual_seed(3)
    generator = Generator(config).eval()
    generator.known.fill_(True)
    nn.init.normal_(generator.last.split.weight)  # severity counts once something is learnt
    return FlowPainter(generator=generator, name="tiny-1", terms=("drawn: CC0",))


@pytest.fixture(scope="module")
def painter() -> FlowPainter:
    return painter_of()


def make(painter: FlowPainter, out: Path, **settings: object) -> Path:
    list(sample(painter, out, SampleConfig(**({"count": 1, "seed": 7} | settings))))
    return out


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_same_seed_gives_the_same_bytes(painter: FlowPainter, tmp_path: Path) -> None:
    one = pictures(make(painter, tmp_path / "one", severity=2.5))
    more = pictures(make(painter, tmp_path / "more", severity=2.5, count=2))
    assert {name: data for name, data in more.items() if name in one} == one
    for name, settings in (("seed", {"seed": 8, "severity": 2.5}), ("severity", {"severity": 0.5})):
        other = pictures(make(painter, tmp_path / name, **settings))
        assert other["images/000000.png"] != one["images/000000.png"]
        assert (other["vessels/000000.png"] == one["vessels/000000.png"]) is (name == "severity")


def test_records_say_what_was_painted(painter: FlowPainter, tmp_path: Path) -> None:
    (record,) = read_folder(make(painter, tmp_path / "asked", severity=2.6))
    assert record.synthetic and record.grade == 3 and not record.predicted
    assert record.provenance is not None and record.provenance.code == pytest.approx((2.6,))
    assert set(record.masks) == set(TINY.masks) and record.terms == "drawn: CC0"
    (record,) = read_folder(make(painter, tmp_path / "own"))  # the phantom's grade
    assert record.provenance is not None and record.provenance.code == (float(record.grade or 0),)
    (record,) = read_folder(make(painter_of(replace(TINY, grades=False)), tmp_path / "plain"))
    assert record.provenance is not None and record.provenance.code == ()


def test_what_cannot_be_is_refused_before_anything_is_written(painter: FlowPainter, tmp_path: Path) -> None:
    for settings, said in (
        ({"severity": 4.5}, "between 0 and 4"),
        ({"camera": "one"}, "no cameras"),
        ({"size": 72}, "multiples of 16"),
    ):
        with pytest.raises(DatasetError, match=said):
            make(painter, tmp_path / "out", **settings)
    with pytest.raises(DatasetError, match="takes no severity"):
        make(painter_of(replace(TINY, grades=False)), tmp_path / "out", severity=1.0)
    assert not (tmp_path / "out").exists()


def test_guidance_is_told_by_the_code_and_changes_the_photograph_alone(
    painter: FlowPainter, tmp_path: Path
) -> None:
    plain = pictures(make(painter, tmp_path / "plain", severity=4.0))
    out = make(guided(painter, 2.5), tmp_path / "guided", severity=4.0)
    assert {name for name, data in pictures(out).items() if data != plain[name]} == {"images/000000.png"}
    (record,) = read_folder(out)
    assert record.provenance is not None and record.provenance.code == (4.0, 2.5)
    assert guided(painter, 1.0) is painter
    for other in (painter_of(replace(TINY, grades=False)), painter_of(replace(TINY, unknown=0.0))):
        with pytest.raises(DatasetError, match="learnt grades"):
            guided(other, 2.0)
    with pytest.raises(DatasetError, match="negative"):
        guided(painter, -1.0)


def test_a_generator_comes_back_from_its_file(painter: FlowPainter, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    nets = nn.ModuleDict({"generator": painter.generator})
    save_model(path, nets, config_json=to_json(TINY), clock=Clock(images=4))
    annotate_metadata(path, terms=["drawn: CC0"], patients=["00"])
    found = load_painter(path, device="cpu")
    assert isinstance(found, FlowPainter) and found.graded
    assert found.terms == ("drawn: CC0",) and found.patients == {"00"} and found.name.startswith("flow-")
    image = "images/000000.png"  # the files name their model, so their bytes differ
    one, two = (read_image(make(p, tmp_path / p.name) / image) for p in (found, painter))
    np.testing.assert_array_equal(one, two)


def test_trained_from_a_folder_then_sampled(
    dataset_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    records = read_folder(dataset_folder)
    grades = [None if place == 0 else 3 for place in range(len(records))]
    write_metadata(dataset_folder, [replace(r, grade=g) for r, g in zip(records, grades, strict=True)])
    run, out = tmp_path / "run", tmp_path / "out"
    words = [
        "train", "flow", str(dataset_folder), "--out", str(run), "--model.masks", "vessels", "disc",
        "--model.size", "64", "--model.patch", "8", "--model.widths", "8", "8", "--model.blocks", "1",
        "--model.steps", "2", "--loop.batch", "2", "--loop.no-tensorboard", "--loop.workers", "0",
        "--loop.device", "cpu", "--quiet", "--json", "--stop-after", "8img",
    ]  # fmt: skip
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["l1"] > 0
    painter = load_painter(run, device="cpu")
    assert isinstance(painter, FlowPainter) and painter.generator.known.tolist() == [False] * 3 + [
        True,
        False,
    ]
    assert main(["sample", str(run), "--grade", "3", "-n", "1", "--out", str(out), "--quiet"]) == 0
    (record,) = read_folder(out)
    assert record.grade == 3 and read_image(out / record.image).shape == (64, 64, 3)
    assert main(["sample", str(run), "--severity", "1", "--out", str(tmp_path / "x")]) != 0
    assert "never saw grade 1" in capsys.readouterr().err
    assert main([*words, "--warm-start", str(run), "--out", str(tmp_path / "again")]) == 0
    assert "warm start" in capsys.readouterr().err


def test_the_embedded_one_is_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["sample", "--size", "64", "-n", "1", "--quiet", "--out"]
    assert main([*words, str(tmp_path / "family"), "--model", "flow", "--grade", "3"]) == 0
    assert main([*words, str(tmp_path / "name"), "--model", "flow-256", "--severity", "3"]) == 0
    (family,), (name,) = (read_folder(tmp_path / folder) for folder in ("family", "name"))
    assert family.grade == name.grade == 3 and set(LESIONS) < set(family.masks)
    assert family.provenance is not None and family.provenance.model.startswith("flow-256-")
    assert pictures(tmp_path / "family") == pictures(tmp_path / "name")
    assert main([*words, str(tmp_path / "x"), "--model", "pix2pix", "--grade", "3"]) != 0
    assert main([*words, str(tmp_path / "x"), "--model", "pix2pix", "--guidance", "2"]) != 0
    assert main([*words, str(tmp_path / "x"), "--model", "flwo"]) != 0
    said = capsys.readouterr().err
    assert "needs a drgan, flow or stylegan" in said and "no embedded weights" in said and "flow-256" in said
    assert "only a flow model" in said
