"""Figures of classification: known answers, what they mean, and scikit-learn and torchmetrics beside them."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from fundusforge.evaluate.classification import (
    finding_statistics,
    fit_platt,
    fit_temperature,
    grade_statistics,
    measure,
    quadratic_kappa,
    youden,
)

RNG = np.random.default_rng(0)
GRADES = RNG.integers(0, 5, 80)
LOGITS = RNG.normal(size=(80, 5)) + 1.5 * np.eye(5)[GRADES]
PROBABILITIES = softmax(LOGITS, axis=1)
PRESENT = RNG.integers(0, 2, 60)
SCORES = np.round(1 / (1 + np.exp(-RNG.normal(size=60) - PRESENT)), 2)  # with ties


def values(statistics: dict, weights: np.ndarray) -> dict[str, float | None]:
    return {name: statistic([weights]) for name, statistic in statistics.items()}


@pytest.mark.parametrize("weights", [np.ones(80), RNG.integers(0, 4, 80).astype(float)], ids=["all", "drawn"])
def test_grades_agree_with_other_implementations(weights: np.ndarray) -> None:
    found = values(grade_statistics(PROBABILITIES, GRADES), weights)
    told = PROBABILITIES.argmax(1)
    kappa = metrics.cohen_kappa_score(GRADES, told, weights="quadratic", sample_weight=weights)
    assert found["kappa"] == pytest.approx(kappa)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(GRADES, told, sample_weight=weights))
    recalls = metrics.recall_score(GRADES, told, average=None, sample_weight=weights)
    assert [found[f"tpr_{k}"] for k in range(5)] == pytest.approx(recalls.tolist())
    repeated = np.repeat(np.arange(80), weights.astype(int))
    ece = multiclass_calibration_error(
        torch.tensor(PROBABILITIES[repeated]), torch.tensor(GRADES[repeated]), num_classes=5, n_bins=15
    )
    assert found["ece"] == pytest.approx(ece.item(), abs=1e-6)


@pytest.mark.parametrize("weights", [np.ones(60), RNG.integers(0, 4, 60).astype(float)], ids=["all", "drawn"])
def test_findings_agree_with_other_implementations(weights: np.ndarray) -> None:
    found = values(finding_statistics(SCORES, PRESENT, threshold=0.5), weights)
    told = SCORES >= 0.5
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(PRESENT, SCORES, sample_weight=weights))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(PRESENT, told, sample_weight=weights))
    specificity, sensitivity = metrics.recall_score(PRESENT, told, average=None, sample_weight=weights)
    assert (found["sensitivity"], found["specificity"]) == pytest.approx((sensitivity, specificity))
    repeated = np.repeat(np.arange(60), weights.astype(int))
    ece = binary_calibration_error(
        torch.tensor(SCORES[repeated] - 1e-9), torch.tensor(PRESENT[repeated]), n_bins=15
    )
    assert found["ece"] == pytest.approx(ece.item(), abs=1e-6)


def test_what_cannot_be_computed_is_none() -> None:
    sure = np.eye(5)[[2, 2]]
    found = values(grade_statistics(sure, np.array([2, 2])), np.ones(2))
    assert found["kappa"] is None, "chance agrees fully"
    assert found["tpr_0"] is None
    assert found["tpr_2"] == found["accuracy"] == 1.0
    alone = values(finding_statistics(np.array([0.2, 0.9]), np.array([1, 1]), threshold=0.5), np.ones(2))
    assert alone["auc"] is None
    assert alone["specificity"] is None
    assert alone["sensitivity"] == 0.5


def test_kappa_of_known_tables() -> None:
    assert quadratic_kappa(np.diag([3.0, 1.0, 2.0])) == 1.0
    assert quadratic_kappa(np.fliplr(np.eye(3))) == -1.0
    assert quadratic_kappa(np.ones((3, 3))) == pytest.approx(0.0)
    near, far = (np.diag([4.0, 4.0, 4.0, 4.0, 4.0]) for _ in range(2))
    near[0, 1] = far[0, 4] = 2
    assert quadratic_kappa(near) > quadratic_kappa(far), "a miss by four grades costs more"


def test_worse_graders_get_worse_figures() -> None:
    """More noise in the logits lowers every figure; sharper probabilities alone only their calibration."""
    noisy = softmax(LOGITS + RNG.normal(size=LOGITS.shape) * 3, axis=1)
    good, bad, sharp = (
        values(grade_statistics(p, GRADES), np.ones(80))
        for p in (PROBABILITIES, noisy, softmax(LOGITS * 8, axis=1))
    )
    assert bad["kappa"] < good["kappa"]
    assert bad["accuracy"] < good["accuracy"]
    assert sharp["kappa"] == good["kappa"]
    assert sharp["ece"] > 2 * good["ece"]


def test_intervals_draw_patients() -> None:
    patients = [f"p{i // 4}" for i in range(80)]
    found = measure(grade_statistics(PROBABILITIES, GRADES), patients, seed=0, draws=200)
    kappa = found["kappa"]
    assert kappa.interval.patients == 20
    assert kappa.interval.low < kappa.value < kappa.interval.high
    ece = found["ece"]
    assert 0 <= ece.interval.low < ece.value < ece.interval.high, "laid about the value"
    alone = measure(grade_statistics(PROBABILITIES, GRADES), ["one"] * 80, seed=0, draws=20)
    assert alone["kappa"].interval.low is None
    assert alone["kappa"].value == kappa.value


def test_temperature_and_platt_undo_what_was_done() -> None:
    """Labels are drawn from known probabilities; whatever scales the logits is found again."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 5)) * 2
    grades = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    assert fit_temperature(logits * 3, grades) == pytest.approx(3, rel=0.1)
    line = rng.normal(size=4000) * 2
    there = (rng.random(4000) < 1 / (1 + np.exp(-(line - 1)))).astype(int)
    temperature, bias = fit_platt(line * 4, there)
    assert temperature == pytest.approx(4, rel=0.1)
    assert bias == pytest.approx(-1, abs=0.15)
    few = fit_platt(np.array([-9.0, -8.0, 9.0]), np.array([0, 0, 1]))
    assert 1 / (1 + np.exp(-(9.0 / few[0] + few[1]))) < 0.95, "one photograph makes nobody sure"


def test_youden_finds_the_best_cut() -> None:
    assert youden(np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 1])) == pytest.approx(0.4)
    threshold = youden(SCORES, PRESENT)

    def sum_at(cut: float) -> float:
        found = values(finding_statistics(SCORES, PRESENT, threshold=cut), np.ones(60))
        return found["sensitivity"] + found["specificity"]

    assert sum_at(threshold) == max(sum_at(cut) for cut in np.unique(SCORES))
    with pytest.raises(ValueError, match="with and without"):
        youden(SCORES, np.ones(60))


@pytest.mark.parametrize(
    ("probabilities", "grades", "match"),
    [
        (PROBABILITIES[:3], GRADES[:2], "expected"),
        (PROBABILITIES[:2] * 2, GRADES[:2], "sum to 1"),
        (PROBABILITIES[:2], np.array([0, 5]), "0 to 4"),
        (PROBABILITIES[:0], GRADES[:0], "expected"),
    ],
)
def test_what_is_no_grading_is_refused(probabilities: np.ndarray, grades: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        grade_statistics(probabilities, grades)


def test_what_is_no_finding_is_refused() -> None:
    for scores, truth in ((SCORES, PRESENT * 2), (SCORES * 2, PRESENT), (SCORES[:3], PRESENT)):
        with pytest.raises(ValueError, match=r"expected|must be"):
            finding_statistics(scores, truth, threshold=0.5)
