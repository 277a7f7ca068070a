"""The files of an annotated folder: where they stand, and how they come there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from fundusforge.images import Grey, Image, write_image
from fundusforge.records import Record


def key_of(image: str) -> str:
    """Return the path below `<mask>/` that belongs to an image: its own, without `images/` and suffix."""
    pure = PurePosixPath(image)
    parts = pure.parts[1:] if len(pure.parts) > 1 and pure.parts[0] == "images" else pure.parts
    return PurePosixPath(*parts).with_suffix("").as_posix()


def copied(record: Record, source: Path, out: Path, pixels: Image | None) -> Record:
    """Bring a record's files into `out`.

    Pictures of a plain folder (their `pixels` are given) are written again, free of the file's metadata.
    """
    if pixels is not None:
        path = f"images/{key_of(record.image)}.png"
        if not (out / path).exists():
            write_picture(out / path, pixels)
        return replace(record, image=path)
    link_records([record], source, out)
    return record


def link_records(records: Iterable[Record], source: Path, out: Path) -> None:
    """Bring the files of records into a folder: hard links, or copies; nothing is ever half-copied."""
    for record in records:
        for path in record.files().values():
            new = out / path
            if new.exists():
                continue
            new.parent.mkdir(parents=True, exist_ok=True)
            partial = new.with_name(new.name + ".partial")
            partial.unlink(missing_ok=True)
            try:
                os.link(source / path, partial)
            except OSError:
                shutil.copyfile(source / path, partial)
            partial.replace(new)


def write_picture(path: Path, pixels: Grey | Image) -> None:
    """Write a picture or a mask, and the folder that it stands in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)
