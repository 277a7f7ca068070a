"""What a reader study measures: accuracy, sensitivity, specificity, d', criterion, time, fidelity.

As in Kim et al. 2022, a *real* image is the positive case: sensitivity is the share of real images that were
called real, specificity the share of synthetic images that were called synthetic. Balanced accuracy is their
mean; it is accuracy where half of the images are synthetic, and 1/2 for a reader who guesses, whatever the
share of synthetic images and however much the reader leans towards one answer.

d' = z(hits) - z(false alarms) and c = -(z(hits) + z(false alarms)) / 2 of signal detection, real images being
the signal; both shares with the log-linear correction (k + 0.5) / (n + 1) (Hautus, Behav Res Methods 27,
1995). A negative c is a leaning towards "real". Intervals of one reader are those of Gourevitch and Galanter
(Psychometrika 32, 1967).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.audit.tally import wilson
from fundusforge.studies.turing.answers import Answer, Grid
from fundusforge.studies.turing.crossed import Estimate, Scores, estimate, scores_of

Measure = Literal["accuracy", "sensitivity", "specificity", "balanced", "d_prime", "criterion", "seconds"]
MEASURES: tuple[Measure, ...] = (
    "accuracy", "sensitivity", "specificity", "balanced", "d_prime", "criterion", "seconds",
)  # fmt: skip
TITLES: dict[Measure, str] = {
    "accuracy": "Accuracy", "sensitivity": "Sensitivity", "specificity": "Specificity",
    "balanced": "Balanced accuracy", "d_prime": "d'", "criterion": "Criterion c",
    "seconds": "Seconds per image",
}  # fmt: skip
_Z = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of one reader's or one image's answers, with Wilson's 95 % interval."""

    hits: int
    n: int
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number with its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ReaderScore:
    """What one reader reached."""

    reader: str
    specialty: str
    years: float
    accuracy: Share
    sensitivity: Share
    specificity: Share
    d_prime: Number
    criterion: Number
    seconds_mean: float | None
    seconds_median: float | None


@dataclass(frozen=True, kw_only=True)
class Convincing:
    """A synthetic image, and how many readers took it for real."""

    image: str
    called_real: Share


def share(hits: int, n: int) -> Share:
    """Return a share with its interval; without one if nothing was counted."""
    low, high = wilson(hits, n) if n else (None, None)
    return Share(hits=hits, n=n, value=hits / n if n else None, low=low, high=high)


def scores(grid: Grid, measure: Measure) -> Scores:
    """Return a measure of every reader of a study with its influences; readers who have none have NaN."""
    strata = grid.synthetic.astype(np.intp)
    if measure == "seconds":
        return scores_of(grid.seconds, strata, scale="log")
    if measure in ("accuracy", "balanced"):
        balanced = measure == "balanced"
        found = scores_of(grid.correct, strata, balanced=balanced)
        if balanced and len(set(strata.tolist())) < 2:
            return replace(found, values=np.full_like(found.values, np.nan))
        return found
    if measure in ("sensitivity", "specificity"):
        columns = grid.synthetic == (measure == "specificity")
        return scores_of(grid.correct[:, columns], strata[columns])
    return _signal(grid, measure)


def measured(grid: Grid, measure: Measure, rows: NDArray[np.bool_] | None = None) -> Estimate:
    """Return a measure of a group of readers, all if `rows` is None, with its interval.

    Each reader counts alike. The interval holds for other readers and other images of the same kind; see
    `fundusforge.studies.turing.crossed`.
    """
    found = estimate(scores(grid, measure), rows)
    if found.value is None and (rows is None or rows.any()):
        missing = {"sensitivity": "real", "specificity": "synthetic"}.get(measure, "real and synthetic")
        return replace(found, reason=f"no reader judged {missing} images")
    return found if found.value is not None else replace(found, reason="no reader")


def median_seconds(
    grid: Grid, rows: NDArray[np.bool_] | None = None, *, draws: int, seed: int
) -> Estimate:  # fmt: skip
    """Return the median time of all answers, with an interval that draws readers and images.

    Both are drawn with replacement, independently (Owen, Annals of Applied Statistics 1, 2007, 386: somewhat
    wider than it need be).
    """
    times = grid.seconds if rows is None else grid.seconds[rows]
    readers, images = times.shape
    flat = times.ravel()
    known = ~np.isnan(flat)
    if not known.any():
        return Estimate(value=None, readers=readers, images=images, reason="no reader")
    value = float(np.median(flat[known]))
    if min(readers, images) < 2:
        return Estimate(value=value, readers=readers, images=images, reason="one reader or one image")
    order = np.argsort(flat[known], kind="stable")
    rising = flat[known][order]
    rng = np.random.default_rng([seed, draws])
    found = np.empty(draws)
    for draw in range(draws):
        people = rng.multinomial(readers, np.full(readers, 1 / readers))
        pictures = rng.multinomial(images, np.full(images, 1 / images))
        heaped = np.cumsum(np.multiply.outer(people, pictures).ravel()[known][order])
        found[draw] = rising[np.searchsorted(heaped, heaped[-1] / 2)]
    low, high = (float(end) for end in np.quantile(found, [0.025, 0.975]))
    return Estimate(value=value, low=low, high=high, readers=readers, images=images)


