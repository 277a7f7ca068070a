"""Frechet distance: how many times as fast as torch-fidelity's, for fewer images than dimensions.

    python benchmarks/frechet.py [--images 512] [--dimensions 2048] [--repeats 3]

Vectors of both sets are drawn with variances that fall off as those of image features do. Both sides start
from the vectors, by turns, on one thread (the environment's OMP_NUM_THREADS if that is set): torch-fidelity's
covariances and the eigenvalues of their product, and ours.

Prints one line of JSON, `frechet_vs_torch_fidelity`: `value` is the median over repeats of the ratio of wall
times, `low` and `high` the extreme repeats, `cpu` the same median of processor times, `difference` the
relative difference of the two distances. Exits with 1 if that is above 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy reads it

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402

from fundusforge.evaluate.frechet import frechet_distance  # noqa: E402


def vectors(rng: np.random.Generator, images: int, dimensions: int) -> np.ndarray:
    """Draw (images, dimensions) float32."""
    return (rng.normal(size=(images, dimensions)) / np.sqrt(np.arange(1, dimensions + 1))).astype(np.float32)


def peer(first: np.ndarray, second: np.ndarray) -> float:
    """Return torch-fidelity's distance, in double precision."""
    both = [fid_features_to_statistics(torch.from_numpy(each.astype(np.float64))) for each in (first, second)]
    return float(fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"])


def timed(call: Callable[[], float]) -> tuple[float, float, float]:
    """Return wall and processor seconds of a call, and what it returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return time.perf_counter() - wall, time.process_time() - cpu, value


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of the Frechet distance against torch-fidelity's")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    first = vectors(rng, options.images, options.dimensions)
    second = vectors(rng, options.images, options.dimensions) * np.float32(1.2)
    frechet_distance(first, second)  # warms the libraries up
    walls, cpus, ours, differences = [], [], [], []
    for _ in range(options.repeats):
        mine = timed(lambda: frechet_distance(first, second))
        theirs = timed(lambda: peer(first, second))
        walls.append(theirs[0] / mine[0])
        cpus.append(theirs[1] / mine[1])
        ours.append(mine[0])
        differences.append(abs(theirs[2] / mine[2] - 1))
    figure = {
        "name": "frechet_vs_torch_fidelity",
        "value": round(statistics.median(walls), 1),
        "low": round(min(walls), 1),
        "high": round(max(walls), 1),
        "n": options.repeats,
        "unit": "ratio",
        "cpu": round(statistics.median(cpus), 1),
        "seconds": round(statistics.median(ours), 3),
        "difference": max(differences),
        "images": options.images,
        "dimensions": options.dimensions,
        "threads": int(THREADS),
        "command": " ".join(["python", "benchmarks/frechet.py", *sys.argv[1:]]),
    }
    print(json.dumps(figure))
    return int(max(differences) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
