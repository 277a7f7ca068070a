"""How different are paintings of one mask? A painter that reads its masks alone paints one picture again.

Structural similarity inside the field of view, of paintings of one eye that differ in noise, grading vector
and colours. Photographs of different eyes say how alike two eyes are that have nothing in common; paintings
of different eyes, whether the painter varies from eye to eye as cameras and people do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.diversity import SIZE, draw_pairs
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.ssim import ssim
from fundusforge.evaluate.statistics import Interval, Statistic, Weights, bootstrap
from fundusforge.studies.drgan.eyes import Bench, Eyes, Places
from fundusforge.studies.drgan.result import Result, Table, shown

_SAME = 0.995
"""Similarity from which paintings of one mask are called one picture."""


def diversity(bench: Bench, *, most: int = 50) -> Result:
    """Compare paintings of one eye with each other, and write `diversity.json`.

    Figures: `drgan_ssim_same_mask`, and `drgan_ssim_eyes` of paintings of different eyes; beside both the
    similarity of photographs of different eyes.

    Args:
        bench: Photographs and paintings.
        most: Eyes whose paintings are compared, evenly spread over the grades.

    Raises:
        DatasetError: A picture cannot be read.
        OSError: The folder of the study cannot be written.
    """
    side = min(bench.real.side, SIZE)
    places = bench.spread(most)
    turns = bench.turns[:, places]  # (each, eyes)
    painted, real = replace(bench.painted, side=side), replace(bench.real.some(places), side=side)
    bench.tell(f"similarity of {turns.size} paintings of {len(places)} eyes")
    same = np.array([[a, b] for eye in turns.T for a, b in combinations(eye.tolist(), 2)])
    others = draw_pairs(real.patients, seed=bench.config.seed, count=len(same))
    if not len(others):
        raise ValueError("the held-out eyes are all of one patient")
    ours = _compared(painted, same)
    different = _compared(painted, turns[0][others])
    theirs = _compared(real, others)
    owners = np.repeat(np.arange(len(places)), len(same) // len(places))
    beside = _measured(bench, theirs, _mean_of(theirs, others), real.patients)
    common: dict[str, Any] = {
        "better": "none", "n_real": len(real), "extractor": "pixels, RGB, inside the field of view",
        "resize": f"padded to a square, {side} px, area", "seed": bench.config.seed,
        **{f"real{end}": beside[key] for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))},
    }  # fmt: skip
    figures = [
        Figure(
            name=f"{bench.config.name}_ssim_same_mask",
            title="Structural similarity of two paintings of one mask", n=int(turns.size), **common,
            **_measured(bench, ours, _mean_of(ours, owners[:, None]), real.patients),
            notes=(f"{len(ours)} pairs; standard deviation {ours.std():.3g}.",),
        ),
        Figure(
            name=f"{bench.config.name}_ssim_eyes",
            title="Structural similarity of paintings of different eyes", n=len(places), **common,
            **_measured(bench, different, _mean_of(different, others), real.patients),
            notes=(f"{len(others)} pairs, the same eyes as of the photographs.",),
        ),
    ]  # fmt: skip
    return bench.result(
        "diversity", tables=(_table(bench, figures),), figures=figures,
        sentences=(_sentence(float(ours.mean())),), compared=len(places),
    )  # fmt: skip


def _compared(images: Eyes, pairs: Places) -> NDArray[np.float64]:
    """Return the similarity of every pair of places, where both show the eye."""
    shown_ = {
        int(place): (images.image(int(place)), images.field_of_view(int(place))) for place in np.unique(pairs)
    }
    values: list[float] = []
    for first, second in pairs.tolist():
        (one, inside), (two, also) = shown_[first], shown_[second]
        values.append(ssim(one, two, field_of_view=inside & also))
    return np.array(values)


def _mean_of(values: NDArray[np.float64], owners: Places) -> Statistic:
    """Mean of pairs as a function of how often each eye counts; owners (pairs, 1 or 2) are their eyes."""

    def mean(weights: Sequence[Weights]) -> float | None:
        counts = weights[0][owners].prod(axis=1)
        total = float(counts.sum())
        return float(counts @ values) / total if total > 0 else None

    return mean


def _measured(
    bench: Bench, values: NDArray[np.float64], statistic: Statistic, patients: Sequence[str]
) -> dict[str, Any]:
    interval: Interval = bootstrap(statistic, patients, seed=bench.config.seed, draws=bench.config.draws)
    return measured(float(values.mean()), interval)


def _table(bench: Bench, figures: Sequence[Figure]) -> Table:
    rows = [("Pairs", "SSIM")]
    rows += [(one.title.removeprefix("Structural similarity of "), shown(one.value, one.low, one.high))
             for one in figures]  # fmt: skip
    one = figures[0]
    rows.append(("photographs of different eyes", shown(one.real, one.real_low, one.real_high)))
    return Table(title=f"How alike the paintings of {bench.model} are", rows=tuple(rows))


def _sentence(value: float) -> str:
    if value >= _SAME:
        return "Paintings of one mask are one and the same picture: noise and vectors change nothing."
    return f"Two paintings of one mask are alike by {value:.3f}, where 1 would be one and the same picture."
