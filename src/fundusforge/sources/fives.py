"""FIVES: 800 photographs with vessels (Jin et al. 2022, doi:10.1038/s41597-022-01564-3).

    train/Original/1_A.png  train/Ground truth/1_A.png   test/... (or images/, vessels/)

The letter is the diagnosis. The publisher does not say which images share a patient (573 people gave 800
images), so each image counts as its own patient here; the publisher's split is by patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.records import Split
from fundusforge.sources.files import by_stem, child, demand, load_image, load_mask, pictures
from fundusforge.sources.item import Item, MaskSource, Reject

EXPECTED = "train/Original/1_A.png with train/Ground truth/1_A.png (or images/1_A.jpg with vessels/1_A.png)"
_NAME = re.compile(r"(\d+)_([ADGN])")
_CLASSES = {"A": "macular_degeneration", "D": "diabetic_retinopathy", "G": "glaucoma", "N": "normal"}


@dataclass(frozen=True, kw_only=True)
class Fives:
    """FIVES, vessels and diagnosis."""

    root: Path
    """Folder that holds `train` and/or `test`, or `images` and `vessels`."""
    kind: Literal["fives"] = "fives"

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by split and number.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        for split, images, drawings in _parts(self.root):
            vessels, prefix = by_stem(drawings), f"{split}_" if split else ""
            for path in pictures(images):
                if not (match := _NAME.fullmatch(path.stem)):
                    continue
                drawn = vessels.get(path.stem.lower())
                yield Item(
                    key=prefix + path.stem,
                    file=path.relative_to(self.root),
                    load=partial(load_image, path),
                    patient=f"fives-{prefix}{path.stem}",
                    source="fives",
                    masks={"vessels": MaskSource(load=partial(load_mask, drawn))} if drawn else {},
                    camera="Topcon TRC-NW8",
                    terms="CC BY 4.0",
                    split=split,
                    labels=(_CLASSES[match[2]],),
                )


def _parts(root: Path) -> Iterator[tuple[Split | None, Path, Path | None]]:
    """Yield split, folder of images and folder of vessels."""
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        folder = child(root, split)
        if folder and (images := child(folder, "Original")):
            yield split, images, child(folder, "Ground truth", "GroundTruth")
    if (images := child(root, "images", "Original")) is not None:
        yield None, images, child(root, "vessels", "Ground truth")


def fits(root: Path) -> bool:
    """Tell whether the folder looks like FIVES."""
    return any(_NAME.fullmatch(path.stem) for _, images, _ in _parts(root) for path in pictures(images))
