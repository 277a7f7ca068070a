"""How alike the images of one set are: a generator that has collapsed paints the same eye again and again.

The mean multi-scale structural similarity of random pairs within a set (Odena, Olah and Shlens, ICML 2017),
and the single-scale one, beside the same means within the real set. Pairs are of different patients. Alike
as the real ones are is good; more alike means fewer kinds of eyes, less alike means kinds that do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate import msssim, ssim
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.likeness import Measure
from fundusforge.evaluate.pictures import photograph
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, real_floor
from fundusforge.images import Image

PAIRS, PAIRS_PER_IMAGE = 200, 4
"""Most pairs of a set that are compared, and most for every image that it has."""
SIZE = 256
"""Side in pixels at which they are compared, or the evaluation's if that is smaller."""
_ALL = 512
"""Images up to which every pair is a candidate; of more, pairs are guessed."""

Places = NDArray[np.intp]


def draw_pairs(patients: Sequence[str], *, seed: int, count: int | None = None) -> Places:
    """Draw distinct pairs of images of different patients.

    Args:
        patients: The patient of each image.
        seed: Seed of the draw.
        count: Most pairs; fewer come where there are fewer. By default four for every image, at most 200.

    Returns:
        (pairs, 2) places of images, the smaller first.
    """
    rng, total = np.random.default_rng([seed, len(patients)]), len(patients)
    count = min(PAIRS, PAIRS_PER_IMAGE * total) if count is None else count
    if total <= _ALL:
        candidates = np.stack(np.triu_indices(total, 1), axis=1)
    else:
        guesses = np.sort(rng.integers(0, total, (20 * count, 2)), axis=1)
        candidates = np.unique(guesses, axis=0)
    _, person = np.unique(np.asarray(patients), return_inverse=True)
    candidates = candidates[person[candidates[:, 0]] != person[candidates[:, 1]]]
    return rng.permutation(candidates)[:count]


def figures(evidence: Evidence) -> list[Figure]:
    """Return the likeness within the sets, by both structural similarities."""
    return [within(evidence, msssim.MEASURE), within(evidence, ssim.MEASURE)]


def within(evidence: Evidence, measure: Measure) -> Figure:
    """Return the mean of a measure over pairs within the synthetic set, beside that within the real set."""
    size = min(evidence.size, SIZE)
    sets = evidence.synthetic, evidence.real
    pairs, real_pairs = (draw_pairs(images.patients, seed=evidence.seed) for images in sets)
    common: dict[str, Any] = {
        "name": f"diversity_{measure.name}",
        "title": f"{measure.title} of pairs within the set",
        "n": len(evidence.synthetic),
        "n_real": len(evidence.real),
        "extractor": measure.extractor,
        "resize": f"padded to a square, {size} px, area",
        "seed": evidence.seed,
    }
    if size < measure.smallest:
        reason = f"pictures of {size} px are under the {measure.smallest} px that it needs"
        return Figure(**common, value=None, reason=reason)
    if not len(pairs):
        return Figure(**common, value=None, reason="no two images are of different patients")
    evidence.tell(f"{common['title']}: {len(pairs)} and {len(real_pairs)} pairs")
    values, real_values = (
        _compare(measure, images, places, size)
        for images, places in zip(sets, (pairs, real_pairs), strict=True)
    )
    options: dict[str, Any] = {"seed": evidence.seed, "draws": evidence.draws}
    interval = bootstrap(_mean_of(values, pairs), evidence.synthetic.patients, **options)
    return Figure(
        **common, **measured(float(values.mean()), interval),
        **_baseline(evidence, real_values, real_pairs),
        notes=(
            f"{len(pairs)} pairs of different patients, {len(real_pairs)} real ones; standard deviation "
            f"{float(values.std()):.3g}.",
            _extreme(evidence.synthetic, measure, values, pairs),
            "The nearer to the real mean the better: more alike is a set that repeats itself.",
        ),
    )  # fmt: skip


def _compare(measure: Measure, images: ImageSet, pairs: Places, size: int) -> NDArray[np.float64]:
    """Return the measure of every pair; each picture is read once."""
    pictures: dict[int, Image] = {
        int(place): photograph(images, int(place), size) for place in np.unique(pairs)
    }
    return np.array([measure.compare(pictures[int(i)], pictures[int(j)]) for i, j in pairs])


def _mean_of(values: NDArray[np.float64], pairs: Places) -> Statistic:
    """A pair counts as often as its two images: the product of their weights."""

    def mean(weights: Sequence[Weights]) -> float | None:
        counts = weights[0][pairs].prod(axis=1)
        total = float(counts.sum())
        return float(counts @ values) / total if total > 0 else None

    return mean


def _baseline(evidence: Evidence, values: NDArray[np.float64], pairs: Places) -> dict[str, Any]:
    """Return the arguments of `Figure` that the real images' own pairs fill."""
    if not len(pairs):
        return {}
    statistic, patients = _mean_of(values, pairs), evidence.real.patients
    interval = bootstrap(statistic, patients, seed=evidence.seed, draws=evidence.draws)
    return {
        "real": float(values.mean()),
        "real_low": interval.low,
        "real_high": interval.high,
        "floor": real_floor(statistic, patients, seed=evidence.seed, repeats=evidence.repeats),
    }


def _extreme(images: ImageSet, measure: Measure, values: NDArray[np.float64], pairs: Places) -> str:
    place = int(values.argmin() if measure.better == "lower" else values.argmax())
    first, second = (images.records[int(index)].image for index in pairs[place])
    return f"The two most alike: {first} and {second}, {values[place]:.3g}."
