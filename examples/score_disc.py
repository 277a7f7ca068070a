"""Score a model of the optic disc on dataset folders whose discs people, or the phantom, drew.

    python examples/score_disc.py runs/disc-judge data/idrid --splits val --name disc_idrid

An image's disc is found if the largest part of what the model finds could be a disc and its centre lies
within half a radius of the true one. Each image is read a second time with its disc painted over: finding
one then is the error that lets a synthetic image without a disc pass. Prints one JSON line for each figure,
as `docs/results/figures.jsonl` keeps them (the commit is added when the figure is recorded).
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.annotate.disc import Disc, find_disc
from fundusforge.annotate.segmenter import Segmenter, known_patients
from fundusforge.annotate.shapes import implausible, largest_part, to_mask
from fundusforge.audit.tally import wilson
from fundusforge.evaluate.plausibility import ASTRAY
from fundusforge.evaluate.statistics import bootstrap, weighted_mean
from fundusforge.images import Grey, Image, read_image, read_mask
from fundusforge.records import Record, Split, read_folder

FIGURES = {
    "dice": "mean Dice", "found": "share", "centre": "median, disc diameters", "noticed": "share",
    "none_left": "share",
}  # fmt: skip
"""Figures and their units. Intervals are bootstraps of patients, those of shares Wilson's."""


CENTRED = 0.25
"""Distance of the centres, in diameters of the true disc, up to which a disc is found: half a radius."""


@dataclass(frozen=True)
class Score:
    """Score a model of the optic disc."""

    model: Annotated[str, Positional]
    """Run folder or weights; `embedded` for the model that comes with fundusforge."""
    folder: Annotated[Path, Positional]
    """Dataset folder."""
    splits: tuple[Split, ...] = ("val",)
    """Splits to score; none for every image, as of a folder that `sample` wrote."""
    name: str = "disc"
    """First part of the figures' names."""
    seed: int = 0
    """Seed of the bootstrap."""


def main(c: Score) -> None:
    """Print the figures."""
    path = None if c.model == "embedded" else Path(c.model)
    segmenter = Segmenter.load(path, masks=("disc",), device="cpu")
    records = [r for r in read_folder(c.folder, splits=c.splits or None) if "disc" in r.masks]
    records = [r for r in records if r.masks["disc"].origin != "predicted"]
    patients = [record.patient for record in records]
    if segmenter.patients & known_patients(patients):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    rows = [scores(segmenter, c.folder, record) for record in records]
    for what, unit in FIGURES.items():
        kept = [place for place, row in enumerate(rows) if not math.isnan(row[what])]
        values = np.array([rows[place][what] for place in kept])
        statistic = median if what == "centre" else weighted_mean
        value = statistic(values, np.ones(len(kept)))
        if unit == "share":
            low, high = wilson(int(values.sum()), len(kept))
        else:
            names = [patients[place] for place in kept]
            interval = bootstrap(lambda w, v=values, s=statistic: s(v, w[0]), names, seed=c.seed)
            low, high = interval.low, interval.high
        row = {
            "name": f"{c.name}_{what}", "value": value, "low": low, "high": high, "n": len(kept),
            "unit": unit, "command": "python " + shlex.join(sys.argv),
        }  # fmt: skip
        print(json.dumps(row))


def scores(segmenter: Segmenter, folder: Path, record: Record) -> dict[str, float]:
    """Return `dice`, `found`, `centre` (NaN if nothing is found), `noticed` and `none_left` of one image.

    Once the disc is painted over, `none_left` is 1 if no disc is found, `noticed` also if one is found where
    the mask has none.
    """
    image, truth = read_image(folder / record.image), read_mask(folder / record.masks["disc"].path)
    field = read_mask(folder / record.field_of_view) if record.field_of_view else None
    wanted = find_disc(truth)
    if wanted is None:
        raise SystemExit(f"{folder / record.masks['disc'].path}: the mask is empty")
    mask = disc_of(segmenter, image, field)
    centre = offset(find_disc(mask), wanted)
    after = offset(find_disc(disc_of(segmenter, painted_over(image, truth, wanted), field)), wanted)
    both = np.count_nonzero((mask > 0) & (truth > 0))
    return {
        "dice": 2 * both / (np.count_nonzero(mask) + np.count_nonzero(truth)),
        "found": float(centre <= CENTRED),
        "centre": centre,
        "noticed": float(not after <= ASTRAY),
        "none_left": float(math.isnan(after)),
    }


def disc_of(segmenter: Segmenter, image: Image, field: Grey | None) -> Grey:
    """Return the mask of the disc that `fundusforge evaluate` would go by; empty if there is none."""
    found = segmenter.probability(image, field, mask="disc")
    mask = largest_part(to_mask(found, segmenter.threshold_of("disc")))
    return np.zeros_like(mask) if implausible("disc", mask, field) else mask


def offset(found: Disc | None, wanted: Disc) -> float:
    """Return the distance of two discs' centres in diameters of the wanted one; NaN if none was found."""
    return math.dist(found.centre, wanted.centre) / wanted.diameter if found else math.nan


def painted_over(image: Image, disc: Grey, wanted: Disc) -> Image:
    """Return the image with the disc, and a quarter of its diameter around it, filled from what is near."""
    reach = max(1, round(wanted.diameter / 4))
    grown = cv2.dilate(disc, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    return np.asarray(cv2.inpaint(image, grown, 3, cv2.INPAINT_TELEA), np.uint8)


def median(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the median of values counted `weights` times; None if nothing is counted."""
    counted = np.repeat(values, weights.astype(int))
    return float(np.median(counted)) if len(counted) else None


if __name__ == "__main__":
    main(tyro.cli(Score))
