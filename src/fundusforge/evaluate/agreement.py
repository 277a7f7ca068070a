"""Whether a photograph shows what it was painted on (Beers et al. 2018, of vessels: an AUC of 0.97).

A segmenter re-reads the synthetic photographs, and its probability maps are scored against the masks that
made them, inside the field of view: vessels, and every other structure for which a segmenter was given.
What such a figure can reach is set by the segmenter and not by the generator, so the same figure on real
photographs with human masks stands beside it. A segmenter trained on the generator's own training images
would share its mistakes: a proven overlap is refused, an unknown one is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, ImageSet, Judge
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor
from fundusforge.evaluate.vessels import Tally, average_precision, from_counts, tally
from fundusforge.records import DatasetError

_FIGURES = (
    ("auc", "area under the ROC curve"),
    ("f1", "F1"),
    ("sensitivity", "sensitivity"),
    ("specificity", "specificity"),
)


def check_judge(judge: Judge, generator_patients: Collection[str] | None) -> Literal["none", "unknown"]:
    """Return whether segmenter and generator share a training patient: `none`, or `unknown` if one is silent.

    Args:
        judge: The segmenter.
        generator_patients: Patients the generator was trained on, as named in records; None if not known.

    Raises:
        DatasetError: They do share patients; the message names up to five.
    """
    if judge.patients is None or generator_patients is None:
        return "unknown"
    shared = sorted(judge.patients & frozenset(generator_patients))
    if shared:
        raise DatasetError(
            f"segmenter {judge.name} was trained on {len(shared)} patients of the generator's training set "
            f"({', '.join(shared[:5])}); its agreement with the masks would prove nothing"
        )
    return "none"


class Pool:
    """Tallies of a set of images, pooled under any weights.

    The pooled area is bilinear in the weights: pairs of a vessel pixel of one image and a background pixel
    of another that stand in order are counted once, and a draw is a quadratic form of that matrix.
    """

    def __init__(self, tallies: Sequence[Tally]) -> None:
        self._counts = np.array([each.counts for each in tallies], np.float64)
        vessel = np.stack([each.vessel_levels for each in tallies]).astype(np.float64)
        background = np.stack([each.background_levels for each in tallies]).astype(np.float64)
        self._ordered = vessel @ (np.cumsum(background, axis=1) - background / 2).T
        self._vessel, self._background = vessel.sum(axis=1), background.sum(axis=1)
        self._levels = vessel, background

    def value(self, name: str, weights: Weights | None = None) -> float | None:
        """Return `auc`, `aupr`, `f1`, `sensitivity` or `specificity`, pooled over pixels, or None."""
        weights = np.ones(len(self._counts)) if weights is None else weights
        if name == "auc":
            pairs = float(weights @ self._vessel) * float(weights @ self._background)
            return float(weights @ self._ordered @ weights) / pairs if pairs else None
        if name == "aupr":
            return average_precision(*(weights @ levels for levels in self._levels))
        f1, sensitivity, specificity = from_counts(weights @ self._counts)
        return {"f1": f1, "sensitivity": sensitivity, "specificity": specificity}[name]

    def statistic(self, name: str) -> Statistic:
        """Return the figure as a function of weights, of which the first are this set's."""
        return lambda weights: self.value(name, weights[0])


def agreement(
    images: ImageSet,
    probability: Callable[[ImageSet, int], NDArray[np.float32]],
    threshold: float,
    *,
    mask: str = "vessels",
) -> Pool:
    """Score the probability maps of all images against their masks, inside the fields of view.

    Args:
        images: Images that all have the mask.
        probability: Gives the (H, W) map of the image at an index.
        threshold: Of the segmenter.
        mask: Name of the structure.
    """
    return Pool(
        [
            tally(probability(images, i), images.mask(i, mask), images.field_of_view(i), threshold=threshold)
            for i in range(len(images))
        ]
    )


def figures(evidence: Evidence) -> list[Figure]:
    """Return AUC, F1, sensitivity and specificity on synthetic images, with the same on real ones beside.

    Those of vessels are called `agreement_auc` and so on, those of other masks `agreement_disc_auc`.
    """
    names = ("vessels", *sorted(evidence.judges.keys() - {"vessels"}))
    return [figure for name in names for figure in _of_mask(evidence, name)]


def _of_mask(evidence: Evidence, mask: str) -> list[Figure]:
    judge, synthetic = evidence.judge_of(mask), evidence.synthetic.having(mask)
    real = evidence.real.having(mask)
    common: dict[str, Any] = {
        "n": len(synthetic),
        "resize": "none",
        "seed": evidence.seed,
        "better": "higher",
        "extractor": judge.name if judge else "none",
    }
    if judge is None or not len(synthetic):
        reason = "no segmenter was given" if judge is None else "no synthetic image has the mask that made it"
        return [Figure(**common, **_called(mask, *_FIGURES[0]), value=None, reason=reason)]
    unseen = real.without_patients(judge.patients or frozenset())
    evidence.tell(f"agreement of {mask}: segmenting {len(synthetic)} synthetic, {len(unseen)} real images")

    def read(images: ImageSet, index: int) -> NDArray[np.float32]:
        return evidence.probability(images, index, mask)

    pool = agreement(synthetic, read, judge.threshold, mask=mask)
    real_pool = agreement(unseen, read, judge.threshold, mask=mask) if len(unseen) else None
    common["notes"] = _notes(judge, len(real), len(unseen))
    return [
        _figure(evidence, name, pool, synthetic, real_pool, unseen, common | _called(mask, name, title))
        for name, title in _FIGURES
    ]


def _figure(
    evidence: Evidence, name: str, pool: Pool, synthetic: ImageSet, real_pool: Pool | None,
    unseen: ImageSet, common: dict[str, Any],
) -> Figure:  # fmt: skip
    options: dict[str, Any] = {"seed": evidence.seed, "draws": evidence.draws}
    value = pool.value(name)
    kept_real = (real_pool.statistic(name), unseen.records) if real_pool is not None else None
    evidence.keep(common["name"], (pool.statistic(name), synthetic.records), kept_real)
    beside: dict[str, Any] = {}
    if real_pool is not None:
        interval = bootstrap(real_pool.statistic(name), unseen.patients, **options)
        floor = real_floor(
            real_pool.statistic(name), unseen.patients, seed=evidence.seed, repeats=evidence.repeats
        )
        beside = {
            "real": real_pool.value(name), "real_low": interval.low, "real_high": interval.high,
            "floor": floor,
        }  # fmt: skip
    return Figure(
        **common,
        **measured(value, bootstrap(pool.statistic(name), synthetic.patients, **options)),
        **beside,
        n_real=len(unseen),
        reason="" if value is not None else "a class is absent from every field of view",
    )


def _called(mask: str, name: str, title: str) -> dict[str, Any]:
    """Return name and title of a figure; vessels are what a name without a mask means."""
    part = "" if mask == "vessels" else f"{mask}_"
    what = mask.replace("_", " ")
    return {
        "name": f"agreement_{part}{name}",
        "title": f"Agreement of re-segmented {what} with the mask: {title}",
    }


def _notes(judge: Judge, real: int, unseen: int) -> tuple[str, ...]:
    notes = [f"Pooled over pixels; threshold {judge.threshold:.3f}, chosen by the segmenter beforehand."]
    if real > unseen:
        notes.append(f"{real - unseen} real images of patients the segmenter was trained on are left out.")
    if judge.patients is None:
        notes.append("The segmenter does not say whom it was trained on: the real figure may be flattering.")
    return tuple(notes)
