"""The sets of images that an audit compares: synthetic ones, and real ones of one folder or of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from fundusforge.audit.findings import RealSet
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.stage import summary
from fundusforge.records import DatasetError, Record


@dataclass(frozen=True, kw_only=True)
class Joined(ImageSet):
    """Images of several folders as one set.

    Its folder is the one in which all of them lie, and records are named from there (`drive/images/1.png`),
    so that no two images bear one name. Of a single folder, names stay what they are.
    """

    parts: Sequence[ImageSet]
    """What was read of each folder, named as there."""


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The three sets of images."""

    synthetic: ImageSet
    train: Joined
    holdout: Joined


def joined(parts: Sequence[ImageSet]) -> Joined:
    """Bring images of several folders together.

    Raises:
        DatasetError: A folder stands there twice.
    """
    folders = [Path(os.path.abspath(part.folder)) for part in parts]
    if twice := {folder for folder in folders if folders.count(folder) > 1}:
        raise DatasetError(f"{min(twice)}: named twice")
    if len(parts) == 1:
        return Joined(folder=parts[0].folder, records=parts[0].records, parts=parts)
    parent = Path(os.path.commonpath(folders))
    records = [
        _under(folder.relative_to(parent), record)
        for folder, part in zip(folders, parts, strict=True) for record in part.records
    ]  # fmt: skip
    return Joined(folder=parent, records=records, parts=parts)


def _under(folder: Path, record: Record) -> Record:
    """Return the record with its pictures named from above its folder."""

    def place(path: str) -> str:
        return str(PurePosixPath(folder.as_posix()) / path)

    return replace(
        record,
        image=place(record.image),
        masks={name: replace(mask, path=place(mask.path)) for name, mask in record.masks.items()},
        field_of_view=place(record.field_of_view) if record.field_of_view else None,
        contrasts={name: replace(each, path=place(each.path)) for name, each in record.contrasts.items()},
    )


def described(images: Joined, out: Path) -> RealSet:
    """Return what a set of real images holds; its folders are named relative to `out`."""
    return RealSet(
        images=len(images),
        patients=len(set(images.patients)),
        terms=tuple(sorted({f"{r.source}: {r.terms or 'unknown'}" for r in images.records})),
        folders=tuple(summary(part, out) for part in images.parts),
    )
