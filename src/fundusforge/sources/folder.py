"""Any folder of pictures, recursively, with an optional table and optional mask subfolders.

    photos/left eye.jpg  photos/2021/a.png   table.csv   vessels/left eye.png   vessels/2021/a.png

A mask lies in a folder named after it (`vessels`, `disc`, ..., `field_of_view`; see
`fundusforge.records.MASKS`), at the root or beside the picture, at the picture's own relative path and name
with any suffix. The table, any single CSV file at the root unless named, has a column `image` (relative path,
or a name that stands once) and any of: `patient`, `eye` (left or right), `age`, `sex`, `grade`,
`oedema_risk`, `split` (train, val or test), `labels` (separated by `;`), `visit`, `camera`, `terms`, and
`<mask>_file` (relative path of a mask). Without a column `patient` every picture is a patient of its own:
give one if anybody was photographed twice.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from fundusforge.records import MASKS, DatasetError
from fundusforge.sources.files import demand, load_image, load_mask, natural, number, pictures, rows
from fundusforge.sources.item import Item, Load, MaskSource, Reject

EXPECTED = "pictures (.jpg, .png, .tif, ...), in any subfolder"
_PLACES = frozenset({*MASKS, "field_of_view"})
_WORDS: dict[str, dict[str, str]] = {
    "eye": {"left": "left", "l": "left", "os": "left", "right": "right", "r": "right", "od": "right"},
    "sex": {"female": "female", "f": "female", "male": "male", "m": "male", "other": "other", "o": "other"},
    "split": {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"},
}
_NUMBERS = {"age": (0, 130), "grade": (0, 4), "oedema_risk": (0, 2), "visit": (1, 10_000)}
_COLUMNS = frozenset({"image", "patient", "labels", "camera", "terms", *_WORDS, *_NUMBERS})


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of images, with an optional CSV table and mask subfolders."""

    root: Path
    """Folder with pictures in it or below it."""
    kind: Literal["folder"] = "folder"
    table: Path | None = None
    """CSV table, relative to the root; by default the only `.csv` at the root, if there is one."""
    name: str = "folder"
    """What to call this data set in the records."""
    terms: str | None = None
    """Terms of use of all images, where the table names none."""
    camera: str | None = None
    """Camera of all images, where the table names none."""
    hide_names: bool = False
    """Name images after a digest of their path, not the path: for file names that hold patients' names."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield pictures in natural order of their path, then what the table names and the folder lacks.

        Raises:
            DatasetError: No pictures, or a table without a column `image`, or with an unknown one.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item | Reject]:
        found = pictures(self.root, recursive=True)
        masks = {_bare(path.relative_to(self.root)): path for path in found}
        named = {path.relative_to(self.root).as_posix() for path in found}
        images = [
            path for path in found if not _PLACES & {part.lower() for part in _parents(path, self.root)}
        ]
        table = _read_table(self.root, self.table, named)
        drawn = {row[key] for row in table.values() for key in row if key.endswith("_file")}
        keys: set[str] = set()
        for path in images:
            relative = path.relative_to(self.root)
            if relative.as_posix() in drawn:
                continue
            key = slug(relative, taken=keys, hide=self.hide_names)
            keys.add(key)
            row = table.pop(relative.as_posix(), {})
            try:
                yield self._item(path, relative, key, row, masks)
            except DatasetError as error:
                yield Reject(file=self._shown(relative, key), reason=str(error))
        for name in sorted(table, key=natural):
            shown = Path(name) if not self.hide_names else Path(_digest(name))
            yield Reject(file=shown, reason="the table names this image, but it is not in the folder")

    def _item(
        self, path: Path, relative: Path, key: str, row: Mapping[str, str], masks: Mapping[str, Path]
    ) -> Item:  # fmt: skip
        known = {name: _value(name, row[name]) for name in (*_WORDS, *_NUMBERS) if row.get(name)}
        loads = _masks(self.root, relative, row, masks)
        return Item(
            key=key,
            file=self._shown(relative, key),
            load=partial(load_image, path),
            patient=row.get("patient") or relative.as_posix(),
            source=self.name,
            field_of_view=loads.pop("field_of_view", None),
            masks={name: MaskSource(load=load) for name, load in sorted(loads.items())},
            camera=row.get("camera") or self.camera,
            terms=row.get("terms") or self.terms,
            labels=tuple(
                sorted({label.strip() for label in row.get("labels", "").split(";") if label.strip()})
            ),
            **known,
        )

    def _shown(self, relative: Path, key: str) -> Path:
        return Path(key) if self.hide_names else relative


def slug(relative: Path, *, taken: set[str], hide: bool = False) -> str:
    """Return a name that is fit for a file on any system, readable where it can be, and not among `taken`."""
    text = unicodedata.normalize("NFC", "_".join(relative.with_suffix("").parts))
    name = re.sub(r"[^\w.-]+", "_", text).strip("._") or "image"
    if hide or len(name) > 100:
        return _digest(relative.as_posix())
    return name if name not in taken else f"{name}_{_digest(relative.as_posix())}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _bare(relative: Path) -> str:
    """Return a relative path without suffix, in lower case, in composed unicode."""
    return unicodedata.normalize("NFC", relative.with_suffix("").as_posix()).lower()


def _parents(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts[:-1]


def _masks(root: Path, relative: Path, row: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, Load]:
    """Return the loads of masks found by the table, at the root, or beside the picture."""
    loads: dict[str, Load] = {}
    for name in _PLACES:
        if given := row.get(f"{name}_file"):
            loads[name] = partial(load_mask, root / given)
            continue
        places = (Path(name) / relative, relative.parent / name / relative.name, _swapped(relative, name))
        path = next((files[bare] for place in places if (bare := _bare(place)) in files), None)
        if path is not None:
            loads[name] = partial(load_mask, path)
    return loads


def _swapped(relative: Path, name: str) -> Path:
    """Return the path with a first folder `images` replaced by the mask's."""
    parts = relative.parts
    return (
        Path(name, *parts[1:]) if parts[0].lower() in {"images", "image", "imgs"} else Path(name) / relative
    )


