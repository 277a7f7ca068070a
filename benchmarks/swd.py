"""Sliced Wasserstein distance: how many times as fast as its NumPy formulation, one thread, in the same run.

    python benchmarks/swd.py [--data FOLDER] [--images 16] [--size 512] [--repeats 5]

The peer is written from the paper's text (Karras et al., ICLR 2018, section 5 and appendix) with NumPy and
SciPy as one would: batches in NCHW float32, the pyramid by `scipy.ndimage.convolve` with mirrored borders,
patches by one gather, each set standardised in place, four times 128 directions, `np.sort` along the first
axis of the projected matrix. Ours is what `fundusforge evaluate` runs: `laplacian_pyramid`, `draw_patches`,
`Patches.of`, `distance`. Both see the same decoded images, the same places of patches and the same
directions, so that the distances must agree; drawing those is timed on both sides.

Photographs of `HRF` against `CHASE_DB1` if the data are there, else drawn pictures.

Prints one line of JSON, `swd_vs_numpy`: `value` is the median over repeats of the ratio of wall times, `low`
and `high` the extreme repeats; `cpu` is the same median of processor times, which other work on the machine
disturbs less. The run fails if any level differs by more than 1e-3 of its value.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before NumPy reads them: both sides get one thread

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from scipy.ndimage import convolve  # noqa: E402

from fundusforge.evaluate import swd  # noqa: E402
from fundusforge.evaluate.pictures import squared  # noqa: E402
from fundusforge.images import read_image, resize  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
LARGEST_DIFFERENCE = 1e-3
SEED = 0
_LINE = np.array([1, 4, 6, 4, 1], np.float32)
KERNEL = (np.outer(_LINE, _LINE) / 256)[None, None]
Pictures = list[NDArray[np.uint8]]
Floats = NDArray[np.float32]


def peer_pyramid(batch: Floats) -> list[Floats]:
    """Split a batch (N, 3, S, S) into its levels, from the finest to 16 px."""
    levels: list[Floats] = []
    while batch.shape[-1] > swd.COARSEST:
        smaller = np.asarray(convolve(batch, KERNEL, mode="mirror"), np.float32)[:, :, ::2, ::2]
        spread = np.zeros_like(batch)
        spread[:, :, ::2, ::2] = smaller
        levels.append(batch - np.asarray(convolve(spread, 4 * KERNEL, mode="mirror"), np.float32))
        batch = smaller
    return [*levels, batch]


def peer_patches(batch: Floats, place: int) -> Floats:
    """Gather 128 patches of each image of a level, (128 N, 3, 7, 7), at the places that ours draws."""
    side, half = batch.shape[-1], swd.PATCH // 2
    rows, columns = [], []
    for index in range(len(batch)):
        rng = np.random.default_rng([SEED, place, index, side])
        rows.append(rng.integers(0, side - 2 * half, swd.PATCHES) + half)
        columns.append(rng.integers(0, side - 2 * half, swd.PATCHES) + half)
    number, channel, y, x = np.ogrid[: len(batch) * swd.PATCHES, :3, -half : half + 1, -half : half + 1]
    y = y + np.concatenate(rows)[:, None, None, None]
    x = x + np.concatenate(columns)[:, None, None, None]
    return batch[number // swd.PATCHES, channel, y, x]


def peer_distance(first: Floats, second: Floats) -> float:
    """Standardise per channel, project, sort, compare; four times 128 directions."""
    flat: list[Floats] = []
    for patches in (first, second):
        patches -= patches.mean(axis=(0, 2, 3), keepdims=True)
        patches /= patches.std(axis=(0, 2, 3), keepdims=True)
        flat.append(patches.reshape(len(patches), -1))
    directions = swd.draw_directions(flat[0].shape[1], seed=SEED).T
    results: list[float] = []
    for part in np.split(directions, 4, axis=1):
        one, two = (np.sort(np.matmul(side, part), axis=0) for side in flat)
        results.append(float(np.mean(np.abs(one - two))))
    return swd.SCALE * float(np.mean(results))


def peer(first: Pictures, second: Pictures) -> list[float]:
    """Return the distance of every level."""
    sides: list[list[Floats]] = []
    for place, pictures in enumerate((first, second)):
        batch = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32)
        sides.append([peer_patches(level, place) for level in peer_pyramid(batch)])
    return [peer_distance(one, two) for one, two in zip(*sides, strict=True)]


def ours(first: Pictures, second: Pictures) -> list[float]:
    """Return the distance of every level."""
    directions = swd.draw_directions(3 * swd.PATCH**2, seed=SEED)
    sides: list[list[swd.Patches]] = []
    for place, pictures in enumerate((first, second)):
        drawn = [
            [
                swd.draw_patches(level, np.random.default_rng([SEED, place, index, len(level)]))
                for level in swd.laplacian_pyramid(picture)
            ]
            for index, picture in enumerate(pictures)
        ]
        sides.append([swd.Patches.of(np.stack(level)) for level in zip(*drawn, strict=True)])
    return [swd.distance(one, two, directions) for one, two in zip(*sides, strict=True)]


def draw_picture(size: int, seed: int) -> NDArray[np.uint8]:
    """Draw a disc with grain and dark lines."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (size, size, 3)), (0, 0), 1.5) * 20
    y, x = np.mgrid[:size, :size]
    lines = 40 * (np.abs(np.sin(x / 25 + 3 * np.sin(y / 60 + seed))) < 0.1)
    picture = rng.normal([185, 95, 45], 10) + grain - lines[..., None]
    picture[np.hypot(x - size / 2, y - size / 2) > 0.48 * size] = 0
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def pictures(data: Path, *, count: int, size: int) -> tuple[Pictures, Pictures]:
    """Return two sets of pictures: photographs of two data sets, or drawn ones."""
    sets: list[Pictures] = []
    for place, pattern in enumerate(("HRF/images/*", "CHASE_DB1/*.jpg")):
        files = sorted(data.glob(pattern))[:count]
        if len(files) == count:
            sets.append([resize(squared(read_image(file)), size) for file in files])
        else:
            sets.append([draw_picture(size, 1000 * place + seed) for seed in range(count)])
    return sets[0], sets[1]


