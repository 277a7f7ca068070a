"""`fundusforge label` from the chart to the second review, on drawn eyes with or without white spots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fundusforge.cli import main
from fundusforge.images import read_image, write_image
from fundusforge.records import read_folder
from fundusforge.sources.files import rows

pytestmark = pytest.mark.usefixtures("one_thread")
COUNT = 80


def spotted(place: int) -> bool:
    return place % 5 in (0, 2)


def spotted_folder(folder: Path) -> Path:
    """Paint large white spots into some drawn eyes; both eyes of a patient are alike or not, by chance."""
    for record in read_folder(folder):
        place = int(Path(record.image).stem)
        if spotted(place):
            pixels = read_image(folder / record.image)
            rows_, columns = np.mgrid[:64, :64]
            for x, y in np.random.default_rng(place).integers(20, 44, (4, 2)):
                pixels[np.hypot(rows_ - y, columns - x) < 5] = 255
            (folder / record.image).unlink()
            write_image(folder / record.image, pixels)
    return folder


def fill_in(path: Path, *, count: int) -> Path:
    """Answer the first lines of a review as a person would."""
    table = rows(path)[:count]
    lines = [f"{row['image']},{'yes' if spotted(int(Path(row['image']).stem)) else 'no'}" for row in table]
    filled = path.with_name("filled.csv")
    filled.write_text("\n".join(["image,label", *lines]) + "\n")
    return filled


def test_from_the_chart_to_the_second_review(
    tmp_path: Path, drawn_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = spotted_folder(drawn_folder(COUNT))
    chart = tmp_path / "chart.csv"
    said = [f"{n:03d}.jpg,{'White SPOTS seen' if spotted(n) else 'normal'}" for n in range(COUNT)]
    chart.write_text("\n".join(["file,keywords", *said]) + "\n")
    ask = ["label", str(folder), "--finding", "spots", "--json", "--quiet"]
    words = ["--chart", str(chart), "--keywords", "white spots"]
    assert main([*ask, *words, "--draw", "20", "--out", str(tmp_path / "r0")]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "review": str(tmp_path / "r0/review.csv"), "candidates": 20, "others": 20,
    }  # fmt: skip
    assert main([*ask, "--out", str(tmp_path / "r0")]) == 2, "a list that may be filled in is not replaced"
    filled = fill_in(tmp_path / "r0/review.csv", count=40)
    sort = [
        *ask,
        *words,
        "--reviewed",
        str(filled),
        "--size",
        "64",
        "--stop-after",
        "300img",
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main([*sort, "--out", str(tmp_path / "r1")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reviewed"] == 40
    assert result["yes"] + result["no"] + result["unsure"] == COUNT - 40
    assert set(result["test"]) == {"auc", "accuracy", "sensitivity", "specificity", "ece", "n"}
    assert result["test"]["auc"]["low"] <= result["test"]["auc"]["value"] <= result["test"]["auc"]["high"]
    assert result["test"]["auc"]["value"] > 0.7
    records = read_folder(tmp_path / "r1")
    answers = {row["image"]: row["label"] for row in rows(filled)}
    unsure = {row["image"] for row in rows(tmp_path / "r1/review.csv")}
    assert len(unsure) == result["unsure"]
    for record in records:
        if record.image in answers:
            assert ("spots" in record.labels) == (answers[record.image] == "yes")
            assert record.predicted == ()
        elif record.image in unsure:
            assert (record.labels, record.predicted, record.confidences) == ((), (), {})
        else:
            assert set(record.confidences) == {"spots"}
    assert [record.split for record in records] == [record.split for record in read_folder(folder)]
    assert main([*sort, "--out", str(tmp_path / "r1")]) == 0, "the same again changes nothing"
    assert read_folder(tmp_path / "r1") == records
    fewer = fill_in(tmp_path / "r0/review.csv", count=30)
    assert main([*sort, "--reviewed", str(fewer), "--out", str(tmp_path / "r1")]) == 2
    assert "other reviews" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keywords", "erm"], "--chart and --keywords belong together"),
        (["--certainty", "0.4"], "--certainty must be above 0.5"),
        (["--draw", "0"], "--draw must be at least 1"),
        (["--reviewed", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_wrong_use_is_explained(
    tmp_path: Path, dataset_folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["label", str(dataset_folder), "--finding", "erm", "--out", str(tmp_path / "o"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_photographs_own_folder_is_not_written(
    dataset_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(dataset_folder), "--finding", "erm", "--out", str(dataset_folder)]) == 2
    assert "name another folder" in capsys.readouterr().err
