"""Real lesion layouts against imitated ones on eyes that the statistics did not see, as JSON lines.

    fundusforge annotate data/idrid1280 --vessels --landmarks --out runs/data/idrid1280-vessels
    python examples/compare_layouts.py runs/data/idrid1280-vessels | python docs/results/record.py

Every graded eye of the split gets imitated lesions of its own grade, on its own vessels, disc and fovea,
several times over. Both kinds of layouts are measured alike, from masks, and compared by the distance of
Kolmogorov and Smirnov: of the number of lesions of an eye, and over all lesions of sizes and of distances to
disc, fovea, vessels and to the next lesion of the kind. Intervals are percentiles over eyes drawn with
replacement, a patient's together. `floor` is the same distance between the real eyes and those of another
split: what two samples of real eyes differ by.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional

from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_measures import Eye, distances, read_eyes
from fundusforge.sample.layout_statistics import EDGES, LayoutStatistics, read_statistics
from fundusforge.sample.layouts import imitate
from fundusforge.sample.lesions import Spot, places_of, spots_of
from fundusforge.severity import LESIONS

Floats = NDArray[np.float64]
MEASURES = ("count", "diameter", *EDGES)
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class CompareLayouts:
    """Print the distances between real and imitated layouts."""

    folder: Annotated[Path, Positional]
    """Dataset folder with human lesion masks, disc and vessels."""
    split: Split = "test"
    """Eyes to compare on; none of them may stand in the statistics."""
    floor: Split = "train"
    """Split of the real eyes that show what real eyes differ by."""
    statistics: Path | None = None
    """Statistics of layouts; those of the package if left out."""
    draws: int = 5
    """Layouts of each eye."""
    resamples: int = 400
    """Of the bootstrap."""
    seed: int = 0
    name: str = "layouts"
    """First part of the figures' names."""


def measured(spots: dict[str, list[Spot]], frame: Frame) -> dict[tuple[str, str], Floats]:
    """Return what is compared of one eye: per kind and measure (N,) numbers, disc diameters or a count."""
    found: dict[tuple[str, str], Floats] = {}
    for name in LESIONS:
        own = spots.get(name)
        if own is None:
            continue
        places = places_of(own)
        away = distances(frame, places, places)
        found |= {(name, what): values[np.isfinite(values)] for what, values in away.items()}
        found[name, "diameter"] = np.array([spot.diameter for spot in own])
        found[name, "count"] = np.array([float(len(own))])
    return found


def imitated(eye: Eye, statistics: LayoutStatistics, *, seed: int) -> dict[tuple[str, str], Floats]:
    """Return the same of an imitated layout of the eye's grade, measured from its masks."""
    assert eye.grade is not None
    layout = imitate(statistics, eye.grade, eye.frame, seed=seed)
    spots = {
        name: spots_of(layout.masks[name], eye.frame, lesion=name) for name in LESIONS if name in eye.spots
    }
    return measured(spots, eye.frame)


def distance(a: Sequence[Floats], b: Sequence[Floats]) -> float:
    """Return the largest difference of two empirical distributions; not a number if either is empty."""
    first, second = np.sort(np.concatenate(a)), np.sort(np.concatenate(b))
    if not len(first) or not len(second):
        return float("nan")
    at = np.concatenate([first, second])
    shares = (np.searchsorted(values, at, side="right") / len(values) for values in (first, second))
    return float(np.abs(np.subtract(*shares)).max())


def interval(
    figure: Callable[[NDArray[np.int64]], float], patients: Sequence[str], resamples: int, seed: int
) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a figure of eyes over patients drawn with replacement."""
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(np.array(patients) == patient) for patient in dict.fromkeys(patients)]
    values = [
        figure(np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]))
        for _ in range(resamples)
    ]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def main(config: CompareLayouts) -> None:
    """Compare and print."""
    statistics = read_statistics(config.statistics)
    eyes = [eye for eye in read_eyes(config.folder, splits=(config.split,)) if eye.grade]
    others = [eye for eye in read_eyes(config.folder, splits=(config.floor,)) if eye.grade]
    real = [measured(eye.spots, eye.frame) for eye in eyes]
    floor = [measured(eye.spots, eye.frame) for eye in others]
    drawn = [
        [imitated(eye, statistics, seed=config.seed + 1000 * place + draw) for draw in range(config.draws)]
        for place, eye in enumerate(eyes)
    ]
    patients = [eye.patient for eye in eyes]
    none = np.empty(0)
    for name in LESIONS:
        for what in MEASURES:
            key = (name, what)

            def figure(chosen: NDArray[np.int64], key: tuple[str, str] = key) -> float:
                left = [real[i].get(key, none) for i in chosen]
                return distance(
                    left, [draw.get(key, none) for i in chosen for draw in drawn[i] if key in real[i]]
                )

            def against(chosen: NDArray[np.int64], key: tuple[str, str] = key) -> float:
                return distance(
                    [real[i].get(key, none) for i in chosen], [one.get(key, none) for one in floor]
                )

            counted = [len(one[key]) for one in real if key in one]
            for label, of in ((f"ks_{what}", figure), (f"ks_{what}_floor", against)):
                low, high = interval(of, patients, config.resamples, config.seed)
                row = {
                    "name": f"{config.name}_{name}_{label}", "value": of(np.arange(len(eyes))), "low": low,
                    "high": high, "n": len(counted), "unit": "1", "command": " ".join(["python", *sys.argv]),
                }  # fmt: skip
                print(
                    json.dumps({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()})
                )


if __name__ == "__main__":
    main(tyro.cli(CompareLayouts, description=__doc__))
