"""Two augmentation studies whose answers are known: one without a gain, one with.

    python examples/planted_study.py [--seeds 6] [--seed 1] [--jobs 1] [--out FOLDER]

Phantom eyes of 64 px, half of them with a round patch. Of those with one the classifier has six, all reddish,
and sixty without; the eyes to judge by have patches of any colour. In the first study the synthetic images
are those six again, half of them mirrored, as training mirrors them too: they hold nothing that drawing the
six more often does not give, so that no study may find a gain over the best free baseline. In the second they
are fresh eyes with patches of any colour, and a study that misses that gain is of no use. Both run
`fundusforge study augmentation` on the same real eyes; what they share is trained once. Prints lines of JSON:
for each study 1 if its verdict is right, else 0, and the gain.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import arg

from fundusforge.cli.study import tools_of
from fundusforge.images import write_image
from fundusforge.records import METADATA, Provenance, Record, Split, write_metadata
from fundusforge.sources.phantom.eye import draw_eye
from fundusforge.studies.augmentation.cells import Pace
from fundusforge.studies.augmentation.config import Learner, Quarantine, Ratios, Ready, Screen, Study
from fundusforge.studies.augmentation.result import StudyResult
from fundusforge.studies.augmentation.stage import augmentation

SIDE, RARE, COMMON = 64, 6, 60
"""Pixels, and training eyes with and without a patch."""
VAL, TEST = 20, 120
"""Eyes of each class in validation and test."""
STRENGTH, RADII = 50.0, (4.0, 7.0)
"""Grey levels by which a patch differs from the retina, and its radius in pixels."""
RED, BAND = 0.0, 0.4
"""Hue of the real patches, and how far it varies, in radians; elsewhere it is any."""
Layer = NDArray[np.uint8]


@dataclass(frozen=True)
class Planted:
    """Ask two questions whose answers are known."""

    seeds: int = 6
    """Trainings of each arm."""
    seed: int = 1
    """Of the eyes and of the studies."""
    images: int = 3200
    """Images of each training."""
    jobs: int = 1
    """Models trained at once."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where to keep eyes and studies; a temporary folder if left out."""


@dataclass(frozen=True)
class Planned:
    """One eye to be written."""

    name: str
    number: tuple[int, ...]
    """What it is drawn from."""
    ill: bool
    split: Split | None = None
    red: bool = False
    """The patch is reddish."""
    mirrored: bool = False


def real_eyes(seed: int) -> Iterator[Planned]:
    """Yield the eyes of a study: few ill ones to learn from, as many ill as healthy ones to judge by."""
    parts: tuple[tuple[Split, bool, int], ...] = (
        ("train", False, COMMON), ("train", True, RARE), ("val", False, VAL), ("val", True, VAL),
        ("test", False, TEST), ("test", True, TEST),
    )  # fmt: skip
    for part, (split, ill, count) in enumerate(parts):
        for index in range(count):
            name = f"phantom-{seed}-{part}-{index}"
            yield Planned(name, (seed, part, index), ill, split, red=split == "train")


