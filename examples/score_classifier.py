"""Score a classifier on dataset folders: grades (kappa, accuracy, ...) or findings (AUC, sensitivity, ...).

    python examples/score_classifier.py runs/grade data/idrid-grading --splits test --name idrid_grade
    python examples/score_classifier.py runs/findings data/odir512 --splits test

Truth is what people said: a grade, a label, or a mask. The findings' figures are named after their labels
(`laser_auc`), behind `--name` if it is given. Intervals are bootstraps of patients. Prints one JSON line for
each figure, as `docs/results/figures.jsonl` keeps them (the commit is added when the figure is recorded).
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.annotate.grades import Grader
from fundusforge.annotate.segmenter import detect_field, known_patients
from fundusforge.evaluate.classification import finding_statistics, grade_statistics, measure
from fundusforge.evaluate.statistics import Statistic
from fundusforge.images import Image, read_image, read_mask
from fundusforge.records import Record, Split, finding_label, read_folder
from fundusforge.training.batches import finding


@dataclass(frozen=True)
class Score:
    """Score a classifier on images of which people said what it tells."""

    model: Annotated[Path, Positional]
    """Run folder or weights."""
    folder: Annotated[Path, Positional]
    """Dataset folder."""
    splits: tuple[Split, ...] = ("test",)
    """Splits to score."""
    name: str = ""
    """First part of the figures' names."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(c: Score) -> None:
    """Print the figures."""
    grader = Grader.load(c.model)
    records = read_folder(c.folder, splits=c.splits)
    if grader.patients & known_patients(record.patient for record in records):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    if grader.config.graded:
        records = [r for r in records if r.grade is not None and "grade" not in r.predicted]
        truth = np.array([record.grade for record in records])
        show(c, c.name or "grade", grade_statistics(told(grader, c.folder, records), truth), records)
        return
    said = told(grader, c.folder, records)
    for place, name in enumerate(grader.config.targets):
        truth = np.array([finding(c.folder, record, name) for record in records])
        is_known = truth >= 0
        if not is_known.any():
            raise SystemExit(f"{c.folder}: nobody said whether {name} is there")
        statistics = finding_statistics(
            said[is_known, place], truth[is_known], threshold=grader.threshold_of(name)
        )
        known = [record for record, one in zip(records, is_known, strict=True) if one]
        prefix = f"{c.name}_{finding_label(name)}" if c.name else finding_label(name)
        show(c, prefix, statistics, known, positives=int((truth == 1).sum()))


def told(grader: Grader, folder: Path, records: list[Record]) -> np.ndarray:
    """Calibrated probabilities (N, K) of the records' photographs."""
    return grader.probabilities(grader.logits([square(grader, folder, record) for record in records]))


def square(grader: Grader, folder: Path, record: Record) -> Image:
    """What the classifier reads of a record."""
    image = read_image(folder / record.image)
    inside = read_mask(folder / record.field_of_view) if record.field_of_view else detect_field(image)
    return grader.cut(image, inside)


def show(
    c: Score, prefix: str, statistics: dict[str, Statistic], records: list[Record], **facts: int
) -> None:
    """Print a line of each figure."""
    for what, found in measure(statistics, [record.patient for record in records], seed=c.seed).items():
        row = {
            "name": f"{prefix}_{what}", "value": found.value, "low": found.interval.low,
            "high": found.interval.high, "n": len(records), "unit": what.partition("_")[0], **facts,
            "command": "python " + shlex.join(sys.argv),
        }  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main(tyro.cli(Score))
