"""Finding and reading the files of a published layout, the same way for every source."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image, read_image
from fundusforge.records import DatasetError
from fundusforge.sources.item import Item, Reject, Unreadable, to_mask

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".ppm", ".gif", ".webp", ".jp2"})
"""Suffixes, in lower case, of what counts as a picture."""


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts `2_left` before `10_left` and, where only case differs, stays deterministic."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def pictures(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the pictures in a folder in natural order; hidden files (`._x.jpg` of macOS) are left out."""
    if not folder.is_dir():
        return []
    found = folder.rglob("*") if recursive else folder.iterdir()
    kept = [
        path
        for path in found
        if path.suffix.lower() in PICTURES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    return sorted(kept, key=lambda path: natural(path.relative_to(folder).as_posix()))


def by_stem(folder: Path | None) -> dict[str, Path]:
    """Return the pictures of a folder by their name without suffix, in lower case."""
    return {path.stem.lower(): path for path in pictures(folder)} if folder else {}


def child(folder: Path, *names: str) -> Path | None:
    """Return the first subfolder that bears one of `names`, whatever its case; None if there is none."""
    if not folder.is_dir():
        return None
    found = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((found[name.lower()] for name in names if name.lower() in found), None)


def rows(path: Path, *, needs: Iterable[str] = ()) -> list[dict[str, str]]:
    """Read a CSV file as dictionaries with trimmed cells; nameless and `Unnamed` columns are dropped.

    Args:
        path: UTF-8 (with or without byte-order mark) or, failing that, Latin-1. Comma or semicolon separated.
        needs: Columns that must be there; names are compared in lower case, and returned in lower case.

    Raises:
        DatasetError: Unreadable, empty, or a needed column is missing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    first = text.partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    table = list(csv.reader(text.splitlines(), delimiter=delimiter))
    if not table:
        raise DatasetError(f"{path}: empty table")
    header = [name.strip().lower() for name in table[0]]
    if missing := [name for name in needs if name.lower() not in header]:
        raise DatasetError(f"{path}: has no column {missing[0]!r}; found {', '.join(filter(None, header))}")
    kept = [(i, name) for i, name in enumerate(header) if name and not name.startswith("unnamed")]
    return [
        {name: line[i].strip() if i < len(line) else "" for i, name in kept}
        for line in table[1:]
        if any(cell.strip() for cell in line)
    ]


def number(text: str, *, low: float, high: float) -> float | None:
    """Return the number in a cell if it lies in [low, high], else None (unknown)."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if low <= value <= high else None


def load_image(path: Path) -> Image:
    """Read a picture as (H, W, 3) uint8 RGB.

    Raises:
        DatasetError: The file is missing, empty, truncated or no picture. The message does not name it: names
            may hold patients' names, and `prepare` tells the file as its source shows it.
    """
    try:
        return read_image(path)
    except DatasetError as error:
        raise DatasetError(str(error).removeprefix(f"{path}: ")) from None


def load_mask(path: Path, *, above: int = 127) -> Grey:
    """Read a publisher's mask of any format as (H, W) uint8: 255 where it is greater than `above`, else 0.

    Raises:
        Unreadable: The file is missing, empty, truncated or no picture; the message does not name it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from None
    pixels = None
    if data and path.suffix.lower() != ".gif":
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        pixels = _pixels_by_pillow(path)
    return to_mask(pixels, above=above)


def _pixels_by_pillow(path: Path) -> NDArray:
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as picture:
            deep = picture.mode.startswith(("I", "F"))
            return np.asarray(picture if deep else picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(f"not a readable mask ({type(error).__name__})") from None


def load_nothing(like: Path) -> Grey:
    """Return an all-zero mask of the size of picture `like`: the publisher looked and found none.

    Raises:
        Unreadable: `like` is no readable picture.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(like) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise Unreadable(f"not a readable picture ({type(error).__name__})") from None
    return np.zeros((height, width), np.uint8)


def demand(
    found: Iterable[Item | Reject], *, root: Path, kind: str, expected: str
) -> Iterator[Item | Reject]:
    """Pass items on; raise where a layout holds nothing at all.

    Raises:
        DatasetError: `root` is no folder, or nothing was found in it. The message says what was expected and,
        if
            another layout fits, which.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: is not a folder")
    empty = True
    for thing in found:
        empty = False
        yield thing
    if empty:
        from fundusforge.sources import recognise

        others = [name for name in recognise(root) if name != kind]
        hint = f"; it looks like format {' or '.join(others)}" if others else ""
        raise DatasetError(f"{root}: holds nothing of format {kind}; expected {expected}{hint}")
