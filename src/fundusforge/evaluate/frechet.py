"""Frechet distance of two sets of vectors (Heusel et al., NeurIPS 2017; with Inception vectors, FID).

Of Gaussians with the sets' means and covariances, |m - n|^2 + tr S + tr T - 2 tr (S T)^(1/2). With centred
rows A and B, scaled so that S = A'A and T = B'B, the last trace needs no covariance, so that it is quick for
fewer images than dimensions, and nothing can become complex:

    tr (A'A B'B)^(1/2) = sum of the singular values of A B', which is N x M

The distance of finite sets is too large, and the more so the smaller they are. Chong and Forsyth (CVPR 2020)
draw a line through it over 1 / N and report where that meets 1 / N = 0. There is such a line once its
smallest sets have more images than dimensions; below, the extrapolation is refused. For small sets stands
the *excess*: the distance of synthetic from real images less that of other real images from them, at one
number of images. Both are too large by almost the same, so the excess is close to the truth at any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.distance import Distance, circumstances, drawn, figure, halves, refusal
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.features import Features
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.statistics import Floor, Statistic, Weights

Floats = NDArray[np.float64]
_LEAST = 50
"""Images below which, in either set, nothing is given."""
_ENOUGH = 5000
"""Images below which the plain distance is called too large (the smallest sets of Chong and Forsyth)."""
_SIZES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the sets through whose distances the line is drawn."""
_SUBSETS = 4
"""Random subsets of each such part, but the whole."""
_QUICK = 400
"""Side of the matrix whose eigenvalues a draw needs, up to which all bootstrap draws are made."""
_DISTINCT = 0.63
"""Part of the images that a draw holds, once or more."""


def frechet_distance(first: Features, second: Features) -> float:
    """Return the Frechet distance of two sets, at least 0.

    Args:
        first: (N, D), N at least 2.
        second: (M, D), M at least 2.

    Raises:
        ValueError: Fewer rows, vectors of different length, or numbers that are not finite.
    """
    if first.ndim != 2 or first.shape[1:] != second.shape[1:] or min(len(first), len(second)) < 2:
        raise ValueError(f"expected (N, D) and (M, D) of two rows or more, got {first.shape}, {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("the vectors hold numbers that are not finite")
    value = compare(first, second)([np.ones(len(first)), np.ones(len(second))])
    assert value is not None
    return value


def compare(first: Features, second: Features) -> Statistic:
    """Return the distance as a function of weights; products of images are computed once for all of them."""
    centre = second.mean(axis=0, dtype=np.float64)
    x, y = first - centre, second - centre
    squares_x, squares_y = (x * x).sum(axis=1), (y * y).sum(axis=1)
    products = x @ y.T if min(len(x), len(y)) <= x.shape[1] else None

    def distance(weights: Sequence[Weights]) -> float | None:
        w, v = weights
        if min(w.sum(), v.sum()) < 2:
            return None
        mean_x, mean_y = w @ x / w.sum(), v @ y / v.sum()
        gap = mean_x - mean_y
        spread = _spread(squares_x, w, mean_x) + _spread(squares_y, v, mean_y)
        if products is not None:
            common = _common_of_rows(products, w, v)
        else:
            common = _common_of_columns(_covariance(x, w, mean_x), _covariance(y, v, mean_y))
        return max(0.0, float(gap @ gap) + spread - 2 * common)

    return distance


def _spread(squares: Floats, weights: Weights, mean: Floats) -> float:
    """Return the trace of the covariance from the squared lengths of the rows."""
    total = float(weights.sum())
    return (float(weights @ squares) - total * float(mean @ mean)) / (total - 1)


def _covariance(rows: Floats, weights: Weights, mean: Floats) -> Floats:
    centred = rows - mean
    return (centred.T * weights) @ centred / (weights.sum() - 1)


def _common_of_rows(products: Floats, w: Weights, v: Weights) -> float:
    """Return the sum of the singular values of A B' from the products (N, M) of the rows before centring."""
    total_w, total_v = w.sum(), v.sum()
    kept_w, kept_v = np.flatnonzero(w), np.flatnonzero(v)
    matrix = products[np.ix_(kept_w, kept_v)]
    w, v = w[kept_w], v[kept_v]
    right, left = matrix @ v / total_v, w @ matrix / total_w
    matrix -= right[:, None]
    matrix -= left - float(w @ right) / total_w
    matrix *= np.sqrt(w / (total_w - 1))[:, None]
    matrix *= np.sqrt(v / (total_v - 1))
    matrix = matrix if len(w) <= len(v) else matrix.T
    return _root_sum(matrix @ matrix.T)


def _common_of_columns(first: Floats, second: Floats) -> float:
    """Return tr (S T)^(1/2) of two covariances (D, D) as that of the symmetric S^(1/2) T S^(1/2)."""
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return _root_sum(root.T @ second @ root)


def _root_sum(matrix: Floats) -> float:
    """Return the sum of the square roots of the eigenvalues of a symmetric matrix that has none below 0."""
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(matrix), 0)).sum())


