"""Means over readers and images that are both drawn at random: one standard error for every figure.

All readers judge the same images. A figure theta_i of reader i is a mean over images, or a smooth function of
such means, so that it changes by the sum of the images' influences u_ij. The mean over readers then has

    variance = V_reader + V_image - V_cell

where V_reader comes from the readers' figures, V_image from the images' influences averaged over readers, and
V_cell, which both of them hold, from what is left. For shares this is the unbiased estimate of Gallas,
Pennello and Myers (JOSA A 24, 2007, B70) for binary answers of crossed readers and cases, and the two-way
variance of nonnested clusters of Miglioretti and Heagerty (Am J Epidemiol 165, 2007, 453). It is never taken
below V_reader or V_image alone. Degrees of freedom are Satterthwaite's over all three parts, so that a
t distribution applies with few readers. Real and synthetic images are two strata: how many there are of
each was chosen, not drawn.

A standard error from readers alone holds for these very images; it is given beside, since published reader
studies mostly print it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.studies.turing.answers import Floats

LEVEL = 0.95
Scale = Literal["identity", "logit", "log"]
"""Where an interval is symmetric: shares stay in (0, 1) on `logit`, times above 0 on `log`."""
HOW = "95% t interval, readers and images random (logit scale for shares, log scale for times)"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over readers; `reason` says why value or interval is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    """Standard error, readers and images random."""
    degrees: float | None = None
    fixed_low: float | None = None
    """Ends of the interval with readers random and the images held fixed, as Kim et al. print it."""
    fixed_high: float | None = None
    sd: float | None = None
    """Standard deviation of the readers' own values."""
    readers: int
    images: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """A figure of every reader, and how it hangs on the images."""

    values: Floats
    """(..., R)."""
    influence: Floats
    """(..., R, N) what each answer adds to its reader's figure, to first order; NaN without an answer."""
    strata: NDArray[np.intp]
    """(N,) which images were drawn together."""
    scale: Scale = "identity"


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossed:
    """A weighted sum of readers' figures, with its variance; arrays if the scores are of many studies."""

    value: Any
    reader: Any
    """Variance with the images held fixed."""
    reader_degrees: Any
    variance: Any
    degrees: Any


