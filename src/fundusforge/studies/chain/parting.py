"""Real eyes parted into folds by patient, as dataset folders of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fundusforge.records import METADATA, DatasetError, Record, Split, read_folder, write_metadata


def folds_of(patients: Sequence[str], *, folds: int, seed: int) -> list[frozenset[str]]:
    """Part patients into folds whose sizes differ by one at most.

    Args:
        patients: The patient of each image; names may stand there often, in any order.
        folds: How many, at least 2.
        seed: Another seed, other folds.

    Returns:
        Who is held out in each fold; everybody is held out once.

    Raises:
        DatasetError: Fewer patients than folds, or fewer than two folds.
    """
    names = sorted(set(patients))
    if not 2 <= folds <= len(names):
        raise DatasetError(f"expected 2 folds or more and a patient for each, got {folds} of {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    return [frozenset(names[place] for place in order[fold::folds]) for fold in range(folds)]


def write_part(folder: Path, records: Sequence[Record], out: Path, *, split: Split) -> Path:
    """Write some records of a dataset folder as one of their own, all of one split.

    Pictures are hard links where the file system has them, else copies: files of this package are renamed
    into place and never changed, so the two folders do not touch each other. What was written before and is
    whole is left as it is.

    Args:
        folder: Where the pictures are.
        records: Of that folder.
        out: Folder to write.
        split: What all records are given.

    Raises:
        DatasetError: Other records stand in the folder to write.
        OSError: It cannot be written.
    """
    parted = [replace(record, split=split) for record in records]
    if (out / METADATA).exists():
        if read_folder(out) != parted:
            raise DatasetError(f"{out}: holds other images; name another folder")
        return out
    for record in parted:
        for path in record.files().values():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                _brought((folder / path).resolve(), target)
    out.mkdir(parents=True, exist_ok=True)
    write_metadata(out, parted)
    return out


def _brought(source: Path, target: Path) -> None:
    """Link a file, or copy it where it cannot be linked; never half a file."""
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(target.name + ".partial")
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
