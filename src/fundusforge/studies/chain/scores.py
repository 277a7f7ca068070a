"""How well a segmenter finds the vessels of each eye, and how two segmenters differ on the same eyes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Interval, bootstrap, weighted_mean
from fundusforge.evaluate.vessels import from_counts, tally
from fundusforge.studies.chain.result import slug

PLAIN = "vae"
"""Source of trees whose name is left out of arms, files and figures: the chain's own auto-encoder."""
HELD = "held-out"
"""What the fold's own held-out eyes are called among the test sets."""
Metric = Literal["f1", "auc"]
TITLES: dict[Metric, str] = {"f1": "F1", "auc": "Area under the ROC curve"}


def named(stem: str, source: str, mark: str = "-") -> str:
    """Return the name of what belongs to a source of trees.

    >>> named("both", "phantom"), named("both", "vae")
    ('both-phantom', 'both')
    """
    return stem if source == PLAIN else f"{stem}{mark}{source}"


def arms_of(sources: Iterable[str]) -> tuple[str, ...]:
    """Return what segmenters learn from: real eyes, and for each source of trees synthetic ones, and both.

    >>> arms_of(["vae", "phantom"])
    ('real', 'synthetic', 'both', 'synthetic-phantom', 'both-phantom')
    """
    return ("real", *(named(eyes, source) for source in sources for eyes in ("synthetic", "both")))


def parted(arm: str) -> tuple[str, str]:
    """Return the eyes of an arm and the source of their trees, which is empty for real eyes alone.

    >>> parted("both-phantom"), parted("both"), parted("real")
    (('both', 'phantom'), ('both', 'vae'), ('real', ''))
    """
    eyes, _, source = arm.partition("-")
    return eyes, source or ("" if eyes == "real" else PLAIN)


@dataclass(frozen=True, kw_only=True)
class Eye:
    """One segmenter on one eye, inside the field of view."""

    where: str
    """`HELD`, or the name of an external folder."""
    image: str
    patient: str
    f1: float | None
    auc: float | None
    counts: tuple[int, int, int, int]
    """True positives, false positives, false negatives, true negatives."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One segmenter of one fold on all eyes that it was tested on."""

    fold: int
    arm: str
    """What it learnt from; see `arms_of`."""
    segmenter: str
    threshold: float
    """Chosen on its training images."""
    training_images: int
    eyes: tuple[Eye, ...]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """An arm's figures on one test set."""

    arm: str
    where: str
    eyes: int
    """Different ones."""
    f1: float | None
    """Mean of the eyes' own F1."""
    f1_low: float | None
    f1_high: float | None
    auc: float | None
    """Mean of the eyes' own areas."""
    auc_low: float | None
    auc_high: float | None
    pooled_f1: float | None
    """Over the pixels of all eyes, and all folds."""


def eyes_of(where: str, images: ImageSet, judge: Judge) -> list[Eye]:
    """Score a segmenter on every eye of a set.

    Args:
        where: What the set is called.
        images: Images that all have a vessel mask.
        judge: The segmenter with its threshold.

    Raises:
        DatasetError: A picture cannot be read.
        ValueError: A map of another shape than the mask.
    """
    found: list[Eye] = []
    for index, record in enumerate(images.records):
        field = images.field_of_view(index)
        probability = judge.segment(images.image(index), field)
        one = tally(probability, images.mask(index, "vessels"), field, threshold=judge.threshold)
        f1 = from_counts(np.asarray(one.counts))[0]
        found.append(
            Eye(
                where=where, image=record.image, patient=record.patient, f1=f1, auc=one.auc, counts=one.counts
            )
        )
    return found


def values_of(
    cells: Sequence[Cell], arm: str, wheres: Sequence[str], metric: Metric
) -> dict[tuple[str, str], dict[int, tuple[str, float]]]:
    """Return by test set and image, and then by fold, the patient and the value of an arm."""
    found: dict[tuple[str, str], dict[int, tuple[str, float]]] = {}
    for cell in cells:
        for eye in cell.eyes if cell.arm == arm else ():
            value = getattr(eye, metric)
            if eye.where in wheres and value is not None:
                found.setdefault((eye.where, eye.image), {})[cell.fold] = eye.patient, value
    return found


def mean_of(cells: Sequence[Cell], arm: str, where: str, *, seed: int, draws: int) -> Mean:
    """Return an arm's means on one test set, with intervals by patient."""
    counts = np.array([e.counts for c in cells if c.arm == arm for e in c.eyes if e.where == where])
    facts: dict[str, Any] = {"eyes": 0}
    for metric in TITLES:
        rows = [list(folds.values()) for folds in values_of(cells, arm, [where], metric).values()]
        patients = [each[0][0] for each in rows]
        value, interval = _mean([[v for _, v in each] for each in rows], patients, seed=seed, draws=draws)
        low, high = (interval.low, interval.high) if interval else (None, None)
        facts |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        facts["eyes"] = max(facts["eyes"], len(rows))
    pooled = from_counts(counts.sum(axis=0))[0] if len(counts) else None
    return Mean(arm=arm, where=where, pooled_f1=pooled, **facts)