def scores_of(cells: Floats, strata: NDArray[np.intp], *, balanced: bool = False,
              scale: Scale = "logit") -> Scores:  # fmt: skip
    """Return each reader's mean over images.

    Args:
        cells: (..., R, N) values, NaN without an answer.
        strata: (N,) stratum of each image.
        balanced: Give each stratum the same weight, instead of each image.
        scale: Of intervals.
    """
    kinds = np.unique(strata)
    influence = np.full(cells.shape, np.nan)
    values = np.zeros(cells.shape[:-1])
    total = (~np.isnan(cells)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        for kind in kinds:
            part = cells[..., strata == kind]
            count = (~np.isnan(part)).sum(-1)
            mean = np.nansum(part, -1) / count
            share = np.full(total.shape, 1 / len(kinds)) if balanced else count / total
            empty = 0.0 if not balanced else np.nan
            values = values + np.where(count > 0, share * mean, empty)
            influence[..., strata == kind] = (share / count)[..., None] * (part - mean[..., None])
    return Scores(values=np.where(total > 0, values, np.nan), influence=influence, strata=strata, scale=scale)


def crossed(scores: Scores, weights: Floats, groups: NDArray[np.intp]) -> Crossed:
    """Return a weighted sum of readers' figures with its variance.

    Args:
        scores: Figures of R readers, R two or more of every group; images two or more of every stratum.
        weights: (R,) weight of each reader: 1 / R for a mean, also negative for a difference of groups.
        groups: (R,) readers that were drawn together.
    """
    value = scores.values @ weights
    seen = ~np.isnan(scores.influence)
    parts = np.where(seen, weights[:, None] * scores.influence, 0.0)
    reader = image = cell = reader_over = over = 0.0
    for group in np.unique(groups):
        rows = groups == group
        count = int(rows.sum())
        own = scores.values[..., rows]
        square = weights[rows] ** 2 * (own - own.mean(-1, keepdims=True)) ** 2
        part = count / (count - 1) * square.sum(-1)
        reader, reader_over = reader + part, reader_over + part**2 / (count - 1)
    for stratum in np.unique(scores.strata):
        columns = scores.strata == stratum
        shown = int(columns.sum())
        total = parts[..., columns].sum(-2)
        part = shown / (shown - 1) * ((total - total.mean(-1, keepdims=True)) ** 2).sum(-1)
        image, over = image + part, over + part**2 / (shown - 1)
        for group in np.unique(groups):
            rows = groups == group
            count = int(rows.sum())
            block, there = parts[..., rows, :][..., columns], seen[..., rows, :][..., columns]
            mean = block.sum(-2, keepdims=True) / np.maximum(1, there.sum(-2, keepdims=True))
            left = (np.where(there, block - mean, 0.0) ** 2).sum((-2, -1))
            part = count * shown / ((count - 1) * (shown - 1)) * left
            cell, over = cell + part, over + part**2 / ((count - 1) * (shown - 1))
    variance = np.maximum(reader + image - cell, np.maximum(reader, image))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Crossed(
            value=value, reader=reader, variance=variance, reader_degrees=reader**2 / reader_over,
            degrees=variance**2 / (reader_over + over),
        )  # fmt: skip


def mean(scores: Scores, rows: NDArray[np.bool_] | None = None) -> Crossed:
    """Return the mean over the readers of `rows`, over all of them if None."""
    some = chosen(scores, rows)
    count = some.values.shape[-1]
    return crossed(some, np.full(count, 1 / count), np.zeros(count, np.intp))


def chosen(scores: Scores, rows: NDArray[np.bool_] | None) -> Scores:
    """Return the scores of some readers of one study, and of the images that they answered."""
    if rows is None:
        return scores
    influence = scores.influence[rows]
    seen = (~np.isnan(influence)).any(0)
    return Scores(
        values=scores.values[rows],
        influence=influence[:, seen],
        strata=scores.strata[seen],
        scale=scores.scale,
    )


def estimate(scores: Scores, rows: NDArray[np.bool_] | None = None) -> Estimate:
    """Return the mean over readers with its interval, or the reason why there is none.

    Readers without a figure of their own (they answered no such image) do not count.
    """
    some = chosen(scores, rows)
    some = chosen(some, ~np.isnan(some.values))
    readers, images = len(some.values), len(some.strata)
    if not readers:
        return Estimate(value=None, readers=0, images=0, reason="no reader answered such an image")
    value = float(some.values.mean())
    known = {"value": value, "readers": readers, "images": images}
    if readers < 2:
        return Estimate(**known, reason="one reader: nothing says how readers differ")
    known["sd"] = float(some.values.std(ddof=1))
    if (reason := too_few(some)) or (reason := _flat(value, some.scale)):
        return Estimate(**known, reason=reason)
    found = mean(some)
    if not found.variance > 1e-15:
        return Estimate(**known, reason="all readers have the same value: no standard error")
    low, high = interval(value, found.variance, found.degrees, scale=some.scale)
    known |= {"error": math.sqrt(found.variance), "degrees": float(found.degrees), "low": low, "high": high}
    if found.reader > 1e-15:
        fixed = interval(value, found.reader, found.reader_degrees, scale=some.scale)
        known |= {"fixed_low": fixed[0], "fixed_high": fixed[1]}
    return Estimate(**known)


def interval(value: float, variance: float, degrees: float, *, scale: Scale, level: float = LEVEL) -> tuple[
    float, float
]:  # fmt: skip
    """Return the t interval of a value, symmetric on a scale."""
    from scipy.special import expit, logit
    from scipy.stats import t

    to, back, slope = {
        "identity": (float, float, 1.0),
        "logit": (logit, expit, 1 / (value * (1 - value)) if 0 < value < 1 else math.nan),
        "log": (np.log, np.exp, 1 / value if value else math.nan),
    }[scale]
    reach = float(t.ppf((1 + level) / 2, degrees)) * math.sqrt(variance) * slope
    return float(back(to(value) - reach)), float(back(to(value) + reach))


def too_few(scores: Scores) -> str:
    """Return why images do not suffice for a standard error; empty if they do."""
    return (
        ""
        if min(np.unique(scores.strata, return_counts=True)[1]) > 1
        else "fewer than two images of a kind: nothing says how images differ"
    )


def _flat(value: float, scale: Scale) -> str:
    """Return why a value has no interval on its scale; empty if it has."""
    if scale == "logit" and not 0 < value < 1:
        return "every answer is right" if value else "no answer is right"
    return "every time is 0" if scale == "log" and value <= 0 else ""