def frechet_infinity(statistic: Statistic, synthetic: ImageSet, real: ImageSet, *, seed: int) -> float | None:
    """Return where the line of the distance over 1 / N meets 1 / N = 0; it may fall below 0 for sets alike.

    Args:
        statistic: From `compare`.
        synthetic: The first set; its patients stay whole.
        real: The second set.
        seed: Of the subsets.
    """
    places: list[float] = []
    values: list[float] = []
    for part in _SIZES:
        for repeat in range(_SUBSETS if part < 1 else 1):
            rng = np.random.default_rng([seed, repeat, round(10 * part)])
            weights = [drawn(images, round(part * len(images)), rng) for images in (synthetic, real)]
            value = statistic(weights)
            if value is None:
                return None
            # Both sets shrink alike, so one term stands for both.
            places.append(float(np.mean([len(w) / w.sum() for w in weights])))
            values.append(value)
    return float(np.polyfit(places, values, 1)[1])


PLAIN = Distance(
    name="frechet",
    title="Frechet distance",
    better="lower",
    compare=compare,
    least=_LEAST,
    why="the distance would tell their number, not their likeness",
    limits=(0.0, np.inf),
)


def figures(evidence: Evidence) -> list[Figure]:
    """Return distance, excess and extrapolation of all images, and the distance by grade."""
    synthetic, real = evidence.synthetic, evidence.real
    plain = _plain(evidence, PLAIN, synthetic, real)
    found = [plain, _excess(evidence, plain), _infinity(evidence, plain)]
    return found + _by_grade(evidence)


def _plain(evidence: Evidence, distance: Distance, synthetic: ImageSet, real: ImageSet) -> Figure:
    fewest = min(len(synthetic), len(real))
    if fewest < _ENOUGH:
        note = f"Too large by an amount that depends on the number of images, here fewer than {_ENOUGH}."
        distance = replace(distance, notes=(*distance.notes, note))
    share = _share(evidence, fewest)
    return figure(
        evidence, distance, synthetic, real, draws=max(min(100, evidence.draws), int(share * evidence.draws)),
        repeats=max(min(20, evidence.repeats), int(share * evidence.repeats)),
    )  # fmt: skip


def _share(evidence: Evidence, images: int) -> float:
    """Return the part of all draws that large sets can have: the work of one grows with the third power."""
    dimensions = evidence.extractor.dimensions if evidence.extractor else images
    size = _DISTINCT * images if images <= dimensions else dimensions
    return min(1.0, (_QUICK / max(size, 1)) ** 3)


def _excess(evidence: Evidence, plain: Figure) -> Figure:
    """Distance from real images less that of other real images, both groups of one size."""
    real, synthetic = evidence.real, evidence.synthetic
    distance = replace(PLAIN, name="frechet_excess", title="Frechet distance beyond that of real images")
    patients = len(set(real.patients))
    if plain.value is None or patients < 4:
        reason = plain.reason or f"{patients} real patients cannot be halved"
        return Figure(**circumstances(evidence, distance, synthetic, real), value=None, reason=reason)
    repeats = plain.floor.repeats if plain.floor else evidence.repeats
    pairs = _pairs(evidence, repeats)
    beyond = pairs[:, 1] - pairs[:, 1].mean()
    low, middle, high = (float(value) for value in np.quantile(beyond, [0.025, 0.5, 0.975]))
    note = (
        f"Mean over {repeats} random halves of the real patients: synthetic images against one half, "
        f"{pairs[:, 0].mean():.4g}, less as many other real images against it, {pairs[:, 1].mean():.4g}."
    )
    distance = replace(distance, notes=(note, "Near 0 for sets alike, whatever their size."))
    return Figure(
        **circumstances(evidence, distance, synthetic, real),
        **_moved(plain, float((pairs[:, 0] - pairs[:, 1]).mean())),
        floor=Floor(value=middle, low=low, high=high, repeats=repeats, patients=patients),
    )


