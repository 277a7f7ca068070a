"""Structural similarity: how many times as fast as scikit-image's, one thread, in the same run.

    python benchmarks/ssim.py [--data FOLDER] [--repeats 11]

Pairs of 512 px RGB pictures: two photographs of `HRF` or `CHASE_DB1` if the data are there, and drawn ones in
any case, each beside a blurred and a noisy copy of itself. Both sides have the original code's parameters
(Gaussian of 1.5 px, 11 px wide, population variance) and run by turns.

Prints one line of JSON, `ssim_vs_skimage`: `value` is the median over repeats of the ratio of summed wall
times, `low` and `high` the extreme repeats; `cpu` is the same median of processor times, which other work on
the machine disturbs less. The run fails if any two values differ by more than 1e-5.
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
from skimage.metrics import structural_similarity  # noqa: E402

from fundusforge.evaluate.pictures import squared  # noqa: E402
from fundusforge.evaluate.ssim import ssim  # noqa: E402
from fundusforge.images import read_image, resize  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SIZE = 512
LARGEST_DIFFERENCE = 1e-5
Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def skimage(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """The peer, with the parameters of the original code."""
    value: Any = structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        channel_axis=-1,
    )  # fmt: skip
    return float(value)


def draw_picture(seed: int) -> NDArray[np.uint8]:
    """Draw a disc with grain and dark lines."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE, 3)), (0, 0), 1.5) * 20
    y, x = np.mgrid[:SIZE, :SIZE]
    lines = 40 * (np.abs(np.sin(x / 25 + 3 * np.sin(y / 60 + seed))) < 0.1)
    picture = np.array([185.0, 95.0, 45.0]) + grain - lines[..., None]
    picture[np.hypot(x - SIZE / 2, y - SIZE / 2) > 0.48 * SIZE] = 0
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def pairs(data: Path) -> list[Pair]:
    """Return pictures, each beside a blurred and a noisy copy, and the first two beside each other."""
    files = sorted([*data.glob("HRF/images/*"), *data.glob("CHASE_DB1/*.jpg")])[:2]
    pictures = [draw_picture(seed) for seed in range(2)]
    pictures += [resize(squared(read_image(file)), SIZE) for file in files]
    rng = np.random.default_rng(0)
    found: list[Pair] = [(pictures[0], pictures[1])]
    for picture in pictures:
        found.append((picture, np.asarray(cv2.GaussianBlur(picture, (0, 0), 2), np.uint8)))
        noise = rng.normal(0, 12, picture.shape)
        found.append((picture, np.clip(picture + noise, 0, 255).astype(np.uint8)))
    return found


def timed(call: Callable[..., float], pair: Pair) -> tuple[NDArray[np.float64], float]:
    """Return wall and processor seconds of a call, and what it gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call(*pair)
    return np.array([time.perf_counter() - wall, time.process_time() - cpu]), float(value)


def measure(compared: list[Pair], *, repeats: int) -> dict[str, Any]:
    """Time both sides by turns on every pair; returns a figure."""
    ratios: list[NDArray[np.float64]] = []
    milliseconds: list[float] = []
    difference = 0.0
    for repeat in range(repeats + 1):
        sums = np.zeros((2, 2))
        for pair in compared:
            (mine, value), (theirs, expected) = timed(ssim, pair), timed(skimage, pair)
            sums += mine, theirs
            difference = max(difference, abs(value - expected))
        if repeat:  # the first round warms caches up
            ratios.append(sums[1] / sums[0])
            milliseconds.append(1000 * sums[0, 1] / len(compared))
    wall, cpu = zip(*ratios, strict=True)
    return {
        "name": "ssim_vs_skimage",
        "value": round(statistics.median(wall), 2),
        "low": round(min(wall), 2),
        "high": round(max(wall), 2),
        "n": repeats,
        "unit": "ratio",
        "cpu": round(statistics.median(cpu), 2),
        "milliseconds_per_pair": round(statistics.median(milliseconds), 2),
        "largest_difference": difference,
        "pairs": len(compared),
        "size": SIZE,
        "command": " ".join(["python", "benchmarks/ssim.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of structural similarity against scikit-image")
    default = os.environ.get("FUNDUSFORGE_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default, help="folder of public data sets")
    parser.add_argument("--repeats", type=int, default=11)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    figure = measure(pairs(options.data), repeats=options.repeats)
    print(json.dumps(figure), flush=True)
    if figure["largest_difference"] > LARGEST_DIFFERENCE:
        print(f"values differ by {figure['largest_difference']:.2g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
