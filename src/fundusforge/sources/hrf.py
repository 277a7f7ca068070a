"""HRF: 15 healthy, 15 diabetic and 15 glaucomatous eyes with vessels (Budai et al. 2013).

doi:10.1155/2013/154860

images/01_h.jpg  images/01_dr.JPG  images/01_g.jpg   manual1/01_h.tif   mask/01_h_mask.tif
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.sources.files import by_stem, child, demand, load_image, load_mask, pictures
from fundusforge.sources.item import Item, MaskSource, Reject

EXPECTED = "images/01_h.jpg (or _dr, _g) with manual1/01_h.tif and mask/01_h_mask.tif"
_NAME = re.compile(r"(\d+)_(h|dr|g)", re.IGNORECASE)
_CLASSES = {"h": "healthy", "dr": "diabetic_retinopathy", "g": "glaucoma"}


@dataclass(frozen=True, kw_only=True)
class Hrf:
    """HRF, vessels, field of view and diagnosis, at any scale."""

    root: Path
    """Folder that holds `images`, `manual1` and `mask`."""
    kind: Literal["hrf"] = "hrf"

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by number, then class.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        root = child(self.root, "HRF") or self.root
        vessels, views = by_stem(child(root, "manual1")), by_stem(child(root, "mask"))
        for stem, path in by_stem(child(root, "images")).items():
            if not (match := _NAME.fullmatch(stem)):
                continue
            drawn, view = vessels.get(stem), views.get(f"{stem}_mask") or views.get(stem)
            yield Item(
                key=stem,
                file=path.relative_to(self.root),
                load=partial(load_image, path),
                patient=f"hrf-{stem}",
                source="hrf",
                masks={"vessels": MaskSource(load=partial(load_mask, drawn))} if drawn else {},
                field_of_view=partial(load_mask, view) if view else None,
                camera="Canon CR-1",
                terms="CC BY 4.0",
                labels=(_CLASSES[match[2]],),
            )


def fits(root: Path) -> bool:
    """Tell whether the folder looks like HRF."""
    images = child(child(root, "HRF") or root, "images")
    return images is not None and any(_NAME.fullmatch(path.stem) for path in pictures(images))
