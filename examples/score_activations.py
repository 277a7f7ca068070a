"""Do activation maps lie on what they are named after? Scored on phantoms, whose pixels are known.

    fundusforge prepare --format phantom --source.count 220 --source.grades 4 --size 512 --out data/marks
    fundusforge train classifier data/marks --preset findings --out runs/findings-phantom
    python examples/score_activations.py runs/findings-phantom data/marks

Of every image that has the finding: the area under the curve of what `cam` and `gradcam` find at its pixels
and at the others (`pixel_auc`), the same for the region that the marks cover together (`region_auc`; a map is
16 or 32 times coarser than a dot of a laser), and whether the highest evidence lies in that region (`peak`;
`area` says how often chance would hit). Medians, and shares for `peak` and `area`, over images, with
bootstraps of patients. Prints one JSON line for each figure, as `docs/results/figures.jsonl` keeps them.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from fundusforge.annotate.activations import Activations, Method
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.segmenter import detect_field, known_patients
from fundusforge.evaluate.statistics import Weights, bootstrap
from fundusforge.evaluate.vessels import area_under_curve
from fundusforge.images import Grey, read_image, read_mask, resize
from fundusforge.records import Record, Split, read_folder


@dataclass(frozen=True)
class Score:
    """Score the activation maps of a classifier on images whose masks of the findings are known."""

    model: Annotated[Path, Positional]
    """Run folder or weights of a classifier of findings."""
    folder: Annotated[Path, Positional]
    """Dataset folder with masks of the findings."""
    splits: tuple[Split, ...] = ("test",)
    """Splits to score."""
    methods: tuple[Method, ...] = ("cam", "gradcam")
    """Kinds of maps."""
    region: float = 0.1
    """Gaps between marks that belong to their region, as a part of the image's side."""
    name: str = "phantom"
    """First part of the figures' names."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(c: Score) -> None:
    """Print the figures."""
    grader = Grader.load(c.model)
    records = read_folder(c.folder, splits=c.splits)
    if grader.patients & known_patients(record.patient for record in records):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    for method in c.methods:
        activations = Activations(grader=grader, method=method)
        for place, target in enumerate(grader.config.targets):
            having = [
                r for r in records if target in r.masks and read_mask(c.folder / r.masks[target].path).any()
            ]
            if not having:
                raise SystemExit(f"{c.folder}: no image of {', '.join(c.splits)} shows {target}")
            rows = np.array([measure(c, activations, record, place, target) for record in having])
            patients = [record.patient for record in having]
            for column, what in enumerate(("pixel_auc", "region_auc", "peak", "area")):
                share = what in {"peak", "area"}
                show(c, f"{c.name}_{target}_{method}_{what}", rows[:, column], patients, share=share)


def measure(c: Score, activations: Activations, record: Record, place: int, target: str) -> tuple[float, ...]:
    """Return pixel AUC, region AUC, whether the peak hits the region, and the region's part of the field."""
    image = read_image(c.folder / record.image)
    inside = read_mask(c.folder / record.field_of_view) if record.field_of_view else detect_field(image)
    grader = activations.grader
    truth = read_mask(c.folder / record.masks[target].path)
    marks, field = (grader.cut(np.dstack([mask] * 3), inside)[..., 0] > 127 for mask in (truth, inside))
    region = closed(marks, round(c.region * len(marks))) & field
    evidence = resize(activations.evidence([grader.cut(image, inside)])[0, place], len(marks))
    y, x = np.unravel_index(np.where(field, evidence, -1).argmax(), evidence.shape)
    aucs = [area_under_curve(evidence[m & field], evidence[~m & field]) for m in (marks, region)]
    return (
        *(np.nan if auc is None else auc for auc in aucs),
        float(region[y, x]),
        float(region[field].mean()),
    )


def closed(marks: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return marks with the gaps of up to `side` pixels between them."""
    disc: Grey = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side | 1, side | 1)).astype(np.uint8)
    return cv2.morphologyEx(marks.astype(np.uint8), cv2.MORPH_CLOSE, disc) > 0


def show(c: Score, name: str, values: NDArray[np.float64], patients: list[str], *, share: bool) -> None:
    """Print a line of one figure."""

    def statistic(weights: Sequence[Weights]) -> float | None:
        drawn = np.repeat(values, weights[0].astype(int))
        return float(drawn.mean() if share else np.nanmedian(drawn)) if drawn.size else None

    interval = bootstrap(statistic, patients, seed=c.seed)
    row = {
        "name": name, "value": statistic([np.ones(len(values))]), "low": interval.low, "high": interval.high,
        "n": len(values), "unit": "share" if share else "auc", "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    print(json.dumps(row))


if __name__ == "__main__":
    main(tyro.cli(Score))
