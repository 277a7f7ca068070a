"""CHASE_DB1: both eyes of 14 children, vessels by two observers (Fraz et al. 2012).

doi:10.1109/TBME.2012.2205687

Image_01L.jpg  Image_01L_1stHO.png  Image_01L_2ndHO.png  Image_01R.jpg ...
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

EXPECTED = "Image_01L.jpg with Image_01L_1stHO.png and Image_01L_2ndHO.png"
_NAME = re.compile(r"Image_(\d+)([LR])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Chase:
    """CHASE_DB1, vessels."""

    root: Path
    """Folder with the images and the vessel drawings side by side."""
    kind: Literal["chase"] = "chase"
    observer: Literal["first", "second"] = "first"
    """Whose vessels to take."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by subject, left eye before right.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        files = by_stem(_images(self.root))
        suffix = "_1stho" if self.observer == "first" else "_2ndho"
        for stem, path in files.items():
            if not (match := _NAME.fullmatch(stem)):
                continue
            drawn = files.get(stem + suffix)
            yield Item(
                key=path.stem,
                file=path.relative_to(self.root),
                load=partial(load_image, path),
                patient=f"chase-{match[1]}",
                source="chase",
                masks={"vessels": MaskSource(load=partial(load_mask, drawn))} if drawn else {},
                eye="left" if match[2].upper() == "L" else "right",
                camera="Nidek NM-200-D",
                terms="CC BY 4.0",
            )


def _images(root: Path) -> Path:
    return child(root, "CHASE_DB1", "CHASEDB1") or root


def fits(root: Path) -> bool:
    """Tell whether the folder looks like CHASE_DB1."""
    return any(_NAME.fullmatch(path.stem) for path in pictures(_images(root)))
