"""Score what is seen from the optic disc: fovea, cup, side of the eye, and doubts about a disc.

    fundusforge prepare --format phantom --source.count 100 --source.seed 20000 --out data/landmarks
    python examples/score_landmarks.py data/landmarks --name phantom
    python examples/score_landmarks.py data/odir512 --splits val test --name odir

Vessels and disc are found with the embedded models, or taken from the folder (`--given`). A figure is
printed for whatever the folder knows the truth of: masks `fovea`, `cup` and `disc` that no model predicted,
`eye`, and the label `glaucoma`. A record's own `eye` is never shown to what is scored. Prints one JSON line
for each figure, as `docs/results/figures.jsonl` keeps them (the commit is added when the figure is recorded).
"""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.annotate.disc import Disc, doubts, find_disc
from fundusforge.annotate.landmarks import Landmarks, circle
from fundusforge.annotate.picture import Found, Picture
from fundusforge.annotate.segmenter import Segmenter
from fundusforge.annotate.structures import Structures
from fundusforge.audit.tally import wilson
from fundusforge.evaluate.statistics import bootstrap, weighted_mean
from fundusforge.images import Grey, read_image, read_mask
from fundusforge.records import Record, Split, read_folder

PLANTED = 2
"""Wrong discs that are planted in each image."""
AWAY = 1.5
"""Least distance of a wrong disc from the right one, in its diameters."""


@dataclass(frozen=True)
class Score:
    """Score fovea, cup, side of the eye, and doubts about a disc."""

    folder: Annotated[Path, Positional]
    """Dataset folder."""
    splits: tuple[Split, ...] = ()
    """Splits to score; every image if left out."""
    given: bool = False
    """Take vessels and disc from the folder, where it has them, instead of looking for them."""
    name: str = "landmarks"
    """First part of the figures' names."""
    seed: int = 0
    """Seed of the bootstrap and of the planted discs."""


def main(c: Score) -> None:
    """Print the figures."""
    records = read_folder(c.folder, splits=c.splits or None)
    found = [looked(c, record, place) for place, record in enumerate(records)]
    for what, unit in UNITS.items():
        kept = [
            (row[what], record.patient) for row, record in zip(found, records, strict=True) if what in row
        ]
        if kept:
            values, patients = np.array([value for value, _ in kept]), [patient for _, patient in kept]
            emit(c, what, unit, values, patients)
    glaucoma(c, found, records)


UNITS = {
    "disc_doubted": "share", "planted_doubted": "share of images, mean",
    "fovea_given": "share", "fovea_offset": "median, disc diameters", "fovea_within": "share",
    "cup_given": "share", "cup_dice": "mean Dice",
    "cup_ratio_error": "mean, absolute", "cup_ratio_bias": "mean",
    "eye_given": "share", "eye_right": "share",
}  # fmt: skip
"""Figures and their units: of the whole folder, or of what was given. Intervals are bootstraps of patients,
those of shares Wilson's."""


def looked(c: Score, record: Record, place: int) -> dict[str, float]:
    """Return the figures of one image."""
    picture = read(c, record)
    truth = {
        name: read_mask(c.folder / mask.path)
        for name, mask in record.masks.items()
        if name in {"disc", "cup", "fovea"} and mask.origin != "predicted"
    }
    [found] = Landmarks().read([picture])
    row: dict[str, float] = {}
    if record.eye:
        row["eye_given"] = float("eye" in found.values)
        if "eye" in found.values:
            row["eye_right"] = float(found.values["eye"] == record.eye)
    if disc := find_disc(truth.get("disc", np.zeros((1, 1), np.uint8))):
        row |= doubted(picture, truth["disc"], disc, np.random.default_rng([c.seed, place]))
        row |= of_fovea(found, truth, disc) | of_cup(found, truth)
    if "cup" in found.masks:
        row["ratio"] = height(found.masks["cup"]) / height(picture.masks["disc"])
    return row


def read(c: Score, record: Record) -> Picture:
    """Return a photograph with its vessels and disc, and without its `eye`."""
    image = read_image(c.folder / record.image)
    if record.field_of_view is None:
        raise SystemExit(
            f"{c.folder / record.image}: expected a field of view; `fundusforge prepare` finds it"
        )
    picture = Picture(image=image, field_of_view=read_mask(c.folder / record.field_of_view))
    for name in ("vessels", "disc"):
        if c.given and name in record.masks:
            picture.masks[name] = read_mask(c.folder / record.masks[name].path)
        else:
            picture.masks |= segmenter(name).read([picture])[0].masks
    return picture


SEGMENTERS: dict[str, Structures] = {}


