"""Memory: the peak of one whole evaluation of many images, in GiB.

    python benchmarks/memory.py [--images 5000] [--size 512] [--metrics swd frechet ...]

Draws a few phantoms, writes them again and again in other colours and with other grain, so that every file
differs, and judges so many of them against as many others with `fundusforge evaluate`, in a process of its
own: every metric unless some are named, the extractor that is embedded, or else the random one.

Prints one line of JSON, `evaluate_memory`: `value` is the most memory that the process held (ru_maxrss).
Exits with 1 if that is 4 GiB or more.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from fundusforge.evaluate.extractors import has_retina
from fundusforge.images import read_image, write_image
from fundusforge.records import Record, read_folder, write_metadata

LIMIT = 4.0
"""GiB."""
PHANTOMS = 24


def run(*words: object) -> None:
    """Run a command of fundusforge, quietly."""
    subprocess.run(
        [sys.executable, "-m", "fundusforge", *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


def multiply(folder: Path, out: Path, *, count: int, seed: int, synthetic: bool) -> None:
    """Write a dataset folder of `count` images, each an image of `folder` in other colours, with grain."""
    records, found = read_folder(folder), list[Record]()
    (out / "images").mkdir(parents=True)
    for name in ("masks", "field_of_view"):
        if (folder / name).is_dir():
            shutil.copytree(folder / name, out / name)
    rng = np.random.default_rng(seed)
    for place in range(count):
        record = records[int(rng.integers(len(records)))]
        image = read_image(folder / record.image) * rng.uniform(0.8, 1.2, 3)
        image = image + rng.normal(0, 2, image.shape) * (image > 0)
        name = f"images/{place:05}.jpg"
        write_image(out / name, np.clip(image, 0, 255).astype(np.uint8))
        found.append(replace(record, image=name, patient=f"{seed}-{place}", synthetic=synthetic, split=None))
    write_metadata(out, found)


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of an evaluation")
    parser.add_argument("--images", type=int, default=5000, help="of each of the two folders")
    parser.add_argument("--size", type=int, default=512, help="side of the pictures")
    parser.add_argument("--metrics", nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run("prepare", "--format", "phantom", "--source.count", PHANTOMS, "--source.pixels", options.size,
            "--size", options.size, "--quality.no-enabled", "--out", place / "drawn")  # fmt: skip
        multiply(place / "drawn", place / "one", count=options.images, seed=1, synthetic=True)
        multiply(place / "drawn", place / "two", count=options.images, seed=2, synthetic=False)
        began = time.monotonic()
        run("evaluate", place / "one", "--against", place / "two", "--out", place / "results", "--cache",
            place / "cache", "--max-images", options.images,
            *(() if has_retina() else ("--extractor", "random")),
            *(("--metrics", *options.metrics) if options.metrics else ()))  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    line = {
        "name": "evaluate_memory", "value": round(peak, 2), "low": round(peak, 2), "high": round(peak, 2),
        "n": 1, "unit": "GiB", "images": 2 * options.images, "size": options.size,
        "minutes": round((time.monotonic() - began) / 60, 1), "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    print(json.dumps(line))
    return int(peak >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
