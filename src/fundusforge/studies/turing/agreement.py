"""Do readers agree: with each other (Fleiss' kappa), and with themselves on images shown twice (Cohen's)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.statistics import bootstrap
from fundusforge.studies.turing.answers import Answer, Floats, Grid
from fundusforge.studies.turing.measures import Share, share


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A kappa or a share of agreement; `reason` says why value or interval is missing."""

    value: float | None
    low: float | None = None
    high: float | None = None
    readers: int
    images: int
    """Images judged by all readers, or pairs of showings."""
    interval: str = ""
    """How the interval was made."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """Agreement of readers with themselves."""

    percent: Agreement
    """Share of images called the same both times; readers weigh by their pairs."""
    kappa: Agreement
    """Cohen's kappa of first and second answer over all pairs."""
    by_reader: tuple[tuple[str, Share, float | None], ...]
    """Reader, share called the same, kappa; None where one answer was given throughout."""


def fleiss_kappa(counts: Floats, weights: Floats | None = None) -> float | None:
    """Return Fleiss' kappa (Psychological Bulletin 76, 1971, 378).

    Args:
        counts: (N, K) readers who put image n into category k; the same number of readers, two or more, for
            every image.
        weights: (N,) how often each image counts; once if None.

    Returns:
        None where all answers are the same: chance agreement is 1 then.
    """
    readers = counts[0].sum()
    weights = np.ones(len(counts)) if weights is None else weights
    agree = ((counts**2).sum(1) - readers) / (readers * (readers - 1))
    shares = weights @ counts / (weights.sum() * readers)
    chance = float((shares**2).sum())
    if chance > 1 - 1e-12:
        return None
    return (float(weights @ agree) / float(weights.sum()) - chance) / (1 - chance)


def cohen_kappa(first: Floats, second: Floats, weights: Floats | None = None) -> float | None:
    """Return Cohen's kappa of two rows of 0 and 1 (Educ Psychol Meas 20, 1960); None as `fleiss_kappa`."""
    counts = np.ones(len(first)) if weights is None else weights
    part = counts / counts.sum()
    a, b = float(part @ first), float(part @ second)
    chance = a * b + (1 - a) * (1 - b)
    if chance > 1 - 1e-12:
        return None
    return (float(part @ (first == second)) - chance) / (1 - chance)


def between(grid: Grid, rows: NDArray[np.bool_] | None = None, *, draws: int, seed: int) -> Agreement:
    """Return Fleiss' kappa of a group of readers over the images that all of them judged.

    The interval draws images, real and synthetic ones apart: it holds for these readers on other images.
    """
    said = grid.said_real if rows is None else grid.said_real[rows]
    whole = ~np.isnan(said).any(0)
    readers, images = len(said), int(whole.sum()) if len(said) else 0
    if readers < 2 or not images:
        what = "fewer than two readers" if readers < 2 else "no image was judged by all readers"
        return Agreement(value=None, readers=readers, images=images, reason=what)
    called = said[:, whole].sum(0)
    counts = np.stack([called, readers - called], 1)
    value = fleiss_kappa(counts)
    if value is None:
        return Agreement(value=None, readers=readers, images=images, reason="all answers are the same")
    kinds = [grid.synthetic[whole] == kind for kind in (False, True)]
    kinds = [kind for kind in kinds if kind.any()]
    names = np.array(grid.images, object)[whole]
    if min(int(kind.sum()) for kind in kinds) < 2:
        return Agreement(value=value, readers=readers, images=images, reason="one image of a kind")

    def statistic(weights: Sequence[Floats]) -> float | None:
        every = np.zeros(images)
        for kind, each in zip(kinds, weights, strict=True):
            every[kind] = each
        return fleiss_kappa(counts, every)

    found = bootstrap(statistic, *([str(n) for n in names[kind]] for kind in kinds), seed=seed, draws=draws)
    how = f"95% percentile bootstrap of {images} images within real and synthetic, {draws} draws"
    return Agreement(value=value, low=found.low, high=found.high, readers=readers, images=images,
                     interval="" if found.reason else how, reason=found.reason)  # fmt: skip


def within(pairs: Sequence[tuple[Answer, Answer]], *, draws: int, seed: int) -> Repeated | None:
    """Return how readers agree with themselves, None if nothing was shown twice; intervals draw readers."""
    if not pairs:
        return None
    first, second = (np.array([float(pair[k].answer == "real") for pair in pairs]) for k in (0, 1))
    people = [one.reader for one, _ in pairs]
    same = (first == second).astype(np.float64)
    by_reader: list[tuple[str, Share, float | None]] = []
    for name in sorted(set(people)):
        mine = np.array([each == name for each in people])
        by_reader.append(
            (name, share(int(same[mine].sum()), int(mine.sum())), cohen_kappa(first[mine], second[mine]))
        )

    def agreement(statistic: str) -> Agreement:
        def value(weights: Sequence[Floats]) -> float | None:
            if statistic == "percent":
                return float(weights[0] @ same / weights[0].sum())
            return cohen_kappa(first, second, weights[0])

        size: dict[str, Any] = {"readers": len(by_reader), "images": len(pairs)}
        point = value([np.ones(len(pairs))])
        if point is None:
            return Agreement(value=None, **size, reason="all answers are the same")
        if len(by_reader) < 2:
            return Agreement(value=point, **size, reason="one reader: nothing says how readers differ")
        found = bootstrap(value, people, seed=seed, draws=draws)
        how = f"95% percentile bootstrap of {len(by_reader)} readers, {draws} draws"
        return Agreement(value=point, low=found.low, high=found.high, **size,
                         interval="" if found.reason else how, reason=found.reason)  # fmt: skip

    return Repeated(percent=agreement("percent"), kappa=agreement("kappa"), by_reader=tuple(by_reader))
