"""The effect of mask channels (Beers et al. 2018, Figure 3): the same training with them and without.

    python examples/with_and_without_masks.py data/chase --stop-after 60kimg --out runs/figure3
    python examples/with_and_without_masks.py data/brats --preset mri --out runs/figure3-mri

Trains two progressive GANs of the same settings, seed and budget, `RUN/with` and `RUN/without` (a stopped run
goes on), and writes `RUN/figure3.png`: images without masks above, with them below, each row from the same
vectors. Prints one line of JSON with the kernel distance of both to the photographs of split `val`, by the
embedded features of the retina (null for magnetic resonance, which has none).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.cli.fitting import fit
from fundusforge.images import SYNTHETIC_XMP, grid, write_image
from fundusforge.models import LOOPS, PRESETS
from fundusforge.models.pggan import PGGANConfig
from fundusforge.sample.latents import Drawer
from fundusforge.training.run import LoopConfig


@dataclass(frozen=True)
class Compare:
    """Train with and without mask channels."""

    folders: Annotated[tuple[Path, ...], Positional]
    """Dataset folders with the masks."""
    out: Path
    """Folder of the two runs and the picture."""
    preset: str = "small"
    """Settings of the progressive GAN."""
    stop_after: str = "60kimg"
    """Budget of each training, in images."""
    widths: tuple[int, ...] | None = None
    """Filters of each level; the preset's if left out."""
    images: int = 8
    """Images in a row."""
    seed: int = 0
    """Seed of both trainings and of the vectors."""
    threads: int | None = None
    """CPU threads."""


def main(c: Compare) -> None:
    """Train, draw, print."""
    config = cast(PGGANConfig, PRESETS["pggan"][c.preset][1])
    if c.widths:
        config = replace(config, widths=c.widths)
    loop = LoopConfig(
        **cast(dict[str, Any], LOOPS["pggan"]), stop_after=c.stop_after, seed=c.seed, threads=c.threads
    )
    rows: list[np.ndarray] = []
    found: dict[str, float | None] = {}
    for name, masks in (("without", ()), ("with", config.masks)):
        result = fit(replace(config, masks=masks), c.folders, c.out / name, loop=loop, resume=True)
        if result is None or not result["finished"]:
            return
        drawer = Drawer.load(c.out / name)
        rows += [drawer.draw(drawer.latent(c.seed, index)).image for index in range(c.images)]
        found[name] = result["figures"].get("distance")
    write_image(c.out / "figure3.png", grid(rows, columns=c.images), xmp=SYNTHETIC_XMP)
    print(json.dumps({"budget": c.stop_after, "seed": c.seed, "distance": found}))


if __name__ == "__main__":
    main(tyro.cli(Compare))
