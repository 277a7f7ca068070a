"""What is measured of each design: figures as functions of how often each photograph counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.classification import finding_statistics, grade_statistics, youden
from fundusforge.evaluate.statistics import Statistic, Weights, weighted_mean
from fundusforge.studies.augmentation.cells import Answer, Outcome
from fundusforge.studies.augmentation.config import Grades, Ratios, Study
from fundusforge.studies.augmentation.paired import Figure, Test, delong, jackknife, mcnemar
from fundusforge.studies.augmentation.settings import VAL

Floats = NDArray[np.float64]
TITLES: Mapping[str, str] = {
    "auc": "Area under the ROC curve", "accuracy": "Accuracy", "sensitivity": "Sensitivity",
    "specificity": "Specificity", "kappa": "Kappa with quadratic weights", "f1": "F1, mean over eyes",
    **{f"tpr_{grade}": f"True-positive rate of grade {grade}" for grade in range(5)},
}  # fmt: skip
"""Of every measure, for readers."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """The measures of one design; the first decides."""

    names: tuple[str, ...]
    kind: str
    """ratios, grades or segmentation."""

    @property
    def main(self) -> str:
        """The measure by which baselines are chosen and gains are judged."""
        return self.names[0]

    def figures(self, outcome: Outcome, where: str) -> dict[str, Figure]:
        """Return every measure of a model on one set, as a function of weights."""
        answer = outcome.on(where)
        if self.kind == "segmentation":
            columns = zip(("f1", "auc"), said(answer).T, strict=True)
            return {name: _mean_of(column) for name, column in columns}
        if self.kind == "grades":
            found = grade_statistics(said(answer), np.array(answer.truth))
        else:
            found = finding_statistics(
                said(answer)[:, 0], np.array(answer.truth), threshold=outcome.threshold
            )
        return {name: _alone(found[name]) for name in self.names}

    def value(self, outcomes: Sequence[Outcome], where: str, name: str) -> float | None:
        """Return the mean over seeds of a measure on one set; None where it cannot be computed."""
        found: list[float] = []
        for outcome in outcomes:
            value = self.figures(outcome, where)[name](np.ones(len(outcome.on(where).truth)))
            if value is None:
                return None
            found.append(value)
        return float(np.mean(found)) if found else None

    def test(self, first: Sequence[Outcome], second: Sequence[Outcome], where: str) -> Test | None:
        """Test the main measure of one way to train against another's, seed by seed."""
        answer = first[0].on(where)
        if self.kind == "ratios":
            scores = [np.stack([said(each.on(where))[:, 0] for each in arm]) for arm in (first, second)]
            return delong(scores[0], scores[1], np.array(answer.truth) == 1, answer.patients)
        figures = [[self.figures(each, where)[self.main] for each in arm] for arm in (first, second)]
        return jackknife(figures[0], figures[1], answer.patients)

    def mcnemar(self, first: Sequence[Outcome], second: Sequence[Outcome], where: str) -> float | None:
        """Return McNemar's p of the decisions of both ways, each by the mean of its seeds; None of pairs."""
        if self.kind == "segmentation":
            return None
        answer = first[0].on(where)
        right = [self._right(arm, where) for arm in (first, second)]
        return mcnemar(right[0], right[1], answer.patients)

    def _right(self, outcomes: Sequence[Outcome], where: str) -> NDArray[np.bool_]:
        """Return whether the mean of the seeds decides right, with a threshold chosen on validation."""
        truth = np.array(outcomes[0].on(where).truth)
        mean = np.mean([said(each.on(where)) for each in outcomes], axis=0)
        if self.kind == "grades":
            return mean.argmax(1) == truth
        on_val = np.mean([said(each.on(VAL))[:, 0] for each in outcomes], axis=0)
        threshold = youden(on_val, np.array(outcomes[0].on(VAL).truth))
        return (mean[:, 0] >= threshold) == (truth == 1)


def measures_of(study: Study) -> Measures:
    """Return what is measured in a study."""
    if isinstance(study.design, Ratios):
        return Measures(names=("auc", "accuracy", "sensitivity", "specificity"), kind="ratios")
    if isinstance(study.design, Grades):
        return Measures(names=("kappa", "accuracy", *(f"tpr_{k}" for k in range(5))), kind="grades")
    return Measures(names=("f1", "auc"), kind="segmentation")


def said(answer: Answer) -> Floats:
    """Return what a model said of a set, (N, K); NaN where it said nothing."""
    rows = [[np.nan if value is None else value for value in row] for row in answer.said]
    return np.array(rows, np.float64)


def _alone(statistic: Statistic) -> Figure:
    return lambda weights: statistic([weights])


def _mean_of(values: Floats) -> Callable[[Weights], float | None]:
    known = np.isfinite(values)
    return lambda weights: weighted_mean(values[known], weights[known])
