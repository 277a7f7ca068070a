"""One quantity on synthetic and on real images: means, their difference, and what may be claimed of it.

A t-test that finds nothing is no proof of likeness, so two one-sided tests say whether the means are
*equivalent* within a stated margin (Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987).
Quantities that are compared together form a family: the p-values of its t-tests, and those of its tests of
equivalence, are corrected with Holm's step-down method (Scandinavian Journal of Statistics 6, 1979), which
bounds the chance of any false claim in the family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.figures import Better, Figure, measured
from fundusforge.evaluate.statistics import (
    Weights,
    bootstrap,
    real_floor,
    weighted_mean,
    weighted_variance,
)
from fundusforge.records import Record

Floats = NDArray[np.float64]
Values = tuple[Floats, Sequence[Record]]
"""(n,) values and the record of each."""
_LEVEL = 0.05
"""Of significance, for the whole family."""


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


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is to be compared: one value per image, of those images that have it."""

    name: str
    title: str
    unit: str = ""
    better: Better = "none"
    extractor: str
    synthetic: Values
    real: Values
    reason: str = "no image has it"
    """Said where no synthetic image has a value."""
    notes: tuple[str, ...] = ()


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


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the given order: claim those below the level of the family."""
    order = np.argsort(np.asarray(p_values), kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[int(place)]))
        adjusted[int(place)] = largest
    return adjusted


def patient_means(values: Floats, patients: Sequence[str]) -> Floats:
    """Return one value per patient, the mean of the patient's images: (patients,), sorted by name."""
    names, member = np.unique(np.asarray(patients), return_inverse=True)
    return np.bincount(member, weights=values, minlength=len(names)) / np.bincount(
        member, minlength=len(names)
    )


def compare(evidence: Evidence, family: Sequence[Quantity]) -> list[Figure]:
    """Return for every quantity its mean and, where both sets have it, its standardised difference (`_d`).

    The notes of a difference carry its tests.

    Args:
        evidence: Settings: margin, seed, draws, repeats.
        family: Quantities that are claimed together; their p-values are corrected together.
    """
    tests = [_test(evidence, quantity) for quantity in family]
    known = [test for test in tests if test is not None]
    pairs = iter(zip(holm([test.p for test in known]), holm([test.tost_p for test in known]), strict=True))
    found: list[Figure] = []
    for quantity, test in zip(family, tests, strict=True):
        words = _words(test, next(pairs), evidence.margin, len(known)) if test else _NO_TEST
        evidence.keep(quantity.name, quantity.synthetic, quantity.real if len(quantity.real[0]) else None)
        found.append(_mean(evidence, quantity))
        if len(quantity.synthetic[0]) and len(quantity.real[0]):
            found.append(_difference(evidence, quantity, words))
    return found


def _by_patient(quantity: Quantity) -> list[tuple[Floats, list[str]]]:
    """Return values and patients of both sets."""
    return [
        (values, [record.patient for record in records])
        for values, records in (quantity.synthetic, quantity.real)
    ]


def _test(evidence: Evidence, quantity: Quantity) -> Equivalence | None:
    (values, patients), (real_values, real_patients) = _by_patient(quantity)
    return equivalence(
        patient_means(values, patients), patient_means(real_values, real_patients), margin=evidence.margin
    )


def _circumstances(evidence: Evidence, quantity: Quantity) -> dict[str, Any]:
    """Return what mean and difference have in common."""
    return {
        "n": len(quantity.synthetic[0]), "n_real": len(quantity.real[0]), "extractor": quantity.extractor,
        "resize": "none", "seed": evidence.seed,
    }  # fmt: skip


def _mean(evidence: Evidence, quantity: Quantity) -> Figure:
    (values, patients), (real_values, real_patients) = _by_patient(quantity)
    common: dict[str, Any] = _circumstances(evidence, quantity) | {
        "name": quantity.name, "title": quantity.title, "unit": quantity.unit, "better": quantity.better,
    }  # fmt: skip
    if not len(values):
        return Figure(**common, value=None, reason=quantity.reason, notes=quantity.notes)
    options: dict[str, Any] = {"seed": evidence.seed, "draws": evidence.draws}
    interval = bootstrap(lambda w: weighted_mean(values, w[0]), patients, **options)
    beside: dict[str, Any] = {}
    if len(real_values):
        real = bootstrap(lambda w: weighted_mean(real_values, w[0]), real_patients, **options)
        floor = real_floor(lambda w: weighted_mean(real_values, w[0]), real_patients,
                           seed=evidence.seed, repeats=evidence.repeats)  # fmt: skip
        beside = {
            "real": float(real_values.mean()), "real_low": real.low, "real_high": real.high, "floor": floor,
        }  # fmt: skip
    spread = " and ".join(
        f"{float(v.std(ddof=1)):.4g} ({who})"
        for v, who in ((values, "synthetic"), (real_values, "real"))
        if len(v) > 1
    )
    notes = (f"Standard deviation between images {spread}.",) if spread else ()
    return Figure(
        **common, **measured(float(values.mean()), interval), **beside, notes=(*notes, *quantity.notes)
    )


def _difference(evidence: Evidence, quantity: Quantity, words: tuple[str, ...]) -> Figure:
    (values, patients), (real_values, real_patients) = _by_patient(quantity)
    common: dict[str, Any] = _circumstances(evidence, quantity) | {
        "name": f"{quantity.name}_d", "title": f"{quantity.title}: Cohen's d", "better": "zero",
    }  # fmt: skip
    value = cohens_d(values, real_values)
    if value is None:
        return Figure(**common, value=None, reason="it needs two images a set and values that vary")
    interval = bootstrap(
        lambda w: cohens_d(values, real_values, (w[0], w[1])), patients, real_patients,
        seed=evidence.seed, draws=evidence.draws,
    )  # fmt: skip
    floor = real_floor(
        lambda w: cohens_d(real_values, real_values, (w[0], w[1])), real_patients,
        seed=evidence.seed, repeats=evidence.repeats,
    )  # fmt: skip
    return Figure(**common, **measured(value, interval), floor=floor, unit="standard deviations", notes=words)


_NO_TEST = ("No t-test: it needs two patients a set and values that vary.",)


def _words(test: Equivalence, adjusted: tuple[float, float], margin: float, family: int) -> tuple[str, ...]:
    differ, alike = adjusted
    corrected = f"after Holm's correction over {family} quantit{'y' if family == 1 else 'ies'}"
    difference = "a difference is shown" if differ < _LEVEL else "no difference shown, which proves nothing"
    return (
        f"Welch's t-test of patients' means: t = {test.t:.2f}, {test.degrees:.1f} degrees of freedom, "
        f"p = {test.p:.3g}, {differ:.3g} {corrected} ({difference}).",
        f"Two one-sided tests within {margin:g} standard deviations: p = {test.tost_p:.3g}, {alike:.3g} "
        f"{corrected} ({'equivalent' if alike < _LEVEL else 'equivalence not shown'}).",
    )  # fmt: skip
