"""ODIR-5K: both eyes of 5,000 patients with age, sex and keywords (Peking University, challenge of 2019).

Three tables are read, whichever stands in the folder:

- `labels.csv` (image, patient, eye, age, sex, 0/1 columns of findings, diagnostic_keywords);
- `full_df.csv` (ID, Patient Age, Patient Sex, Left-Fundus, Right-Fundus, Left-/Right-Diagnostic Keywords,
  ...);
- the publisher's annotation sheet saved as CSV, with the columns of `full_df.csv` and one row a patient.

Findings of `full_df.csv` in one-letter columns belong to the patient, not the eye; labels are therefore taken
from each eye's own keywords, as the publisher's instructions say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.records import DatasetError, Eye, Sex
from fundusforge.sources.files import child, demand, load_image, natural, number, pictures, rows
from fundusforge.sources.item import Item, Reject

EXPECTED = "labels.csv, full_df.csv or the annotation sheet as CSV, with images 0_left.jpg, 0_right.jpg"
_FINDINGS = {
    "erm": r"epiretinal membrane|macular pucker",
    "laser": r"laser spot|laser photocoagulation|post[- ]laser|panretinal photocoagulation",
    "normal": r"normal fundus",
    "diabetic_retinopathy": r"diabetic retinopathy|proliferative retinopathy",
    "glaucoma": r"glaucoma",
    "cataract": r"cataract",
    "macular_degeneration": r"macular degeneration",
    "hypertension": r"hypertensive retinopathy",
    "myopia": r"myopi",
    "drusen": r"drusen",
}
_LABELS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _FINDINGS.items()}
_KNOWN = {"image", "patient", "eye", "age", "sex", "diagnostic_keywords"}


@dataclass(frozen=True, kw_only=True)
class Odir:
    """ODIR-5K, findings of each eye with age and sex."""

    root: Path
    """Folder that holds the table and the images (in it, or in subfolders)."""
    kind: Literal["odir"] = "odir"
    table: Path | None = None
    """The table, if it has another name or place; relative to the root."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by name; images that the table names and the folder lacks are passed over.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item | Reject]:
        path = self.root / self.table if self.table else _table(self.root)
        if path is None:
            return
        files = _files(self.root)
        entries = _entries(rows(path))
        if not entries:
            raise DatasetError(
                f"{path}: names no image; expected columns image, patient or Left-/Right-Fundus"
            )
        for name, row in sorted(entries.items(), key=lambda entry: natural(entry[0])):
            if (found := files.get(name)) is None:
                continue
            yield Item(
                key=found.stem,
                file=found.relative_to(self.root),
                load=partial(load_image, found),
                patient=f"odir-{row['patient']}",
                source="odir",
                eye=_eye(row["eye"]),
                age=number(
                    row["age"], low=2, high=120
                ),  # the publisher's table holds ages of 1: not credible
                sex=_sex(row["sex"]),
                terms="research only",
                labels=tuple(sorted(filter(None, row["labels"].split(",")))),
            )


def _entries(table: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return one row an image, by file name, whichever table it was."""
    found: dict[str, dict[str, str]] = {}
    for row in table:
        if row.get("image"):
            marks = {name for name, value in row.items() if name not in _KNOWN and value == "1"}
            marks |= set(findings(row.get("diagnostic_keywords", "")).split(",")) - row.keys()
            found[row["image"]] = {
                **{name: row.get(name, "") for name in ("patient", "eye", "age", "sex")},
                "labels": ",".join(marks),
            }
            continue
        for side in ("left", "right"):
            if name := row.get(f"{side}-fundus"):
                found[name] = {
                    "patient": row.get("id", name.partition("_")[0]),
                    "eye": side,
                    "age": row.get("patient age", ""),
                    "sex": row.get("patient sex", ""),
                    "labels": findings(row.get(f"{side}-diagnostic keywords", "")),
                }
    return found


def findings(keywords: str) -> str:
    """Return the names of findings in an ophthalmologist's keywords, sorted and joined by commas."""
    return ",".join(sorted(name for name, pattern in _LABELS.items() if pattern.search(keywords)))


def _files(root: Path) -> dict[str, Path]:
    """Return the images by name; of an image that the release holds twice, the original, not the cropped."""
    found = sorted(
        pictures(root, recursive=True), key=lambda path: "preprocessed" not in path.parent.name.lower()
    )
    return {path.name: path for path in found}


def _eye(text: str) -> Eye | None:
    return {"left": "left", "right": "right", "l": "left", "r": "right"}.get(text.lower())  # type: ignore[return-value]


def _sex(text: str) -> Sex | None:
    return {"female": "female", "male": "male", "f": "female", "m": "male"}.get(text.lower())  # type: ignore[return-value]


def _table(root: Path) -> Path | None:
    """Return the first table that bears the layout's columns."""
    places = [root, *filter(None, (child(root, "ODIR-5K"),))]
    for place in places:
        for path in sorted(
            place.glob("*.csv"), key=lambda p: (p.name not in {"labels.csv", "full_df.csv"}, p.name)
        ):
            header = path.read_text("utf-8-sig", errors="replace").partition("\n")[0].lower()
            if "left-fundus" in header or {"image", "patient", "eye"} <= set(
                re.split(r"[,;]", header.strip())
            ):
                return path
    return None


def fits(root: Path) -> bool:
    """Tell whether the folder looks like ODIR-5K."""
    return _table(root) is not None and any(
        re.fullmatch(r"\d+_(left|right)", path.stem) for path in pictures(root, recursive=True)
    )
