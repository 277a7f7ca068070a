"""`fundusforge study` from JSON files to verdicts, with true trainings of tiny networks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import draw_fundus
from fundusforge.cli import main
from fundusforge.config import from_json
from fundusforge.images import read_image, write_image
from fundusforge.records import Mask, Record, read_folder, write_metadata
from fundusforge.studies.augmentation.result import StudyResult

LOOP = {"stop_after": "32img", "batch": 4, "workers": 0, "threads": 1}
GAN = {"latent": 8, "style": 8, "widths": [8, 8, 8, 8], "masks": []}
PAINTER = {
    "masks": ["vessels"], "size": 64, "widths": [8, 8, 8], "scales": 1, "discriminator_widths": [8, 8],
}  # fmt: skip


def write_eyes(folder: Path, count: int = 50) -> Path:
    """Eyes with their vessels, a third of them with a bright membrane."""
    for name in ("images", "vessels", "field_of_view"):
        (folder / name).mkdir(parents=True)
    records: list[Record] = []
    splits = ("train", "train", "val", "test", "test")
    for i in range(count):
        eye, ill = draw_fundus(64, seed=i), i % 3 == 0
        if ill:
            eye["image"][24:40, 24:40] = np.minimum(eye["image"][24:40, 24:40].astype(int) + 60, 255)
        for name, pixels in (("images", eye["image"]), ("vessels", eye["vessels"]),
                             ("field_of_view", eye["field_of_view"])):  # fmt: skip
            write_image(folder / name / f"{i:03}.png", pixels)
        records.append(
            Record(
                image=f"images/{i:03}.png", patient=f"p{i}", source="drawn", split=splits[i // 3 % 5],
                masks={"vessels": Mask(path=f"vessels/{i:03}.png", origin="human")}, grade=i % 5, age=50.0,
                field_of_view=f"field_of_view/{i:03}.png", labels=("erm" if ill else "normal",), sex="male",
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("eyes") / "real")


def asked(path: Path, real: Path, **changes: Any) -> Path:
    settings = {
        "name": "erm", "real": str(real),
        "design": {"kind": "ratios", "rare": "epiretinal_membrane", "common": "normal", "ratios": [0.5]},
        "supply": {"kind": "trained", "learner": {
            "family": "pix2pix", "model": PAINTER, "loop": {**LOOP, "batch": 2},
        }},
        "learners": {"small": {
            "family": "classifier", "model": {"size": 64, "widths": [4, 8], "pool": "all"}, "loop": LOOP,
        }},
        "free": ["oversample", "augment+mixup"], "screen": {"seeds": 1, "keep": 1}, "seeds": 2, "draws": 100,
        "side": 64, "quarantine": {"spaces": "pixels"}, "power": {"repeats": 50},
    }  # fmt: skip
    path.write_text(json.dumps(settings | changes), "utf-8")
    return path


def test_a_study_from_folders_to_figures(
    eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generator, drawing, audit, classifiers, table, pictures; the second call computes nothing."""
    config, out = asked(tmp_path / "erm.json", eyes), tmp_path / "study"
    words = ["study", "augmentation", str(config), "--out", str(out), "--threads", "1", "--json"]
    assert main([*words, "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = from_json(StudyResult, (out / "study.json").read_text("utf-8"))
    assert told == found.to_dict()
    (one,) = found.comparisons
    assert one.setting == "1_to_05" and one.verdict in {"helps", "harms", "not shown"} and one.sentence
    assert found.figure("erm_auc_gain_1_to_05").value == pytest.approx(one.gain.value)
    (source,) = found.sources
    assert sum(source.verdicts.values()) >= source.used["rare"] > 0 and source.source.startswith("run-")
    assert not math.isnan(one.p)
    drawn = next(out.glob("generators/*/drawn-rare-*"))
    assert all(r.synthetic and not r.structure_from_patient for r in read_folder(drawn))
    sheet = read_image(out / "figures" / "activations_1_to_05_small.png")
    assert sheet.ndim == 3 and "figures/activations_1_to_05_small.png" in found.pictures
    curve = json.loads(next(out.glob("cells/*/cell.json")).read_text("utf-8"))["curve"]
    assert any(p["loss"] is not None for p in curve) and any(p["score"] is not None for p in curve)
    assert not list(out.glob("cells/*/run/state*"))

    monkeypatch.setattr("fundusforge.cli.fitting.fit", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("fundusforge.audit.stage.audit", lambda *_, **__: pytest.fail("audited again"))
    assert main([*words[:-1], "--lines", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"name", "value", "low", "high", "n", "unit", "command"} <= lines[0].keys()
    assert {"erm_auc_real_1_to_05", "erm_auc_gain_1_to_05"} <= {line["name"] for line in lines}


@pytest.mark.slow
def test_graders_and_segmenters(eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The two other designs: a generator that is asked for grades, and a chain of trees and paint."""
    grading = asked(
        tmp_path / "grade.json", eyes, name="grade", design={"kind": "grades", "per_grade": 2}, side=None,
        supply={"kind": "trained", "learns": "all", "learner": {
            "family": "stylegan", "preset": "small", "model": {**GAN, "classes": ["grade"]}, "loop": LOOP,
        }},
        quarantine={"spaces": "off"},
    )  # fmt: skip
    assert main(["study", "augmentation", str(grading), "--out", str(tmp_path / "grade"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "Kappa with quadratic weights" in out and "plain" in out
    found = from_json(StudyResult, (tmp_path / "grade" / "study.json").read_text("utf-8"))
    assert found.figure("grade_kappa_gain").value is not None
    assert found.figure("grade_kappa_real_on_synthetic").n == 10
    fakes = [read_folder(path) for path in (tmp_path / "grade" / "generators").glob("*/drawn-*")]
    assert {record.grade for records in fakes for record in records} == {0, 1, 2, 3, 4}

    pairs = asked(
        tmp_path / "pairs.json", eyes, name="pairs", side=None, free=["augment"], screen=None,
        design={"kind": "segmentation", "mask": "vessels", "pairs": 3, "counts": [6]},
        learners={"unet": {"family": "unet", "model": {"widths": [4, 8], "diameter": 64, "crop": 32},
                           "loop": LOOP}},
    )  # fmt: skip
    assert main(["study", "augmentation", str(pairs), "--out", str(tmp_path / "pairs"), "--quiet"]) == 0
    found = from_json(StudyResult, (tmp_path / "pairs" / "study.json").read_text("utf-8"))
    assert found.figure("pairs_f1_gain_of_6").value is not None and found.rows[0].values["f1"].value > 0


def test_power_by_numbers_and_by_a_study(
    eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = ["--positives", "60", "--negatives", "60", "--auc", "0.7", "--gain", "0.25", "--seeds", "5"]
    assert main(["study", "power", *numbers, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"][0]["power"] > 0.8 and told["assumed"]["auc"] == 0.7
    config = asked(tmp_path / "erm.json", eyes, seeds=5, power={"auc": 0.6, "gain": 0.35, "repeats": 50})
    assert main(["study", "power", str(config)]) == 0
    records = [r for r in read_folder(eyes) if r.split == "test"]
    ill = sum("erm" in r.labels for r in records)
    out = capsys.readouterr().out
    assert f"With {ill} test photographs with the finding, {len(records) - ill} without and 5 seeds" in out


def test_says_what_is_wrong(eyes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def complaint(*words: str) -> str:
        assert main(["study", *words]) == 2
        return capsys.readouterr().err

    assert "needs a CONFIG" in complaint("augmentation")
    assert "no such file" in complaint("augmentation", str(tmp_path / "none.json"))
    assert "--positives and --negatives" in complaint("power")
    grades = asked(tmp_path / "g.json", eyes, design={"kind": "grades"})
    assert "power is simulated for areas" in complaint("power", str(grades))
    supply = {"kind": "trained", "learns": "all", "learner": {
        "family": "stylegan", "preset": "small", "model": GAN, "loop": LOOP,
    }}  # fmt: skip
    unfit = asked(tmp_path / "unfit.json", eyes, supply=supply)
    said = complaint("augmentation", str(unfit), "--out", str(tmp_path / "unfit"), "--quiet")
    assert "supply.learner.model.classes: nothing; but epiretinal_membrane is wanted" in said
    records = read_folder(eyes)
    other = write_eyes(tmp_path / "torn", 20)
    write_metadata(other, [replace(r, patient="one") for r in records[:20]])
    assert "more than one split" in complaint("augmentation", str(asked(tmp_path / "t.json", other)))
