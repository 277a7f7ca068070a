"""The distances of `fidelity`, as functions of places of eyes: everything costly is computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fundusforge.evaluate import swd
from fundusforge.evaluate.features import Extractor, Features
from fundusforge.evaluate.frechet import frechet_distance
from fundusforge.images import resize
from fundusforge.studies.drgan.eyes import Bench, Eyes, Places

_TOGETHER = 8
"""Pictures that the extractor reads at once."""
_DIRECTIONS, _THIN_DIRECTIONS, _THIN_PATCHES, _THIN_HALVES = 128, 32, 32, 5
"""Of the sliced Wasserstein distance: directions; and how much less the jackknife makes do with."""


@dataclass(frozen=True, kw_only=True)
class Ruler:
    """One way to compare, as a function of places of eyes."""

    name: str
    title: str
    unit: str
    extractor: str
    resize: str
    painted: Callable[[Places, Places, int], float]
    """Distance of the n-th paintings of some eyes from the photographs of others."""
    real: Callable[[Places, Places], float]
    """The same of the photographs themselves."""
    thin: Ruler | None = None
    """The same from less of each picture, for the jackknife."""
    thin_halves: int | None = None
    """So many of the halves are enough for it."""


def frechet_ruler(bench: Bench, extractor: Extractor) -> Ruler:
    """Return the Frechet distance of an extractor's vectors."""
    real = _features(bench.real, extractor)
    painted = _features(bench.painted, extractor)[bench.turns]  # (each, eyes, D)
    return Ruler(
        name="frechet", title="Frechet distance", unit="", extractor=extractor.name, resize=extractor.resize,
        painted=lambda eyes, others, turn: frechet_distance(painted[turn % len(painted), eyes], real[others]),
        real=lambda eyes, others: frechet_distance(real[eyes], real[others]),
    )  # fmt: skip


def _features(images: Eyes, extractor: Extractor) -> Features:
    """Return the vectors of pictures as the study shows them; the cache knows files, not these."""
    rows = [
        extractor([images.image(place) for place in range(start, min(start + _TOGETHER, len(images)))])
        for start in range(0, len(images), _TOGETHER)
    ]
    return np.concatenate(rows)


def swd_ruler(bench: Bench) -> Ruler:
    """Return the sliced Wasserstein distance, mean over the levels of the pyramid."""
    side = 2 ** (bench.real.side.bit_length() - 1)
    real, painted = (_patches(images, side, [bench.config.seed, kind])
                     for kind, images in enumerate((bench.real, bench.painted)))  # fmt: skip
    directions = swd.draw_directions(3 * swd.PATCH**2, seed=bench.config.seed)[:_DIRECTIONS]

    def between(first: list[swd.Floats], second: list[swd.Floats], patches: int, lines: swd.Floats) -> float:
        """Distance of two sets of patches of all levels, each cut to the first so many."""
        values = [
            swd.distance(swd.Patches.of(one[:, :patches]), swd.Patches.of(two[:, :patches]), lines)
            for one, two in zip(first, second, strict=True)
        ]
        return float(np.mean(values))

    def ruler(patches: int, lines: swd.Floats, **options: Any) -> Ruler:
        def painted_of(eyes: Places, others: Places, turn: int) -> float:
            places = bench.turns[turn % len(bench.turns), eyes]
            return between([p[places] for p in painted], [r[others] for r in real], patches, lines)

        return Ruler(
            name="swd", title="Sliced Wasserstein distance", unit="x 10^-3, mean of the levels",
            extractor=f"pixels, RGB, {patches} patches of {swd.PATCH} px and {len(lines)} directions",
            resize=f"padded to a square, {side} px, area", painted=painted_of,
            real=lambda eyes, others: between(
                [r[eyes] for r in real], [r[others] for r in real], patches, lines
            ),
            **options,
        )  # fmt: skip

    thin = ruler(_THIN_PATCHES, directions[:_THIN_DIRECTIONS])
    return ruler(swd.PATCHES, directions, thin=thin, thin_halves=_THIN_HALVES)


def _patches(images: Eyes, side: int, seed: list[int]) -> list[swd.Floats]:
    """Return (images, 128, 147) patches of each level."""
    levels: list[list[swd.Floats]] = []
    for index in range(len(images)):
        pyramid = swd.laplacian_pyramid(resize(images.image(index), side))
        rows = [
            swd.draw_patches(level, np.random.default_rng([*seed, index, len(level)])) for level in pyramid
        ]
        levels.append(rows)
    return [np.stack([rows[level] for rows in levels]) for level in range(len(levels[0]))]
