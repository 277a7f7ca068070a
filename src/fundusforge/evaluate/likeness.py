"""How pictures are compared pair by pair, whatever the measure of likeness: the forms of the papers.

*Against one reference* (Sengupta et al. 2019): the mean similarity of a set of images to one fixed real
image, for photographs and for vessel maps, beside the same mean for real images of other patients. It
says whether the set looks like such pictures at all; it is not a likeness of pairs, and a blurred set
scores high.

*Paired*: an image painted on a real record's mask against that record's photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Better, Figure, measured
from fundusforge.evaluate.pictures import field_inside, photograph, vessel_map
from fundusforge.evaluate.statistics import Floor, Statistic, Weights, bootstrap, real_floor, weighted_mean

_FLOOR_PAIRS = 16
"""Pairs of real images compared in each repeat of the paired form's floor."""


class Compare(Protocol):
    """Two uint8 pictures of one shape to a number; inside a field of view if the measure has that form."""

    def __call__(
        self, first: NDArray[Any], second: NDArray[Any], *, field_of_view: NDArray[Any] | None = None
    ) -> float:
        """Return the likeness or the distance."""
        ...


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A measure of likeness, or of distance, of two pictures."""

    name: str
    """The beginning of its figures' names."""
    title: str
    compare: Compare
    better: Better
    """Which way two pictures are more alike."""
    extractor: str
    smallest: int
    """Side in pixels below which it is not defined."""
    inside: bool = False
    """Whether it has a form inside the field of view."""


def figures(evidence: Evidence, measure: Measure) -> list[Figure]:
    """Return the likeness to one real reference (photographs and vessel maps) and that of painted pairs."""
    return [
        against_reference(evidence, measure, vessels=False),
        against_reference(evidence, measure, vessels=True),
        *paired(evidence, measure),
    ]


def too_small(evidence: Evidence, measure: Measure) -> str:
    """Return why the measure cannot be had at this size, or nothing."""
    if evidence.size >= measure.smallest:
        return ""
    return f"pictures of {evidence.size} px are under the {measure.smallest} px that it needs"


def against_reference(evidence: Evidence, measure: Measure, *, vessels: bool) -> Figure:
    """Return the mean likeness of a set to one real image, beside that of the other real images."""
    what = "vessel maps" if vessels else "photographs"
    synthetic = evidence.synthetic.having("vessels") if vessels else evidence.synthetic
    real = evidence.real.having("vessels") if vessels else evidence.real
    common: dict[str, Any] = {
        "name": f"{measure.name}_reference_{'vessels' if vessels else 'photographs'}",
        "title": f"{measure.title} of {what} to one real reference",
        "extractor": "masks as stored (human, phantom or generated)" if vessels else measure.extractor,
        "resize": f"padded to a square, {evidence.size} px, area",
        "n": len(synthetic),
        "seed": evidence.seed,
    }
    if reason := too_small(evidence, measure):
        return Figure(**common, value=None, n_real=len(real), reason=reason)
    if not len(real) or not len(synthetic):
        return Figure(**common, value=None, n_real=len(real), reason=f"a set has no {what}")
    chosen = _reference(evidence, real)
    if chosen is None:
        reason = f"the reference {evidence.reference!r} is not among the real {what}"
        return Figure(**common, value=None, n_real=len(real), reason=reason)
    other = real.without_patients(frozenset({real.records[chosen].patient}))
    evidence.tell(f"{common['title']}: {len(synthetic) + len(other)} images")
    picture, size = (vessel_map if vessels else photograph), evidence.size
    reference = picture(real, chosen, size)
    values, baseline = (
        np.array([measure.compare(picture(images, i, size), reference) for i in range(len(images))])
        for images in (synthetic, other)
    )
    interval = bootstrap(_mean_of(values), synthetic.patients, seed=evidence.seed, draws=evidence.draws)
    real_values = (baseline, other.records) if len(other) else None
    evidence.keep(common["name"], (values, synthetic.records), real_values)
    return Figure(
        **common, **measured(float(values.mean()), interval),
        **_baseline(evidence, baseline, other.patients), n_real=len(other),
        notes=(
            f"Reference: {real.records[chosen].image}; its patient is left out of the real mean.",
            "The nearer to the real mean the better; a higher value means duller pictures, not better.",
        ),
    )  # fmt: skip


