"""Score a segmenter on dataset folders, inside the field of view: vessels, disc, lesions.

    python examples/score_masks.py runs/drive data/drive584 --splits val --name drive_vessel_{figure}
    python examples/score_masks.py runs/lesions data/idrid1280 --masks lesions --figures aupr

Pixels of all images are pooled; intervals are bootstraps of patients. Prints one JSON line for each figure,
as `docs/results/figures.jsonl` keeps them (the commit is added when the figure is recorded).
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.evaluate.agreement import Pool
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.evaluate.vessels import Tally, tally
from fundusforge.images import read_image, read_mask
from fundusforge.records import Split, read_folder
from fundusforge.severity import LESIONS

SHORT: dict[str, str] = dict(zip(LESIONS, ("ma", "he", "ex", "se"), strict=True))


@dataclass(frozen=True)
class Score:
    """Score a segmenter on images with masks drawn by people."""

    model: Annotated[str, Positional]
    """Run folder or weights; `embedded` for the model that comes with fundusforge."""
    folder: Annotated[Path, Positional]
    """Dataset folder."""
    masks: tuple[str, ...] = ("vessels",)
    """Masks to score; `lesions` for all four."""
    figures: tuple[Literal["f1", "auc", "aupr", "sensitivity", "specificity"], ...] = (
        "f1", "auc", "sensitivity", "specificity",
    )  # fmt: skip
    """Figures to print; `aupr` is the area under the precision-recall curve."""
    splits: tuple[Split, ...] = ("val",)
    """Splits to score."""
    name: str = "{mask}_{figure}"
    """The figures' names; lesions are called ma, he, ex, se."""
    tta: bool | None = None
    """Average over mirror images, or not; as the model was configured if left out."""
    unseen: bool = False
    """Leave out patients whom the model was trained on, instead of refusing the folder."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(c: Score) -> None:
    """Print the figures."""
    masks = LESIONS if c.masks == ("lesions",) else c.masks
    segmenter = Segmenter.load(None if c.model == "embedded" else Path(c.model), masks=masks, tta=c.tta)
    records = [record for record in read_folder(c.folder, splits=c.splits) if set(masks) & set(record.masks)]
    if c.unseen:
        records = [r for r in records if not segmenter.patients & known_patients([r.patient])]
    if segmenter.patients & known_patients(record.patient for record in records):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    rows: dict[str, list[tuple[str, Tally]]] = {name: [] for name in masks}
    for record in records:
        field = read_mask(c.folder / record.field_of_view) if record.field_of_view else None
        found = segmenter.probabilities(read_image(c.folder / record.image), field)
        for name in set(masks) & set(record.masks):
            drawn = read_mask(c.folder / record.masks[name].path)
            counts = tally(found[name], drawn, field, threshold=segmenter.threshold_of(name))
            rows[name].append((record.patient, counts))
    for name in masks:
        patients = [patient for patient, _ in rows[name]]
        pool = Pool([counts for _, counts in rows[name]])
        for what in c.figures:
            interval = bootstrap(pool.statistic(what), patients, seed=c.seed)
            row = {
                "name": c.name.format(figure=what, mask=SHORT.get(name, name)), "value": pool.value(what),
                "low": interval.low, "high": interval.high, "n": len(patients), "unit": what,
                "command": "python " + shlex.join(sys.argv),
            }  # fmt: skip
            print(json.dumps(row))


if __name__ == "__main__":
    main(tyro.cli(Score))
