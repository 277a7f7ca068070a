"""Mask obedience: pooled figures as computed by others, beside the right photographs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drgan_bench import STRANGERS, Reader, repainted, write_eyes
from sklearn.metrics import average_precision_score, roc_auc_score

from fundusforge.annotate.segmenter import patient_digest
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.severity import LESIONS
from fundusforge.studies.drgan.eyes import Bench, Eyes
from fundusforge.studies.drgan.masks import annotators, masks, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_eyes(tmp_path / "real", 12)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Bench:
    return repainted(folder, tmp_path / "copied")


def ask(bench: Bench, folders: list[Path], **options: Any):
    who = annotators(bench, folders, vessels=Reader(("vessels",)), lesions=Reader(LESIONS))
    return masks(bench, who, **options), who


def pixels(images: Eyes, places: Iterable[int], name: str, stub: Reader) -> tuple[np.ndarray, np.ndarray]:
    truth, scores = [], []
    for place in places:
        inside = images.field_of_view(place) > 0
        (maps,) = stub.stream([(images.image(place), images.field_of_view(place))])
        truth.append(images.mask(place, name)[inside] > 0)
        scores.append(maps[name][inside])
    return np.concatenate(truth), np.concatenate(scores)


def test_figures_are_those_of_an_independent_computation(copied: Bench, folder: Path) -> None:
    result, _ = ask(copied, [folder])
    vessel, exudate = result.figure("drgan_vessel_auc"), result.figure("drgan_lesion_aupr_ex")
    order = copied.spread(24)
    truth, scores = pixels(copied.painted, copied.turns[0][order].tolist(), "vessels", Reader(("vessels",)))
    assert vessel.value == pytest.approx(roc_auc_score(truth, scores), abs=2e-4)
    truth, scores = pixels(
        copied.painted, copied.turns[0][order].tolist(), "hard_exudates", Reader(("hard_exudates",))
    )
    assert exudate.value == pytest.approx(average_precision_score(truth, scores), abs=2e-3)
    assert exudate.value == pytest.approx(result.figure("drgan_lesion_aupr_ex_eyes").value), "copies"
    assert exudate.real == pytest.approx(exudate.value) and exudate.n_real == 12, "drawn by people, all"
    assert vessel.real is None and vessel.n_real == 0, "predicted vessels are nobody's drawing"
    assert vessel.low <= vessel.value <= vessel.high
    with pytest.raises(KeyError):
        result.figure("drgan_lesion_aupr_ma")  # nothing was painted on such a mask
    assert "hard exudates" in result.text().lower() and "0.8916" in result.text()


def test_paintings_that_do_not_show_their_masks_score_lower(folder: Path, tmp_path: Path) -> None:
    one, _ = ask(repainted(folder, tmp_path / "own"), [])
    other, _ = ask(repainted(folder, tmp_path / "other", shift=1), [])
    for name in ("drgan_vessel_auc", "drgan_lesion_aupr_ex"):
        assert other.figure(name).value < one.figure(name).value - 0.05
        same = other.figure(f"{name}_eyes").value
        assert same == pytest.approx(one.figure(name).value), "the photographs show them"


def test_people_whom_the_annotator_knows_and_more_than_enough_are_left_out(
    copied: Bench, folder: Path
) -> None:
    stub = Reader(LESIONS)
    stub.patients = frozenset(patient_digest(r.patient) for r in read_folder(folder)[:4])
    who = annotators(copied, [folder], vessels=None, lesions=stub)
    assert len(who.human[stub.name]["hard_exudates"]) == 8
    few = annotators(copied, [folder], vessels=None, lesions=stub, most=3)
    assert len(few.human[stub.name]["hard_exudates"]) == 3
    twice = annotators(copied, [folder, folder], vessels=None, lesions=stub)
    assert len(twice.human[stub.name]["hard_exudates"]) == 16
    with pytest.raises(DatasetError, match="finds vessels, not microaneurysms"):
        annotators(copied, [], vessels=None, lesions=Reader(("vessels",)))


def test_so_many_eyes_are_read_and_not_more(copied: Bench) -> None:
    result, who = ask(copied, [], most=5)
    assert who.vessels.read == 10 and result.figure("drgan_vessel_auc").n == 5
    result, who = ask(copied, [], most=5, beside=False)
    assert who.vessels.read == 5
    with pytest.raises(KeyError):
        result.figure("drgan_vessel_auc_eyes")


def test_what_must_be_known_is_said(copied: Bench) -> None:
    stub = Reader(("vessels",), diameter=640)
    stub.patients = STRANGERS
    result = masks(copied, annotators(copied, [], vessels=stub, lesions=None))
    told = " ".join(result.warnings)
    assert "share 1 patients" in told and "enlarged 10.0 times" in told
    silent = masks(replace(copied, patients=frozenset()), annotators(copied, [], vessels=stub, lesions=None))
    assert "unknown whether" in " ".join(silent.warnings)


def test_an_image_without_the_mask_does_not_count(copied: Bench, folder: Path) -> None:
    records = read_folder(folder)
    records[0] = replace(records[0], masks={"vessels": records[0].masks["vessels"]})
    write_metadata(folder, records)
    found = read(Eyes(folder=folder, records=records, side=64), Reader(LESIONS), ("hard_exudates",))
    assert len(found["hard_exudates"]) == 11 and records[0].patient not in found["hard_exudates"].patients
