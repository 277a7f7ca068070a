"""How much of what cubic interpolation misses can be foreseen? Linear filters, on held-out photographs.

    python examples/linear_upscaler.py data/idrid1024 | python docs/results/record.py

Photographs are made half as large by averaging and rounded to 8 bits. A linear filter of 9 x 9 small pixels
of all colours for each of the four large ones is fitted by least squares: `<name>_linear_gain_db` once, to
photographs of --teach, `<name>_own_linear_gain_db` anew to places of the very photograph that it is judged on
at others. The second knows how sharp this photograph is; of what no such filter foresees, much is the noise
of sensor and file. Gains in peak signal-to-noise ratio over cubic interpolation, both rounded to 8 bits, away
from the edge of the field of view; means over photographs, intervals by bootstrap of patients. Prints JSON
lines.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from fundusforge.evaluate.statistics import bootstrap
from fundusforge.images import read_image, read_mask
from fundusforge.records import DatasetError, Record, Split, read_folder
from fundusforge.sample.upscaling import bicubic, shrink

EDGE = 8
"""Large pixels from the edge of the field of view that are left out: no other is as steep, and it is no
retina."""
REACH = 4
"""Small pixels to each side that a filter sees."""
PLACES = 8000
"""Small pixels that are drawn of a photograph to learn from, twice as many for a filter of its own; and that
it is judged at."""
RIDGE = 1.0
"""Added to the diagonal of the normal equations, grey levels squared."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearUpscaler:
    """Fit and score linear filters."""

    folder: Annotated[Path, Positional]
    """Dataset folder of photographs sharp at their full size."""
    teach: tuple[Split, ...] = ("train",)
    """Splits that the common filter is fitted to."""
    splits: tuple[Split, ...] = ("test",)
    """Splits to score."""
    name: str = "edsr"
    """First part of the figures' names."""
    seed: int = 0
    """Of places and bootstrap."""


@dataclass(frozen=True)
class Sampled:
    """Places of a photograph: what a filter sees, and what it should say."""

    seen: Floats
    """(N, F) neighbours less the middle, and a one."""
    wanted: Floats
    """(N, 12) large pixels less the middle, in three colours."""
    missed: Floats
    """(N, 12) large pixels less cubic interpolation."""
    middle: Floats
    """(N, 12) the middle."""


def sampled(folder: Path, record: Record, count: int, *, rng: np.random.Generator) -> Sampled:
    """Draw places inside the field of view, away from its edge."""
    image = read_image(folder / record.image)
    height, width = image.shape[0] // 2, image.shape[1] // 2
    sharp = image[: 2 * height, : 2 * width]
    small = shrink(sharp, "area")
    inside = np.full(sharp.shape[:2], 255, np.uint8)
    if record.field_of_view:
        inside = read_mask(folder / record.field_of_view)[: 2 * height, : 2 * width]
    window = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    inner = cv2.erode(inside, window, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    places = np.argwhere(inner.reshape(height, 2, width, 2).min((1, 3)) > 0)
    rows, columns = rng.permutation(places)[:count].T
    padded = np.pad(small, ((REACH, REACH), (REACH, REACH), (0, 0)), mode="reflect")
    side = 2 * REACH + 1
    near = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))[rows, columns]
    middle = small[rows, columns].astype(np.float64)
    seen = (near - middle[:, :, None, None]).reshape(len(rows), -1)

    def large(picture: NDArray[np.uint8]) -> Floats:
        corners = [picture[2 * rows + down, 2 * columns + right] for down in (0, 1) for right in (0, 1)]
        return np.stack(corners, 1).astype(np.float64)

    truth = large(sharp)
    return Sampled(
        seen=np.hstack([seen, np.ones((len(rows), 1))]),
        wanted=(truth - middle[:, None]).reshape(len(rows), -1),
        missed=(truth - large(bicubic(small))).reshape(len(rows), -1),
        middle=np.tile(middle, 4),
    )


def fitted(parts: Iterator[Sampled]) -> Floats:
    """Return the filters (F, 12) by least squares."""
    size = 3 * (2 * REACH + 1) ** 2 + 1
    left, right = RIDGE * np.eye(size), np.zeros((size, 12))
    for one in parts:
        left += one.seen.T @ one.seen
        right += one.seen.T @ one.wanted
    return np.asarray(np.linalg.solve(left, right), np.float64)


def gain(filters: Floats, one: Sampled) -> float:
    """Return decibels over cubic interpolation."""
    left = one.wanted - (one.seen @ filters + one.middle).round() + one.middle
    return float(10 * np.log10((one.missed**2).mean() / (left**2).mean()))


def main(c: LinearUpscaler) -> None:
    """Fit, score, print."""
    rng = np.random.default_rng(c.seed)
    taught, judged = read_folder(c.folder, splits=c.teach), read_folder(c.folder, splits=c.splits)
    if not taught or not judged:
        raise DatasetError(f"{c.folder}: photographs are needed in splits {c.teach} and {c.splits}")
    common = fitted(sampled(c.folder, record, PLACES, rng=rng) for record in taught)
    gains: list[tuple[float, float]] = []
    for record in judged:
        both = sampled(c.folder, record, 3 * PLACES, rng=rng)
        part = len(both.seen) * 2 // 3
        first, other = (
            Sampled(both.seen[some], both.wanted[some], both.missed[some], both.middle[some])
            for some in (slice(part), slice(part, None))
        )
        gains.append((gain(common, other), gain(fitted(iter([first])), other)))
    patients = [record.patient for record in judged]
    for name, values in zip(("linear", "own_linear"), np.array(gains).T, strict=True):
        found = bootstrap(lambda w, v=values: float((w[0] * v).sum() / w[0].sum()), patients, seed=c.seed)
        line = {
            "name": f"{c.name}_{name}_gain_db", "value": round(float(values.mean()), 4),
            "low": found.low, "high": found.high, "n": len(values), "unit": "dB",
            "command": "python " + shlex.join(sys.argv),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(tyro.cli(LinearUpscaler))
