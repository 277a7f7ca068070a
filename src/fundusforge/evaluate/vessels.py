"""How well a vessel probability map fits a vessel mask, inside the field of view.

F1 (Dice), sensitivity, specificity and the area under the ROC curve, pooled over the pixels of all images,
which is how figures on DRIVE are usually given, and as the mean of the images' own values. Pixels outside the
field of view are black in every camera and would only flatter the figures, so they are never counted.

The area under the curve is exact: the probability that a vessel pixel scores above a background pixel, ties
counted half (Hanley and McNeil, Radiology 143, 1982). A threshold belongs to training or validation images;
`best_threshold` chooses it there and `vessel_scores` is handed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 4096
"""Bins of a tally's histograms."""
_REACH = 12.0
"""Log-odds at which the histograms end: probabilities of 6e-6 and 1 - 6e-6."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one image adds to the pooled figures; small, however large the image."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    auc: float | None
    """Exact area under this image's ROC curve; None if its field of view holds only one class."""
    vessel_levels: NDArray[np.int32]
    """(LEVELS,) histogram of the vessel pixels' log-odds, for pooling many images in little memory."""
    background_levels: NDArray[np.int32]
    """(LEVELS,) histogram of the background pixels' log-odds."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """True positives, false positives, false negatives, true negatives."""
        return self.true_positives, self.false_positives, self.false_negatives, self.true_negatives


@dataclass(frozen=True, kw_only=True)
class VesselScores:
    """Agreement of probability maps with masks; a value that cannot be computed is None.

    F1 cannot be where neither mask nor prediction has a vessel, the others where a class is absent.
    """

    f1: float | None
    auc: float | None
    sensitivity: float | None
    specificity: float | None
    mean_f1: float | None
    """Mean of the images' own F1."""
    mean_auc: float | None
    """Mean of the images' own areas."""
    threshold: float
    images: int
    pixels: int
    """Pixels inside the fields of view."""


def vessel_scores(
    probabilities: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any]],
    fields: Sequence[NDArray[Any] | None] | None = None,
    *,
    threshold: float,
) -> VesselScores:
    """Score probability maps against masks inside the field of view.

    Args:
        probabilities: Per image (H, W), float in [0, 1] or uint8 where 255 means 1.
        masks: Per image (H, W), vessel where not 0.
        fields: Per image (H, W), inside where not 0, or None for the whole image.
        threshold: A pixel is predicted vessel if its probability is at least this. Choose it elsewhere.

    Raises:
        ValueError: No images, lists of different lengths, pictures of different shapes, probabilities outside
            [0, 1] or not finite.
    """
    split = split_all(probabilities, masks, fields)
    tallies = [_tally(vessel, background, threshold) for vessel, background in split]
    pooled = area_under_curve(np.concatenate([v for v, _ in split]), np.concatenate([b for _, b in split]))
    counts = np.sum([tally.counts for tally in tallies], axis=0)
    f1, sensitivity, specificity = from_counts(counts)
    return VesselScores(
        f1=f1,
        auc=pooled,
        sensitivity=sensitivity,
        specificity=specificity,
        mean_f1=_mean([from_counts(np.asarray(tally.counts))[0] for tally in tallies]),
        mean_auc=_mean([tally.auc for tally in tallies]),
        threshold=float(threshold),
        images=len(tallies),
        pixels=int(counts.sum()),
    )


def tally(
    probability: NDArray[Any],
    mask: NDArray[Any],
    field_of_view: NDArray[Any] | None = None,
    *,
    threshold: float,
) -> Tally:
    """Count one image; see `vessel_scores` for shapes, ranges and errors."""
    return _tally(*split_scores(probability, mask, field_of_view), threshold)


def _tally(vessel: NDArray[np.float32], background: NDArray[np.float32], threshold: float) -> Tally:
    hits, alarms = int((vessel >= threshold).sum()), int((background >= threshold).sum())
    return Tally(
        true_positives=hits,
        false_positives=alarms,
        false_negatives=vessel.size - hits,
        true_negatives=background.size - alarms,
        auc=area_under_curve(vessel, background),
        vessel_levels=_levels(vessel),
        background_levels=_levels(background),
    )


