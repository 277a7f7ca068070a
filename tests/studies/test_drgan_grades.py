"""Grade obedience: strangers only, figures as computed by others, gaps with the right sign."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drgan_bench import STRANGERS, repainted, write_eyes
from sklearn.metrics import accuracy_score, cohen_kappa_score

from fundusforge.annotate.segmenter import patient_digest
from fundusforge.records import DatasetError, read_folder
from fundusforge.studies.drgan.eyes import Bench
from fundusforge.studies.drgan.grades import check_grader, grades, read_grades


class Stub:
    """Counts bright pixels: knows the grades of the drawn eyes by their spots, as long as it can see them."""

    name, start = "stub-1", "spots"

    def __init__(
        self, patients: frozenset[str] = frozenset({patient_digest("other")}), **config: Any
    ) -> None:
        self.patients = patients
        self.config: Any = SimpleNamespace(graded=True, size=64, targets=("grade",), **config)

    def cut(self, image: np.ndarray, field: np.ndarray) -> np.ndarray:
        return image[..., 2] * (field > 0)

    def logits(self, squares: list[np.ndarray]) -> np.ndarray:
        spots = np.array([(square > 170).sum() / 27 for square in squares])
        return -np.abs(spots[:, None] - np.arange(5)) * 3

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("grades") / "real", 15)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Bench:
    return repainted(folder, tmp_path)


def test_figures_are_those_of_an_independent_computation(folder: Path, tmp_path: Path) -> None:
    shifted, stub = repainted(folder, tmp_path, shift=1), Stub()
    result = grades(shifted, stub)
    truth, told = shifted.grades, read_grades(shifted.painted, stub).argmax(1)
    asked = np.tile(truth, 2)
    accuracy, kappa = result.figure("drgan_grade_accuracy"), result.figure("drgan_grade_kappa")
    assert accuracy.value == pytest.approx(accuracy_score(asked, told))
    assert kappa.value == pytest.approx(cohen_kappa_score(asked, told, weights="quadratic"))
    beside = read_grades(shifted.real, stub).argmax(1)
    assert kappa.real == pytest.approx(cohen_kappa_score(truth, beside, weights="quadratic"))
    assert kappa.real > 0.7 and kappa.value < 0.2, "paintings of other eyes show other grades"
    gap = result.figure("drgan_grade_kappa_gap")
    assert gap.value == pytest.approx(kappa.real - kappa.value) and gap.low > 0
    assert "excludes zero" in result.sentences[0] and "began from spots" in kappa.notes[0]
    assert (kappa.n, kappa.n_real) == (30, 15) and kappa.low <= kappa.value <= kappa.high
    rows = result.tables[1].rows
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 30
    assert int(rows[1][1]) == ((asked == 0) & (told == 0)).sum()
    assert result.figure("drgan_grade_tpr_2").n == 10


def test_obedient_paintings_leave_no_gap(copied: Bench) -> None:
    result = grades(copied, Stub())
    gap = result.figure("drgan_grade_accuracy_gap")
    assert gap.value == pytest.approx(0) and "holds zero" in result.sentences[0]
    names = {row["name"] for row in result.lines()}
    assert {"drgan_grade_accuracy", "drgan_grade_accuracy_real", "drgan_grade_kappa_real"} <= names


def test_a_grader_of_the_generators_patients_is_refused(copied: Bench) -> None:
    for stub, bench, said in (
        (Stub(STRANGERS), copied, "learnt from 1 of the 1 patients"),
        (Stub(frozenset()), copied, "stub-1 does not say whom"),
        (Stub(), replace(copied, patients=frozenset()), "copy-1 does not say whom"),
    ):
        with pytest.raises(DatasetError, match=said):
            grades(bench, stub)
    stub = Stub()
    stub.config = SimpleNamespace(graded=False, targets=("laser_marks",))
    with pytest.raises(DatasetError, match="expected one of grades"):
        check_grader(stub, copied)
    assert not (copied.config.out / "grades.json").exists()


def test_eyes_that_the_grader_learnt_from_are_left_out(copied: Bench, folder: Path) -> None:
    names = [record.patient for record in read_folder(folder)]
    result = grades(copied, Stub(frozenset(map(patient_digest, names[:5]))))
    assert (result.figure("drgan_grade_kappa").n, result.figure("drgan_grade_kappa").n_real) == (20, 10)
    assert "5 held-out eyes are of patients whom the grader learnt from" in result.warnings[-1]
    with pytest.raises(DatasetError, match="all but 1"):
        check_grader(Stub(frozenset(map(patient_digest, names[1:]))), copied)
