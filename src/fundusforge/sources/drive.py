"""DRIVE: 40 photographs with vessels drawn by hand (Staal et al. 2004, doi:10.1109/TMI.2004.825627).

    training/images/21_training.tif   training/1st_manual/21_manual1.gif   training/mask/21_training_mask.gif
    test/images/01_test.tif           test/1st_manual/01_manual1.gif       test/2nd_manual/01_manual2.gif ...

Images are of 40 different people. The release since 2020 has no `1st_manual` in `test`; such images come
unmasked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.records import Split
from fundusforge.sources.files import by_stem, child, demand, load_image, load_mask, pictures
from fundusforge.sources.item import Item, MaskSource, Reject

EXPECTED = "training/images/21_training.tif with training/1st_manual/21_manual1.gif (or the same below test/)"
_PARTS: tuple[tuple[str, Split], ...] = (("training", "train"), ("test", "test"))


@dataclass(frozen=True, kw_only=True)
class Drive:
    """DRIVE, vessels and field of view."""

    root: Path
    """Folder that holds `training` and/or `test`, or one of these two."""
    kind: Literal["drive"] = "drive"
    observer: Literal["first", "second"] = "first"
    """Whose vessels to take; the second observer drew the test images only."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by split and number.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        for name, split in _PARTS:
            folder = _part(self.root, name)
            images = child(folder, "images") if folder else None
            if folder is None or images is None:
                continue
            order = ("1st_manual", "manual1") if self.observer == "first" else ("2nd_manual", "manual2")
            vessels, views = by_stem(child(folder, order[0])), by_stem(child(folder, "mask"))
            for path in pictures(images):
                number = path.stem.partition("_")[0]
                drawn = vessels.get(f"{number}_{order[1]}")
                view = views.get(f"{path.stem.lower()}_mask")
                yield Item(
                    key=path.stem,
                    file=path.relative_to(self.root),
                    load=partial(load_image, path),
                    patient=f"drive-{number}",
                    source="drive",
                    masks={"vessels": MaskSource(load=partial(load_mask, drawn))} if drawn else {},
                    field_of_view=partial(load_mask, view) if view else None,
                    camera="Canon CR5",
                    terms="research and education only",
                    split=split,
                )


def _part(root: Path, name: str) -> Path | None:
    """Return `training` or `test`, below the root, below a `DRIVE` in it, or the root itself."""
    inner = child(root, "DRIVE")
    here = root if root.name.lower() == name else None
    return child(root, name) or (child(inner, name) if inner else None) or here


def fits(root: Path) -> bool:
    """Tell whether the folder looks like DRIVE."""
    parts = [part for name, _ in _PARTS if (part := _part(root, name))]
    return any(child(part, "images") and child(part, "1st_manual", "mask") for part in parts)
