"""Whether a photograph shows the vessels it was painted on (Beers et al. 2018: an AUC of 0.97).

A segmenter re-reads the synthetic photographs, and its probability maps are scored against the masks that
made them, inside the field of view. What such a figure can reach is set by the segmenter and not by the
generator, so the same figure on real photographs with human masks stands beside it. A segmenter trained
on the generator's own training images would share its mistakes: a proven overlap is refused, an unknown
one is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, ImageSet, Judge
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor
from fundusforge.evaluate.vessels import Tally, from_counts, tally
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

    def value(self, name: str, weights: Weights | None = None) -> float | None:
        """Return `auc`, `f1`, `sensitivity` or `specificity`, pooled over pixels, or None."""
        weights = np.ones(len(self._counts)) if weights is None else weights
        if name == "auc":
            pairs = float(weights @ self._vessel) * float(weights @ self._background)
            return float(weights @ self._ordered @ weights) / pairs if pairs else None
        f1, sensitivity, specificity = from_counts(weights @ self._counts)
        return {"f1": f1, "sensitivity": sensitivity, "specificity": specificity}[name]

    def statistic(self, name: str) -> Statistic:
        """Return the figure as a function of weights, of which the first are this set's."""
        return lambda weights: self.value(name, weights[0])


def agreement(
    images: ImageSet, probability: Callable[[ImageSet, int], NDArray[np.float32]], threshold: float
) -> Pool:
    """Score the probability maps of all images against their vessel masks, inside the fields of view.

    Args:
        images: Images that all have a `vessels` mask.
        probability: Gives the (H, W) map of the image at an index.
        threshold: Of the segmenter.
    """
    return Pool(
        [
            tally(
                probability(images, i),
                images.mask(i, "vessels"),
                images.field_of_view(i),
                threshold=threshold,
            )
            for i in range(len(images))
        ]
    )


def figures(evidence: Evidence) -> list[Figure]:
    """Return AUC, F1, sensitivity and specificity on synthetic images, with the same on real ones beside."""
    judge, synthetic = evidence.judge, evidence.synthetic.having("vessels")
    real = evidence.real.having("vessels")
    common: dict[str, Any] = {
        "n": len(synthetic),
        "resize": "none",
        "seed": evidence.seed,
        "better": "higher",
    }
    if judge is None or not len(synthetic):
        reason = "no segmenter was given" if judge is None else "no synthetic image has the mask that made it"
        return [
            Figure(**common, name="agreement_auc", title=_title(_FIGURES[0][1]), value=None,
                   extractor="none" if judge is None else judge.name, reason=reason)
        ]  # fmt: skip
    unseen = real.without_patients(judge.patients or frozenset())
    evidence.tell(f"agreement: segmenting {len(synthetic)} synthetic and {len(unseen)} real images")
    pool = agreement(synthetic, evidence.probability, judge.threshold)
    real_pool = agreement(unseen, evidence.probability, judge.threshold) if len(unseen) else None
    notes = _notes(judge, len(real), len(unseen))
    return [_figure(evidence, name, title, pool, synthetic, real_pool, unseen, common, notes)
            for name, title in _FIGURES]  # fmt: skip


def _figure(
    evidence: Evidence, name: str, title: str, pool: Pool, synthetic: ImageSet, real_pool: Pool | None,
    unseen: ImageSet, common: dict[str, Any], notes: tuple[str, ...],
) -> Figure:  # fmt: skip
    options: dict[str, Any] = {"seed": evidence.seed, "draws": evidence.draws}
    value = pool.value(name)
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
        name=f"agreement_{name}",
        title=_title(title),
        extractor=evidence.judge.name if evidence.judge else "none",
        notes=notes,
        reason="" if value is not None else "a class is absent from every field of view",
    )


def _title(what: str) -> str:
    return f"Agreement of re-segmented vessels with the mask: {what}"


def _notes(judge: Judge, real: int, unseen: int) -> tuple[str, ...]:
    notes = [f"Pooled over pixels; threshold {judge.threshold:.3f}, chosen by the segmenter beforehand."]
    if real > unseen:
        notes.append(f"{real - unseen} real images of patients the segmenter was trained on are left out.")
    if judge.patients is None:
        notes.append("The segmenter does not say whom it was trained on: the real figure may be flattering.")
    return tuple(notes)
