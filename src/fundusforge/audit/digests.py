"""SHA-256 of files: what the audit has looked at, so that the gate can tell whether it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from fundusforge.evaluate.evidence import ImageSet
from fundusforge.records import METADATA, DatasetError, Record
from fundusforge.weights import sha256

Digests = dict[str, str]
"""SHA-256 of each picture of a record, by what it shows: `image`, `field_of_view`, masks by name."""


def metadata_sha256(folder: Path) -> str:
    """Return the SHA-256 of a folder's metadata."""
    return sha256(folder / METADATA)


def digests(folder: Path, record: Record) -> Digests:
    """Return the SHA-256 of every picture of a record."""
    return {what: sha256(folder / name) for what, name in record.files().items()}


def of_images(images: ImageSet) -> list[Digests]:
    """Return the digests of every image of a set."""
    return [digests(images.folder, record) for record in images.records]


def unchanged(images: ImageSet, before: Sequence[Digests]) -> None:
    """Make sure that all pictures are those of which the digests were taken.

    Raises:
        DatasetError: Names the first that is not.
    """
    for record, old, new in zip(images.records, before, of_images(images), strict=True):
        for what, name in record.files().items():
            if new[what] != old[what]:
                raise DatasetError(f"{images.folder / name}: changed while it was looked at; begin again")


def copy(old: Path, new: Path, *, expected: str) -> None:
    """Copy a file if it is the one that is expected: the bytes that are written are those that were hashed.

    Args:
        old: The file.
        new: Where it goes; the folder is there.
        expected: Its SHA-256.

    Raises:
        DatasetError: It is another file.
    """
    data = old.read_bytes()
    if hashlib.sha256(data).hexdigest() != expected:
        raise DatasetError(f"{old}: changed since the audit")
    new.write_bytes(data)
