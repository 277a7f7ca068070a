"""How well whole photographs are classified: grades of a scale, or one finding.

Every figure is a function of weights, the number of times each photograph counts, so that
`fundusforge.evaluate.statistics.bootstrap` gives its interval by patient:

- grades: accuracy; Cohen's kappa with quadratic weights (Psychol Bull 70, 1968), the agreement beyond chance
  in which a miss by two grades costs four times a miss by one; the true-positive rate of each grade;
- a finding: area under the ROC curve, accuracy, sensitivity and specificity at a threshold chosen elsewhere;
- both: the expected calibration error (Naeini et al. 2015), the mean distance of what was said from how often
  it was true, in bins of the probability: of the grade that was told, or of the finding.

Temperature (Guo et al. 2017), Platt's scaling (1999) and Youden's threshold (Cancer 3, 1950) are chosen on
validation photographs only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.statistics import Interval, Method, Statistic, Weights, bootstrap

BINS = 15
"""Bins of the expected calibration error, of equal width."""
Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
_Figure = Callable[[Weights], float | None]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure with its interval; None where it cannot be computed."""

    value: float | None
    interval: Interval


def measure(
    statistics: Mapping[str, Statistic], patients: Sequence[str], *, seed: int, draws: int = 1000
) -> dict[str, Measured]:
    """Return the value of each statistic with its bootstrap interval by patient.

    A calibration error grows when photographs are drawn twice, so its interval is laid about the value.

    Raises:
        ValueError: No photograph.
    """
    everyone, found = [np.ones(len(patients))], dict[str, Measured]()
    for name, statistic in statistics.items():
        method: Method = "centred" if name == "ece" else "percentile"
        interval = bootstrap(statistic, patients, seed=seed, draws=draws, method=method)
        if name == "ece" and interval.low is not None:
            interval = replace(interval, low=max(0.0, interval.low))
        found[name] = Measured(value=statistic(everyone), interval=interval)
    return found


def grade_statistics(probabilities: Floats, grades: Integers) -> dict[str, Statistic]:
    """Return the figures of grades: `kappa`, `accuracy`, `tpr_<grade>` and `ece`, each a function of weights.

    The grade told is the one of the highest probability.

    Args:
        probabilities: (N, K), each row summing to 1.
        grades: (N,) the true ones, 0 to K - 1.

    Raises:
        ValueError: Other shapes, grades or probabilities.
    """
    probabilities, truth = np.asarray(probabilities, np.float64), np.asarray(grades, np.intp)
    if probabilities.ndim != 2 or truth.shape != probabilities.shape[:1] or not truth.size:
        raise ValueError(
            f"expected (N, K) probabilities and (N,) grades: {probabilities.shape}, {truth.shape}"
        )
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("the probabilities of the grades must sum to 1")
    count = probabilities.shape[1]
    if truth.min() < 0 or truth.max() >= count:
        raise ValueError(f"grades must be 0 to {count - 1}, not {truth.min()} to {truth.max()}")
    told = probabilities.argmax(1)
    right = (told == truth).astype(np.float64)
    figures: dict[str, _Figure] = {
        "kappa": lambda weights: quadratic_kappa(confusion(truth, told, weights, count=count)),
        "accuracy": lambda weights: _share(right, weights),
    }
    figures |= {f"tpr_{k}": _rate(right, truth == k) for k in range(count)}
    figures["ece"] = _calibration(probabilities.max(1), right)
    return {name: _first(figure) for name, figure in figures.items()}


def finding_statistics(probability: Floats, present: Integers, *, threshold: float) -> dict[str, Statistic]:
    """Return the figures of a finding: `auc`, `accuracy`, `sensitivity`, `specificity` and `ece`.

    Args:
        probability: (N,) in [0, 1].
        present: (N,) 1 where the finding is there, else 0.
        threshold: The finding is told from this probability on. Choose it elsewhere.

    Raises:
        ValueError: Other shapes or values.
    """
    probability, truth = np.asarray(probability, np.float64), np.asarray(present)
    if probability.ndim != 1 or truth.shape != probability.shape or not truth.size:
        raise ValueError(f"expected (N,) probabilities and truths: {probability.shape}, {truth.shape}")
    if not np.isin(truth, (0, 1)).all() or not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("truths must be 0 or 1 and probabilities between 0 and 1")
    right = ((probability >= threshold) == truth).astype(np.float64)
    figures: dict[str, _Figure] = {
        "auc": _area(probability, truth),
        "accuracy": lambda weights: _share(right, weights),
        "sensitivity": _rate(right, truth == 1),
        "specificity": _rate(right, truth == 0),
        "ece": _calibration(probability, truth.astype(np.float64)),
    }
    return {name: _first(figure) for name, figure in figures.items()}