def best_threshold(
    probabilities: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any]],
    fields: Sequence[NDArray[Any] | None] | None = None,
) -> float:
    """Return the threshold of the highest pooled F1; call it with training or validation images only.

    Every threshold is tried: the best one is always the score of some vessel pixel. It is placed half-way to
    the next lower score, so that it does not hang on the last bit of one pixel.

    Raises:
        ValueError: As `vessel_scores`, or no vessel pixel inside any field of view.
    """
    split = split_all(probabilities, masks, fields)
    vessel = np.sort(np.concatenate([v for v, _ in split]))
    background = np.sort(np.concatenate([b for _, b in split]))
    if not vessel.size:
        raise ValueError("no vessel pixel inside the field of view: a threshold cannot be chosen")
    first = np.flatnonzero(np.diff(vessel, prepend=np.float32(-1.0)))
    hits = vessel.size - first
    alarms = background.size - np.searchsorted(background, vessel[first], side="left")
    best = int(np.argmax(2.0 * hits / (hits + alarms + vessel.size)))
    chosen = float(vessel[first[best]])
    place = np.searchsorted(background, np.float32(chosen), side="left")
    below = [float(vessel[first[best - 1]])] if best else []
    below += [float(background[place - 1])] if place else []
    return (chosen + max(below)) / 2 if below else chosen


def area_under_curve(vessel: NDArray[np.float32], background: NDArray[np.float32]) -> float | None:
    """Return the exact area under the ROC curve of two sets of scores, or None if one is empty.

    Args:
        vessel: (n,) scores of the positives.
        background: (m,) scores of the negatives.
    """
    if not vessel.size or not background.size:
        return None
    vessel, background = np.sort(vessel), np.sort(background)
    below = np.searchsorted(background, vessel, side="left").sum(dtype=np.int64)
    not_above = np.searchsorted(background, vessel, side="right").sum(dtype=np.int64)
    return float(int(below) + int(not_above)) / 2.0 / vessel.size / background.size


def average_precision(vessel_levels: NDArray[Any], background_levels: NDArray[Any]) -> float | None:
    """Return the area under the precision-recall curve as average precision; None without a positive.

    Each level that holds a positive adds its share of them times the precision of all from there up (the
    step-wise sum without interpolation: Davis and Goadrich, ICML 2006).

    Args:
        vessel_levels: (n,) counts of positives, from the lowest score to the highest; see `Tally`.
        background_levels: (n,) counts of negatives.
    """
    hits = np.cumsum(vessel_levels[::-1], dtype=np.float64)
    if not hits[-1]:
        return None
    alarms = np.cumsum(background_levels[::-1], dtype=np.float64)
    precision = hits / np.maximum(hits + alarms, 1e-12)
    return float(np.diff(hits, prepend=0.0) @ precision / hits[-1])


def from_counts(counts: NDArray[Any]) -> tuple[float | None, float | None, float | None]:
    """Return F1, sensitivity and specificity of the (4,) counts of `Tally.counts`."""
    hits, alarms, misses, rejections = (float(count) for count in counts)
    found = 2 * hits + alarms + misses
    return (
        2 * hits / found if found else None,
        hits / (hits + misses) if hits + misses else None,
        rejections / (rejections + alarms) if rejections + alarms else None,
    )


def split_all(
    probabilities: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any]],
    fields: Sequence[NDArray[Any] | None] | None,
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return each image's scores on vessel and on background pixels; see `vessel_scores`."""
    fields = [None] * len(masks) if fields is None else fields
    if not probabilities or not len(probabilities) == len(masks) == len(fields):
        raise ValueError(
            f"expected as many masks and fields of view as probability maps and at least one, "
            f"got {len(probabilities)} maps, {len(masks)} masks and {len(fields)} fields"
        )
    return [split_scores(*images) for images in zip(probabilities, masks, fields, strict=True)]


def split_scores(
    probability: NDArray[Any], mask: NDArray[Any], field_of_view: NDArray[Any] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return one image's scores, (n,) float32, on vessel and on background inside the field of view."""
    if probability.ndim != 2 or mask.shape != probability.shape:
        raise ValueError(f"probability map {probability.shape} and mask {mask.shape} must be (H, W), alike")
    if field_of_view is not None and field_of_view.shape != mask.shape:
        raise ValueError(f"field of view {field_of_view.shape} and mask {mask.shape} must be alike")
    scale = np.float32(255 if probability.dtype == np.uint8 else 1)
    scores = np.divide(probability, scale).astype(np.float32, copy=False)
    if scores.size and not (scores.min() >= 0.0 and scores.max() <= 1.0):
        raise ValueError("probabilities must be finite and in [0, 1] (or uint8, where 255 means 1)")
    drawn = mask != 0
    if field_of_view is None:
        return scores[drawn], scores[~drawn]
    inside = field_of_view != 0
    return scores[drawn & inside], scores[~drawn & inside]


def _levels(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Histogram of log-odds: fine where networks are sure, and in the order that the area needs."""
    clipped = np.clip(scores.astype(np.float64), 1e-9, 1 - 1e-9)
    place = (np.log(clipped / (1 - clipped)) + _REACH) * ((LEVELS - 1) / (2 * _REACH))
    return np.bincount(np.clip(np.rint(place), 0, LEVELS - 1).astype(np.intp), minlength=LEVELS).astype(
        np.int32
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
