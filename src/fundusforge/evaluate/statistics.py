"""Intervals and floors: how far a figure can be trusted.

Images of one patient resemble each other, so everything here draws *patients*, never images. A statistic
is a function of weights: one (n,) array per set of images, the number of times each image is counted.
With weights, a bootstrap draw, a leave-one-out and a random half are the same call, and pooled figures
cost one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
"""(n,) how often each image counts."""
Statistic = Callable[[Sequence[Weights]], float | None]
"""The weights of each set of images to a value, or to None where it cannot be computed."""
Method = Literal["percentile", "bca", "centred"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval; both ends are None where it cannot be had, and `reason` says why."""

    low: float | None
    high: float | None
    level: float
    draws: int
    patients: int
    """Patients drawn from, all sets together."""
    method: Method
    reason: str = ""

    def words(self) -> str:
        """Return how the interval was made, in words."""
        if self.reason:
            return f"no interval: {self.reason}"
        kind = "BCa" if self.method == "bca" else self.method
        return f"{self.level:.0%} {kind} bootstrap of {self.patients} patients, {self.draws} draws"


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a figure is worth when real images stand in for the synthetic ones.

    The real patients are split at random into halves; one half plays the synthetic set. A synthetic set
    cannot be told from real images by a figure that lies between `low` and `high`.
    """

    value: float
    """Median over the repeats."""
    low: float
    """2.5th percentile over the repeats."""
    high: float
    """97.5th percentile over the repeats."""
    repeats: int
    patients: int


def bootstrap(
    statistic: Statistic,
    *patients: Sequence[str],
    seed: int,
    draws: int = 1000,
    level: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """Return a bootstrap interval, clustered by patient.

    Sets that share a patient (synthetic images painted on the masks of the real ones) are drawn together: a
    patient is taken into all sets or none.

    Args:
        statistic: Called with a sequence of one (n,) array of weights per set.
        patients: Per set, the patient of each image, in the order of the weights.
        seed: Seed of the draws; the same seed gives the same interval.
        draws: Number of bootstrap draws.
        level: Coverage, in (0, 1).
        method: `percentile`, `bca` (bias-corrected and accelerated; Efron, JASA 82, 1987), or `centred`: the
            draws' deviations from their mean, laid about the value. A distance between sets needs that, since
            images that are drawn twice widen it whatever the sets are.

    Raises:
        ValueError: No set, an empty set, or a level outside (0, 1).
    """
    if not patients or not all(len(names) for names in patients) or not 0 < level < 1:
        raise ValueError("expected at least one non-empty set of patients and a level between 0 and 1")
    clusters = _clusters(patients)
    total = sum(len(members) for members in clusters)

    def interval(low: float | None, high: float | None, reason: str = "", used: Method = method) -> Interval:
        return Interval(
            low=low, high=high, level=level, draws=draws, patients=total, method=used, reason=reason
        )

    if min(len(members) for members in clusters) < 2:
        return interval(None, None, "fewer than two patients")
    point = statistic([np.ones(len(names)) for names in patients])
    drawn = [statistic(weights) for weights in _draw(clusters, patients, seed, draws)]
    values = np.array([value for value in drawn if value is not None])
    if point is None or values.size < 0.95 * draws:
        return interval(None, None, "it cannot be computed in more than one draw of twenty")
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    used: Method = "percentile" if method == "bca" else method
    if method == "bca":
        corrected = _bca(statistic, clusters, patients, point, values, tails)
        tails, used = (tails, "percentile") if corrected is None else (corrected, "bca")
    shift = point - float(values.mean()) if method == "centred" else 0.0
    low, high = (float(end) + shift for end in np.quantile(values, tails))
    return interval(low, high, used=used)


def real_floor(
    statistic: Statistic, patients: Sequence[str], *, seed: int, repeats: int = 100
) -> Floor | None:
    """Return the figure of one random half of the real patients against the other, or None.

    Args:
        statistic: Called with two (n,) arrays of weights over the same real images: the half that plays the
            synthetic set, and the rest. A figure of one set alone ignores the second.
        patients: The patient of each real image.
        seed: Seed of the halves.
        repeats: Number of random halves.

    Returns:
        None if there are fewer than four patients or the figure cannot be computed on halves.
    """
    names, member = np.unique(np.asarray(patients), return_inverse=True)
    if len(names) < 4:
        return None
    values: list[float] = []
    for repeat in range(repeats):
        chosen = np.zeros(len(names))
        chosen[np.random.default_rng([seed, repeat]).permutation(len(names))[: len(names) // 2]] = 1.0
        first = chosen[member]
        value = statistic([first, 1.0 - first])
        if value is not None:
            values.append(value)
    if len(values) < 0.95 * repeats:
        return None
    low, middle, high = (float(value) for value in np.quantile(values, [0.025, 0.5, 0.975]))
    return Floor(value=middle, low=low, high=high, repeats=repeats, patients=len(names))


def weighted_mean(values: NDArray[np.float64], weights: Weights) -> float | None:
    """Return the mean of values counted `weights` times, or None if nothing is counted."""
    total = float(weights.sum())
    return float(weights @ values) / total if total > 0 else None


def weighted_variance(values: NDArray[np.float64], weights: Weights) -> float | None:
    """Return the unbiased variance of values counted `weights` times, or None below two counts."""
    mean, total = weighted_mean(values, weights), float(weights.sum())
    if mean is None or total < 2:
        return None
    return float(weights @ (values - mean) ** 2) / (total - 1)


def _clusters(patients: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the names to draw from: of each set, or of all sets at once if any two share a patient."""
    each = [sorted(set(names)) for names in patients]
    union = sorted({name for names in each for name in names})
    return [union] if len(union) < sum(len(names) for names in each) else each


