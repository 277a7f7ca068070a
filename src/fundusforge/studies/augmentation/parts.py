"""Parts of dataset folders, each named by the hash of its content, by which caches are keyed.

Pictures are hard links where the file system has them, or are brought to one side once and then linked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from fundusforge.images import SYNTHETIC_XMP, read_image, read_mask, resize, resize_mask, write_image
from fundusforge.records import (
    METADATA,
    DatasetError,
    Record,
    Split,
    read_folder,
    to_line,
    write_metadata,
)  # fmt: skip
from fundusforge.weights import sha256


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataset folder of the study."""

    folder: Path
    digest: str
    """SHA-256 of records and pictures."""
    records: tuple[Record, ...]
    """As its metadata have them."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.records)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where parts are written, and how large their pictures are."""

    out: Path
    side: int | None = None
    """Longer side in pixels; None keeps each picture's own."""

    def write(self, folder: Path, records: Sequence[Record], *, split: Split) -> Part:
        """Write records of a folder as a folder of one split, or find the one that is there.

        Args:
            folder: Where the pictures are.
            records: Of that folder; labels and grades may be others than there.
            split: What all of them are given.

        Raises:
            DatasetError: A picture is missing or broken, or there is no record.
            OSError: The folder cannot be written.
        """
        if not records:
            raise DatasetError(f"{folder}: no image is left for split {split}")
        known = content(folder, records, split=split, side=self.side)
        place = self.out / f"{split}-{known[:16]}"
        kept = tuple(self._renamed(replace(record, split=split)) for record in records)
        if not (place / METADATA).is_file():
            for record, new in zip(records, kept, strict=True):
                self._bring(folder, record, place, new)
            write_metadata(place, kept)
        return Part(folder=place, digest=known, records=kept)

    def _renamed(self, record: Record) -> Record:
        """Return the record with the names that its pictures have here."""
        if self.side is None:
            return record

        def png(path: str) -> str:
            return str(PurePosixPath(path).with_suffix(".png"))

        return replace(
            record,
            image=png(record.image),
            masks={name: replace(mask, path=png(mask.path)) for name, mask in record.masks.items()},
            field_of_view=png(record.field_of_view) if record.field_of_view else None,
        )

    def _bring(self, folder: Path, record: Record, place: Path, new: Record) -> None:
        """Put the pictures of one record in place."""
        for what, path in record.files().items():
            source, target = (folder / path).resolve(), place / new.files()[what]
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                continue
            if self.side is not None:
                source = self._small(source, record, what)
            _link(source, target)

    def _small(self, source: Path, record: Record, what: str) -> Path:
        """Return a picture at the study's side, made once."""
        kind = (
            "image"
            if what == "image"
            else "soft"
            if what in record.masks and record.masks[what].soft
            else "mask"
        )
        made = self.out / "pictures" / f"{_hash(source)[:24]}-{kind}-{self.side}.png"
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            pixels: Any = read_image(source) if kind == "image" else read_mask(source, soft=kind == "soft")
            size = _shape(pixels.shape[:2], self.side or 0)
            small = resize_mask(pixels, size) if kind == "mask" else resize(pixels, size)
            write_image(made, small, xmp=SYNTHETIC_XMP if record.synthetic and kind == "image" else None)
        return made


def content(folder: Path, records: Sequence[Record], *, split: Split, side: int | None) -> str:
    """Return the SHA-256 of records and of the bytes of their pictures."""
    rows = [
        (to_line(replace(record, split=split)), [_hash(folder / path) for path in record.files().values()])
        for record in records
    ]
    return hashlib.sha256(json.dumps([rows, side]).encode()).hexdigest()


def read_part(folder: Path, *, split: Split) -> Part:
    """Read a whole folder as a part, its split aside."""
    records = read_folder(folder)
    known = content(folder, records, split=split, side=None)
    return Part(folder=folder, digest=known, records=tuple(replace(r, split=split) for r in records))


def _shape(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return height and width with this longer side."""
    scale = side / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _hash(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    return _digest_of(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=200_000)
def _digest_of(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file that has not changed since."""
    return sha256(path)


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where it cannot be linked; never half a file."""
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
