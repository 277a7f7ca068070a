"""Do drawn tumours stand where the contrasts show them? Brain slices with their labels, scored and shown.

    python examples/score_brains.py runs/brains-drawn --name mri_drawn | python docs/results/record.py
    python examples/score_brains.py data/brains --splits val --name mri_floor --picture floor.png

For every slice with a label, the area under the ROC curve by which a contrast tells the pixels of the label
from the rest of the brain; the mean over slices with its interval by patient, a line of JSON for each pair
that a radiologist would look at: whole tumour in FLAIR, enhancing part in T1 with contrast agent. `--picture`
shows the first slices: contrasts, then labels; only synthetic ones and phantoms.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from fundusforge.evaluate.statistics import bootstrap
from fundusforge.evaluate.vessels import area_under_curve
from fundusforge.images import SYNTHETIC_XMP, grid, read_contrast, read_mask, resize, write_image
from fundusforge.records import DatasetError, Record, read_folder

LABELS = ("necrosis", "oedema", "enhancing")
PAIRS = {"tumour_flair": ("flair", LABELS), "enhancing_t1c": ("t1c", ("enhancing",))}
"""By name of the figure: the contrast, and the labels that are told together."""
BRAIN, LEAST = 0.25, 4
"""Share of the way from the darkest to the brightest T1 above which a pixel is brain, and least labelled
pixels of a slice that is scored."""


@dataclass(frozen=True)
class ScoreBrains:
    """Score labels against contrasts."""

    folder: Annotated[Path, Positional]
    """Dataset folder of slices with contrasts and labels."""
    name: str = "mri"
    """First part of the figures' names."""
    splits: tuple[Literal["train", "val", "test"], ...] | None = None
    """Take only these."""
    picture: Path | None = None
    """Picture to write."""
    count: int = 8
    """Slices in the picture."""
    seed: int = 0
    """Seed of the bootstrap."""


def contrast(folder: Path, record: Record, name: str) -> NDArray[np.float32]:
    """Return a contrast (S, S) in standard deviations."""
    one = record.contrasts[name]
    return read_contrast(folder / one.path, scale=one.scale, offset=one.offset)


def scores(
    folder: Path, records: Sequence[Record], name: str, labels: Sequence[str]
) -> dict[str, list[float]]:
    """Return, by patient, the area under the curve of each slice that has the labels."""
    found: dict[str, list[float]] = {}
    for record in records:
        t1 = contrast(folder, record, "t1")
        low, high = (float(np.quantile(t1, share)) for share in (0.01, 0.99))
        label = np.logical_or.reduce([read_mask(folder / record.masks[n].path) > 0 for n in labels])
        brain = (t1 > low + BRAIN * (high - low)) | label
        values = contrast(folder, record, name)
        area = area_under_curve(values[label], values[brain & ~label])
        if area is not None and label.sum() >= LEAST:
            found.setdefault(record.patient, []).append(area)
    return found


def shown(folder: Path, record: Record) -> list[NDArray[np.uint8]]:
    """Return contrasts and labels as tiles (128, 128, 3)."""
    tiles: list[NDArray[np.uint8]] = []
    for name in record.contrasts:
        values = contrast(folder, record, name)
        tiles.append(np.rint(((values + 1) / 4).clip(0, 1) * 255).astype(np.uint8))
    tiles += [read_mask(folder / record.masks[name].path) for name in LABELS]
    return [resize(np.repeat(tile[..., None], 3, 2), 128) for tile in tiles]


def main(c: ScoreBrains) -> None:
    """Score, show, print."""
    records = [r for r in read_folder(c.folder, splits=c.splits) if set(LABELS) <= r.masks.keys()]
    if not records:
        raise DatasetError(f"{c.folder}: no slice has the labels {', '.join(LABELS)}")
    for figure, (name, labels) in PAIRS.items():
        found = scores(c.folder, records, name, labels)
        rows = [(patient, area) for patient, areas in found.items() for area in areas]
        areas, patients = np.array([area for _, area in rows]), [patient for patient, _ in rows]
        interval = bootstrap(lambda w, a=areas: float((w[0] * a).sum() / w[0].sum()), patients, seed=c.seed)
        line = {
            "name": f"{c.name}_{figure}_auc", "value": round(float(areas.mean()), 4),
            "low": interval.low, "high": interval.high, "n": len(rows), "unit": "auc",
            "command": "python " + shlex.join(sys.argv),
        }  # fmt: skip
        print(json.dumps(line))
    if c.picture:
        free = [r for r in records if (r.synthetic and not r.structure_from_patient) or r.source == "phantom"]
        if not free:
            raise DatasetError(f"{c.folder}: slices of patients are not shown")
        rows = [shown(c.folder, record) for record in free[: c.count]]
        tiles = [tile for column in zip(*rows, strict=True) for tile in column]
        write_image(c.picture, grid(tiles, columns=len(rows)), xmp=SYNTHETIC_XMP)


if __name__ == "__main__":
    main(tyro.cli(ScoreBrains))
