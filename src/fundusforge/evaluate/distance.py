"""A distance between two sets of images as a figure: value, interval, floor, and what to compare it with.

Most distances between sets shrink as the sets grow, whatever the images are. So the floor, made of halves
of the real set, cannot be set against the value without care: the notes give the distance at the floor's
own size as well. For the same reason the bootstrap is centred (`fundusforge.evaluate.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Better, Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor

Compare = Callable[[Features, Features], Statistic]
"""The vectors of two sets, to a distance as a function of two arrays of weights."""
_MATCHED = 20
"""Random halves over which the distance at the floor's size is averaged."""


@dataclass(frozen=True, kw_only=True)
class Distance:
    """One way to compare two sets by their vectors."""

    name: str
    title: str
    better: Better
    compare: Compare
    least: int
    """Images below which, in either set, it is refused."""
    why: str
    """Why so many images are needed, in words."""
    floored: Compare | None = None
    """Compares real halves, where that is not `compare`."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Range of the figure; an interval does not leave it."""
    notes: tuple[str, ...] = ()


def figure(
    evidence: Evidence, distance: Distance, synthetic: ImageSet, real: ImageSet, *, draws: int | None = None,
    repeats: int | None = None,
) -> Figure:  # fmt: skip
    """Return the distance of the synthetic from the real images, or a figure that says why there is none.

    Args:
        evidence: Extractor, seed and numbers of draws.
        distance: How to compare.
        synthetic: The images to judge.
        real: The images to compare with.
        draws: Fewer bootstrap draws than `evidence.draws`, for a costly distance.
        repeats: Fewer random halves than `evidence.repeats`.
    """
    if reason := refusal(evidence, distance, synthetic, real):
        return Figure(**circumstances(evidence, distance, synthetic, real), value=None, reason=reason)
    first, second = evidence.features(synthetic), evidence.features(real)
    evidence.tell(f"{distance.name}: {len(synthetic)} synthetic against {len(real)} real images")
    statistic = distance.compare(first, second)
    value = statistic([np.ones(len(synthetic)), np.ones(len(real))])
    interval = bootstrap(
        statistic, synthetic.patients, real.patients, seed=evidence.seed, draws=draws or evidence.draws,
        method="centred",
    )  # fmt: skip
    found = measured(value, interval)
    for end in ("low", "high"):
        found[end] = None if found[end] is None else float(np.clip(found[end], *distance.limits))
    alone = (distance.floored or distance.compare)(second, second)
    repeats = repeats or evidence.repeats
    floor = real_floor(alone, real.patients, seed=evidence.seed, repeats=repeats)
    if floor is not None and (half := matched(statistic, synthetic, real, seed=evidence.seed)) is not None:
        note = f"At the floor's size, half of the real patients against as many images: {half:.4g}."
        distance = replace(distance, notes=(*distance.notes, note))
    common = circumstances(evidence, distance, synthetic, real)
    reason = "" if value is not None else "it is not defined for these sets"
    return Figure(**common, **found, floor=floor, reason=reason)


def circumstances(
    evidence: Evidence, distance: Distance, synthetic: ImageSet, real: ImageSet
) -> dict[str, Any]:
    """Return the arguments of `Figure` that do not depend on the outcome."""
    extractor = evidence.extractor
    return {
        "name": distance.name, "title": distance.title, "better": distance.better, "n": len(synthetic),
        "n_real": len(real), "extractor": "none" if extractor is None else extractor.name,
        "resize": "none" if extractor is None else extractor.resize, "seed": evidence.seed,
        "notes": distance.notes,
    }  # fmt: skip


def refusal(evidence: Evidence, distance: Distance, synthetic: ImageSet, real: ImageSet) -> str:
    """Return why the distance is not computed; empty if it is."""
    if evidence.extractor is None:
        return "no extractor was given (--extractor names one)"
    for images, what in ((synthetic, "synthetic"), (real, "real")):
        if len(images) < distance.least:
            return f"{len(images)} {what} images are fewer than the {distance.least} it needs: {distance.why}"
    return ""


def matched(
    statistic: Statistic, synthetic: ImageSet, real: ImageSet, *, seed: int, repeats: int = _MATCHED
) -> float | None:
    """Return the mean distance of random halves of the real patients from as many synthetic images."""
    values: list[float] = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat, 1])
        half, _ = halves(real, rng)
        value = statistic([drawn(synthetic, int(half.sum()), rng), half])
        if value is not None:
            values.append(value)
    return float(np.mean(values)) if values else None


def halves(images: ImageSet, rng: np.random.Generator) -> tuple[Weights, Weights]:
    """Return weights of a random half of the patients, and of the others."""
    names, member = np.unique(np.asarray(images.patients), return_inverse=True)
    chosen = np.zeros(len(names))
    chosen[rng.permutation(len(names))[: len(names) // 2]] = 1.0
    return chosen[member], 1.0 - chosen[member]


def drawn(images: ImageSet, count: int, rng: np.random.Generator, *, among: Weights | None = None) -> Weights:
    """Return weights of patients drawn in random order until they have `count` images, or all patients.

    Args:
        images: The set.
        count: Images wanted; the last patient drawn may bring more.
        rng: Draws.
        among: Draw only patients whose images count here.
    """
    names, member = np.unique(np.asarray(images.patients), return_inverse=True)
    sizes = np.bincount(member, weights=among)
    order = rng.permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(names))
    chosen[order[(before < count) & (sizes[order] > 0)]] = 1.0
    return chosen[member]
