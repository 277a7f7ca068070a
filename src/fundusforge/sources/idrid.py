"""IDRiD: lesions pixel by pixel, and grades (Porwal et al. 2018, doi:10.3390/data3030025).

    A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg          (b. Testing Set)
    A. Segmentation/2. All Segmentation Groundtruths/a. Training Set/1. Microaneurysms/IDRiD_01_MA.tif ...
    B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg      (b. Testing Set)
    B. Disease Grading/2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv
    segmentation_grades.csv                                             (optional: which images are the same)

The publisher names no patients, so each image is one, except that an image which stands in both tasks, as
`segmentation_grades.csv` tells, is one patient in both. Where an image has lesion masks but none of soft
exudates, it has no soft exudate; any other missing mask (haemorrhages of IDRiD_43) is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.records import Split
from fundusforge.sources.files import (
    by_stem,
    child,
    demand,
    load_image,
    load_mask,
    load_nothing,
    natural,
    number,
    pictures,
    rows,
)  # fmt: skip
from fundusforge.sources.item import Item, MaskSource, Reject

EXPECTED = (
    "'A. Segmentation/1. Original Images/a. Training Set/IDRiD_01.jpg' or "
    "'B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg'"
)
CAMERA = "Kowa VX-10 alpha"
TERMS = "CC BY 4.0"
_PARTS: tuple[tuple[str, Split], ...] = (("a. Training Set", "train"), ("b. Testing Set", "test"))
_MASKS = {
    "microaneurysms": ("1. Microaneurysms", "ma"),
    "haemorrhages": ("2. Haemorrhages", "he"),
    "hard_exudates": ("3. Hard Exudates", "ex"),
    "soft_exudates": ("4. Soft Exudates", "se"),
    "disc": ("5. Optic Disc", "od"),
}


@dataclass(frozen=True, kw_only=True)
class Idrid:
    """IDRiD, lesion and disc masks, grade and risk of macular oedema."""

    root: Path
    """Folder that holds `A. Segmentation` and/or `B. Disease Grading`, or one of these two."""
    kind: Literal["idrid"] = "idrid"
    task: Literal["both", "segmentation", "grading"] = "both"
    """Which of the two tasks to read."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield segmentation images, then grading images, by split and number.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item | Reject]:
        if self.task != "grading" and (folder := _task(self.root, "A. Segmentation")):
            yield from _segmentation(self.root, folder)
        if self.task != "segmentation" and (folder := _task(self.root, "B. Disease Grading")):
            yield from _grading(self.root, folder)


def _segmentation(root: Path, folder: Path) -> Iterator[Item]:
    matches = _matches(folder.parent)
    truths = child(folder, "2. All Segmentation Groundtruths")
    for part, split in _PARTS:
        masks_of = child(truths, part) if truths else None
        drawn = {
            name: by_stem(child(masks_of, where)) if masks_of else {} for name, (where, _) in _MASKS.items()
        }
        for path in _images(folder, part):
            match = matches.get(path.stem.lower(), {})
            twin = Path(match.get("grading_image", "")).stem.lower()
            yield Item(
                key=f"segmentation_{path.stem}",
                file=path.relative_to(root),
                load=partial(load_image, path),
                patient=_patient("train", twin) if twin else f"idrid-segmentation-{path.stem.lower()}",
                source="idrid",
                masks=_masks(path, drawn),
                camera=CAMERA,
                terms=TERMS,
                split=split,
                grade=_whole(match.get("dr_grade", ""), 4),
                oedema_risk=_whole(match.get("dme_risk", ""), 2),
            )


def _masks(path: Path, drawn: dict[str, dict[str, Path]]) -> dict[str, MaskSource]:
    """Return the masks of one image; the masks are bilevel, so anything above zero is inside."""
    found = {}
    for name, (_, suffix) in _MASKS.items():
        if mask := drawn[name].get(f"{path.stem.lower()}_{suffix}"):
            found[name] = MaskSource(load=partial(load_mask, mask, above=0))
    if found.keys() & {"microaneurysms", "haemorrhages", "hard_exudates"} and drawn["soft_exudates"]:
        found.setdefault("soft_exudates", MaskSource(load=partial(load_nothing, path)))
    return found


def _grading(root: Path, folder: Path) -> Iterator[Item | Reject]:
    truths = child(folder, "2. Groundtruths")
    for part, split in _PARTS:
        word = "training" if split == "train" else "testing"
        tables = sorted(truths.glob("*.csv")) if truths else []
        table = next((path for path in tables if word in path.name.lower()), None)
        grades = (
            {row["image name"].lower(): row for row in rows(table, needs=("image name",))} if table else {}
        )
        found = _images(folder, part)
        for path in found:
            row = grades.get(path.stem.lower(), {})
            yield Item(
                key=f"grading_{split}_{path.stem}",
                file=path.relative_to(root),
                load=partial(load_image, path),
                patient=_patient(split, path.stem.lower()),
                source="idrid",
                camera=CAMERA,
                terms=TERMS,
                split=split,
                grade=_whole(row.get("retinopathy grade", ""), 4),
                oedema_risk=_whole(row.get("risk of macular edema", ""), 2),
            )


def _patient(split: Split, stem: str) -> str:
    """Name the patient of a grading image; training and testing images bear the same numbers."""
    return f"idrid-grading-{split}-{stem}"


def _whole(text: str, high: int) -> int | None:
    value = number(text, low=0, high=high)
    return None if value is None else int(value)


def _images(folder: Path, part: str) -> list[Path]:
    originals = child(folder, "1. Original Images")
    inside = child(originals, part) if originals else None
    return sorted(pictures(inside), key=lambda path: natural(path.name)) if inside else []


def _matches(root: Path) -> dict[str, dict[str, str]]:
    """Read which segmentation images stand among the grading images, where somebody found that out."""
    path = root / "segmentation_grades.csv"
    table = rows(path, needs=("segmentation_image", "grading_image")) if path.is_file() else []
    return {Path(row["segmentation_image"]).stem.lower(): row for row in table}


def _task(root: Path, name: str) -> Path | None:
    inner = child(root, "IDRiD")
    here = root if root.name.lower() == name.lower() else None
    return child(root, name) or (child(inner, name) if inner else None) or here


def fits(root: Path) -> bool:
    """Tell whether the folder looks like IDRiD."""
    tasks = (_task(root, name) for name in ("A. Segmentation", "B. Disease Grading"))
    return any(task and _images(task, part) for task in tasks for part, _ in _PARTS)
