"""Every command, one after the other, from drawn photographs to a page; tiny networks."""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fundusforge.annotate.segmenter import Segmenter
from fundusforge.cli import fitting, main
from fundusforge.records import Record, read_folder, with_mask, write_metadata
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import load_model

ROOT = Path(__file__).resolve().parents[1]
UNET = (
    "--model.widths",
    "4",
    "8",
    "--model.diameter",
    "64",
    "--model.crop",
    "32",
    "--loop.schedule",
    "cosine",
)
PIX2PIX = (
    "--model.size", "64", "--model.widths", "4", "8", "8", "--model.discriminator-widths", "4", "8",
    "--model.scales", "1",
)  # fmt: skip
LOOP = (
    "--loop.batch",
    "4",
    "--loop.no-tensorboard",
    "--loop.workers",
    "0",
    "--loop.sample-count",
    "2",
    "--quiet",
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def drawn(work: Path) -> Path:
    """Two folders of other eyes: one for the segmenter, one for the generator."""
    for name, seed in (("one", "1"), ("two", "2")):
        words = [
            "prepare",
            "--format",
            "phantom",
            "--source.count",
            "7",
            "--source.pixels",
            "256",
            "--size",
            "64",
        ]
        words += ["--source.seed", seed, "--val", "0.3", "--test", "0.2", "--quality.no-enabled"]
        assert run(*words, "--out", work / name) == 0
    return work


@pytest.fixture(scope="module")
def segmenter(drawn: Path) -> Path:
    words = ("train", "unet", drawn / "one", "--stop-after", "160img", *UNET, *LOOP)
    assert run(*words, "--out", drawn / "segmenter") == 0
    return drawn / "segmenter"


@pytest.fixture(scope="module")
def generator(drawn: Path, segmenter: Path) -> Path:
    words = (
        "train",
        "pix2pix",
        drawn / "two",
        "--stop-after",
        "24img",
        "--segmenter",
        segmenter,
        *PIX2PIX,
        *LOOP,
    )
    assert run(*words, "--out", drawn / "generator") == 0
    return drawn / "generator"


@pytest.fixture(scope="module")
def synthetic(drawn: Path, generator: Path) -> Path:
    assert run("sample", generator, "-n", "4", "--seed", "7", "--out", drawn / "synthetic") == 0
    return drawn / "synthetic"


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def printed(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_prepare_and_inspect(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = drawn / "sheet.png"
    assert run("inspect", drawn / "one", "--sheet", sheet, "--json", "--quiet") == 0
    found = printed(capsys)
    assert found["images"] == found["patients"] == 7 and found["sizes"] == {"64x64": 7}
    assert set(found["counts"]["split"]) == {"train", "val", "test"} and sheet.is_file()


def test_inspect_tells_scripts_of_problems(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, broken = read_folder(drawn / "one")[0], tmp_path / "broken"
    shutil.copytree(drawn / "one", broken)
    (broken / record.image).write_bytes(b"")
    assert run("inspect", broken, "--no-sheet", "--json", "--quiet") == 1
    assert {problem["where"] for problem in printed(capsys)["problems"]} >= {record.image}


def test_a_trained_segmenter_knows_what_it_needs(drawn: Path, segmenter: Path) -> None:
    _, metadata = load_model(segmenter, kind="unet")
    calibration, figures = json.loads(metadata["calibration"]), json.loads(metadata["figures"])
    assert 0 < calibration["threshold"]["vessels"] < 1
    assert calibration["diameter"] == pytest.approx(64, abs=3)
    assert set(figures) == {"vessels_f1", "vessels_auc"} and 0.5 < figures["vessels_auc"] <= 1
    train = [record for record in read_folder(drawn / "one") if record.split == "train"]
    digests = json.loads(metadata["patients"])
    assert len(digests) == len(train) and digests == sorted(digests)
    assert not any(record.patient in metadata["patients"] for record in train)
    assert json.loads(metadata["terms"]) == ["phantom: free of patients; CC0"]
    settings = json.loads((segmenter / "config.json").read_text("utf-8"))
    assert settings["data"]["folders"] == ["one"] and settings["data"]["train"] == len(train)


def test_training_goes_on_and_starts_warm(drawn: Path, segmenter: Path, tmp_path: Path) -> None:
    words = ("train", "unet", drawn / "one", *UNET, *LOOP)
    assert run(*words, "--stop-after", "8img", "--out", tmp_path / "run") == 0
    assert run(*words, "--stop-after", "16img", "--out", tmp_path / "run") == 2, "an old run needs --resume"
    assert run(*words, "--stop-after", "16img", "--out", tmp_path / "run", "--resume") == 0
    assert load_model(tmp_path / "run/model.safetensors")[1]["images"] == "16"
    assert run(*words, "--stop-after", "4img", "--out", tmp_path / "warm", "--warm-start", segmenter) == 0


def test_patients_in_two_splits_are_refused(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(drawn / "one", torn)
    turned = {"train": "val", "val": "train", "test": "test"}
    write_metadata(torn, [replace(r, split=turned[r.split]) for r in read_folder(torn) if r.split])
    assert run("train", "unet", drawn / "one", torn, *UNET, "--out", tmp_path / "run") == 2
    assert "more than one split" in capsys.readouterr().err


def test_a_judge_must_not_share_patients_with_the_generator(
    drawn: Path, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "pix2pix", drawn / "one", "--segmenter", segmenter, *PIX2PIX, *LOOP)
    assert run(*words, "--stop-after", "4img", "--out", tmp_path / "run") == 2
    assert "segmenter of other patients" in capsys.readouterr().err


def test_a_trained_generator_knows_its_cameras_and_terms(generator: Path) -> None:
    _, metadata = load_model(generator, kind="pix2pix")
    assert json.loads(metadata["config"])["cameras"] == ["phantom"]
    assert set(json.loads(metadata["figures"])) == {"l1", "agreement", "agreement_f1"}
    assert (generator / "best.safetensors").is_file()


def test_without_a_segmenter_the_latest_generator_is_released(drawn: Path, tmp_path: Path) -> None:
    words = ("train", "pix2pix", drawn / "two", "--stop-after", "4img", *PIX2PIX, *LOOP)
    assert run(*words, "--out", tmp_path / "run") == 0
    assert not (tmp_path / "run/best.safetensors").exists()
    assert set(json.loads(load_model(tmp_path / "run")[1]["figures"])) == {"l1"}


def test_sample_and_annotate(
    drawn: Path, synthetic: Path, segmenter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [record.synthetic for record in read_folder(synthetic)] == [True] * 4
    words = ("annotate", synthetic, "--vessels", "--probabilities", "--model", segmenter, "--json")
    assert run(*words, "--out", drawn / "annotated") == 0
    assert printed(capsys) | {"models": []} == {
        "out": str(drawn / "annotated"), "images": 4, "rejected": 0, "predicted": 0, "kept": 4, "missing": 0,
        "models": [],
    }  # fmt: skip
    assert len(list((drawn / "annotated/probabilities/vessels").glob("*.png"))) == 4


def test_sampling_on_masks_of_a_folder(
    drawn: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sample", generator, "-n", "2", "--masks", drawn / "two", "--split", "val", "--json")
    assert run(*words, "--out", tmp_path / "painted") == 0
    result = printed(capsys)
    assert result["images"] == 2 and result["structure_from_patient"] == 0
    assert {record.split for record in read_folder(tmp_path / "painted")} == {"val"}


def test_evaluate_and_report(
    drawn: Path, synthetic: Path, segmenter: Path, generator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "evaluate",
        synthetic,
        "--against",
        drawn / "two",
        "--segmenter",
        segmenter,
        "--generator",
        generator,
    )
    assert run(*words, "--draws", "100", "--floor-repeats", "5", "--out", drawn / "results", "--json") == 0
    results = printed(capsys)
    figures = {figure["name"]: figure for figure in results["figures"]}
    assert 0 <= figures["agreement_auc"]["value"] <= 1
    assert results["judge"]["shared_with_generator"] == "none"
    assert results == json.loads((drawn / "results/results.json").read_text("utf-8"))
    assert run("report", drawn / "results", "--json") == 0
    page = Path(printed(capsys)["report"])
    assert "<html" in page.read_text("utf-8")


def test_a_judge_of_the_generators_patients_is_refused(
    drawn: Path, synthetic: Path, segmenter: Path, generator: Path, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert run(
        "train", "unet", drawn / "two", "--stop-after", "4img", *UNET, *LOOP, "--out", tmp_path / "kin"
    ) == 0  # fmt: skip
    words = ("evaluate", synthetic, "--against", drawn / "one", "--generator", generator)
    assert run(*words, "--segmenter", tmp_path / "kin", "--out", tmp_path / "results") == 2
    assert "generator's training set" in capsys.readouterr().err


def test_thresholds_may_be_chosen_on_changed_crops(
    drawn: Path, segmenter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in training: crops with changed colours; only masks that people drew, where there are any."""
    seen: list[set[str]] = []

    class Watched(Batches):
        def __init__(self, folder: Path, records: Sequence[Record], *rest: Any, **options: Any) -> None:
            seen.append({record.image for record in records})
            super().__init__(folder, records, *rest, **options)

    monkeypatch.setattr(fitting, "Batches", Watched)
    monkeypatch.setattr(fitting, "CHANGED_BATCHES", 3)
    folder = (drawn / "one").resolve()
    drawn_eye, other = read_folder(folder)[:2]
    by_hand = fitting.located(with_mask(other, "vessels", other.masks["vessels"].path, "human"), folder)
    learnt = [fitting.located(drawn_eye, folder), by_hand]
    plain = Segmenter.load(segmenter)
    changed = replace(plain, config=replace(plain.config, calibration="augmented"))
    thresholds = [fitting.thresholds_of(each, learnt) for each in (plain, changed, changed)]
    assert seen == [{by_hand.image}] * 2
    assert 0 < thresholds[1]["vessels"] < 1 and thresholds[1] == thresholds[2] != thresholds[0]


def test_the_demo_makes_images_figures_and_a_page(
    segmenter: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FUNDUSFORGE_DATA", raising=False)
    monkeypatch.syspath_prepend(ROOT / "examples")
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "demo.py")
    assert spec is not None and spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    words = ["--count", "2", "--size", "64", "--generator", str(generator), "--segmenter", str(segmenter)]
    out = tmp_path / "demo"
    (out / "synthetic").mkdir(parents=True)
    (out / "synthetic/metadata.jsonl").write_text("of an earlier run")
    assert demo.main([*words, "--out", str(out)]) == 0
    assert len(read_folder(out / "synthetic")) == 2
    assert (out / "contact.png").is_file() and "not with real" in (out / "report.html").read_text("utf-8")
