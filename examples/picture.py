"""Draw a folder of synthetic images as one picture: each beside the vessels it was painted on.

    python examples/picture.py demo/synthetic docs/images/synthetic.png --count 8

Refuses images that are not synthetic, or that a patient's own structure shaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from fundusforge.images import SYNTHETIC_XMP, grid, read_image, read_mask, resize, write_image
from fundusforge.records import read_folder


@dataclass(frozen=True)
class Picture:
    """Draw synthetic images beside their vessels."""

    folder: Annotated[Path, Positional]
    """Dataset folder of synthetic images."""
    out: Annotated[Path, Positional]
    """PNG or JPEG to write."""
    count: int = 16
    """Images to show."""
    side: int = 256
    """Side of each tile in pixels."""
    columns: int = 8
    """Tiles in a row."""


def main(c: Picture) -> None:
    """Write the picture."""
    tiles = []
    for record in read_folder(c.folder)[: c.count]:
        if not record.synthetic or record.structure_from_patient:
            raise SystemExit(f"{c.folder / record.image} may show a patient; it is not drawn")
        tiles.append(resize(read_image(c.folder / record.image), c.side))
        tiles.append(resize(read_mask(c.folder / record.masks["vessels"].path), c.side))
    write_image(c.out, grid(tiles, columns=c.columns), xmp=SYNTHETIC_XMP)


if __name__ == "__main__":
    main(tyro.cli(Picture))
