"""A distance between two sets of images as a figure: value, interval, floor, and what to compare it with.

Most distances between sets shrink as the sets grow, whatever the images are. So the floor, made of halves
of the real set, cannot be set against the value: it is set against the distance at its own size (`matched`).
For the same reason the bootstrap is centred (`fundusforge.evaluate.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Better, Figure, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor

Compare = Callable[[Features, Features], Statistic]
"""The vectors of two sets, to a distance as a function of two arrays of weights."""


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
    unbiased: bool = False
    """Whether it is expected to be the same for any number of images, so that subgroups can have it."""
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
    if distance.unbiased:
        evidence.keep(
            distance.name, (_against_all(statistic, len(real), distance.least), synthetic.records), None
        )
    found = measured(value, interval)
    for end in ("low", "high"):
        found[end] = None if found[end] is None else float(np.clip(found[end], *distance.limits))
    halved = _halved(real, 2 * len(synthetic), seed=evidence.seed)
    if len(halved) < len(real):
        note = f"Floor: {len(halved)} of the real images, so that a half has no more than the synthetic set."
        distance = replace(distance, notes=(*distance.notes, note))
        second = evidence.features(halved)
        statistic = distance.compare(first, second)
    alone = distance.compare(second, second)
    often: dict[str, int] = {"seed": evidence.seed, "repeats": repeats or evidence.repeats}
    common = circumstances(evidence, distance, synthetic, real)
    return Figure(
        **common, **found, floor=real_floor(alone, halved.patients, **often),
        matched=matched(statistic, synthetic, halved, **often),
        reason="" if value is not None else "it is not defined for these sets",
    )  # fmt: skip


def _against_all(statistic: Statistic, real: int, least: int) -> Statistic:
    """Return the distance of some synthetic images from all real ones; None for fewer than `least`."""

    def some(weights: Sequence[Weights]) -> float | None:
        return None if weights[0].sum() < least else statistic([weights[0], np.ones(real)])

    return some


def _halved(real: ImageSet, most: int, *, seed: int) -> ImageSet:
    """Return the real images of which the floor is made: all, or about `most` of them, patients whole."""
    if len(real) <= most:
        return real
    kept = drawn(real, most, np.random.default_rng([seed, 3]))
    records = [record for record, weight in zip(real.records, kept, strict=True) if weight]
    return ImageSet(folder=real.folder, records=records)


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
    statistic: Statistic, synthetic: ImageSet, real: ImageSet, *, seed: int, repeats: int
) -> float | None:
    """Return the distance at the size of the floor, which `real_floor` makes of the same seed and repeats.

    In each repeat, as many synthetic images take the place of the half that plays them there. The median, as
    the floor's value is one; None if there is no floor.
    """
    if len(set(real.patients)) < 4:
        return None
    values: list[float] = []
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])  # of the floor, whose halves these are
        half, rest = halves(real, rng)
        value = statistic([drawn(synthetic, int(half.sum()), rng), rest])
        if value is not None:
            values.append(value)
    return float(np.median(values)) if len(values) >= 0.95 * repeats else None


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