def reader_scores(grid: Grid) -> list[ReaderScore]:
    """Return every reader's own figures, with intervals for other images of the same kind."""
    found: list[ReaderScore] = []
    for row, reader in enumerate(grid.readers):
        (hits, real), (rejected, synthetic) = (
            (int(np.nansum(cells)), int((~np.isnan(cells)).sum()))
            for cells in (grid.correct[row, ~grid.synthetic], grid.correct[row, grid.synthetic])
        )
        d_prime, criterion = signal(hits, real, synthetic - rejected, synthetic)
        times = grid.seconds[row][~np.isnan(grid.seconds[row])]
        found.append(
            ReaderScore(
                reader=reader.reader, specialty=reader.specialty, years=reader.years,
                accuracy=share(hits + rejected, real + synthetic), sensitivity=share(hits, real),
                specificity=share(rejected, synthetic), d_prime=d_prime, criterion=criterion,
                seconds_mean=float(times.mean()) if len(times) else None,
                seconds_median=float(np.median(times)) if len(times) else None,
            )
        )  # fmt: skip
    return found


def signal(hits: int, real: int, alarms: int, synthetic: int) -> tuple[Number, Number]:
    """Return d' and criterion of one reader.

    Args:
        hits: Real images called real.
        real: Real images judged.
        alarms: Synthetic images called real.
        synthetic: Synthetic images judged.
    """
    from scipy.stats import norm

    if not real or not synthetic:
        none = Number(value=None, reason="needs real and synthetic images")
        return none, none
    hit, alarm = (hits + 0.5) / (real + 1), (alarms + 0.5) / (synthetic + 1)
    a, b = float(norm.ppf(hit)), float(norm.ppf(alarm))
    variance = sum(
        p * (1 - p) / (n * float(norm.pdf(z)) ** 2) for p, n, z in ((hit, real, a), (alarm, synthetic, b))
    )
    reach = _Z * math.sqrt(variance)
    d, c = a - b, -(a + b) / 2
    return Number(value=d, low=d - reach, high=d + reach), Number(
        value=c, low=c - reach / 2, high=c + reach / 2
    )


def _signal(grid: Grid, measure: Literal["d_prime", "criterion"]) -> Scores:
    """Return d' or criterion of every reader, with influences by the delta method."""
    from scipy.stats import norm

    values = np.zeros(len(grid.readers))
    influence = np.full(grid.said_real.shape, np.nan)
    for synthetic in (False, True):
        cells = grid.said_real[:, grid.synthetic == synthetic]
        n = (~np.isnan(cells)).sum(1)
        called = np.where(n > 0, (np.nansum(cells, 1) + 0.5) / (n + 1), np.nan)
        z = norm.ppf(called)
        sign = (-1.0 if synthetic else 1.0) if measure == "d_prime" else -0.5
        values += sign * z
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = sign / norm.pdf(z) / (n + 1)
            deviation = cells - (np.nansum(cells, 1) / n)[:, None]
        influence[:, grid.synthetic == synthetic] = slope[:, None] * deviation
    return Scores(values=values, influence=influence, strata=grid.synthetic.astype(np.intp))


def fidelity(grid: Grid) -> dict[str, Estimate]:
    """Return the mean fidelity score of real and of synthetic images, and their difference.

    Empty if nobody gave a score.
    """
    if np.isnan(grid.fidelity).all():
        return {}
    strata = grid.synthetic.astype(np.intp)
    found: dict[str, Estimate] = {}
    kinds: list[Scores] = []
    for name, kind in (("real", 0), ("synthetic", 1)):
        kinds.append(scores_of(grid.fidelity[:, strata == kind], strata[strata == kind], scale="identity"))
        found[name] = estimate(kinds[-1])
    real, synthetic = kinds
    influence = np.full(grid.fidelity.shape, np.nan)
    influence[:, strata == 0], influence[:, strata == 1] = real.influence, -synthetic.influence
    gap = Scores(values=real.values - synthetic.values, influence=influence, strata=strata)
    return found | {"real_less_synthetic": estimate(gap)}


def condition_difference(first: Grid, second: Grid) -> Estimate:
    """Return balanced accuracy in the second condition less that in the first, of readers who saw both.

    An image shown in both conditions is one image; images of their own are drawn in each condition apart.
    """
    common = [one for one in first.readers if one in second.readers]
    every = [scores(grid, "balanced") for grid in (first, second)]
    rows = [[grid.readers.index(one) for one in common] for grid in (first, second)]
    before, after = (
        Scores(values=one.values[row], influence=one.influence[row], strata=one.strata)
        for one, row in zip(every, rows, strict=True)
    )
    if first.images == second.images:
        influence, strata = after.influence - before.influence, before.strata
    else:
        influence = np.concatenate([-before.influence, after.influence], 1)
        strata = np.concatenate([before.strata, after.strata + 2])
    found = estimate(Scores(values=after.values - before.values, influence=influence, strata=strata))
    return found if found.value is not None else replace(found, reason="no reader judged both kinds in both")


def convincing(grid: Grid, *, count: int = 3) -> tuple[list[Convincing], list[Convincing]]:
    """Return the synthetic images most often, and those least often, taken for real; ties by name.

    No image stands in both lists: there are fewer than `count` in each where images are few.
    """
    found: list[Convincing] = []
    for column in np.flatnonzero(grid.synthetic):
        cells = grid.said_real[:, column]
        called = share(int(np.nansum(cells)), int((~np.isnan(cells)).sum()))
        found.append(Convincing(image=grid.images[column], called_real=called))
    count = min(count, len(found) // 2)
    most = sorted(found, key=lambda one: (-(one.called_real.value or 0.0), one.image))
    least = sorted(found, key=lambda one: (one.called_real.value or 0.0, one.image))
    return most[:count], least[:count]


def rushed(answers: Sequence[Answer], *, below: float = 1.0) -> int:
    """Return how many answers came in less time than it takes to look, in seconds."""
    return sum(one.seconds < below for one in answers)
