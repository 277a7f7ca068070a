"""EyePACS / Kaggle Diabetic Retinopathy Detection (2015): 88,702 photographs of both eyes, graded 0 to 4.

train/10_left.jpeg   trainLabels.csv (image,level)
test/1_right.jpeg    retinopathy_solution.csv (image,level,Usage)

Images may lie in any subfolder, and only a part of them may be there: rows of the tables without an image are
passed over. Variants that were cropped or scaled keep the names and are read the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.records import DatasetError, Split
from fundusforge.sources.files import demand, load_image, number, pictures, rows
from fundusforge.sources.item import Item, Reject

EXPECTED = "trainLabels.csv (image,level) with images <patient>_left.jpeg and <patient>_right.jpeg"
_NAME = re.compile(r"(\d+)_(left|right)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Eyepacs:
    """EyePACS / Kaggle 2015, grade of each eye."""

    root: Path
    """Folder that holds the tables and, in it or below it, the images."""
    kind: Literal["eyepacs"] = "eyepacs"

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by patient, left eye before right; without a grade where no table names them.

        Raises:
            DatasetError: The folder holds nothing of this layout, or two tables grade an image differently.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        levels, splits = _levels(self.root)
        if not levels:
            return
        for path in pictures(self.root, recursive=True):
            if not (match := _NAME.fullmatch(path.stem)):
                continue
            stem = path.stem.lower()
            yield Item(
                key=stem,
                file=path.relative_to(self.root),
                load=partial(load_image, path),
                patient=f"eyepacs-{match[1]}",
                source="eyepacs",
                eye="left" if match[2].lower() == "left" else "right",
                terms="Kaggle competition rules: research only, no redistribution",
                split=splits.get(stem),
                grade=levels.get(stem),
            )


def _levels(root: Path) -> tuple[dict[str, int], dict[str, Split]]:
    """Return grade and split by image name, from every table with the columns `image` and `level`."""
    levels: dict[str, int] = {}
    splits: dict[str, Split] = {}
    for path in sorted(root.rglob("*.csv")) if root.is_dir() else ():
        if not _is_table(path):
            continue
        test = "solution" in path.name.lower() or "test" in path.name.lower()
        for row in rows(path):
            stem = row["image"].lower().removesuffix(".jpeg")
            level = number(row["level"], low=0, high=4)
            if level is None:
                raise DatasetError(f"{path}: level of {row['image']} is {row['level']!r}; expected 0 to 4")
            if levels.setdefault(stem, int(level)) != level:
                raise DatasetError(
                    f"{path}: {row['image']} has level {int(level)} here and {levels[stem]} elsewhere"
                )
            splits[stem] = "test" if test else "train"
    return levels, splits


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.readline(4096).decode("utf-8-sig", errors="replace").lower()
    return {"image", "level"} <= {name.strip().strip('"') for name in re.split("[,;]", header)}


def fits(root: Path) -> bool:
    """Tell whether the folder looks like EyePACS."""
    return any(_is_table(path) for path in root.glob("*.csv")) and any(
        _NAME.fullmatch(path.stem) for path in pictures(root, recursive=True)
    )