def confusion(
    truth: NDArray[np.intp], told: NDArray[np.intp], weights: Weights, *, count: int
) -> NDArray[np.float64]:
    """Return (count, count) how often each grade (row) was told as each (column)."""
    counts = np.bincount(truth * count + told, weights, count * count)
    return counts.astype(np.float64).reshape(count, count)


def quadratic_kappa(counts: NDArray[np.float64]) -> float | None:
    """Return kappa with quadratic weights of a confusion matrix (K, K); None where chance agrees fully."""
    place = np.arange(len(counts))
    cost = (place[:, None] - place[None]) ** 2
    total = float(counts.sum())
    by_chance = float((cost * np.outer(counts.sum(1), counts.sum(0))).sum())
    return 1.0 - float((cost * counts).sum()) * total / by_chance if by_chance > 0 else None


def _first(figure: _Figure) -> Statistic:
    return lambda weights: figure(weights[0])


def _share(right: NDArray[np.float64], weights: Weights) -> float | None:
    total = float(weights.sum())
    return float(weights @ right) / total if total > 0 else None


def _rate(right: NDArray[np.float64], of: NDArray[np.bool_]) -> _Figure:
    return lambda weights: _share(right[of], weights[of])


def _area(scores: NDArray[np.float64], truth: NDArray[Any]) -> _Figure:
    """Area under the ROC curve: how often a positive scores above a negative, ties counted half."""
    level = np.unique(scores, return_inverse=True)[1]
    positive = truth == 1

    def area(weights: Weights) -> float | None:
        hits = np.bincount(level, weights * positive)
        alarms = np.bincount(level, weights * ~positive)
        pairs = float(hits.sum() * alarms.sum())
        below = alarms.cumsum() - alarms / 2
        return float(hits @ below) / pairs if pairs > 0 else None

    return area


def _calibration(said: NDArray[np.float64], true: NDArray[np.float64]) -> _Figure:
    place = np.clip(np.ceil(said * BINS).astype(np.intp) - 1, 0, BINS - 1)

    def error(weights: Weights) -> float | None:
        gaps = np.bincount(place, weights * (said - true), BINS)
        total = float(weights.sum())
        return float(np.abs(gaps).sum()) / total if total > 0 else None

    return error


# ---- chosen on validation photographs ----------------------------------------------------------------------


def youden(probability: Floats, present: Integers) -> float:
    """Return the threshold of the highest sum of sensitivity and specificity, half-way to the next score.

    Raises:
        ValueError: A class is absent.
    """
    truth = np.asarray(present) == 1
    scores = np.unique(np.asarray(probability, np.float64))
    hits, alarms = (np.sort(np.asarray(probability, np.float64)[which]) for which in (truth, ~truth))
    if not hits.size or not alarms.size:
        raise ValueError("a threshold needs photographs with and without the finding")
    found = 1 - np.searchsorted(hits, scores, "left") / hits.size
    spared = np.searchsorted(alarms, scores, "left") / alarms.size
    best = int(np.argmax(found + spared))
    return float(scores[best] + scores[best - 1]) / 2 if best else float(scores[0])


def fit_temperature(logits: Floats, grades: Integers) -> float:
    """Return by what logits (N, K) must be divided for the highest likelihood of the grades (N,)."""
    logits, grades = np.asarray(logits, np.float64), np.asarray(grades, np.intp)

    def cost(power: float) -> float:
        scaled = logits / np.exp(power)
        return float((_log_sum(scaled) - scaled[np.arange(len(scaled)), grades]).mean())

    found: Any = import_module("scipy.optimize").minimize_scalar(cost, bounds=(-3, 3), method="bounded")
    return float(np.exp(found.x))


def fit_platt(logits: Floats, present: Integers) -> tuple[float, float]:
    """Return temperature and bias: sigmoid(logit / temperature + bias) is how often the finding is there.

    The targets are Platt's, not quite 0 and 1, so that a few photographs cannot make it sure of itself.

    Args:
        logits: (N,).
        present: (N,) 1 where the finding is there, else 0.
    """
    logits, truth = np.asarray(logits, np.float64), np.asarray(present) == 1
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def cost(values: NDArray[np.float64]) -> float:
        scaled = logits * np.exp(-values[0]) + values[1]
        return float((np.logaddexp(0, scaled) - target * scaled).mean())

    found: Any = import_module("scipy.optimize").minimize(
        cost, np.zeros(2), bounds=((-3, 3), (-20, 20)), method="L-BFGS-B"
    )
    return float(np.exp(found.x[0])), float(found.x[1])


def _log_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    most = values.max(1)
    return most + np.log(np.exp(values - most[:, None]).sum(1))
