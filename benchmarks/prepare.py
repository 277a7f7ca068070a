"""Prepare: how many times the images per second of a MONAI pipeline, one thread, in the same run.

    python benchmarks/prepare.py [--data FOLDER] [--repeats 5] [--size 1024]

Photographs of `IDRiD/A. Segmentation` if the data are there, and drawn ones of 1536 x 2048 pixels in any
case, all JPEG files on disk. Ours is the whole stage for one image: decoding, field of view, crop, resize,
quality, text, print for duplicates, image and field of view written and flushed to disk. MONAI's is
LoadImage, CropForeground, Resize, SaveImage: no field of view, no gate. Both write PNG in one round and JPEG
in the other, by turns.

Prints two lines of JSON: `prepare_vs_monai_jpeg` and `prepare_vs_monai_png`, against MONAI's antialiased
resize (`anti_aliasing=True`); and two more, `prepare_vs_monai_area_...`, against its quickest that does not
alias (`mode="area"`), which is many times cheaper. `value` is the median over repeats of the ratio of summed
wall times, `low` and `high` the extreme repeats; `cpu` is the same median of processor times, which other
work on the machine disturbs less.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before NumPy reads them: both sides get one thread

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from fundusforge.images import write_image  # noqa: E402
from fundusforge.prepare.produce import Job, produce  # noqa: E402
from fundusforge.prepare.settings import PrepareConfig  # noqa: E402
from fundusforge.sources.files import load_image  # noqa: E402
from fundusforge.sources.item import Item  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 1536, 2048


def draw_photograph(path: Path, *, seed: int) -> Path:
    """Draw a disc with grain and dark lines, as hard to decode as a photograph, and store it as JPEG."""
    rng = np.random.default_rng(seed)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH, 3)), (0, 0), 1.5) * 20
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    lines = 25 * (np.abs(np.sin(x / 40 + 3 * np.sin(y / 150 + seed))) < 0.1)
    picture = np.array([185.0, 95.0, 45.0]) + grain - lines[..., None]
    picture[np.hypot(x - WIDTH / 2, y - HEIGHT / 2) > 0.49 * HEIGHT] = 0
    write_image(path, np.clip(np.rint(picture), 0, 255).astype(np.uint8), quality=92)
    return path


def ours(path: Path, out: Path, *, suffix: str, size: int) -> None:
    """Prepare one photograph."""
    config = PrepareConfig(size=size, format="png" if suffix == ".png" else "jpeg")
    item = Item(
        key=path.stem, file=Path(path.name), load=partial(load_image, path), patient=path.stem, source="bench"
    )
    entry = produce(
        Job(item=item, name=path.stem, root=str(path.parent), out=out, key=b"k" * 16, config=config)
    )
    if "reason" in entry:
        raise RuntimeError(f"{path.name} was rejected: {entry['reason']}")


def monai_pipeline(out: Path, *, suffix: str, size: int, area: bool) -> Callable[[str], object]:
    """Return MONAI's pipeline for one photograph."""
    from monai.transforms import Compose, CropForeground, LoadImage, Resize, SaveImage

    return Compose(
        [
            LoadImage(image_only=True, ensure_channel_first=True, reader="PILReader"),
            CropForeground(select_fn=lambda image: image > 25),
            Resize((size, size), mode="area") if area else Resize((size, size), mode="bilinear",
            anti_aliasing=True), SaveImage(
                output_dir=out, output_ext=suffix, output_dtype=np.uint8, resample=False,
                separate_folder=False, print_log=False, writer="PILWriter",
            ),
        ]
    )  # fmt: skip


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(
    files: list[Path], folder: Path, *, suffix: str, size: int, repeats: int, area: bool
) -> dict[str, object]:
    """Time both sides by turns on every file; returns a figure."""
    mine, theirs = folder / f"ours{area}{suffix}", folder / f"monai{area}{suffix}"
    for place in (mine / "images", mine / "field_of_view", theirs):
        place.mkdir(parents=True)
    pipeline = monai_pipeline(theirs, suffix=suffix, size=size, area=area)
    ratios: list[tuple[float, float]] = []
    speeds: list[float] = []
    for repeat in range(repeats + 1):
        sums = np.zeros((2, 2))
        for file in files:
            sums[0] += timed(partial(ours, file, mine, suffix=suffix, size=size))
            sums[1] += timed(partial(pipeline, str(file)))
        if repeat:  # the first round warms caches and imports up
            ratios.append(tuple(sums[1] / sums[0]))
            speeds.append(len(files) / sums[0, 1])
    wall, cpu = zip(*ratios, strict=True)
    return {
        "name": f"prepare_vs_monai_{'area_' if area else ''}{suffix.strip('.').replace('jpg', 'jpeg')}",
        "value": round(statistics.median(wall), 2),
        "low": round(min(wall), 2),
        "high": round(max(wall), 2),
        "n": repeats,
        "unit": "ratio",
        "cpu": round(statistics.median(cpu), 2),
        "images_per_core_second": round(statistics.median(speeds), 2),
        "files": len(files),
        "size": size,
        "command": " ".join(["python", "benchmarks/prepare.py", *sys.argv[1:]]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of prepare against a MONAI pipeline")
    default = os.environ.get("FUNDUSFORGE_DATA", ROOT.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default, help="folder of public data sets")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--only", choices=("idrid", "drawn"), help="one of the two kinds of photograph")
    options = parser.parse_args()
    try:
        import monai  # noqa: F401
        import torch
    except ImportError:
        print("benchmarks/prepare.py needs MONAI: pip install 'fundusforge[bench]'", file=sys.stderr)
        return 1
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [draw_photograph(folder / f"drawn_{seed}.jpg", seed=seed) for seed in range(2)]
        real = sorted(options.data.glob("IDRiD/A. Segmentation/1. Original Images/a. Training Set/*.jpg"))[:2]
        files = {"idrid": real, "drawn": files}.get(options.only, files + real)
        for area, suffix in itertools.product((False, True), (".jpg", ".png")):
            figure = compare(
                files, folder, suffix=suffix, size=options.size, repeats=options.repeats, area=area
            )
            print(json.dumps(figure), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
