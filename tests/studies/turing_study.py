"""Small studies for the tests of the image Turing test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fundusforge.records import Record, read_folder, write_metadata
from fundusforge.studies.turing import store
from fundusforge.studies.turing.database import connect, location, transaction
from fundusforge.studies.turing.design import DesignConfig, Designed, design

Folder = Callable[..., Path]


def change(folder: Path, edit: Callable[[Record], Record]) -> Path:
    """Rewrite every record of a dataset folder."""
    write_metadata(folder, [edit(record) for record in read_folder(folder)])
    return folder


def synthetic(folder: Path) -> Path:
    """Let drawn eyes pass for a model's."""
    return change(folder, lambda record: replace(record, synthetic=True, split=None, source="model"))


@dataclass(frozen=True)
class Folders:
    """Two dataset folders to draw from."""

    real: Path
    synthetic: Path

    def config(self, out: Path, **settings: Any) -> DesignConfig:
        given = {"real_images": 4, "synthetic_images": 3, "gap": 2} | settings
        return DesignConfig(real=self.real, synthetic=self.synthetic, out=out, **given)

    def design(self, out: Path, **settings: Any) -> Designed:
        return design(self.config(out, **settings))


def two_folders(drawn_folder: Folder, *, size: int = 48, synthetic_size: int | None = None) -> Folders:
    """Make two folders: 16 real eyes of which 8 are held out, 6 synthetic ones."""
    return Folders(
        real=drawn_folder(20, size=size),
        synthetic=synthetic(drawn_folder(6, size=synthetic_size or size, seed=500)),
    )


def invited(folder: Path, count: int = 1) -> list[str]:
    """Invite readers; returns their tokens."""
    engine = connect(location(folder))
    made = transaction(engine, lambda connection: store.invite(connection, count))
    engine.dispose()
    return [token for _, token in made]


def truths(folder: Path) -> dict[str, str]:
    """Return the truth of every image by its name."""
    key = json.loads((folder / "key.json").read_text())
    return {name: entry["truth"] for name, entry in key["images"].items()}


def rows(text: str) -> list[dict[str, str]]:
    """Read a CSV file's text."""
    import csv
    import io

    return list(csv.DictReader(io.StringIO(text)))


def hidden(html: str) -> str:
    """Return the proof that a form carries."""
    found = re.search(r'name="csrf" value="(\w+)"', html)
    assert found is not None, html
    return found[1]
