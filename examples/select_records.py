"""Some records of a dataset folder, as a dataset folder of their own.

    python examples/select_records.py data/odir512 data/odir-erm --label erm
    python examples/select_records.py data/idrid-grading data/half-a --without data/idrid --part 1 --of 2
    python examples/select_records.py data/idrid-grading data/half-b --without data/idrid --part 2 --of 2

Parts are of whole patients, drawn by the seed: a generator and whoever judges it can learn from different
people. Files are linked where the disk allows it, else copied; splits and all facts stay.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from fundusforge.records import METADATA, DatasetError, read_folder, write_metadata
from fundusforge.studies.chain.parting import folds_of


@dataclass(frozen=True)
class SelectRecords:
    """Take some records of a dataset folder."""

    folder: Annotated[Path, Positional]
    """Dataset folder to read."""
    out: Annotated[Path, Positional]
    """Dataset folder to write."""
    label: str | None = None
    """Only what has this label."""
    without: tuple[Path, ...] = ()
    """Dataset folders whose patients are left out."""
    part: int = 1
    """Which part of the patients, from 1."""
    of: int = 1
    """Number of parts."""
    seed: int = 0
    """Seed of the parts."""


def main(c: SelectRecords) -> None:
    """Link the files, write the metadata."""
    if (c.out / METADATA).exists():
        raise DatasetError(f"{c.out}: holds a dataset already; name another folder")
    if not 1 <= c.part <= c.of:
        raise DatasetError(f"expected a part between 1 and {c.of}, not {c.part}")
    others = {record.patient for folder in c.without for record in read_folder(folder)}
    records = [record for record in read_folder(c.folder) if record.patient not in others]
    if c.of > 1:
        wanted = folds_of([record.patient for record in records], folds=c.of, seed=c.seed)[c.part - 1]
        records = [record for record in records if record.patient in wanted]
    records = [record for record in records if c.label is None or c.label in record.labels]
    if not records:
        raise DatasetError(f"{c.folder}: no record is left")
    for path in (path for record in records for path in record.files().values()):
        target = c.out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(c.folder / path, target)
            except OSError:
                shutil.copyfile(c.folder / path, target)
    write_metadata(c.out, records)
    print(f"{len(records)} images in {c.out}")


if __name__ == "__main__":
    main(tyro.cli(SelectRecords))