def _baseline(evidence: Evidence, values: NDArray[np.float64], patients: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of `Figure` that the real images' own values fill."""
    if not len(values):
        return {}
    interval = bootstrap(_mean_of(values), patients, seed=evidence.seed, draws=evidence.draws)
    return {
        "real": float(values.mean()),
        "real_low": interval.low,
        "real_high": interval.high,
        "floor": real_floor(_mean_of(values), patients, seed=evidence.seed, repeats=evidence.repeats),
    }


def _reference(evidence: Evidence, real: ImageSet) -> int | None:
    """Return the place of the reference image: the one asked for, or the first that has a vessel mask."""
    names = [record.image for record in real.records]
    if evidence.reference is not None:
        return names.index(evidence.reference) if evidence.reference in names else None
    masked = {record.image for record in evidence.real.having("vessels").records}
    return names.index(min(masked or names))


def pairs_painted(evidence: Evidence) -> list[tuple[int, int]]:
    """Return the places of synthetic images and of the real ones on whose masks they were painted."""
    real = {record.image: place for place, record in enumerate(evidence.real.records)}
    return [
        (place, real[record.provenance.condition])
        for place, record in enumerate(evidence.synthetic.records)
        if record.provenance is not None and record.provenance.condition in real
    ]


def paired(evidence: Evidence, measure: Measure) -> list[Figure]:
    """Compare synthetic images with the photographs on whose masks they were painted; nothing without any."""
    pairs = pairs_painted(evidence)
    if not pairs:
        return []
    return [_paired(evidence, measure, pairs, inner=inner) for inner in (False, True)[: 1 + measure.inside]]


def _paired(evidence: Evidence, measure: Measure, pairs: list[tuple[int, int]], *, inner: bool) -> Figure:
    common: dict[str, Any] = {
        "name": f"{measure.name}_paired{'_inside' * inner}",
        "title": f"{measure.title} to the photograph whose mask it was painted on"
        + " (inside the field of view)" * inner,
        "better": measure.better,
        "n": len(pairs),
        "n_real": len({second for _, second in pairs}),
        "extractor": measure.extractor,
        "resize": f"both padded to a square, {evidence.size} px, area",
        "seed": evidence.seed,
    }
    if reason := too_small(evidence, measure):
        return Figure(**common, value=None, reason=reason)
    evidence.tell(f"{common['title']}: {len(pairs)} pairs")
    sets = evidence.synthetic, evidence.real
    values = np.array([_pair(measure, sets, pair, evidence.size, inner=inner) for pair in pairs])
    painted_on = [evidence.real.records[second] for _, second in pairs]
    evidence.keep(common["name"], (values, painted_on), None)
    patients = [record.patient for record in painted_on]
    interval = bootstrap(_mean_of(values), patients, seed=evidence.seed, draws=evidence.draws)
    return Figure(
        **common, **measured(float(values.mean()), interval),
        floor=_paired_floor(evidence, measure, inner=inner),
        notes=("Floor: photographs of different patients compared with each other, unpaired.",),
    )  # fmt: skip


def _mean_of(values: NDArray[np.float64]) -> Statistic:
    return lambda weights: weighted_mean(values, weights[0])


def _pair(
    measure: Measure, sets: tuple[ImageSet, ImageSet], pair: tuple[int, int], size: int, *, inner: bool
) -> float:
    first, second = (photograph(images, place, size) for images, place in zip(sets, pair, strict=True))
    inside = field_inside(sets[1], pair[1], size) if inner else None
    return measure.compare(first, second, field_of_view=inside)


def _paired_floor(evidence: Evidence, measure: Measure, *, inner: bool) -> Floor | None:
    """Return the likeness of unpaired photographs: of one half of the patients to those of the other."""
    sets = evidence.real, evidence.real

    def between(halves: Sequence[Weights]) -> float | None:
        left, right = (np.flatnonzero(half) for half in halves)
        pairs = [(int(i), int(j)) for i, j in zip(left, right, strict=False)][:_FLOOR_PAIRS]
        values = [_pair(measure, sets, pair, evidence.size, inner=inner) for pair in pairs]
        return float(np.mean(values)) if values else None

    return real_floor(between, evidence.real.patients, seed=evidence.seed, repeats=min(evidence.repeats, 5))
