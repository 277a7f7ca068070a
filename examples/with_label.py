"""The records of a dataset folder that have a label, as a dataset folder of their own.

    python examples/with_label.py data/odir512 erm data/odir-erm

Files are linked where the disk allows it, else copied; splits and all facts stay.
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


@dataclass(frozen=True)
class WithLabel:
    """Part a dataset folder by a label."""

    folder: Annotated[Path, Positional]
    """Dataset folder to read."""
    label: Annotated[str, Positional]
    """The label."""
    out: Annotated[Path, Positional]
    """Dataset folder to write."""


def main(c: WithLabel) -> None:
    """Link the files, write the metadata."""
    if (c.out / METADATA).exists():
        raise DatasetError(f"{c.out}: holds a dataset already; name another folder")
    records = [record for record in read_folder(c.folder) if c.label in record.labels]
    if not records:
        raise DatasetError(f"{c.folder}: no record has the label {c.label!r}")
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
    main(tyro.cli(WithLabel))