def timed(call: Callable[[], list[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return wall and processor seconds of a call, and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    values = call()
    return np.array([time.perf_counter() - wall, time.process_time() - cpu]), np.array(values)


def measure(first: Pictures, second: Pictures, *, repeats: int) -> dict[str, Any]:
    """Time both sides by turns; returns a figure."""
    ratios: list[NDArray[np.float64]] = []
    seconds: list[float] = []
    difference = 0.0
    for repeat in range(repeats + 1):
        mine, values = timed(lambda: ours(first, second))
        theirs, expected = timed(lambda: peer(first, second))
        difference = max(difference, float(np.max(np.abs(values / expected - 1))))
        if repeat:  # the first round warms caches up
            ratios.append(theirs / mine)
            seconds.append(mine[1])
    wall, cpu = zip(*ratios, strict=True)
    return {
        "name": "swd_vs_numpy",
        "value": round(statistics.median(wall), 2),
        "low": round(min(wall), 2),
        "high": round(max(wall), 2),
        "n": repeats,
        "unit": "ratio",
        "cpu": round(statistics.median(cpu), 2),
        "cpu_seconds": round(statistics.median(seconds), 3),
        "largest_difference": difference,
        "images": len(first),
        "size": len(first[0]),
        "command": " ".join(["python", "benchmarks/swd.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of the sliced Wasserstein distance against NumPy")
    default = os.environ.get("FUNDUSFORGE_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default, help="folder of public data sets")
    parser.add_argument("--images", type=int, default=16, help="images of each set")
    parser.add_argument("--size", type=int, default=512, help="side in pixels, a power of two")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    sets = pictures(options.data, count=options.images, size=options.size)
    figure = measure(*sets, repeats=options.repeats)
    print(json.dumps(figure), flush=True)
    if figure["largest_difference"] > LARGEST_DIFFERENCE:
        print(f"distances differ by {figure['largest_difference']:.2g} of their size", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