def _pairs(evidence: Evidence, repeats: int) -> Floats:
    """Return (repeats, 2) distances from random halves of the real patients: of synthetic, of real images."""
    real, synthetic = evidence.real, evidence.synthetic
    ours = compare(evidence.features(synthetic), evidence.features(real))
    theirs = compare(evidence.features(real), evidence.features(real))
    pairs: list[tuple[float, float]] = []
    for repeat in range(repeats):
        rng = np.random.default_rng([evidence.seed, repeat, 2])
        half, rest = halves(real, rng)
        count = min(int(rest.sum()), len(synthetic))
        first = ours([drawn(synthetic, count, rng), half])
        other = theirs([drawn(real, count, rng, among=rest), half])
        if first is not None and other is not None:
            pairs.append((first, other))
    return np.array(pairs)


def _infinity(evidence: Evidence, plain: Figure) -> Figure:
    """Extrapolation to endless sets, where the sets are large enough for the line to be one."""
    real, synthetic = evidence.real, evidence.synthetic
    dimensions = evidence.extractor.dimensions if evidence.extractor else 0
    distance = Distance(
        name="frechet_infinity",
        title="Frechet distance, extrapolated to endless sets",
        better="lower",
        compare=compare,
        least=max(_LEAST, 2 * dimensions),
        why=f"for vectors of {dimensions} numbers it is no line over 1 / N before",
        notes=(
            f"A line through all and {_SUBSETS} random subsets each of {_SIZES[0]:.0%} to {_SIZES[-2]:.0%}.",
            "Unbiased: sets alike scatter about 0. There is no floor, since halves are too small for a line.",
        ),
    )
    common = circumstances(evidence, distance, synthetic, real)
    if reason := refusal(evidence, distance, synthetic, real):
        return Figure(**common, value=None, reason=reason)
    statistic = compare(evidence.features(synthetic), evidence.features(real))
    value = frechet_infinity(statistic, synthetic, real, seed=evidence.seed)
    return Figure(**common, **_moved(plain, value), reason="" if value is not None else "it is not defined")


def _moved(plain: Figure, value: float | None) -> dict[str, Any]:
    """Return value and interval of a corrected distance: the plain one's interval, moved with it."""
    found: dict[str, Any] = {"value": value, "interval": f"{plain.interval}, of the plain distance, moved"}
    if value is not None and plain.value is not None and plain.low is not None and plain.high is not None:
        found |= {"low": plain.low - plain.value + value, "high": plain.high - plain.value + value}
    return found


def _by_grade(evidence: Evidence) -> list[Figure]:
    """Distance within each grade that both sets have, and the mean over grades (as Zhou et al. report)."""
    shared = sorted(_grades(evidence.synthetic) & _grades(evidence.real))
    if not shared or evidence.extractor is None:
        return []
    found: list[Figure] = []
    for grade in shared:
        distance = replace(
            PLAIN, name=f"frechet_grade_{grade}", title=f"Frechet distance among images of grade {grade}"
        )
        found.append(
            _plain(evidence, distance, _of_grade(evidence.synthetic, grade), _of_grade(evidence.real, grade))
        )
    values = [each.value for each in found if each.value is not None]
    refused = [each.name for each in found if each.value is None]
    mean = Distance(
        name="frechet_grades",
        title="Frechet distance, mean over grades",
        better="lower",
        compare=compare,
        least=_LEAST,
        why=PLAIN.why,
        notes=("Grades that both sets have count once each; those that a model guessed are left out.",),
    )
    common = circumstances(evidence, mean, evidence.synthetic, evidence.real)
    common |= {"n": sum(each.n for each in found), "n_real": sum(each.n_real for each in found)}
    if not values:
        reason = f"no grade has {_LEAST} images in both sets"
        return [Figure(**common, value=None, reason=reason)]
    if refused:
        return [*found, Figure(**common, value=None, reason=f"there is no {' and no '.join(refused)}")]
    return [*found, Figure(**common, value=float(np.mean(values)), interval="none: see each grade's")]


def _grades(images: ImageSet) -> set[int]:
    return {r.grade for r in images.records if r.grade is not None and "grade" not in r.predicted}


def _of_grade(images: ImageSet, grade: int) -> ImageSet:
    kept = [r for r in images.records if r.grade == grade and "grade" not in r.predicted]
    return ImageSet(folder=images.folder, records=kept)
