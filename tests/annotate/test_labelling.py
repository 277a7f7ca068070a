"""Reviews, candidates, the split, the band of uncertainty, and what is written: without any network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fundusforge.annotate import labelling
from fundusforge.annotate.labelling import (
    Band,
    Sorted,
    chart_hits,
    choose_band,
    draw,
    read_reviews,
    review_lines,
    reviewed_records,
    sort_folder,
    write_review,
)
from fundusforge.prepare.patients import hash_patient
from fundusforge.records import DatasetError, Record, read_folder, write_metadata
from fundusforge.sources.chart import Row
from fundusforge.sources.files import rows

KEY = b"a key of the tests"
BAND = Band(low=0.3, high=0.7)


def some(count: int, *, per_patient: int = 1) -> list[Record]:
    return [
        Record(image=f"images/{n:03d}.png", patient=f"p{n // per_patient}", source="clinic")
        for n in range(count)
    ]


@dataclass(frozen=True)
class Oracle:
    """Stands in for a classifier: the probability is told by the image's place in the folder."""

    name: str = "oracle"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let image k of ten have probability k / 10; returns the images that were looked at."""
    asked: list[str] = []

    def probability(grader: Any, folder: Path, record: Record) -> float:
        asked.append(record.image)
        return int(Path(record.image).stem) / 10

    monkeypatch.setattr(labelling, "probability", probability)
    return asked


def sort(source: Path, out: Path, reviews: dict[str, bool], *, band: Band = BAND) -> list[Sorted]:
    grader: Any = Oracle()
    records = read_folder(source)
    return list(sort_folder(source, records, out, grader=grader, band=band, reviews=reviews, label="erm"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# ---- reviews -----------------------------------------------------------------------------------------------


def test_reviews_of_several_files_are_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "image,label,note", "images/000.png,yes,x", "images/001.png,,")
    second = write(
        tmp_path / "b.csv", "image;label", "images/001.png;No", "images/002.png;1", "images/000.png;yes"
    )
    found = read_reviews([first, second], some(3))
    assert found == {"images/000.png": True, "images/001.png": False, "images/002.png": True}


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (("image,label", "images/009.png,yes"), r"a.csv:2: the folder has no image 'images/009.png'"),
        (("image,label", "images/000.png,maybe"), r"a.csv:2: expected yes or no as label, not 'maybe'"),
        (
            ("image,label", "images/000.png,yes", "images/000.png,no"),
            r"a.csv:3: .* but the opposite in .*a.csv:2",
        ),
        (("picture,label", "images/000.png,yes"), "image"),
    ],
)
def test_a_broken_review_names_file_and_line(tmp_path: Path, lines: Sequence[str], match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        read_reviews([write(tmp_path / "a.csv", *lines)], some(2))


def test_a_written_list_is_read_back_as_not_reviewed_yet(tmp_path: Path) -> None:
    write_review(tmp_path / "review.csv", [("images/001.png", 0.51, True), ("images/000.png", None, False)])
    table = rows(tmp_path / "review.csv")
    assert table[0] == {"image": "images/001.png", "label": "", "probability": "0.5100", "keyword": "yes"}
    assert table[1]["probability"] == table[1]["keyword"] == ""
    assert read_reviews([tmp_path / "review.csv"], some(2)) == {}


# ---- candidates --------------------------------------------------------------------------------------------


def test_the_chart_selects_by_file_and_by_patient() -> None:
    records = some(3)
    records[1] = replace(records[1], patient=hash_patient(KEY, "clinic", "Jane Doe"))
    chart = [
        Row(text="suspected ERM", file="raw/000.jpg"),
        Row(text="epiretinal membrane", patient="Jane Doe"),
        Row(text="normal fundus", file="002.jpg"),
    ]
    words = ("erm", "epiretinal membrane")
    assert chart_hits(records, chart, keywords=words, exclude=(), key=KEY) == {
        records[0].image,
        records[1].image,
    }
    assert chart_hits(records, chart, keywords=words, exclude=("suspected",), key=KEY) == {records[1].image}
    assert chart_hits(records, chart, keywords=words, exclude=(), key=b"another key") == {records[0].image}


def test_as_many_are_drawn_among_hits_as_among_others() -> None:
    records = some(50)
    hits = {record.image for record in records[:20]}
    drawn = draw(records, hits, size=8, seed=1)
    assert len({record.image for record in drawn}) == 16
    assert sum(record.image in hits for record in drawn) == 8
    assert drawn == draw(records[::-1], hits, size=8, seed=1)
    assert drawn != draw(records, hits, size=8, seed=2)
    assert len(draw(records, hits, size=100, seed=1)) == 50


# ---- split -------------------------------------------------------------------------------------------------


def test_seven_one_two_by_patient() -> None:
    records = some(400, per_patient=2)
    reviews = {record.image: int(record.patient[1:]) % 3 == 0 for record in records}
    learnt = reviewed_records(records, reviews, "erm", seed=0)
    shares = {name: np.mean([r.split == name for r in learnt]) for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.02)
    splits: dict[str, set[str | None]] = {}
    for record in learnt:
        splits.setdefault(record.patient, set()).add(record.split)
        assert record.labels == (("erm",) if reviews[record.image] else ("no_erm",))
    assert all(len(found) == 1 for found in splits.values())


def test_too_few_reviews_are_refused() -> None:
    records = some(6)
    with pytest.raises(
        DatasetError, match="6 reviewed images are too few: among those for train all are alike"
    ):
        reviewed_records(records, {record.image: True for record in records}, "erm", seed=0)


def test_a_review_may_not_contradict_a_persons_label() -> None:
    records = [replace(record, labels=("erm",)) for record in some(30)]
    with pytest.raises(DatasetError, match="was reviewed as no, but a person labelled it 'erm'"):
        reviewed_records(records, {records[0].image: False}, "erm", seed=0)


# ---- band --------------------------------------------------------------------------------------------------


def test_kinds_that_meet_leave_what_is_between_unsure() -> None:
    said = np.array([0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 0.9])
    there = np.array([False, False, True, False, True, True, True])
    assert choose_band(said, there, certainty=1.0) == Band(low=0.2, high=0.6)


def test_kinds_apart_leave_the_gap_unsure() -> None:
    band = choose_band(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]), certainty=0.95)
    assert band == Band(low=0.2, high=0.8)
    assert [band.told(value) for value in (0.0, 0.2, 0.21, 0.79, 0.8, 1.0)] == [
        False,
        False,
        None,
        None,
        True,
        True,
    ]


def test_the_surer_it_must_be_the_more_is_unsure() -> None:
    rng = np.random.default_rng(0)
    there = rng.random(500) < 0.4
    said = (0.5 + 0.16 * (2 * there - 1) + rng.normal(0, 0.15, 500)).clip(0, 1)
    shares = []
    for certainty in (0.8, 0.9, 0.97):
        band = choose_band(said, there, certainty=certainty)
        told = [band.told(value) for value in said]
        sure = [right == truth for right, truth in zip(told, there, strict=True) if right is not None]
        assert np.mean(sure) >= certainty
        shares.append(told.count(None))
    assert shares[0] < shares[1] < shares[2]


def test_a_useless_classifier_is_never_sure() -> None:
    """Positives below, negatives above: no side reaches the certainty, and nothing is told."""
    band = choose_band(np.array([0.2, 0.3, 0.7, 0.8]), np.array([True, True, False, False]), certainty=0.95)
    assert [band.told(value) for value in (0.0, 0.5, 1.0)] == [None, None, None]


def test_where_nothing_is_doubtful_the_band_is_empty() -> None:
    said, there = np.array([0.2, 0.4, 0.5, 0.6, 0.8]), np.array([False, True, False, True, True])
    band = choose_band(said, there, certainty=0.6)
    assert band.low == band.high
    assert None not in {band.told(value) for value in (0.1, 0.45, 0.9)}


# ---- what is written ---------------------------------------------------------------------------------------


def test_only_sure_images_get_the_label(
    tmp_path: Path, drawn_folder: Callable[..., Path], told: list[str]
) -> None:
    source, out = drawn_folder(10), tmp_path / "out"
    results = sort(source, out, {"images/000.png": True, "images/009.png": False})
    by_image = {record.image: record for record in read_folder(out)}
    assert [one.record for one in results] == list(by_image.values())
    assert {image for image, record in by_image.items() if "erm" in record.labels} == {
        "images/000.png", "images/007.png", "images/008.png",
    }  # fmt: skip
    assert "images/000.png" not in told and "images/009.png" not in told
    person, sure = by_image["images/000.png"], by_image["images/008.png"]
    assert (person.predicted, person.confidences) == ((), {})
    assert (sure.predicted, sure.confidences) == (("erm",), {"erm": 0.8})
    assert by_image["images/002.png"].confidences == {"erm": 0.8}
    for place in (4, 5, 6):
        unsure = by_image[f"images/{place:03d}.png"]
        assert "erm" not in unsure.labels + unsure.predicted
        assert "erm" not in unsure.confidences
    assert os.stat(source / sure.image).st_ino == os.stat(out / sure.image).st_ino


def test_the_most_uncertain_stand_first(
    tmp_path: Path, drawn_folder: Callable[..., Path], told: list[str]
) -> None:
    results = sort(drawn_folder(10), tmp_path / "out", {})
    lines = review_lines(results, 0.52, {"images/006.png"})
    assert [(image, hit) for image, _, hit in lines] == [
        ("images/005.png", False), ("images/006.png", True), ("images/004.png", False),
    ]  # fmt: skip


def test_what_a_person_said_stays_and_old_predictions_go(
    tmp_path: Path, drawn_folder: Callable[..., Path], told: list[str]
) -> None:
    source = drawn_folder(10)
    records = read_folder(source)
    records[1] = replace(records[1], labels=("erm", "glaucoma"))
    records[5] = replace(records[5], labels=("erm",), predicted=("erm",), confidences={"erm": 0.9})
    write_metadata(source, records)
    by_image = {one.record.image: one.record for one in sort(source, tmp_path / "out", {})}
    assert by_image["images/001.png"] == records[1]
    stale = by_image["images/005.png"]
    assert (stale.labels, stale.predicted, stale.confidences) == ((), (), {})
    assert read_folder(source) == records


def test_a_stopped_run_goes_on_and_another_is_refused(
    tmp_path: Path, drawn_folder: Callable[..., Path], told: list[str]
) -> None:
    source, out, grader = drawn_folder(10), tmp_path / "out", Oracle()
    run: Any = sort_folder(
        source, read_folder(source), out, grader=grader, band=BAND, reviews={}, label="erm"  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    for _ in range(4):
        next(run)
    run.close()
    assert not (out / "metadata.jsonl").exists()
    assert len(sort(source, out, {})) == 10
    assert len(told) == 10
    with pytest.raises(DatasetError, match="other settings"):
        sort(source, out, {}, band=Band(low=0.1, high=0.9))