def again(seed: int, count: int) -> Iterator[Planned]:
    """Yield the ill training eyes again and again, every other time mirrored."""
    for index in range(count):
        mirrored = bool(index // RARE % 2)
        yield Planned(f"copy-{seed}-{index}", (seed, 1, index % RARE), True, red=True, mirrored=mirrored)


def fresh(seed: int, count: int) -> Iterator[Planned]:
    """Yield ill eyes of nobody else, with patches of any colour."""
    for index in range(count):
        yield Planned(f"fresh-{seed}-{index}", (seed, 9, index), True)


def drawn(eye: Planned) -> tuple[Layer, Layer]:
    """Return picture (S, S, 3) and field of view (S, S) of an eye."""
    rng = np.random.default_rng([*eye.number])
    found = draw_eye(int(rng.integers(2**62)), size=SIDE, grade=0)
    image, inside = found.image.astype(np.float64), found.field_of_view
    if eye.ill:
        image += patch(inside, rng, red=eye.red)
    if eye.mirrored:
        image, inside = image[:, ::-1], np.ascontiguousarray(inside[:, ::-1])
    return np.ascontiguousarray(
        (image * (inside[..., None] > 0)).clip(0, 255).round().astype(np.uint8)
    ), inside


def patch(inside: Layer, rng: np.random.Generator, *, red: bool) -> NDArray[np.float64]:
    """Return what a patch adds to a picture, (S, S, 3): a colour of no brightness of its own."""
    radius, hue = rng.uniform(*RADII), rng.uniform(-math.pi, math.pi)
    hue = RED + BAND * hue / math.pi if red else hue
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    near = np.hypot(rows - SIDE / 2, columns - SIDE / 2) < SIDE / 2 - 10
    places = np.argwhere((inside > 0) & near)
    row, column = places[rng.integers(len(places))] + 0.5
    cover = np.clip(radius - np.hypot(rows - row, columns - column) + 0.5, 0, 1)
    axes = np.array([[2.0, -1.0, -1.0], [0.0, 1.0, -1.0]])  # of the colours without brightness
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return cover[..., None] * STRENGTH * (np.array([math.cos(hue), math.sin(hue)]) @ axes)


def write_eyes(folder: Path, eyes: Iterator[Planned], *, synthetic: bool) -> Path:
    """Write eyes as a dataset folder, unless they are there."""
    if (folder / METADATA).exists():
        return folder
    records: list[Record] = []
    for name in ("images", "field_of_view"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, eye in enumerate(eyes):
        image, inside = drawn(eye)
        write_image(folder / "images" / f"{index:04d}.png", image)
        write_image(folder / "field_of_view" / f"{index:04d}.png", inside)
        made = Provenance(model="phantom", seed=0, index=index, condition="planted") if synthetic else None
        records.append(
            Record(
                image=f"images/{index:04d}.png", field_of_view=f"field_of_view/{index:04d}.png",
                patient=eye.name, source="phantom", split=eye.split, synthetic=synthetic, provenance=made,
                labels=("patch",) if eye.ill else ("none",), terms="free of patients; CC0",
            )
        )  # fmt: skip
    write_metadata(folder, records)
    return folder


def study(c: Planted, name: str, real: Path, synthetic: Path) -> Study:
    """Return the study of one kind of synthetic images."""
    model = {
        "start": "retina",
        "widths": [16, 32, 64],
        "pool": "all",
        "size": SIDE,
        "lr": 2e-3,
        "vertical": True,
    }
    loop = {"stop_after": f"{c.images}img", "batch": 8, "workers": 0, "warmup": 80, "ema_images": 200.0}
    return Study(
        name=name, real=real, seeds=c.seeds, seed=c.seed, keep="none",
        design=Ratios(rare="patch", ratios=(RARE / COMMON,)),
        supply=Ready(folder=synthetic, trusted=True),
        learners={"small": Learner(family="classifier", model=model, loop=loop)},
        free=("oversample", "class_weights", "augment"), screen=Screen(seeds=2, keep=1),
        quarantine=Quarantine(spaces="off"),
    )  # fmt: skip


def ask(c: Planted, out: Path) -> None:
    """Draw the eyes, run both studies, print what they say."""
    real = write_eyes(out / "real", real_eyes(c.seed), synthetic=False)
    for name, eyes, right in (("null", again, False), ("gain", fresh, True)):
        folder = write_eyes(out / name, eyes(c.seed, COMMON - RARE), synthetic=True)
        asked = study(c, f"planted_{name}", real, folder)
        found = augmentation(
            asked, out / "study", tools_of(asked, threads=1), pace=Pace(jobs=c.jobs), progress=tell
        )
        show(c, f"planted_{name}", found, right=right)


def show(c: Planted, name: str, found: StudyResult, *, right: bool) -> None:
    """Print verdict and gain as lines of JSON."""
    (one,) = found.comparisons
    tell(one.sentence)
    ok = (one.verdict == "helps") == right
    rows = (
        {"name": f"{name}_verdict_ok", "value": int(ok), "low": None, "high": None, "unit": "1 if right"},
        {"name": f"{name}_auc_gain", "value": one.gain.value, "low": one.gain.low, "high": one.gain.high,
         "unit": f"auc over the best free baseline ({one.free}), {one.patients} test eyes"},
    )  # fmt: skip
    for row in rows:
        print(json.dumps({**row, "n": c.seeds, "command": "python " + shlex.join(sys.argv)}), flush=True)


def tell(text: str) -> None:
    """Say how far it is."""
    print(text, file=sys.stderr, flush=True)


def main(c: Planted) -> None:
    """Ask in the folder that is named, or in one that is thrown away."""
    if c.out is not None:
        ask(c, c.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        ask(c, Path(folder))


if __name__ == "__main__":
    main(tyro.cli(Planted))