def _members(clusters: list[list[str]], patients: Sequence[Sequence[str]]) -> list[NDArray[np.intp]]:
    """Return for every set the place of each image's patient in its list of clusters."""
    places = [{name: place for place, name in enumerate(names)} for names in clusters]
    return [
        np.array([places[0 if len(clusters) == 1 else index][name] for name in names], np.intp)
        for index, names in enumerate(patients)
    ]


def _draw(
    clusters: list[list[str]], patients: Sequence[Sequence[str]], seed: int, draws: int
) -> list[list[Weights]]:
    """Return for every draw the weights of every set."""
    rng = np.random.default_rng([seed, draws])
    counts = [rng.multinomial(len(c), np.full(len(c), 1 / len(c)), size=draws) for c in clusters]
    counts = counts * len(patients) if len(counts) == 1 else counts
    members = _members(clusters, patients)
    return [
        [count[draw, member].astype(np.float64) for count, member in zip(counts, members, strict=True)]
        for draw in range(draws)
    ]


def _bca(
    statistic: Statistic,
    clusters: list[list[str]],
    patients: Sequence[Sequence[str]],
    point: float,
    values: NDArray[np.float64],
    tails: NDArray[np.float64],
) -> NDArray[np.float64] | None:
    """Return the corrected quantiles, or None where they are undefined (a statistic that hardly varies)."""
    normal: Any = import_module("scipy.stats").norm
    below = (np.mean(values < point) + np.mean(values <= point)) / 2
    members = _members(clusters, patients)
    cubes = squares = 0.0
    for group, names in enumerate(clusters):
        left_out: list[float | None] = []
        for place in range(len(names)):
            affected = [len(clusters) == 1 or index == group for index in range(len(members))]
            weights = [
                np.where(hit & (member == place), 0.0, 1.0)
                for hit, member in zip(affected, members, strict=True)
            ]
            left_out.append(statistic(weights))
        known = np.array([value for value in left_out if value is not None])
        if known.size < len(names):
            return None
        influence = (len(names) - 1) * (known.mean() - known)
        cubes += float((influence**3).sum()) / len(names) ** 3
        squares += float((influence**2).sum()) / len(names) ** 2
    if not 0 < below < 1 or squares == 0:
        return None
    bias, acceleration = float(normal.ppf(below)), cubes / (6 * squares**1.5)
    shifted = bias + normal.ppf(tails)
    return np.asarray(normal.cdf(bias + shifted / (1 - acceleration * shifted)), np.float64)
