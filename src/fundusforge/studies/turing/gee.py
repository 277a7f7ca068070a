"""Do groups of readers differ: generalised estimating equations, as in Kim et al. 2022.

Logistic GEE (Liang and Zeger, Biometrika 73, 1986, 13) of right answers on the group, for accuracy (all
images), sensitivity (real ones) and specificity (synthetic ones); Gaussian with identity link for seconds.
Clusters are readers, the working correlation is exchangeable. With few readers the usual sandwich is too
small: the covariance is that of Mancl and DeRouen (Biometrics 57, 2001, 126; `bias_reduced` in statsmodels).
A group's mean depends on its own readers alone, so a comparison is one of two independent means and its
statistic is held against a t distribution with Welch's and Satterthwaite's degrees of freedom, not against
the normal one. That is slightly careful: by about n / (n - 1) in the variance with n readers in a group.

All groups judge the same images, whose difficulty cancels out of a comparison; clusters of readers do here
what they do not for a mean (see `fundusforge.studies.turing.crossed`). Two further p values show whether that
matters: with clusters of images, and with readers and images both random. The effect of a logistic GEE is
marginal: it compares groups' average shares, and is nearer to 1 than the odds ratio of one reader and image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.comparison import holm
from fundusforge.studies.turing.answers import AnswersError, Floats, Grid
from fundusforge.studies.turing.crossed import Scores, chosen, crossed, scores_of, too_few
from fundusforge.studies.turing.groups import Grouping

Outcome = Literal["accuracy", "sensitivity", "specificity", "seconds"]
OUTCOMES: tuple[Outcome, ...] = ("accuracy", "sensitivity", "specificity", "seconds")
_NOTHING = 1e-12
"""Variance of no difference at all."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One group against the reference; `reason` says why there is none."""

    grouping: str
    outcome: Outcome
    group: str
    reference: str
    readers: int
    reference_readers: int
    effect: Literal["odds ratio", "difference in seconds"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    degrees: float | None = None
    p: float | None = None
    p_holm: float | None = None
    """After Holm's correction over all comparisons of the table."""
    p_images: float | None = None
    """With clusters of images in place of readers."""
    p_both: float | None = None
    """With readers and images random."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A fitted GEE with one mean for each group: (K,) effects against the first, and covariance (K, K)."""

    effects: Floats
    """The first is the first group's own mean, on the scale of the link."""
    covariance: Floats


def compare(grid: Grid, grouping: Grouping, outcome: Outcome) -> list[Comparison]:
    """Compare every group with the first.

    Args:
        grid: A study.
        grouping: Groups of its readers.
        outcome: What to compare.

    Raises:
        AnswersError: statsmodels is not there.
    """
    cells, strata = _cells(grid, outcome)
    binary = outcome != "seconds"
    groups = [(name, rows & (~np.isnan(cells)).any(1)) for name, rows in grouping.groups]
    reasons = {name: _reason(cells[rows], binary=binary) for name, rows in groups}
    (reference, first), *others = groups
    usable = [(name, rows) for name, rows in groups if not reasons[name]]
    found: Fit | str = reasons[reference] and f"the reference, {reference}: {reasons[reference]}"
    by_image: Fit | str = found
    if not found:
        members = [rows for _, rows in usable]
        found, by_image = (fit(cells, members, clusters=kind, binary=binary) for kind in ("reader", "image"))
    comparisons: list[Comparison] = []
    for name, rows in others:
        known = Comparison(
            grouping=grouping.name, outcome=outcome, group=name, reference=reference,
            readers=int(rows.sum()), reference_readers=int(first.sum()),
            effect="odds ratio" if binary else "difference in seconds",
        )  # fmt: skip
        if isinstance(found, str) or reasons[name]:
            reason = found if isinstance(found, str) else reasons[name]
            comparisons.append(replace(known, reason=reason))
            continue
        place = [each for each, _ in usable].index(name)
        known = _against(known, found, place, binary=binary)
        if not known.reason:
            images = int((~np.isnan(cells)).any(0).sum())
            known = replace(known, p_images=_by_image(by_image, place, images - len(usable)),
                            p_both=_both(cells, strata, rows, first, binary=binary))  # fmt: skip
        comparisons.append(known)
    return comparisons


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the same comparisons with Holm's correction over all that have a p value."""
    adjusted = iter(holm([one.p for one in comparisons if one.p is not None]))
    return [one if one.p is None else replace(one, p_holm=next(adjusted)) for one in comparisons]


def fit(
    cells: Floats, groups: Sequence[NDArray[np.bool_]], *, clusters: Literal["reader", "image"], binary: bool
) -> Fit | str:
    """Fit a GEE with one mean for each group; return why it failed, if it did.

    Args:
        cells: (R, N) answers, NaN where there is none.
        groups: (R,) readers of each group; no reader in two.
        clusters: What the answers are clustered by.
        binary: Logistic, for 0 and 1; else Gaussian with identity link.

    Raises:
        AnswersError: statsmodels is not there.
    """
    gee, families, structures = _statsmodels()
    member = np.zeros(cells.shape[0], np.intp) - 1
    for place, rows in enumerate(groups):
        member[rows] = place
    readers, images = np.nonzero(~np.isnan(cells) & (member >= 0)[:, None])
    design = (member[readers][:, None] == np.arange(len(groups))).astype(np.float64)
    design[:, 0] = 1
    labels = readers if clusters == "reader" else images
    order = np.argsort(labels, kind="stable")
    model = gee(
        cells[readers, images][order], design[order], groups=labels[order],
        family=families.Binomial() if binary else families.Gaussian(), cov_struct=structures.Exchangeable(),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = model.fit(cov_type="bias_reduced")
        except (np.linalg.LinAlgError, ValueError) as error:
            return f"the fit failed ({error})"
    if result is None or not result.converged:
        return "the fit did not converge"
    effects, covariance = np.asarray(result.params), np.asarray(result.cov_params())
    if not (np.isfinite(effects).all() and np.isfinite(covariance).all()):
        return "the fit is degenerate"
    return Fit(effects=effects, covariance=covariance)


def welch(first: Floats, second: Floats) -> tuple[Any, Any, Any]:
    """Return log odds ratio, variance and degrees of freedom where every reader judged all images.

    The closed form of `compare` for complete answers; quick enough to plan studies by simulation.

    Args:
        first: (..., n) shares of right answers of one group's readers.
        second: (..., m) shares of the reference's.

    Returns:
        NaN where a group has every answer right, or none.
    """
    parts: list[tuple[Any, Any, int]] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for shares in (first, second):
            count, mean = shares.shape[-1], shares.mean(-1)
            slope = 1 / (mean * (1 - mean))
            variance = ((shares - mean[..., None]) ** 2).sum(-1) / (count - 1) ** 2 * slope**2
            parts.append((np.log(mean / (1 - mean)), variance, count))
        (a, v, n), (b, w, m) = parts
        return a - b, v + w, (v + w) ** 2 / (v**2 / (n - 1) + w**2 / (m - 1))


def _cells(grid: Grid, outcome: Outcome) -> tuple[Floats, NDArray[np.intp]]:
    """Return what is compared, and the kind of each image."""
    strata = grid.synthetic.astype(np.intp)
    if outcome == "seconds":
        return grid.seconds, strata
    columns = {"accuracy": strata >= 0, "sensitivity": strata == 0, "specificity": strata == 1}[outcome]
    return grid.correct[:, columns], strata[columns]


def _reason(cells: Floats, *, binary: bool) -> str:
    """Return why a group cannot be compared; empty if it can."""
    if len(cells) < 2:
        return "one reader: nothing says how readers differ" if len(cells) else "no reader"
    mean = float(np.nanmean(cells))
    if binary and not 0 < mean < 1:
        return "every answer is right" if mean else "no answer is right"
    return ""


def _against(known: Comparison, found: Fit, place: int, *, binary: bool) -> Comparison:
    """Fill in effect, interval and p of one group."""
    from scipy.stats import t

    effect, variance = float(found.effects[place]), float(found.covariance[place, place])
    own = float(found.covariance[0, 0])
    if variance < _NOTHING:
        return replace(known, reason="all readers of both groups have the same value: no standard error")
    theirs = own + variance + 2 * float(found.covariance[0, place])
    degrees = variance**2 / (theirs**2 / (known.readers - 1) + own**2 / (known.reference_readers - 1))
    error = math.sqrt(variance)
    reach = float(t.ppf(0.975, degrees)) * error
    to = math.exp if binary else float
    return replace(
        known, value=to(effect), low=to(effect - reach), high=to(effect + reach), degrees=degrees,
        p=float(2 * t.sf(abs(effect) / error, degrees)),
    )  # fmt: skip


def _by_image(found: Fit | str, place: int, degrees: int) -> float | None:
    from scipy.stats import t

    if isinstance(found, str) or degrees < 1 or found.covariance[place, place] < _NOTHING:
        return None
    return float(2 * t.sf(abs(found.effects[place]) / math.sqrt(found.covariance[place, place]), degrees))


def _both(cells: Floats, strata: NDArray[np.intp], rows: NDArray[np.bool_], first: NDArray[np.bool_], *,
          binary: bool) -> float | None:  # fmt: skip
    """Return p of the same difference with readers and images random, or None."""
    from scipy.stats import t

    every = scores_of(cells, strata)
    means = [float(every.values[one].mean()) for one in (rows, first)]
    if binary and not all(0 < each < 1 for each in means):
        return None
    slopes = [1 / (each * (1 - each)) if binary else 1.0 for each in means]
    ends = [math.log(each / (1 - each)) if binary else each for each in means]
    weights = np.where(rows, slopes[0] / rows.sum(), np.where(first, -slopes[1] / first.sum(), 0.0))
    some: Scores = chosen(every, rows | first)
    if too_few(some):
        return None
    found = crossed(some, weights[rows | first], first[rows | first].astype(np.intp))
    if not found.variance > _NOTHING:
        return None
    return float(2 * t.sf(abs(ends[0] - ends[1]) / math.sqrt(found.variance), found.degrees))


def _statsmodels() -> tuple[Any, Any, Any]:
    try:
        gee = import_module("statsmodels.genmod.generalized_estimating_equations").GEE
    except ImportError:
        raise AnswersError("the statistics of a reader study need statsmodels: fundusforge[study]") from None
    return gee, import_module("statsmodels.genmod.families"), import_module("statsmodels.genmod.cov_struct")
