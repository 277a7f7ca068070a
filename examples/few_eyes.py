"""Quality and copies of style-based generators that learnt from few photographs.

    python examples/few_eyes.py data/idrid-vessels64 --counts 20 50 200 --stop-after 40kimg --out runs/few

For each count takes so many training images (of as many patients, drawn by the seed, the smaller sets within
the larger) and all images of split `val`, trains the preset with the settings that the tool chooses for the
count, and prints a line of JSON: what was chosen, when training ended and why, the kernel distance of the
best state to split `val` beside that of the training images themselves at the same size, the largest share
of drawn images that were too near to a training image (nothing below 64 px), and how much better the
discriminator came to know the training images than those of `val`. Stopped runs go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.cli.fitting import fit
from fundusforge.evaluate.extractors import load_extractor
from fundusforge.evaluate.kernel import kernel_distance
from fundusforge.images import read_image, resize
from fundusforge.models import LOOPS, PRESETS
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.records import METADATA, DatasetError, Record, read_folder, write_metadata
from fundusforge.training.run import CONFIG, LOG, LoopConfig


@dataclass(frozen=True)
class FewEyes:
    """Train on few photographs."""

    folder: Annotated[Path, Positional]
    """Dataset folder with the masks, split by patient."""
    out: Path
    """Folder of the subsets and runs."""
    counts: tuple[int, ...] = (20, 50, 200)
    """Numbers of training images."""
    preset: str = "small"
    """Settings of the generator."""
    widths: tuple[int, ...] | None = None
    """Filters of each level; the preset's if left out."""
    stop_after: str = "40kimg"
    """Budget of each training."""
    validate_every: str = "4kimg"
    """How often distance and copies are looked at."""
    batch: int = 8
    """Images per step."""
    seed: int = 0
    """Seed of the choice of images and of the trainings."""
    threads: int | None = None
    """CPU threads."""


def subset(folder: Path, out: Path, count: int, *, seed: int, masks: Sequence[str]) -> list[Record]:
    """Write a dataset folder of `count` training images and all of split `val`, its files linked.

    Raises:
        DatasetError: There are not as many training patients.
    """
    records = [record for record in read_folder(folder) if set(masks) <= record.masks.keys()]
    first = {record.patient: record for record in records if record.split == "train"}
    if len(first) < count:
        raise DatasetError(f"{folder}: {count} training images asked for, of {len(first)} patients")
    order = np.random.default_rng(seed).permutation(len(first))
    chosen = [list(first.values())[place] for place in order[:count]]
    kept = chosen + [record for record in records if record.split == "val"]
    if not (out / METADATA).exists():
        for path in (path for record in kept for path in record.files().values()):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            if not (out / path).exists():
                os.link(folder / path, out / path)
        write_metadata(out, kept)
    return kept


def logged(run: Path, name: str) -> list[Any]:
    """Return the values that a run logged under a name."""
    rows = [json.loads(line) for line in (run / LOG).read_text("utf-8").splitlines()]
    return [row[name] for row in rows if name in row]


def main(c: FewEyes) -> None:
    """Train, print."""
    config = cast(StyleGANConfig, PRESETS["stylegan"][c.preset][1])
    if c.widths:
        config = replace(config, widths=c.widths)
    settings = cast(dict[str, Any], LOOPS["stylegan"]) | {
        "stop_after": c.stop_after, "validate_every": c.validate_every, "batch": c.batch, "seed": c.seed,
        "threads": c.threads,
    }  # fmt: skip
    extractor = load_extractor("retina")
    for count in c.counts:
        folder, run = c.out / f"eyes{count}", c.out / f"run{count}"
        kept = subset(c.folder, folder, count, seed=c.seed, masks=config.masks)
        result = fit(config, [folder], run, loop=LoopConfig(**settings), resume=True)
        if result is None or not result["finished"]:
            return
        learnt, held = (
            extractor([resize(read_image(folder / r.image), config.size) for r in kept if r.split == split])
            for split in ("train", "val")
        )
        model = json.loads((run / CONFIG).read_text("utf-8"))["model"]
        line = {
            "training_images": count, "images_seen": result["images"], "gamma": model["gamma"],
            "adaptive_over": model["adaptive_over"], "ended": logged(run, "ended")[-1:],
            "distance": min(logged(run, "validation/distance")),
            "distance_real": kernel_distance(learnt, held),
            "leaked": max(logged(run, "validation/leaked"), default=None),
            "overfit": max(logged(run, "validation/overfit")), "seed": c.seed,
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(tyro.cli(FewEyes))
