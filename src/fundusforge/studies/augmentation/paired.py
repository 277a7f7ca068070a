"""Paired tests of two ways to train, on the same patients, trained with several seeds.

- The area under the ROC curve: DeLong et al. (Biometrics 44, 1988) in the form of Obuchowski (Biometrics 53,
  1997), in which the photographs of one patient may resemble each other; with one photograph a patient the
  two are the same. The area of several seeds is the mean of theirs, and so are its structural components.
- Decisions: McNemar's test, exact, with patients drawn as wholes: under the null hypothesis the sign of each
  patient's difference in right decisions is a coin. With one photograph a patient that is the binomial test.
- Any other figure: the jackknife over patients (Quenouille, Tukey), of which DeLong's is the special case.

Training again with other seeds gives other gains. Their variance over the number of seeds is added to that of
the patients. Either holds what is neither of the seed nor of the patient but of both together, which is taken
away once: with V the variance of the mean over patients, and v that of a single seed on average, it is
(v - V) / (S - 1). t's degrees of freedom follow Satterthwaite (Biometrics Bulletin 2, 1946).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.statistics import Interval, Weights, bootstrap

Floats = NDArray[np.float64]
Figure = Callable[[Weights], float | None]
"""How often each photograph counts to a figure, or None where it cannot be computed."""


@dataclass(frozen=True, kw_only=True)
class Test:
    """A gain against no gain."""

    gain: float
    """Mean over the seeds."""
    p: float
    """Two-sided."""
    error: float
    """Standard error: patients and seeds."""
    patients_error: float
    """The patients' part."""
    seeds_error: float
    """The seeds' part; 0 of a single seed, about which nothing is known."""
    degrees: float
    """Of freedom."""
    method: str