def _read_table(root: Path, table: Path | None, named: set[str]) -> dict[str, dict[str, str]]:
    """Return the table's rows by the relative path of their image."""
    tables = sorted(path for path in root.glob("*.csv") if not path.name.startswith("."))
    path = root / table if table else tables[0] if len(tables) == 1 else None
    if path is None:
        if tables:
            raise DatasetError(f"{root}: holds {len(tables)} CSV files; say which to take (option table)")
        return {}
    entries = rows(path, needs=("image",))
    allowed = _COLUMNS | {f"{name}_file" for name in _PLACES}
    if entries and (unknown := sorted(entries[0].keys() - allowed)):
        raise DatasetError(f"{path}: unknown column {unknown[0]!r}; known are {', '.join(sorted(allowed))}")
    names: dict[str, list[str]] = {}
    for relative in sorted(named):
        names.setdefault(PurePosixPath(relative).name, []).append(relative)
    found: dict[str, dict[str, str]] = {}
    for line, row in enumerate(entries, 2):
        image = row["image"].replace("\\", "/")
        if image not in named and len(names.get(image, ())) == 1:
            image = names[image][0]
        if image in found:
            raise DatasetError(f"{path}:{line}: image {image!r} stands twice")
        _stay_inside(path, line, row)
        found[image] = row
    return found


def _stay_inside(path: Path, line: int, row: Mapping[str, str]) -> None:
    for name, value in row.items():
        pure = PurePosixPath(value.replace("\\", "/"))
        if (name == "image" or name.endswith("_file")) and (pure.is_absolute() or ".." in pure.parts):
            raise DatasetError(f"{path}:{line}: {name} {value!r} is absolute or leaves the folder")


def _value(name: str, text: str) -> Any:
    """Return one cell as the record wants it.

    Raises:
        DatasetError: The cell holds something else.
    """
    if words := _WORDS.get(name):
        if (value := words.get(text.lower())) is None:
            raise DatasetError(
                f"{name} is {text!r} in the table; expected {', '.join(sorted(set(words.values())))}"
            )
        return value
    low, high = _NUMBERS[name]
    value = number(text, low=low, high=high)
    if value is None or (name != "age" and value != int(value)):
        raise DatasetError(f"{name} is {text!r} in the table; expected a number from {low} to {high}")
    return value if name == "age" else int(value)


def fits(root: Path) -> bool:
    """Tell whether the folder holds any picture at all."""
    return bool(pictures(root, recursive=True))
