"""Readers of a known kind: simulated studies with crossed random effects.

On the logit scale, reader i is right on image j with

    intercept(group, truth) + ability_i + (1 if real else -1) * leaning_i + difficulty_j

all three drawn from normal distributions; times are lognormal. Groups are described by the shares that a
study shows, *marginal* sensitivity and specificity over all readers and images; the intercept that gives them
is found by Gauss-Hermite quadrature. The odds ratio between two groups' marginal shares is what a GEE
estimates.

The defaults are fitted to Kim et al. 2022, who print standard deviations over 40 readers of 12.3 % for
accuracy, 18.8 % for sensitivity and 25.5 % for specificity: with 0.65 for ability and 1.05 for leaning,
simulated readers of 50 + 50 images have 12, 21 and 22 %. How images differ the paper does not print; 0.5 is
assumed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.studies.turing.answers import Answer, Answers, Floats, Reader

NODES = 64
"""Of the quadrature."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A kind of readers."""

    specialty: str
    readers: int
    sensitivity: float = 0.5
    """Marginal share of real images called real, in (0, 1)."""
    specificity: float = 0.5
    """Marginal share of synthetic images called synthetic, in (0, 1)."""
    years: float = 1.0
    seconds: float = 10.0
    """Median time of an answer."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.readers < 1 or not (0 < self.sensitivity < 1 and 0 < self.specificity < 1):
            raise ValueError("expected one reader or more, and sensitivity and specificity in (0, 1)")
        if self.seconds <= 0:
            raise ValueError(f"seconds must be above 0, not {self.seconds}")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviations of the random effects; of right answers on the logit scale, of times on the log."""

    reader: float = 0.65
    """Ability."""
    leaning: float = 1.05
    """Leaning towards calling images real."""
    image: float = 0.5
    """Difficulty."""
    reader_seconds: float = 0.4
    seconds: float = 0.5
    """Of one answer."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name, value in vars(self).items():
            if not 0 <= value < 10:
                raise ValueError(f"{name} must be 0 or more and below 10, not {value}")

    @property
    def total(self) -> float:
        """Of all effects on one right answer together."""
        return math.hypot(self.reader, self.leaning, self.image)


def marginal(intercept: float, sd: float) -> float:
    """Return the mean over normal effects of a share with this intercept on the logit scale.

    >>> round(marginal(1.0, 0.0), 4)
    0.7311
    """
    from scipy.special import expit

    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return float(weights @ expit(intercept + sd * nodes) / weights.sum())


def conditional(share: float, sd: float) -> float:
    """Return the intercept on the logit scale whose marginal share this is."""
    from scipy.optimize import brentq

    return float(brentq(lambda at: marginal(at, sd) - share, -60, 60))  # pyright: ignore[reportArgumentType]


def draw_correct(
    groups: Sequence[Group], spread: Spread, *, real: int, synthetic: int, rng: np.random.Generator,
    studies: int = 1,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return right answers (studies, readers, images) of simulated studies, real images first."""
    return rng.random((studies, _count(groups), real + synthetic)) < _chances(
        groups, spread, real=real, synthetic=synthetic, rng=rng, studies=studies
    )


def simulate(
    groups: Sequence[Group], *, real: int = 50, synthetic: int = 50, repeated: int = 0,
    spread: Spread | None = None, condition: str = "all", seed: int = 0,
) -> Answers:  # fmt: skip
    """Return one simulated study.

    Args:
        groups: Kinds of readers.
        real: Real images.
        synthetic: Synthetic images.
        repeated: Images that every reader sees a second time, the first ones after shuffling.
        spread: Random effects; `Spread()` if None.
        condition: What its one condition is called.
        seed: Of every draw.
    """
    spread = spread or Spread()
    rng = np.random.default_rng([seed, real, synthetic])
    chances = _chances(groups, spread, real=real, synthetic=synthetic, rng=rng, studies=1)[0]
    images = real + synthetic
    names = [f"i{number:04d}" for number in rng.permutation(images)]
    order = rng.permutation(images)
    row = [*((place, 1) for place in order), *((place, 2) for place in order[:repeated])]
    kinds = [group for group in groups for _ in range(group.readers)]
    pace = rng.normal(0, spread.reader_seconds, len(kinds))
    readers: list[Reader] = []
    answers: list[Answer] = []
    for number, group in enumerate(kinds):
        name = f"r{number + 1:02d}"
        readers.append(
            Reader(reader=name, specialty=group.specialty, years=group.years,
                   started="2024-05-31T09:00:00", finished="2024-05-31T10:00:00")
        )  # fmt: skip
        right = rng.random(len(row)) < chances[number, [place for place, _ in row]]
        times = group.seconds * np.exp(pace[number] + rng.normal(0, spread.seconds, len(row)))
        for position, (place, showing) in enumerate(row):
            truth, other = ("real", "synthetic") if place < real else ("synthetic", "real")
            answers.append(
                Answer(
                    reader=name, position=position + 1, image=names[place], truth=truth, condition=condition,
                    showing=showing, answer=truth if right[position] else other,
                    seconds=round(float(times[position]), 3),
                )
            )  # fmt: skip
    return Answers(readers=tuple(readers), answers=tuple(answers))


def _count(groups: Sequence[Group]) -> int:
    return sum(group.readers for group in groups)


def _chances(
    groups: Sequence[Group], spread: Spread, *, real: int, synthetic: int, rng: np.random.Generator,
    studies: int,
) -> Floats:  # fmt: skip
    """Return (studies, readers, images) chances to be right."""
    from scipy.special import expit

    sign = np.repeat([1.0, -1.0], [real, synthetic])
    known = {
        share: conditional(share, spread.total)
        for group in groups for share in (group.sensitivity, group.specificity)
    }  # fmt: skip
    base = np.concatenate([
        np.tile(np.repeat([known[group.sensitivity], known[group.specificity]], [real, synthetic]),
                (group.readers, 1))
        for group in groups
    ])  # fmt: skip
    ability = rng.normal(0, spread.reader, (studies, len(base), 1))
    leaning = rng.normal(0, spread.leaning, (studies, len(base), 1))
    difficulty = rng.normal(0, spread.image, (studies, 1, real + synthetic))
    return np.asarray(expit(base + ability + sign * leaning + difficulty))
