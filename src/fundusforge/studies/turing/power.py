"""How many readers and images a study needs, by simulation with the tests that will be used.

Equivalence: the share of simulated studies whose balanced accuracy is shown to lie within the margin of 1/2
(`fundusforge.studies.turing.equivalence`). Difference: the share in which the GEE finds the groups to differ
(`fundusforge.studies.turing.gee.welch`, its closed form for complete answers). Every power is a share of
simulated studies and has an interval of its own; the size that the search finds is simulated once more with
other draws, since a search favours a lucky one.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fundusforge import __version__
from fundusforge.audit.tally import wilson
from fundusforge.config import to_json
from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.turing.crossed import mean, scores_of
from fundusforge.studies.turing.equivalence import p_values
from fundusforge.studies.turing.gee import welch
from fundusforge.studies.turing.simulation import Group, Spread, draw_correct

_CELLS = 2_000_000
"""Answers simulated at a time."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The study that is planned."""

    goal: Literal["equivalence", "difference"] = "equivalence"
    """To show that readers guess, within the margin; or that two groups differ."""
    group_readers: int = 14
    """Readers of a group: there is one group for equivalence, two for a difference."""
    images: int = 100
    """Images, real and synthetic together."""
    prevalence: float = 0.5
    """Share of them that is synthetic."""
    accuracy: tuple[float, ...] = (0.5,)
    """True balanced accuracy, of each group: one number for equivalence, two for a difference."""
    lean: float = 0.17
    """True sensitivity less accuracy: how much readers lean towards calling images real."""
    outcome: Literal["accuracy", "sensitivity", "specificity"] = "accuracy"
    """What is compared between two groups."""
    reader_sd: float = Spread.reader
    """Between readers, ability on the logit scale."""
    lean_sd: float = Spread.leaning
    """Between readers, leaning towards calling images real, on the logit scale."""
    image_sd: float = Spread.image
    """Between images, difficulty on the logit scale."""
    margin: float = 0.1
    """Largest distance from 1/2 that counts as guessing."""
    level: float = 0.05
    """Of each one-sided test of equivalence, or of the two-sided test of a difference."""
    power: float = 0.8
    """Wanted."""
    vary: Literal["readers", "images"] = "readers"
    """What to search the smallest number of."""
    most: int = 400
    """Largest number to try."""
    studies: int = 2000
    """Simulated studies for each size."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        wanted = 1 if self.goal == "equivalence" else 2
        if len(self.accuracy) != wanted:
            raise ValueError(f"{self.goal} needs {wanted} values of accuracy, not {len(self.accuracy)}")
        for share in (*self.accuracy, self.prevalence, self.power):
            if not 0 < share < 1:
                raise ValueError(f"accuracy, prevalence and power must be in (0, 1), not {share}")
        for value in self.accuracy:
            if not (0 < value + self.lean < 1 and 0 < value - self.lean < 1):
                raise ValueError(f"accuracy {value} with lean {self.lean} gives shares outside (0, 1)")
        if not 0 < self.margin < 0.5 or not 0 < self.level < 0.5:
            raise ValueError("margin and level must be in (0, 0.5)")
        if self.group_readers < 2 or self.studies < 100 or self.seed < 0 or self.most < 2:
            raise ValueError("expected two readers or more, 100 studies or more, most >= 2 and seed >= 0")
        if min(_kinds(self.images, self.prevalence)) < 2:
            raise ValueError(f"{self.images} images do not give two or more of each kind")
        Spread(reader=self.reader_sd, leaning=self.lean_sd, image=self.image_sd)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The power of one size, with the interval that the simulation leaves."""

    readers: int
    """Of each group."""
    images: int
    power: float
    low: float
    high: float
    studies: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study of a given size can show, and the smallest size that suffices."""

    asked: Point
    """At the size asked for."""
    tried: tuple[Point, ...]
    """All sizes of the search, rising."""
    smallest: Point | None
    """The smallest size that reaches the wanted power, simulated anew; None if none up to `most` does."""
    settings: dict[str, Any]
    command: str
    version: str
    schema: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return json.loads(to_json(self))

    def lines(self) -> list[dict[str, Any]]:
        """Return what `docs/results/record.py` takes."""
        goal = self.settings["goal"]
        found = [(f"turing_power_{goal}", self.asked)]
        if self.smallest is not None:
            found.append((f"turing_power_{goal}_smallest", self.smallest))
        return [
            {"name": name, "value": one.power, "low": one.low, "high": one.high, "n": one.studies,
             "unit": f"share of simulated studies, {one.readers} readers a group, {one.images} images",
             "command": self.command}
            for name, one in found
        ]  # fmt: skip

    def sentences(self) -> list[str]:
        """Return the answer in plain words."""
        wanted, vary, goal = self.settings["power"], self.settings["vary"], self.settings["goal"]
        what = {
            "equivalence": f"that readers guess within {100 * self.settings['margin']:g} percentage points",
            "difference": f"that the groups differ in {self.settings['outcome']}",
        }[goal]
        found = [f"{_size(self.asked)} show {what} with power {_power(self.asked)}."]
        if self.smallest is None:
            other = "images" if vary == "readers" else "readers"
            return [*found, f"No number of {vary} up to {self.settings['most']} reaches {wanted:.0%}: take "
                            f"more {other}, or ask for less."]  # fmt: skip
        return [
            *found,
            f"The smallest number of {vary} found for {wanted:.0%} is {getattr(self.smallest, vary)}: "
            f"{_size(self.smallest)}; simulated anew, power {_power(self.smallest)}.",
        ]

    def text(self) -> str:
        """Return table and answer for a terminal."""
        rows = [("Readers a group", "Images", "Power", "95% interval (simulation)")]
        rows += [
            (str(one.readers), str(one.images), f"{one.power:.3f}", f"{one.low:.3f} to {one.high:.3f}")
            for one in self.tried
        ]
        return "\n\n".join([laid_out(rows, markdown=False), "\n".join(self.sentences())])


def plan(
    config: PlanConfig, *, command: str | None = None, progress: Callable[[str], Any] | None = None
) -> Plan:
    """Simulate the study at the size asked for, and search the smallest size with the wanted power.

    Args:
        config: The study.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.
    """
    known: dict[int, Point] = {}
    name = {"readers": "group_readers", "images": "images"}[config.vary]

    def at(size: int) -> Point:
        if size not in known:
            known[size] = power_of(replace(config, **{name: size}))
            if progress:
                progress(f"{size} {config.vary}: power {known[size].power:.3f}")
        return known[size]

    asked = at(getattr(config, name))
    least = 2 if config.vary == "readers" else _fewest(config.prevalence)
    found = _smallest(lambda size: at(size).power >= config.power, least, max(config.most, least),
                      start=getattr(config, name))  # fmt: skip
    again = None
    if found is not None:
        again = power_of(replace(config, **{name: found, "seed": config.seed + 1}))
    return Plan(
        asked=asked, tried=tuple(known[size] for size in sorted(known)), smallest=again,
        settings=json.loads(to_json(config)), command=command or _command(config), version=__version__,
    )  # fmt: skip


def power_of(config: PlanConfig) -> Point:
    """Return the power of the study as it stands."""
    real, synthetic = _kinds(config.images, config.prevalence)
    groups = [
        Group(specialty=f"group {number}", readers=config.group_readers, sensitivity=accuracy + config.lean,
              specificity=accuracy - config.lean)
        for number, accuracy in enumerate(config.accuracy)
    ]  # fmt: skip
    spread = Spread(reader=config.reader_sd, leaning=config.lean_sd, image=config.image_sd)
    rng = np.random.default_rng([config.seed, config.group_readers, config.images])
    batch = max(1, _CELLS // (config.group_readers * len(groups) * config.images))
    hits = done = 0
    while done < config.studies:
        some = min(batch, config.studies - done)
        correct = draw_correct(groups, spread, real=real, synthetic=synthetic, rng=rng, studies=some)
        hits, done = hits + int(_shown(config, correct.astype(np.float64), real).sum()), done + some
    low, high = wilson(hits, done)
    return Point(readers=config.group_readers, images=config.images, power=hits / done, low=low, high=high,
                 studies=done)  # fmt: skip


def _shown(config: PlanConfig, correct: np.ndarray, real: int) -> np.ndarray:
    """Return (studies,) whether each shows what it is meant to."""
    from scipy.stats import t

    strata = (np.arange(correct.shape[-1]) >= real).astype(np.intp)
    if config.goal == "equivalence":
        found = mean(scores_of(correct, strata, balanced=True))
        p, _ = p_values(found.value, found.variance, found.degrees, margin=config.margin)
        return p < config.level
    columns = {"accuracy": strata >= 0, "sensitivity": strata == 0, "specificity": strata == 1}
    shares = correct[..., columns[config.outcome]].mean(-1)
    effect, variance, degrees = welch(shares[:, config.group_readers :], shares[:, : config.group_readers])
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(effect) / np.sqrt(variance), degrees)
    return np.nan_to_num(p, nan=1.0) < config.level


def _smallest(enough: Callable[[int], bool], least: int, most: int, *, start: int) -> int | None:
    """Return the smallest number that suffices, if a larger one always suffices too; None if `most` does not.

    Doubles or halves from the start until the answer lies between two numbers, then halves what is between.
    """
    here = min(max(start, least), most)
    if enough(here):
        high = here
        while high > least and enough(low := max(least, high // 2)):
            high = low
        if high == least:
            return least
        low = max(least, high // 2)
    else:
        low = here
        while low < most and not enough(high := min(most, 2 * low)):
            low = high
        if low == most:
            return None
        high = min(most, 2 * low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _kinds(images: int, prevalence: float) -> tuple[int, int]:
    """Return how many images are real and synthetic."""
    synthetic = round(images * prevalence)
    return images - synthetic, synthetic


def _fewest(prevalence: float) -> int:
    """Return the fewest images from which on two or more of each kind are there."""
    fewest = 4
    while min(_kinds(fewest, prevalence)) < 2:
        fewest += 1
    return fewest


def _size(one: Point) -> str:
    return f"{one.readers} readers a group and {one.images} images"


def _power(one: Point) -> str:
    error = math.sqrt(one.power * (1 - one.power) / one.studies)
    return (
        f"{one.power:.3f} (Monte-Carlo standard error {error:.3f}, 95% interval {one.low:.3f} to "
        f"{one.high:.3f}, {one.studies} studies)"
    )


def _command(config: PlanConfig) -> str:
    parts = ["fundusforge", "turing", "plan"]
    for name, field in PlanConfig.__dataclass_fields__.items():
        if (value := getattr(config, name)) != field.default:
            parts += [
                "--" + name.replace("_", "-"),
                *map(str, value if isinstance(value, tuple) else [value]),
            ]
    return shlex.join(parts)
