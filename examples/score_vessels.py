"""Score a vessel model on dataset folders: F1 at its own threshold and AUC, inside the field of view.

    python examples/score_vessels.py runs/drive data/drive584 --splits val --name drive_vessel

Pixels of all images are pooled; intervals are bootstraps of patients. Prints one JSON line for each figure,
as `docs/results/figures.jsonl` keeps them (the commit is added when the figure is recorded).
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.evaluate.agreement import Pool
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.evaluate.vessels import tally
from fundusforge.images import read_image, read_mask
from fundusforge.records import Split, read_folder


@dataclass(frozen=True)
class Score:
    """Score a vessel model on images with vessel masks drawn by people."""

    model: Annotated[str, Positional]
    """Run folder or weights; `embedded` for the model that comes with fundusforge."""
    folder: Annotated[Path, Positional]
    """Dataset folder."""
    splits: tuple[Split, ...] = ("val",)
    """Splits to score."""
    name: str = "vessel"
    """First part of the figures' names."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(c: Score) -> None:
    """Print the figures."""
    segmenter = Segmenter.load(None if c.model == "embedded" else Path(c.model))
    records = [r for r in read_folder(c.folder, splits=c.splits) if "vessels" in r.masks]
    patients = [record.patient for record in records]
    if segmenter.patients & known_patients(patients):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    tallies = []
    for record in records:
        field = read_mask(c.folder / record.field_of_view) if record.field_of_view else None
        found = segmenter.probability(read_image(c.folder / record.image), field)
        mask = read_mask(c.folder / record.masks["vessels"].path)
        tallies.append(tally(found, mask, field, threshold=segmenter.threshold))
    pool = Pool(tallies)
    for what in ("f1", "auc", "sensitivity", "specificity"):
        interval = bootstrap(pool.statistic(what), patients, seed=c.seed)
        row = {
            "name": f"{c.name}_{what}", "value": pool.value(what), "low": interval.low, "high": interval.high,
            "n": len(records), "unit": what, "command": "python " + shlex.join(sys.argv),
        }  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main(tyro.cli(Score))
