"""How much vessel there is: the comparison of Kim et al. (Scientific Reports 12, 2022).

Kim segments 1,000 real and 1,000 synthetic photographs with the same network and compares the number of
vessel pixels: means, a t-test, and Cohen's d, of which less than 0.2 is called negligible. A t-test that
finds nothing is no proof of likeness, so here two one-sided tests say whether the means are *equivalent*
within that margin (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).

The amount is measured inside the field of view and free of the picture's size: as the part of its pixels
that are vessel, and as the length of the skeleton in diameters of the field of view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.statistics import (
    Weights,
    bootstrap,
    real_floor,
    weighted_mean,
    weighted_variance,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Amount:
    """The vessels of one image, inside its field of view."""

    pixels: int
    """Vessel pixels."""
    skeleton: int
    """Pixels of the vessels' skeleton."""
    inside: int
    """Pixels of the field of view."""

    @property
    def fraction(self) -> float:
        """Part of the field of view that is vessel."""
        return self.pixels / self.inside

    @property
    def length(self) -> float:
        """Skeleton pixels per diameter of a circle with the area of the field of view."""
        return self.skeleton / (2 * math.sqrt(self.inside / math.pi))


@dataclass(frozen=True, kw_only=True)
class Equivalence:
    """Welch's t-test and two one-sided tests of two groups of independent values."""

    difference: float
    """Mean of the first group less that of the second."""
    t: float
    degrees: float
    """Welch's degrees of freedom."""
    p: float
    """Two-sided, of no difference."""
    tost_p: float
    """Of a difference at least as large as the margin; small means equivalent."""
    margin: float
    """In the unit of the values: the standardised margin times the pooled standard deviation."""


def vessel_amount(mask: NDArray[Any], field_of_view: NDArray[Any] | None = None) -> Amount:
    """Count vessel and skeleton pixels inside the field of view.

    Args:
        mask: (H, W), vessel where not 0.
        field_of_view: (H, W), inside where not 0; None for the whole image.

    Raises:
        ValueError: Other shapes or an empty field of view.
    """
    skeletonize: Any = import_module("skimage.morphology").skeletonize
    inside = np.ones(mask.shape, bool) if field_of_view is None else field_of_view != 0
    if mask.ndim != 2 or inside.shape != mask.shape or not inside.any():
        raise ValueError(f"expected a (H, W) mask and a field of view like it, not empty; got {mask.shape}")
    vessels = (mask != 0) & inside
    thin: NDArray[np.bool_] = np.asarray(skeletonize(vessels), bool)
    return Amount(pixels=int(vessels.sum()), skeleton=int(thin.sum()), inside=int(inside.sum()))


def cohens_d(first: Floats, second: Floats, weights: tuple[Weights, Weights] | None = None) -> float | None:
    """Return Cohen's d: the difference of means in pooled standard deviations.

    Args:
        first: (n,) values.
        second: (m,) values.
        weights: How often each value counts; once by default.

    Returns:
        None below two values in a group, or if no value differs from its group's mean.
    """
    w1, w2 = weights or (np.ones(len(first)), np.ones(len(second)))
    v1, v2 = weighted_variance(first, w1), weighted_variance(second, w2)
    m1, m2 = weighted_mean(first, w1), weighted_mean(second, w2)
    if v1 is None or v2 is None or m1 is None or m2 is None:
        return None
    n1, n2 = float(w1.sum()), float(w2.sum())
    pooled = ((n1 - 1) * v1 + (n2 - 1) * v2) / (n1 + n2 - 2)
    return (m1 - m2) / math.sqrt(pooled) if pooled > 0 else None


def equivalence(first: Floats, second: Floats, *, margin: float = 0.2) -> Equivalence | None:
    """Test two groups of independent values for a difference and for equivalence.

    Args:
        first: (n,) values, one per patient.
        second: (m,) values, one per patient.
        margin: Largest difference that counts as none, in pooled standard deviations.

    Returns:
        None below two values in a group, or if neither group varies.
    """
    distribution: Any = import_module("scipy.stats").t
    if min(len(first), len(second)) < 2:
        return None
    difference = float(first.mean() - second.mean())
    a, b = float(first.var(ddof=1)) / len(first), float(second.var(ddof=1)) / len(second)
    if a + b == 0:
        return None
    degrees = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    sums = a * len(first) * (len(first) - 1) + b * len(second) * (len(second) - 1)
    bound = margin * math.sqrt(sums / (len(first) + len(second) - 2))
    error = math.sqrt(a + b)
    below = float(distribution.sf((difference + bound) / error, degrees))
    above = float(distribution.cdf((difference - bound) / error, degrees))
    return Equivalence(
        difference=difference,
        t=difference / error,
        degrees=degrees,
        p=float(2 * distribution.sf(abs(difference) / error, degrees)),
        tost_p=max(below, above),
        margin=bound,
    )


def patient_means(values: Floats, patients: Sequence[str]) -> Floats:
    """Return one value per patient, the mean of the patient's images: (patients,), sorted by name."""
    names, member = np.unique(np.asarray(patients), return_inverse=True)
    return np.bincount(member, weights=values, minlength=len(names)) / np.bincount(
        member, minlength=len(names)
    )