def segmenter(name: str) -> Structures:
    """Return the embedded annotator of one structure, loaded once."""
    if name not in SEGMENTERS:
        SEGMENTERS[name] = Structures(segmenter=Segmenter.load(masks=(name,), device="cpu"), masks=(name,))
    return SEGMENTERS[name]


def doubted(picture: Picture, truth: Grey, disc: Disc, rng: np.random.Generator) -> dict[str, float]:
    """Return whether the right disc is doubted, and of some wrong ones the share that is."""
    vessels, field = picture.masks.get("vessels"), picture.field_of_view
    inside = cv2.distanceTransform(np.pad(np.asarray(field > 0, np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    far = np.hypot(columns - disc.centre[0], rows - disc.centre[1]) > AWAY * disc.diameter
    places = np.argwhere(far & (inside > 0.55 * disc.diameter))
    row = {"disc_doubted": float(doubts(truth, vessels, field) is not None)}
    if len(places):
        drawn = places[rng.integers(len(places), size=PLANTED)]
        wrong = [circle(field, (float(x), float(y)), disc.diameter) for y, x in drawn]
        row["planted_doubted"] = float(np.mean([doubts(mask, vessels, field) is not None for mask in wrong]))
    return row


def of_fovea(found: Found, truth: dict[str, Grey], disc: Disc) -> dict[str, float]:
    """Return whether a fovea in view was given, and its distance to the truth in disc diameters."""
    wanted = find_disc(truth.get("fovea", np.zeros((1, 1), np.uint8)))
    if wanted is None:
        return {}
    place = find_disc(found.masks["fovea"]) if "fovea" in found.masks else None
    if place is None:
        return {"fovea_given": 0.0}
    away = math.dist(place.centre, wanted.centre) / disc.diameter
    return {"fovea_given": 1.0, "fovea_offset": away, "fovea_within": float(away < 0.5)}


def of_cup(found: Found, truth: dict[str, Grey]) -> dict[str, float]:
    """Return whether a cup was given, its Dice, and how far its ratio is off."""
    wanted = truth.get("cup")
    if wanted is None or not wanted.any():
        return {}
    if "cup" not in found.masks:
        return {"cup_given": 0.0}
    mask = found.masks["cup"]
    both = np.count_nonzero((mask > 0) & (wanted > 0))
    off = (height(mask) - height(wanted)) / height(truth["disc"])
    return {
        "cup_given": 1.0, "cup_dice": 2 * both / (np.count_nonzero(mask) + np.count_nonzero(wanted)),
        "cup_ratio_error": abs(off), "cup_ratio_bias": off,
    }  # fmt: skip


def height(mask: Grey) -> int:
    """Return the rows that a mask covers."""
    return int(np.count_nonzero(mask.any(axis=1)))


def emit(c: Score, what: str, unit: str, values: np.ndarray, patients: Sequence[str]) -> None:
    """Print one figure with its interval."""
    statistic = median if unit.startswith("median") else weighted_mean
    if unit == "share":
        low, high = wilson(int(values.sum()), len(values))
    else:
        interval = bootstrap(lambda w: statistic(values, w[0]), patients, seed=c.seed)
        low, high = interval.low, interval.high
    line(c, what, statistic(values, np.ones(len(values))), low, high, len(values), unit)


def glaucoma(c: Score, rows: Sequence[dict[str, float]], records: Sequence[Record]) -> None:
    """Print the area under the curve of the cup's ratio for the label `glaucoma`, where both kinds are."""
    kept = [(row["ratio"], "glaucoma" in r.labels, r.patient) for row, r in zip(rows, records, strict=True)
            if "ratio" in row]  # fmt: skip
    if len({ill for _, ill, _ in kept}) < 2:
        return
    ratio, ill = np.array([row[0] for row in kept]), np.array([row[1] for row in kept])

    def area(weights: Sequence[np.ndarray]) -> float | None:
        higher = (ratio[:, None] > ratio) + 0.5 * (ratio[:, None] == ratio)
        pairs = np.outer(weights[0] * ill, weights[0] * ~ill)
        return float((higher * pairs).sum() / pairs.sum()) if pairs.any() else None

    interval = bootstrap(area, [row[2] for row in kept], seed=c.seed)
    value = area([np.ones(len(kept))])
    line(c, "glaucoma_auc", value, interval.low, interval.high, len(kept), "area under the curve")


def line(
    c: Score, what: str, value: float | None, low: float | None, high: float | None, n: int, unit: str
) -> None:
    """Print one line."""
    row = {
        "name": f"{c.name}_{what}", "value": value, "low": low, "high": high, "n": n, "unit": unit,
        "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    print(json.dumps(row))


def median(values: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the median of values counted `weights` times; None if nothing is counted."""
    counted = np.repeat(values, weights.astype(int))
    return float(np.median(counted)) if len(counted) else None


if __name__ == "__main__":
    main(tyro.cli(Score))
