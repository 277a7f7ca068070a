"""Move images of a dataset folder aside, so that nothing is lost whenever it is stopped.

In this order: the files are copied, the quarantine's metadata are written, the folder's own metadata are
rewritten without the images (the moment from which they no longer belong to it), and only then the old files
go. Both metadata files are replaced at once. Run again after a kill, it finishes what it began.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from fundusforge.records import METADATA, DatasetError, Record, read_folder, write_metadata


def quarantine(folder: Path, images: Collection[str], out: Path) -> list[Record]:
    """Move images with all their pictures from a dataset folder into another one.

    Args:
        folder: Dataset folder.
        images: Images to move, as its metadata name them.
        out: Dataset folder that takes them; made if absent. What it holds already stays.

    Returns:
        The records that were moved.

    Raises:
        DatasetError: A broken folder, an unknown image, the folder itself named as quarantine, or one that
            holds another picture under such a name.
        OSError: A file cannot be written.
    """
    if out.resolve() == folder.resolve():
        raise DatasetError(f"{out}: the quarantine cannot be the folder itself")
    records = read_folder(folder)
    moved = [record for record in records if record.image in images]
    if unknown := sorted(set(images) - {record.image for record in moved}):
        raise DatasetError(f"{folder}: has no image {unknown[0]!r} to move aside")
    held = read_folder(out) if (out / METADATA).is_file() and (out / METADATA).stat().st_size else []
    if moved:
        for record in moved:
            for path in record.files().values():
                _copy(folder / path, out / path)
        names = {record.image for record in moved}
        write_metadata(out, [*(record for record in held if record.image not in names), *moved])
        write_metadata(folder, [record for record in records if record.image not in names])
    kept = {path for record in records if record not in moved for path in record.files().values()}
    for record in [*held, *moved]:
        for path in set(record.files().values()) - kept:
            if (folder / path).is_file() and _same(folder / path, out / path):
                (folder / path).unlink()
    return moved


def _copy(old: Path, new: Path) -> None:
    """Copy a file aside and rename it into place."""
    if new.exists():
        if not _same(old, new):
            raise DatasetError(f"{new}: the quarantine holds another picture of this name")
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    partial = new.with_name(new.name + ".partial")
    shutil.copy2(old, partial)
    partial.replace(new)


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and first.read_bytes() == second.read_bytes()