def figures(evidence: Evidence) -> list[Figure]:
    """Compare the vessel amount: as re-segmented by the judge in both sets, and as the masks have it."""
    found: list[Figure] = []
    if evidence.judge is not None:
        synthetic = _amounts(evidence, evidence.synthetic, evidence.predicted_mask)
        real = _amounts(evidence, evidence.real, evidence.predicted_mask)
        name = f"{evidence.judge.name}, both sets"
        found += _compare(evidence, "vessel", "re-segmented", name, synthetic, real)
    drawn, drawn_real = evidence.synthetic.having("vessels"), evidence.real.having("vessels")
    if len(drawn) and len(drawn_real):
        origins = " against ".join(
            "/".join(sorted({record.masks["vessels"].origin for record in images.records}))
            for images in (drawn, drawn_real)
        )
        synthetic = _amounts(evidence, drawn, lambda images, index: images.mask(index, "vessels"))
        real = _amounts(evidence, drawn_real, lambda images, index: images.mask(index, "vessels"))
        found += _compare(evidence, "mask", "as the masks have it", f"masks: {origins}", synthetic, real)
    return found


def _amounts(
    evidence: Evidence, images: ImageSet, mask: Callable[[ImageSet, int], NDArray[np.uint8]]
) -> tuple[list[str], list[Amount]]:
    evidence.tell(f"vessel amount of {len(images)} images in {images.folder.name}")
    return images.patients, [
        vessel_amount(mask(images, index), images.field_of_view(index)) for index in range(len(images))
    ]


def _compare(
    evidence: Evidence, prefix: str, how: str, extractor: str,
    synthetic: tuple[list[str], list[Amount]], real: tuple[list[str], list[Amount]],
) -> list[Figure]:  # fmt: skip
    """Return the means and the standardised difference of fraction and length."""
    found: list[Figure] = []
    for kind, title, unit in (
        ("fraction", "Vessel amount", "of the field of view"),
        ("length", "Vessel length", "diameters of the field of view"),
    ):
        values, real_values = (
            np.array([getattr(a, kind) for a in amounts]) for _, amounts in (synthetic, real)
        )
        common: dict[str, Any] = {
            "n": len(values), "n_real": len(real_values), "extractor": extractor, "resize": "none",
            "seed": evidence.seed,
        }  # fmt: skip
        found.append(_mean(evidence, f"{prefix}_{kind}", f"{title}, {how}", unit, common,
                           (values, synthetic[0]), (real_values, real[0])))  # fmt: skip
        found.append(_difference(evidence, f"{prefix}_{kind}_d", f"{title}, {how}: Cohen's d", common,
                                 (values, synthetic[0]), (real_values, real[0])))  # fmt: skip
    return found


Values = tuple[Floats, list[str]]
"""Values and the patient of each."""


def _mean(
    evidence: Evidence,
    name: str,
    title: str,
    unit: str,
    common: dict[str, Any],
    first: Values,
    second: Values,
) -> Figure:
    (values, patients), (real_values, real_patients) = first, second
    options: dict[str, Any] = {"seed": evidence.seed, "draws": evidence.draws}
    interval = bootstrap(lambda w: weighted_mean(values, w[0]), patients, **options)
    real = bootstrap(lambda w: weighted_mean(real_values, w[0]), real_patients, **options)
    spread = " and ".join(
        f"{float(v.std(ddof=1)):.4g} ({who})"
        for v, who in ((values, "synthetic"), (real_values, "real"))
        if len(v) > 1
    )
    return Figure(
        **common, **measured(float(values.mean()), interval), name=name, title=title, unit=unit,
        real=float(real_values.mean()), real_low=real.low, real_high=real.high,
        floor=real_floor(lambda w: weighted_mean(real_values, w[0]), real_patients,
                         seed=evidence.seed, repeats=evidence.repeats),
        notes=(f"Standard deviation between images {spread}.",) if spread else (),
    )  # fmt: skip


def _difference(
    evidence: Evidence, name: str, title: str, common: dict[str, Any], first: Values, second: Values
) -> Figure:
    (values, patients), (real_values, real_patients) = first, second
    value = cohens_d(values, real_values)
    if value is None:
        return Figure(
            **common, value=None, name=name, title=title, better="zero",
            reason="it needs two images a set and values that vary",
        )  # fmt: skip
    interval = bootstrap(
        lambda w: cohens_d(values, real_values, (w[0], w[1])), patients, real_patients,
        seed=evidence.seed, draws=evidence.draws,
    )  # fmt: skip
    floor = real_floor(
        lambda w: cohens_d(real_values, real_values, (w[0], w[1])), real_patients,
        seed=evidence.seed, repeats=evidence.repeats,
    )  # fmt: skip
    test = equivalence(
        patient_means(values, patients), patient_means(real_values, real_patients), margin=evidence.margin
    )
    return Figure(
        **common, **measured(value, interval), name=name, title=title, better="zero", floor=floor,
        unit="standard deviations", notes=_words(test, evidence.margin),
    )  # fmt: skip


def _words(test: Equivalence | None, margin: float) -> tuple[str, ...]:
    if test is None:
        return ("No t-test: it needs two patients a set and values that vary.",)
    verdict = "equivalent" if test.tost_p < 0.05 else "equivalence not shown"
    return (
        f"Welch's t-test of patients' means: t = {test.t:.2f}, {test.degrees:.1f} degrees of freedom, "
        f"p = {test.p:.3g}.",
        f"Two one-sided tests within {margin:g} standard deviations: p = {test.tost_p:.3g} ({verdict}).",
    )
