"""Images above, and below each what spoke for a finding (Kim et al. 2022, Figure 3), as one picture.

    fundusforge sample runs/erm -n 6 --out drawn
    fundusforge annotate drawn --activations --method gradcam --model runs/findings --out drawn-read
    python examples/activation_sheet.py drawn-read sheet.png --finding epiretinal_membrane

The maps are the soft masks of `annotate --activations`, in the colours of OpenCV's `jet` over the image. Real
photographs are refused unless `--include-real`: a sheet shows the patient's vessels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from tyro.conf import Positional

from fundusforge.images import SYNTHETIC_XMP, Grey, Image, grid, read_image, read_mask, resize, write_image
from fundusforge.records import DatasetError, read_folder

STRENGTH = 0.45
"""Share of the map's colour over the image where the map is highest."""


@dataclass(frozen=True)
class Sheet:
    """Show activation maps over the images they belong to."""

    folder: Annotated[Path, Positional]
    """Dataset folder, annotated with `--activations`."""
    out: Annotated[Path, Positional]
    """Picture to write."""
    finding: str = "epiretinal_membrane"
    """The finding, as its mask is called."""
    count: int = 6
    """Images to show, the first of the folder."""
    size: int = 256
    """Side of each in pixels."""
    include_real: bool = False
    """Show real photographs too; the sheet is then patient data."""


def overlaid(image: Image, activation: Grey) -> Image:
    """Return an image (S, S, 3) uint8 with a map (S, S) uint8 over it."""
    colours = cv2.cvtColor(cv2.applyColorMap(activation, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    share = activation[..., None] / 255 * STRENGTH
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)


def main(c: Sheet) -> None:
    """Read, draw, write."""
    records = [record for record in read_folder(c.folder) if c.finding in record.masks]
    if not c.include_real:
        records = [record for record in records if record.synthetic]
    if not records:
        kind = "" if c.include_real else "synthetic "
        raise DatasetError(f"{c.folder}: no {kind}image has a map {c.finding}")
    above: list[np.ndarray] = []
    below: list[np.ndarray] = []
    for record in records[: c.count]:
        mask = record.masks[c.finding]
        image = resize(read_image(c.folder / record.image), c.size)
        above.append(image)
        below.append(overlaid(image, resize(read_mask(c.folder / mask.path, soft=mask.soft), c.size)))
    xmp = None if c.include_real else SYNTHETIC_XMP
    write_image(c.out, grid(above + below, columns=len(above)), xmp=xmp)


if __name__ == "__main__":
    main(tyro.cli(Sheet))