def components(scores: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Return the structural component of every photograph: its part in the area under the ROC curve.

    Args:
        scores: (N,) or (S, N), of which the components are averaged over the S.
        truth: (N,) True with the finding.

    Returns:
        (N,): of a photograph with the finding the share of those without that score lower (ties a half), of
        one without the share of those with it that score higher. The mean of either kind is the area.
    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    found = np.empty_like(rows)
    for row, out in zip(rows, found, strict=True):
        hits, alarms = np.sort(row[truth]), np.sort(row[~truth])
        for mine, other in ((truth, alarms), (~truth, hits)):
            below = np.searchsorted(other, row[mine], "left") + np.searchsorted(other, row[mine], "right")
            share = below / (2 * len(other))
            out[mine] = share if mine is truth else 1 - share
    return found.mean(0)


def area(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; of (S, N) scores the mean of the S areas."""
    return float(components(scores, truth)[truth].mean())


def area_variance(parts: Floats, truth: NDArray[np.bool_], member: NDArray[np.intp]) -> float:
    """Return the variance of the mean component of the positives (Obuchowski 1997, section 2).

    Args:
        parts: (N,) components of an area, or differences of those of two areas.
        truth: (N,) True with the finding.
        member: (N,) numbers of the patients, from 0.

    Raises:
        ValueError: Fewer than two patients with the finding, or without.
    """
    count = int(member.max()) + 1
    sums: list[Floats] = []
    variance = 0.0
    for mine in (truth, ~truth):
        clusters = int(np.count_nonzero(np.bincount(member[mine], minlength=count)))
        if clusters < 2:
            raise ValueError("expected two patients with the finding and two without")
        excess = np.bincount(member[mine], parts[mine] - parts[mine].mean(), count).astype(np.float64)
        variance += clusters / (clusters - 1) * float(excess @ excess) / int(mine.sum()) ** 2
        sums.append(excess)
    both = count / (count - 1) * float(sums[0] @ sums[1]) / (int(truth.sum()) * int((~truth).sum()))
    return max(0.0, variance + 2 * both)


def delong(first: Floats, second: Floats, truth: NDArray[np.bool_], patients: Sequence[str]) -> Test:
    """Test the area of one way to train against that of another.

    Args:
        first: (S, N) scores of S seeds.
        second: (S, N); seeds in the same order.
        truth: (N,) True with the finding.
        patients: (N,) names.
    """
    parts = np.stack(
        [components(a, truth) - components(b, truth) for a, b in zip(first, second, strict=True)]
    )
    gains = [float(part[truth].mean()) for part in parts]
    names = np.unique(np.asarray(patients), return_inverse=True)[1]
    each = [area_variance(part, truth, names) for part in parts]
    return gain_test(
        gains, area_variance(parts.mean(0), truth, names), each=each, patients=int(names.max()) + 1,
        method="DeLong, by patient",
    )  # fmt: skip


def jackknife(first: Sequence[Figure], second: Sequence[Figure], patients: Sequence[str]) -> Test | None:
    """Test a figure of one way to train against that of another.

    Args:
        first: The figure of each seed.
        second: The same; seeds in the same order.
        patients: (N,) names.

    Returns:
        None where the figure cannot be computed, or not without one of the patients.
    """
    names, member = np.unique(np.asarray(patients), return_inverse=True)
    everyone = np.ones(len(member))
    gains = gains_of(first, second, everyone)
    if gains is None or len(names) < 2:
        return None
    left_out: list[list[float]] = []
    for place in range(len(names)):
        found = gains_of(first, second, np.where(member == place, 0.0, 1.0))
        if found is None:
            return None
        left_out.append(found)
    rows = np.array(left_out)  # (patients, seeds)
    each = ((len(names) - 1) * rows.var(0)).tolist()
    variance = (len(names) - 1) * float(rows.mean(1).var())
    return gain_test(gains, variance, each=each, patients=len(names), method="jackknife, by patient")


def gains_of(first: Sequence[Figure], second: Sequence[Figure], weights: Weights) -> list[float] | None:
    """Return the gain of every seed, or None where one cannot be computed."""
    found = [(a(weights), b(weights)) for a, b in zip(first, second, strict=True)]
    known = [(a, b) for a, b in found if a is not None and b is not None]
    return [a - b for a, b in known] if len(known) == len(found) and found else None


def gain_test(
    gains: Sequence[float], variance: float, *, each: Sequence[float] = (), patients: int, method: str
) -> Test:
    """Bring the gains of the seeds and their variance over the patients together.

    Args:
        gains: Of every seed.
        variance: Of their mean, over patients.
        each: Variance of each seed's gain, over patients; none if not given.
        patients: How many.
        method: What gave the variance.
    """
    distribution: Any = import_module("scipy.stats").t
    seeds, mean, raw, spread = len(gains), float(np.mean(gains)), 0.0, 0.0
    if seeds > 1:
        raw = float(np.var(gains, ddof=1)) / seeds
        both = max(0.0, float(np.mean(each)) - variance) / (seeds - 1) if len(each) else 0.0
        spread = max(0.0, raw - both)
    whole = variance + spread
    if whole <= 0:
        return Test(
            gain=mean, p=1.0 if mean == 0 else 0.0, error=0.0, patients_error=0.0, seeds_error=0.0,
            degrees=math.inf, method=method,
        )  # fmt: skip
    degrees = whole**2 / (variance**2 / max(1, patients - 1) + raw**2 / max(1, seeds - 1))
    p = float(2 * distribution.sf(abs(mean) / math.sqrt(whole), degrees))
    return Test(
        gain=mean, p=p, error=math.sqrt(whole), patients_error=math.sqrt(variance),
        seeds_error=math.sqrt(spread), degrees=float(degrees), method=method,
    )  # fmt: skip


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_], patients: Sequence[str]) -> float:
    """Return the exact two-sided p-value of McNemar's test, patients taken as wholes.

    Args:
        first: (N,) whether one model was right.
        second: (N,) the same of the other.
        patients: (N,) names.

    >>> mcnemar(np.array([True] * 6 + [False]), np.array([False] * 6 + [True]), list("abcdefg"))
    0.125
    """
    _, member = np.unique(np.asarray(patients), return_inverse=True)
    steps = np.bincount(member, first.astype(np.int64) - second.astype(np.int64)).round().astype(int)
    sizes = np.abs(steps[steps != 0])
    if not sizes.size:
        return 1.0
    chances = np.ones(1)  # of every sum, from -total to total in steps of 2
    for size in sizes.tolist():
        grown = np.zeros(len(chances) + size)
        grown[: len(chances)] += chances / 2
        grown[size:] += chances / 2
        chances = grown
    total = int(sizes.sum())
    sums = 2 * np.arange(total + 1) - total
    return float(min(1.0, chances[np.abs(sums) >= abs(int(steps.sum()))].sum()))


def interval_of(
    first: Sequence[Figure],
    second: Sequence[Figure] | None,
    patients: Sequence[str],
    *,
    seed: int,
    draws: int,
) -> Interval:
    """Return a bootstrap interval of a mean over seeds, or of a mean gain: patients and seeds are both drawn.

    Args:
        first: The figure of each seed.
        second: What it is compared with, seed by seed; None for the figure itself.
        patients: (N,) names.
        seed: Of the draws.
        draws: How many.
    """
    seeds = [f"seed {number}" for number in range(len(first))]

    def value(weights: Sequence[Weights]) -> float | None:
        often = weights[1] if len(weights) > 1 else np.ones(len(first))
        total = 0.0
        for place in np.flatnonzero(often).tolist():
            found = first[place](weights[0])
            other = 0.0 if second is None else second[place](weights[0])
            if found is None or other is None:
                return None
            total += float(often[place]) * (found - other)
        return total / float(often.sum())

    sets = (patients, seeds) if len(seeds) > 1 else (patients,)
    return bootstrap(value, *sets, seed=seed, draws=draws)
