"""Whether a gain can be found at all: the study simulated before it is run, with the study's own test.

Scores are drawn from the binormal model: of photographs without the finding from N(0, 1), with it from
N(sqrt(2) * probit(AUC), 1). Any two models' scores of one photograph share a part, so that their correlation
within a class is as assumed; the area of each trained model varies about its arm's with the deviation of the
seeds. A claim is made where `paired.delong` says so at the level, divided by the number of comparisons (the
first step of Holm's correction, so that the power is not overstated).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from fundusforge.audit.tally import wilson
from fundusforge.studies.augmentation.config import Foreseen
from fundusforge.studies.augmentation.paired import delong

WISHED = 0.8
"""Power that a study should have."""
_MOST = 64
"""Most times the patients at hand that are asked for."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """What a study of this size can find."""

    positives: int
    """Test photographs with the finding, a patient each."""
    negatives: int
    seeds: int
    gain: float
    power: float
    """Share of the simulated studies that find it."""
    low: float
    """95 % Wilson interval."""
    high: float
    false: float
    """Share that claim a gain where there is none."""
    repeats: int


def power(
    positives: int, negatives: int, seeds: int, assumed: Foreseen, *, level: float = 0.05,
    comparisons: int = 1, seed: int = 0,
) -> Power:  # fmt: skip
    """Simulate a study.

    Args:
        positives: Test photographs with the finding.
        negatives: Test photographs without it.
        seeds: Trainings of each arm.
        assumed: Areas, correlation, deviation of the seeds.
        level: Of the family of comparisons.
        comparisons: How many there are.
        seed: Of the draws.

    Raises:
        ValueError: Fewer than two photographs of a class, no seed, no comparison.
    """
    if min(positives, negatives) < 2 or seeds < 1 or comparisons < 1:
        raise ValueError("expected two photographs or more of each class, a seed and a comparison")
    at = level / comparisons
    found = _claims(positives, negatives, seeds, assumed, assumed.gain, at, seed=seed)
    false = _claims(positives, negatives, seeds, assumed, 0.0, at, seed=seed + 1)
    low, high = wilson(found, assumed.repeats)
    return Power(
        positives=positives, negatives=negatives, seeds=seeds, gain=assumed.gain, low=low, high=high,
        power=found / assumed.repeats, false=false / assumed.repeats, repeats=assumed.repeats,
    )  # fmt: skip


def needed(
    positives: int, negatives: int, seeds: Sequence[int], assumed: Foreseen, *, level: float = 0.05,
    comparisons: int = 1, seed: int = 0,
) -> list[Power]:  # fmt: skip
    """Return, for each number of seeds, the power now and of as many more patients as give `WISHED`.

    The patients at hand are doubled until the power suffices; the last row of each number of seeds is that
    which does, or that of 64 times the patients.
    """
    rows: list[Power] = []
    for count in seeds:
        times = 1
        while True:
            one = power(
                positives * times, negatives * times, count, assumed, level=level, comparisons=comparisons,
                seed=seed,
            )  # fmt: skip
            rows.append(one)
            if one.power >= WISHED or times >= _MOST:
                break
            times *= 2
    return rows


def words(one: Power) -> str:
    """Say in a sentence what a study can find."""
    enough = "enough" if one.power >= WISHED else "too few"
    return (
        f"With {one.positives} test photographs with the finding, {one.negatives} without and {one.seeds} "
        f"seeds an arm, a true gain of {one.gain:g} is found in {one.power:.0%} of {one.repeats} simulated "
        f"studies [{one.low:.0%}, {one.high:.0%}], and claimed in {one.false:.1%} where there is none: "
        f"{enough} for {WISHED:.0%}."
    )


def _claims(
    positives: int, negatives: int, seeds: int, assumed: Foreseen, gain: float, level: float, *, seed: int
) -> int:
    """Return in how many simulated studies a gain is claimed."""
    rng = np.random.default_rng([seed, positives, negatives, seeds])
    truth = np.arange(positives + negatives) < positives
    patients = [str(place) for place in range(len(truth))]
    own, shared = math.sqrt(1 - assumed.correlation), math.sqrt(assumed.correlation)
    probit: Any = import_module("scipy.stats").norm.ppf
    count = 0
    for _ in range(assumed.repeats):
        common = rng.standard_normal(len(truth))
        arms: list[Any] = []
        for mean in (assumed.auc + gain, assumed.auc):
            areas = (mean + assumed.seed_deviation * rng.standard_normal(seeds)).clip(0.01, 0.995)
            shift = math.sqrt(2) * probit(areas)
            noise = own * rng.standard_normal((seeds, len(truth))) + shared * common
            arms.append(noise + shift[:, None] * truth)
        test = delong(arms[0], arms[1], truth, patients)
        count += test.p < level and test.gain > 0
    return count
