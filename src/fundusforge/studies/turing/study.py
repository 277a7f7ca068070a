"""The frozen study: `study.json`, which tells no truth, and `key.json`, which does.

`study.json` lists the pictures under names that say nothing, their SHA-256, and the orders in which readers
see them; it ends with the SHA-256 of itself and holds that of the key, so that neither can be changed
unnoticed once it is known. Whoever has it knows neither which picture is synthetic nor how many are.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.records import Split

STUDY, KEY, IMAGES = "study.json", "key.json", "images"
SCHEMA = 1
Truth = Literal["real", "synthetic"]
Condition = Literal["full", "crop", "mask"]
_FILE = re.compile(IMAGES + r"/[0-9a-f]{16}\.(png|jpg)")


class StudyError(ValueError):
    """A study cannot be made or used; the message names the file and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What readers are shown and asked."""

    conditions: tuple[Condition, ...] = ("full",)
    """The whole picture, a part of it, or the picture with its masks beside it."""
    assign: Literal["one", "each"] = "one"
    """Whether an image is shown in one of the conditions or in each of them."""
    repeats: int = 0
    """Pictures that are shown a second time."""
    gap: int = 5
    """Other images between two pictures of the same image, at least."""
    fidelity: bool = False
    """Ask how lifelike the picture is, 1 to 10."""
    marks: bool = False
    """Let readers mark what looks wrong."""
    score: bool = False
    """Tell readers at the end how many of their answers were right."""
    splits: tuple[Split, ...] = ("val", "test")
    """Splits of the real images."""
    masks: tuple[str, ...] = ("vessels",)
    """Masks of condition `mask`."""
    crop: float = 0.5
    """Side of condition `crop`, as a part of the picture's."""
    side: int | None = None
    """Side of the pictures in pixels; of the smallest image if None."""
    field: Literal["common", "own"] = "common"
    """Whether all show the part of the field of view that all have, or each its own; the rest is black."""
    encoding: Literal["png", "jpg"] = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not self.conditions or len(set(self.conditions)) < len(self.conditions):
            raise StudyError(f"conditions must be one or more, each once, not {list(self.conditions)}")
        for name, low in (("repeats", 0), ("gap", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise StudyError(f"{name} must be {low} or more, not {getattr(self, name)}")
        if not 0.1 <= self.crop <= 0.9:
            raise StudyError(f"crop must be between 0.1 and 0.9 of the side, not {self.crop}")
        if self.side is not None and not 32 <= self.side <= 4096:
            raise StudyError(f"side must be between 32 and 4096 pixels, not {self.side}")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture as it is shown."""

    image: str
    """Name of the image that it shows, the same under all conditions; it says nothing of the truth."""
    condition: Condition
    file: str
    sha256: str
    width: int
    """Pixels."""
    height: int

    def __post_init__(self) -> None:
        """Refuse a file outside the folder."""
        if not _FILE.fullmatch(self.file):
            raise StudyError(f"a picture's file must match {_FILE.pattern}, not {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class FolderFacts:
    """What a dataset folder held that images were drawn from; not how many were."""

    folder: str
    """Its last name."""
    images: int
    """That could have been drawn."""
    patients: int
    sources: tuple[str, ...]
    terms: tuple[str, ...]
    sides: tuple[int, int]
    """Smallest and largest native side of the drawn images, pixels."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study as it is frozen."""

    schema: int = SCHEMA
    version: str
    """Of fundusforge."""
    settings: Settings
    resize: str
    """How pictures were brought to one size."""
    folders: tuple[FolderFacts, ...]
    pictures: tuple[Picture, ...]
    """Sorted by the names of their files."""
    orders: tuple[tuple[int, ...], ...]
    """Places in `pictures`; reader number n is shown order n, and again the first after the last."""
    key_sha256: str
    sha256: str = ""
    """Of this file with this field empty."""

    def __post_init__(self) -> None:
        """Refuse what no design writes."""
        if self.schema != SCHEMA:
            raise StudyError(f"schema must be {SCHEMA}, not {self.schema}")
        every = set(range(len(self.pictures)))
        shown = {tuple(sorted(order)) for order in self.orders}
        if len(shown) != 1 or set(*shown) != every:
            raise StudyError("every order must show every picture, all of them equally often")

    @property
    def total(self) -> int:
        """Pictures that a reader judges."""
        return len(self.orders[0])

    def order(self, reader: int) -> tuple[int, ...]:
        """Places of the pictures that a reader, numbered from 1, is shown one after the other."""
        return self.orders[(reader - 1) % len(self.orders)]

    def picture(self, reader: int, position: int) -> Picture:
        """Return what a reader, numbered from 1, is shown at a position, counted from 1."""
        return self.pictures[self.order(reader)[position - 1]]

    def showing(self, reader: int, position: int) -> int:
        """Return 1, or 2 where the reader has seen that picture before."""
        order = self.order(reader)
        return order[:position].count(order[position - 1])

    def sealed(self) -> Study:
        """Return it with the SHA-256 of itself."""
        bare = replace(self, sha256="")
        return replace(bare, sha256=hashlib.sha256(to_json(bare).encode()).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Truths:
    """What an image really is."""

    truth: Truth
    folder: str
    """Dataset folder."""
    record: dict[str, Any]
    """Its line in the folder's metadata."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """The truth of every image, by its name."""

    schema: int = SCHEMA
    images: dict[str, Truths]


def read_study(folder: Path) -> Study:
    """Read and check `study.json`, and that every file of the study is what it was when it was frozen.

    Raises:
        StudyError: It is missing, not a study, or changed; a picture or the key is missing or changed.
    """
    path = Path(folder) / STUDY
    study = _parsed(Study, path)
    if study.sealed().sha256 != study.sha256:
        raise StudyError(f"{path}: was changed since it was frozen (its SHA-256 does not fit)")
    for picture in study.pictures:
        read_picture(folder, picture)
    if hashlib.sha256(_bytes(Path(folder) / KEY)).hexdigest() != study.key_sha256:
        raise StudyError(f"{Path(folder) / KEY}: was changed since the study was frozen")
    return study


def read_key(folder: Path) -> Key:
    """Read `key.json`.

    Raises:
        StudyError: It is missing, or no key.
    """
    return _parsed(Key, Path(folder) / KEY)


def read_picture(folder: Path, picture: Picture) -> bytes:
    """Return the bytes of a picture.

    Raises:
        StudyError: The file is missing, or another than was frozen.
    """
    path = Path(folder) / picture.file
    data = _bytes(path)
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise StudyError(f"{path}: was changed since the study was frozen (its SHA-256 does not fit)")
    return data


def key_text(key: Key) -> str:
    """Return `key.json`."""
    return json.dumps(json.loads(to_json(key)), indent=1, sort_keys=True) + "\n"


def _parsed(kind: type[Any], path: Path) -> Any:
    try:
        return from_json(kind, _bytes(path), where=str(path))
    except ConfigError as error:
        raise StudyError(str(error)) from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise StudyError(
            f"{path}: no such file; expected a study that `fundusforge turing design` made"
        ) from None
