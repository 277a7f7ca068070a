"""What `fundusforge train classifier` adds: what is known, start, judge, calibration, grading spaces."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fundusforge import weights
from fundusforge.annotate.grades import TOGETHER, Grader
from fundusforge.annotate.spaces import GradingSpaces, draw_features
from fundusforge.cli.judges import Shown
from fundusforge.evaluate.classification import (
    finding_statistics,
    fit_platt,
    fit_temperature,
    grade_statistics,
    youden,
)
from fundusforge.evaluate.statistics import Statistic
from fundusforge.images import Image
from fundusforge.models.classifier import Classification, ClassifierConfig, start_from_imagenet
from fundusforge.records import DatasetError, Record
from fundusforge.training.batches import finding
from fundusforge.training.checkpoint import model_file, read_metadata
from fundusforge.training.loop import Validation
from fundusforge.training.run import MODEL, STATE

SPACES, PICTURE = "grades.safetensors", "tsne.png"
"""Of a run that grades: the latent grading spaces, and a picture of the features that they describe."""


def truths(config: ClassifierConfig, records: Sequence[Record]) -> NDArray[np.int64]:
    """Return what people said of located records, (N, targets): the grade, or 1 and 0; -1 where nothing."""
    if config.graded:
        told = [-1 if r.grade is None or "grade" in r.predicted else r.grade for r in records]
        return np.array(told, np.int64).reshape(-1, 1)
    rows = [[finding(Path("/"), record, name) for name in config.targets] for record in records]
    return np.array(rows, np.int64).reshape(-1, len(config.targets))


def known(config: ClassifierConfig, records: Sequence[Record]) -> list[Record]:
    """Return the records of which people said something that the classifier is to tell."""
    said = truths(config, records).max(1, initial=-1) >= 0
    return [record for record, one in zip(records, said.tolist(), strict=True) if one]


def learnable(config: ClassifierConfig, records: Sequence[Record]) -> list[Record]:
    """Return the records of which something is known, if they show that there is something to tell apart.

    Raises:
        DatasetError: Nothing is known, or all of them are alike in one of the targets.
    """
    kept = known(config, records)
    for name, column in zip(config.targets, truths(config, kept).T, strict=True):
        seen = sorted(set(column[column >= 0].tolist()))
        if len(seen) < 2:
            what = f"only {seen[0]} occurs" if seen else "nobody said"
            raise DatasetError(f"{name} cannot be learnt from {len(records)} training images: {what}")
    return kept


def begin(
    net: Classification, config: ClassifierConfig, run: Path, warm_start: Path | None
) -> tuple[Path | None, str]:
    """Give a new network its first weights where they are not read from a file.

    Returns:
        The file of weights to start from, or None, and what the start was, in words.

    Raises:
        ValueError: ImageNet weights are asked for and cannot be had.
    """
    if (run / STATE).exists():
        return None, read_metadata(run / MODEL).get("start", "") if (run / MODEL).exists() else ""
    if warm_start is None and config.start == "retina":
        warm_start = weights.default("selfsupervised", masks=())
    if warm_start is not None:
        return warm_start, weights.name_of(model_file(warm_start))
    if config.start == "imagenet":
        start_from_imagenet(net, config)
        return None, f"ImageNet weights of {config.backbone} by timm"
    return None, "random"


def squares_of(grader: Grader, records: Sequence[Record]) -> list[Image]:
    """Return what the network reads of each located record."""
    one_by_one = (Shown([record], ()).rows[0] for record in records)  # whole photographs are large
    return [grader.cut(image, inside) for image, inside, _ in one_by_one]


def classification_judge(
    config: ClassifierConfig, records: Sequence[Record], *, diameter: float | None
) -> Validation | None:
    """Judge a classifier on split `val`: by kappa, or by the mean area under the ROC curve of its findings.

    None if people said nothing there that could be told apart.
    """
    records = known(config, records)
    truth = truths(config, records)
    apart = [len(set(column[column >= 0].tolist())) > 1 for column in truth.T]
    if not any(apart):
        return None
    shell = Grader(net=Classification(config), config=config, diameter=diameter)
    squares = squares_of(shell, records)

    def judge(nets: nn.ModuleDict) -> dict[str, float]:
        grader = replace(shell, net=cast(Classification, nets["net"]))
        return classification_scores(grader, grader.logits(squares), truth)

    return Validation(judge=judge, score="kappa" if config.graded else "auc")


def classification_scores(
    grader: Grader, logits: NDArray[np.float64], truth: NDArray[np.int64]
) -> dict[str, float]:
    """Return the figures of logits (N, K) against `truths`; what cannot be computed is left out.

    Those of a finding bear its name, `auc` is the mean over the findings.
    """
    probabilities = grader.probabilities(logits)
    if grader.config.graded:
        return _values(grade_statistics(probabilities, truth[:, 0]), len(truth))
    scores: dict[str, float] = {}
    for name, said, column in zip(grader.config.targets, probabilities.T, truth.T, strict=True):
        if (is_known := column >= 0).any():
            threshold = grader.threshold_of(name)
            statistics = finding_statistics(said[is_known], column[is_known], threshold=threshold)
            found = _values(statistics, int(is_known.sum()))
            scores |= {f"{name}_{figure}": value for figure, value in found.items()}
    areas = [value for name, value in scores.items() if name.endswith("_auc")]
    return scores | ({"auc": float(np.mean(areas))} if areas else {})


def _values(statistics: dict[str, Statistic], count: int) -> dict[str, float]:
    values = {name: statistic([np.ones(count)]) for name, statistic in statistics.items()}
    return {name: value for name, value in values.items() if value is not None}


def conclude(
    run: Path,
    config: ClassifierConfig,
    learnt: Sequence[Record],
    judged: Sequence[Record],
    *,
    diameter: float | None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Calibrate a run's classifier on split `val`, and write the grading spaces beside it.

    Returns:
        Figures on `val`, and what is to be written into the model.
    """
    grader = replace(Grader.load(run), diameter=diameter)
    judged = known(config, judged)
    figures: dict[str, float] = {}
    if judged:
        truth, logits = truths(config, judged), grader.logits(squares_of(grader, judged))
        grader = calibrated(grader, logits, truth)
        figures = classification_scores(grader, logits, truth)
    if config.graded:
        _write_spaces(run, grader, learnt)
    calibration = {
        "temperature": grader.temperature,
        "bias": grader.bias,
        "threshold": grader.thresholds,
        "diameter": diameter,
    }
    return figures, {"calibration": calibration}


