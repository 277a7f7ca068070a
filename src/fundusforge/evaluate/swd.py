"""Sliced Wasserstein distance on the Laplacian pyramid, with PGGAN's parameters (Karras et al., ICLR 2018).

A pyramid down to 16 px splits every image into levels of detail; 128 patches of 7 x 7 pixels are drawn from
each level of each image. Per level, the patches of a set are brought to mean 0 and standard deviation 1 per
channel and projected on 4 x 128 random directions. On a line the distance of two sets of equal number is
the mean difference of the sorted values; the mean over the directions, times 1000, is the figure. Fine
levels speak of sharpness and grain, the coarsest of the distribution of colour.

The fewer the images the larger the distance, whatever the images are, so both sides hold the same number.

Memory: patches take 75 kB per image and level. They are kept for as many levels at once as fit
`_PATCH_BYTES`, and the images are read again for the others; the pyramids themselves are never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fundusforge.evaluate.distance import matched
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Figure, measured
from fundusforge.evaluate.pictures import photograph
from fundusforge.evaluate.statistics import Floor, Interval, Statistic, Weights, bootstrap, real_floor

PATCH = 7
"""Side of a patch in pixels."""
PATCHES = 128
"""Patches of each image at each level."""
COARSEST = 16
"""Side in pixels of the pyramid's last level."""
DIRECTIONS = 4 * 128
"""Random directions."""
SCALE = 1000.0
"""What distances are multiplied by, as in the paper."""
_DRAWS, _REPEATS = 100, 20
"""Most bootstrap draws, and most halves of the real set: each sorts every projection anew."""
_DRAW_DIRECTIONS, _REPEAT_DIRECTIONS = 64, 128
"""How many of the directions the bootstrap draws use, and at most the halves."""
_REPEAT_VALUES = 2**24
"""Projections of a half beyond which the halves use fewer directions: large halves differ little."""
_DRAW_ROWS = 2**13
"""Patches of a set beyond which the bootstrap draws take fewer of each image."""
_FLAT = 1e-3
"""Standard deviation in grey levels below which a channel is constant."""
_PATCH_BYTES = 3 * 2**29
"""Memory for the patches of both sets."""
_PROJECTED_BYTES = 2**25
"""Memory for the projections of one set."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The patches of a set of images at one level, with the sums that standardising them takes."""

    values: Floats
    """(images, patches, channels * 49), channel by channel."""
    sums: NDArray[np.float64]
    """(images, channels) sum of each image's values."""
    squares: NDArray[np.float64]
    """(images, channels) sum of their squares."""

    @classmethod
    def of(cls, values: Floats) -> Patches:
        """Sum up values (images, patches, channels * 49)."""
        channels = values.reshape(*values.shape[:2], -1, PATCH * PATCH)
        sums = channels.sum((1, 3), dtype=np.float64)
        squares = np.array([np.einsum("pcd,pcd->c", one, one, dtype=np.float64) for one in channels])
        return cls(values=values, sums=sums, squares=squares)

    def fewer(self, patches: int) -> Patches:
        """Return the first patches of each image."""
        return self if patches >= self.values.shape[1] else Patches.of(self.values[:, :patches])

    def first(self, images: int) -> Patches:
        """Return the patches of the first images."""
        return Patches(values=self.values[:images], sums=self.sums[:images], squares=self.squares[:images])

    def moments(self, weights: Weights) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation per channel, (channels,); 1 where a channel is constant."""
        count = float(weights.sum()) * self.values.shape[1] * PATCH * PATCH
        mean = weights @ self.sums / count
        spread = np.sqrt(np.maximum(weights @ self.squares / count - mean**2, 0.0))
        return mean, np.where(spread > _FLAT, spread, 1.0)


def laplacian_pyramid(image: NDArray[Any]) -> list[Floats]:
    """Split an image into levels of detail, from the finest to the coarsest of 16 px.

    The 5 x 5 binomial filter with mirrored borders (Burt and Adelson, IEEE Trans. Communications 31, 1983).

    Args:
        image: (S, S) or (S, S, 3), S = 16 * 2^k.

    Returns:
        Sides S, S / 2, ..., 16; all but the last are what the next one lacks. In the unit of the image.

    Raises:
        ValueError: Another shape.
    """
    side = len(image)
    if image.shape[:2] != (side, side) or side < COARSEST or side & (side - 1):
        raise ValueError(f"expected a square image of 16, 32, 64, ... pixels, got {image.shape}")
    levels: list[Floats] = []
    current = image.astype(np.float32)
    while len(current) > COARSEST:
        smaller = np.asarray(cv2.pyrDown(current), np.float32)
        levels.append(np.asarray(cv2.subtract(current, cv2.pyrUp(smaller)), np.float32))
        current = smaller
    return [*levels, current]


def draw_patches(level: Floats, rng: np.random.Generator) -> Floats:
    """Draw 128 patches from a level (S, S) or (S, S, C) at random: (128, C * 49), channel by channel."""
    windows = sliding_window_view(level, (PATCH, PATCH), axis=(0, 1))  # (S - 6, S - 6, [C,] 7, 7)
    y, x = rng.integers(0, windows.shape[0], PATCHES), rng.integers(0, windows.shape[1], PATCHES)
    return windows[y, x].reshape(PATCHES, -1)


def draw_directions(dimensions: int, *, seed: int) -> Floats:
    """Return 512 random unit vectors, (512, dimensions)."""
    drawn = np.random.default_rng([seed, dimensions]).standard_normal((DIRECTIONS, dimensions))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def distance(
    first: Patches, second: Patches, directions: Floats, weights: Sequence[Weights] | None = None
) -> float:
    """Return the sliced Wasserstein distance of two sets at one level, times 1000.

    Args:
        first: Patches of one set.
        second: Patches of the other. Where the numbers differ, the longer sorted list is read at the
            quantiles of the shorter.
        directions: (directions, channels * 49) unit vectors.
        weights: Per set, how often each image counts (whole numbers); once by default.

    Raises:
        ValueError: A set of which no image counts.
    """
    one, two = weights or (np.ones(len(first.values)), np.ones(len(second.values)))
    if not one.any() or not two.any():
        raise ValueError("no image of a set counts")
    rows = max(one.sum(), two.sum()) * first.values.shape[1]
    step = max(1, int(_PROJECTED_BYTES // (4 * rows)))
    total = 0.0
    for start in range(0, len(directions), step):
        part = directions[start : start + step]
        a, b = _sorted(first, one, part), _sorted(second, two, part)
        total += float(np.abs(_quantiles(a, b.shape[1]) - _quantiles(b, a.shape[1])).mean(1).sum())
    return SCALE * total / len(directions)


def _sorted(patches: Patches, weights: Weights, directions: Floats) -> Floats:
    """Return the standardised patches' projections, sorted: (directions, counted images * patches).

    Instead of the patches their directions are divided by the deviations, which is the same and less work.
    """
    mean, spread = patches.moments(weights)
    scaled = directions / np.repeat(spread, PATCH * PATCH).astype(np.float32)
    shift = scaled @ np.repeat(mean, PATCH * PATCH).astype(np.float32)
    counts = weights.astype(np.intp)
    _, number, dimensions = patches.values.shape
    taken = patches.values if (counts > 0).all() else patches.values[counts > 0]
    projected: Floats = np.matmul(scaled, taken.reshape(-1, dimensions).T, dtype=np.float32)
    if (counts > 1).any():
        order = np.repeat(np.arange(len(taken)), counts[counts > 0])
        projected = projected.reshape(len(scaled), len(taken), number)[:, order].reshape(len(scaled), -1)
    projected -= shift[:, None]
    projected.sort(axis=1)
    return projected


def _quantiles(values: Floats, count: int) -> Floats:
    """Return `count` evenly spread values of each sorted row, or all of them if there are no more."""
    length = values.shape[1]
    if length <= count:
        return values
    return values[:, ((np.arange(count) + 0.5) * length / count).astype(np.intp)]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Which images enter: as many synthetic ones as real ones, and further real ones for the floor."""

    synthetic: ImageSet
    real: ImageSet
    """The first `len(synthetic)` are compared; halves are made of all."""
    side: int
    """Side in pixels of the finest level."""
    seed: int

    @classmethod
    def of(cls, evidence: Evidence) -> _Drawn:
        count = min(len(evidence.synthetic), len(evidence.real))
        return cls(
            synthetic=_some(evidence.synthetic, count, [evidence.seed, 0]),
            real=_some(evidence.real, 2 * count, [evidence.seed, 1]),
            side=2 ** (evidence.size.bit_length() - 1),
            seed=evidence.seed,
        )

    @property
    def sides(self) -> list[int]:
        """Sides of the levels, from the finest."""
        return [self.side >> level for level in range((self.side // COARSEST).bit_length())]

    def levels(self) -> Iterator[tuple[int, Patches, Patches]]:
        """Yield side, synthetic and real patches of every level, as many levels at once as memory allows."""
        each = (len(self.synthetic) + len(self.real)) * PATCHES * 3 * PATCH * PATCH * 4
        step = max(1, _PATCH_BYTES // each)
        for start in range(0, len(self.sides), step):
            sides = self.sides[start : start + step]
            synthetic = self._patches(self.synthetic, sides, place=0)
            real = self._patches(self.real, sides, place=1)
            for side in sides:
                yield side, Patches.of(synthetic.pop(side)), Patches.of(real.pop(side))

    def _patches(self, images: ImageSet, sides: list[int], *, place: int) -> dict[int, Floats]:
        """Read the images; return (images, 128, 147) of each level. Level and image alone seed the draw."""
        found = {s: np.empty((len(images), PATCHES, 3 * PATCH * PATCH), np.float32) for s in sides}
        for index in range(len(images)):
            for level in laplacian_pyramid(photograph(images, index, self.side)):
                if len(level) in found:
                    rng = np.random.default_rng([self.seed, place, index, len(level)])
                    found[len(level)][index] = draw_patches(level, rng)
        return found


def _some(images: ImageSet, count: int, seed: list[int]) -> ImageSet:
    """Return `count` of the images in a seeded order, or all of them if there are no more."""
    order = np.random.default_rng(seed).permutation(len(images))[:count]
    return ImageSet(folder=images.folder, records=[images.records[int(index)] for index in order])


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The distances of one level: of the sets, and of every draw and half that was asked for, by weights.

    Draws and halves depend on seed and patients alone, so all levels see the same ones, and the mean over
    the levels is had after the patches are gone.
    """

    side: int
    value: float
    draws: dict[bytes, float | None]
    halves: dict[bytes, float | None]
    matched: dict[bytes, float | None]
    """Synthetic images in place of the halves that play them."""


def figures(evidence: Evidence) -> list[Figure]:
    """Return the distance at every level and its mean over the levels."""
    drawn = _Drawn.of(evidence)
    if not len(drawn.synthetic):
        common = _common(evidence, drawn, "mean", "mean of the levels")
        return [Figure(**common, value=None, reason="a set has no images")]
    directions = draw_directions(3 * PATCH * PATCH, seed=evidence.seed)
    evidence.tell(f"sliced Wasserstein distance of {len(drawn.synthetic)} and {len(drawn.real)} images")
    levels = [_measure(evidence, drawn, directions, *level) for level in drawn.levels()]
    every = [
        _figure(evidence, drawn, f"{level.side}", f"level of {level.side} px", [level]) for level in levels
    ]
    return [*every, _figure(evidence, drawn, "mean", "mean of the levels", levels)]


def _measure(
    evidence: Evidence, drawn: _Drawn, directions: Floats, side: int, synthetic: Patches, real: Patches
) -> _Level:
    count = len(drawn.synthetic)
    compared = real.first(count)
    value = distance(synthetic, compared, directions)
    number = _patches_of_draw(count)
    few, few_real = synthetic.fewer(number), compared.fewer(number)
    scale = value / (distance(few, few_real, directions[:_DRAW_DIRECTIONS]) or 1.0)

    def of_draw(weights: Sequence[Weights]) -> float | None:
        if not all(each.any() for each in weights):
            return None
        return scale * distance(few, few_real, directions[:_DRAW_DIRECTIONS], weights)

    of_repeats = directions[: _directions_of_repeat(len(drawn.real) // 2)]

    def of_halves(weights: Sequence[Weights]) -> float | None:
        return distance(real, real, of_repeats, weights)

    def of_matched(weights: Sequence[Weights]) -> float | None:
        return distance(synthetic, real, of_repeats, weights)

    return _Level(
        side=side,
        value=value,
        draws=_table(lambda statistic: _interval(evidence, drawn, statistic), of_draw),
        halves=_table(lambda statistic: _floor(evidence, drawn, statistic), of_halves),
        matched=_table(lambda statistic: _matched(evidence, drawn, statistic), of_matched),
    )


def _table(ask: Callable[[Statistic], object], statistic: Statistic) -> dict[bytes, float | None]:
    """Return what a statistic gives for all the weights with which `ask` calls it."""
    known: dict[bytes, float | None] = {}

    def asked(weights: Sequence[Weights]) -> float | None:
        known[_key(weights)] = value = statistic(weights)
        return value

    ask(asked)
    return known


def _key(weights: Sequence[Weights]) -> bytes:
    return b"".join(each.tobytes() for each in weights)


def _interval(evidence: Evidence, drawn: _Drawn, statistic: Statistic) -> Interval:
    compared = drawn.real.patients[: len(drawn.synthetic)]
    return bootstrap(
        statistic, drawn.synthetic.patients, compared,
        seed=evidence.seed, draws=min(evidence.draws, _DRAWS), method="centred",
    )  # fmt: skip


def _floor(evidence: Evidence, drawn: _Drawn, statistic: Statistic) -> Floor | None:
    return real_floor(
        statistic, drawn.real.patients, seed=evidence.seed, repeats=min(evidence.repeats, _REPEATS)
    )


def _matched(evidence: Evidence, drawn: _Drawn, statistic: Statistic) -> float | None:
    return matched(
        statistic, drawn.synthetic, drawn.real, seed=evidence.seed, repeats=min(evidence.repeats, _REPEATS)
    )


def _common(evidence: Evidence, drawn: _Drawn, name: str, title: str) -> dict[str, Any]:
    return {
        "name": f"swd_{name}",
        "title": f"Sliced Wasserstein distance, {title}",
        "unit": "x 10^-3",
        "better": "lower",
        "n": len(drawn.synthetic),
        "n_real": len(drawn.synthetic),
        "extractor": "pixels, RGB",
        "resize": f"padded to a square, {drawn.side} px, area",
        "seed": evidence.seed,
    }


def _figure(evidence: Evidence, drawn: _Drawn, name: str, title: str, levels: Sequence[_Level]) -> Figure:
    value = float(np.mean([level.value for level in levels]))
    interval = _interval(evidence, drawn, lambda w: _mean([level.draws[_key(w)] for level in levels]))
    floor = _floor(evidence, drawn, lambda w: _mean([level.halves[_key(w)] for level in levels]))
    at_floor = _matched(evidence, drawn, lambda w: _mean([level.matched[_key(w)] for level in levels]))
    count, half = len(drawn.synthetic), len(drawn.real) // 2
    notes = (
        f"{count} images a side, drawn by seed from {len(evidence.synthetic)} and {len(evidence.real)}; "
        f"{PATCHES} patches of {PATCH} x {PATCH} px of each, {DIRECTIONS} directions.",
        f"Interval: {_DRAW_DIRECTIONS} directions, {_patches_of_draw(count)} patches of each image, scaled "
        f"to the value. Floor: {half} images a side, {_directions_of_repeat(half)} directions.",
    )
    return Figure(
        **_common(evidence, drawn, name, title), **measured(value, interval), floor=floor, matched=at_floor,
        notes=notes,
    )  # fmt: skip


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _patches_of_draw(images: int) -> int:
    """Return how many patches of each image a bootstrap draw takes."""
    return max(1, min(PATCHES, _DRAW_ROWS // images))


def _directions_of_repeat(images: int) -> int:
    """Return how many directions halves of so many images use."""
    return max(16, min(_REPEAT_DIRECTIONS, _REPEAT_VALUES // (PATCHES * max(1, images))))