def difference(
    cells: Sequence[Cell], first: str, second: str, wheres: Sequence[str], metric: Metric, *, name: str,
    seed: int, draws: int,
) -> Figure:  # fmt: skip
    """Return the mean over eyes of one arm's figure less another's of the same fold, drawn by patient.

    An eye that several folds were tested on counts once, with the mean of its differences. The interval says
    how the difference would vary with the eyes tested; how it varies with the training is in the notes, fold
    by fold.

    Args:
        cells: All that were computed.
        first: The arm that is taken from.
        second: The arm that is taken.
        wheres: Test sets, pooled.
        metric: F1, or area.
        name: Of the figure.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
    """
    left, right = (values_of(cells, arm, wheres, metric) for arm in (first, second))
    common: dict[str, Any] = {
        "name": name, "better": "none", "n_real": 0, "resize": "none", "seed": seed,
        "title": f"{TITLES[metric]} of vessels on {' and '.join(wheres) or 'no'} eyes: {first} less {second}",
        "extractor": "a segmenter of each arm, its own threshold, inside the field of view",
        "unit": f"{metric}, mean over eyes, seed {seed}",
    }  # fmt: skip
    rows: list[list[float]] = []
    patients: list[str] = []
    by_fold: dict[int, list[float]] = {}
    for key in left.keys() & right.keys():
        both = left[key].keys() & right[key].keys()
        for fold in both:
            by_fold.setdefault(fold, []).append(left[key][fold][1] - right[key][fold][1])
        if both:
            rows.append([left[key][fold][1] - right[key][fold][1] for fold in sorted(both)])
            patients.append(left[key][min(both)][0])
    order = sorted(range(len(rows)), key=lambda i: (patients[i], rows[i]))
    rows, patients = [rows[i] for i in order], [patients[i] for i in order]
    value, interval = _mean(rows, patients, seed=seed, draws=draws)
    if value is None or interval is None:
        return Figure(**common, n=0, value=None, reason="no eye was tested by both")
    told = ", ".join(f"{fold}: {np.mean(by_fold[fold]):+.4f}" for fold in sorted(by_fold))
    notes = (f"{len(set(patients))} patients. By fold {told}.",)
    return Figure(**common, n=len(rows), **measured(value, interval), notes=notes)


def figures_of(
    cells: Sequence[Cell], sources: Sequence[str], external: Sequence[str], *, name: str, seed: int,
    draws: int,
) -> list[Figure]:  # fmt: skip
    """Return what synthetic eyes are worth, for every source of their trees.

    `chain_synthetic_only_f1_gap` is real less synthetic on held-out eyes, `chain_added_f1_gain` both less
    real on external ones. There are the same of the other eyes (`..._external`, `..._held_out`), of each
    external set (`..._<set>`), and of the area under the curve (`auc` for `f1`). Those of another source than
    `PLAIN` end in its name. `chain_synthetic_only_f1_<source>_over_<first>` holds each further source against
    the first, both learnt from alone, on held-out and on external eyes.

    Args:
        cells: All that were computed.
        sources: Sources of trees.
        external: Names of the external sets.
        name: First part of the figures' names.
        seed: Of the bootstrap.
        draws: Of the bootstrap.
    """

    def asked(
        stem: str,
        arms: tuple[str, str],
        metric: Metric,
        sets: Mapping[str, Sequence[str]],
        source: str = PLAIN,
    ) -> list[Figure]:
        return [
            difference(
                cells, *arms, wheres, metric, name=named(f"{name}_{stem}{end}", source, "_"), seed=seed,
                draws=draws,
            )
            for end, wheres in sets.items()
        ]  # fmt: skip

    found: list[Figure] = []
    each = {f"_{slug(one)}": [one] for one in external}
    for metric in TITLES:
        held_first, external_first = {"": [HELD], "_external": external}, {"": external, "_held_out": [HELD]}
        for source in sources:
            gap = "real", named("synthetic", source)
            gain = named("both", source), "real"
            found += asked(f"synthetic_only_{metric}_gap", gap, metric, held_first | each, source)
            found += asked(f"added_{metric}_gain", gain, metric, external_first | each, source)
        for source in sources[1:]:
            over = named("synthetic", source), named("synthetic", sources[0])
            stem = f"synthetic_only_{metric}_{source}_over_{sources[0]}"
            found += asked(stem, over, metric, held_first)
    return found


def _mean(
    rows: Sequence[Sequence[float]], patients: Sequence[str], *, seed: int, draws: int
) -> tuple[float | None, Interval | None]:
    """Return the mean over eyes of their folds' means, and its interval; None of no eyes."""
    if not rows:
        return None, None
    values = np.array([float(np.mean(row)) for row in rows])
    interval = bootstrap(lambda w: weighted_mean(values, w[0]), patients, seed=seed, draws=draws)
    return float(values.mean()), interval