def calibrated(grader: Grader, logits: NDArray[np.float64], truth: NDArray[np.int64]) -> Grader:
    """Return the classifier with temperature, bias and Youden's thresholds, chosen on these photographs.

    A finding that they do not tell apart keeps temperature 1, bias 0 and threshold 0.5.
    """
    if grader.config.graded:
        return replace(grader, temperature=(fit_temperature(logits, truth[:, 0]),), bias=(0.0,))
    temperature, bias, apart = [1.0] * len(truth.T), [0.0] * len(truth.T), dict[int, NDArray[np.bool_]]()
    for place, column in enumerate(truth.T):
        if {0, 1} <= set(column.tolist()):
            apart[place] = column >= 0
            said = logits[apart[place], place]
            temperature[place], bias[place] = fit_platt(said, column[apart[place]])
    grader = replace(grader, temperature=tuple(temperature), bias=tuple(bias))
    said = grader.probabilities(logits)
    thresholds = {
        grader.config.targets[place]: youden(said[is_known, place], truth[is_known, place])
        for place, is_known in apart.items()
    }
    return replace(grader, thresholds=thresholds)


def _write_spaces(run: Path, grader: Grader, learnt: Sequence[Record]) -> None:
    """Write the latent grading spaces of the training photographs, and the picture of their features."""
    parts = [learnt[start : start + TOGETHER] for start in range(0, len(learnt), TOGETHER)]
    features = np.concatenate([grader.features(squares_of(grader, part)) for part in parts])
    grades = truths(grader.config, learnt)[:, 0]
    spaces = GradingSpaces.fit(features, grades, model=grader.name)
    spaces.save(run / SPACES)
    if few := [grade for grade, count in spaces.counts.items() if count < 2]:
        print(f"{run / SPACES}: too few images for a space of grade {few[0]}", file=sys.stderr)
    draw_features(features, grades, run / PICTURE)
