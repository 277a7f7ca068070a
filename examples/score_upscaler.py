"""Does a super-resolution network draw photographs better than cubic interpolation? Held-out ones, scored.

    python examples/score_upscaler.py runs/sharp data/idrid1280 --splits test | python docs/results/record.py

Photographs are made small by the kernel that the network was trained for, rounded to 8 bits, and enlarged
again by the network, by the network averaged over orientations, and by OpenCV's cubic interpolation.
Peak signal-to-noise ratio (all colours) and structural similarity inside the field of view, means over
photographs; intervals are bootstraps of patients. A line of JSON for each figure: `<name>_gain_db` is what
the network gains on the interpolation of the same photographs, `<name>_ensemble_gain_db` what the average
gains. Where the field was cut from black surroundings its edge is the steepest in the picture, and no retina:
`<name>_gain_inner_db` leaves out what lies within EDGE pixels of it.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.annotate.segmenter import known_patients
from fundusforge.evaluate.ssim import ssim
from fundusforge.evaluate.statistics import bootstrap
from fundusforge.images import Image, read_image, read_mask
from fundusforge.models.edsr import Kernel
from fundusforge.records import DatasetError, Record, Split, read_folder
from fundusforge.sample.upscaling import Upscaler, bicubic, psnr, shrink

EDGE = 8
"""Pixels of the large picture."""


@dataclass(frozen=True)
class ScoreUpscaler:
    """Score a super-resolution network on photographs that it has not learnt from."""

    model: Annotated[Path, Positional]
    """Run folder or weights."""
    folder: Annotated[Path, Positional]
    """Dataset folder."""
    splits: tuple[Split, ...] = ("test",)
    """Splits to score."""
    name: str = "edsr"
    """First part of the figures' names."""
    ensemble: bool = True
    """Score the average over orientations too, twice or eight times the work."""
    device: str = "auto"
    """Where the network runs: auto, cpu, cuda."""
    seed: int = 0
    """Seed of the bootstrap."""


def scored(
    folder: Path, records: list[Record], ways: dict[str, Callable[[Image], Image]], kernel: Kernel
) -> np.ndarray:
    """Return PSNR in dB, SSIM, and PSNR away from the field's edge (photographs, ways, 3)."""
    rows: list[list[tuple[float, float, float]]] = []
    window = np.ones((2 * EDGE + 1, 2 * EDGE + 1), np.uint8)
    for record in records:
        image = read_image(folder / record.image)
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        sharp = image[:height, :width]
        inside = np.full((height, width), 255, np.uint8)
        if record.field_of_view:
            inside = read_mask(folder / record.field_of_view)[:height, :width]
        small = shrink(sharp, kernel)
        found = [way(small) for way in ways.values()]
        inner = np.uint8(255) * (
            cv2.erode(inside, window, borderType=cv2.BORDER_CONSTANT, borderValue=0) > 127
        )
        rows.append(
            [
                (psnr(one, sharp, inside), ssim(one, sharp, field_of_view=inside), psnr(one, sharp, inner))
                for one in found
            ]
        )
    return np.array(rows)


def show(c: ScoreUpscaler, name: str, unit: str, values: np.ndarray, patients: list[str]) -> None:
    """Print the mean of a figure with its interval."""
    interval = bootstrap(lambda w: float((w[0] * values).sum() / w[0].sum()), patients, seed=c.seed)
    line = {
        "name": f"{c.name}_{name}", "value": round(float(values.mean()), 4), "low": interval.low,
        "high": interval.high, "n": len(values), "unit": unit, "command": "python " + shlex.join(sys.argv),
    }  # fmt: skip
    print(json.dumps(line), flush=True)


def main(c: ScoreUpscaler) -> None:
    """Print the figures."""
    upscaler = Upscaler.load(c.model, device=c.device)
    records = [record for record in read_folder(c.folder, splits=c.splits) if not record.contrasts]
    if not records:
        raise DatasetError(f"{c.folder}: no photograph of split {' or '.join(c.splits)}")
    patients = [record.patient for record in records]
    if upscaler.patients & known_patients(patients):
        raise SystemExit(f"{c.model} was trained on patients of {c.folder}: name other splits")
    ways = {"bicubic": bicubic, "model": upscaler.upscale}
    if c.ensemble:
        ways["ensemble"] = replace(upscaler, ensemble=True).upscale
    found = scored(c.folder, records, ways, upscaler.config.kernel)
    for place, way in enumerate(ways):
        show(c, f"{way}_psnr", "dB", found[:, place, 0], patients)
        show(c, f"{way}_ssim", "ssim", found[:, place, 1], patients)
    for place, way in enumerate(ways):
        prefix = "" if way == "model" else f"{way}_"
        if way != "bicubic":
            gains = found[:, place] - found[:, 0]
            show(c, f"{prefix}gain_db", "dB", gains[:, 0], patients)
            show(c, f"{prefix}gain_inner_db", "dB", gains[:, 2], patients)


if __name__ == "__main__":
    main(tyro.cli(ScoreUpscaler))
