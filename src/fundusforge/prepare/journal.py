"""What a run has finished, one line an item, so that a killed run goes on where it stood."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fundusforge.records import DatasetError

NAME = ".journal.jsonl"


class Journal:
    """An append-only file: a first line that names the run, then one line for every finished item."""

    def __init__(self, folder: Path, fingerprint: str, *, name: str = NAME) -> None:
        """Open the journal of a folder, or begin one.

        Args:
            folder: The output folder.
            fingerprint: Names settings and inputs; a journal of another run is refused.
            name: Of the file.

        Raises:
            DatasetError: The folder holds the journal of a run with other settings or inputs.
            OSError: The folder cannot be written.
        """
        self.path = folder / name
        self.done: dict[str, dict[str, Any]] = {}
        lines = list(self._lines())
        if lines and lines[0].get("fingerprint") != fingerprint:
            raise DatasetError(
                f"{folder}: holds an unfinished run with other settings or inputs; "
                "finish it with those, choose another folder, or overwrite"
            )
        self.done = {line["name"]: line for line in lines[1:]}
        self._file = open(self.path, "r+b" if lines else "wb")  # noqa: SIM115 - closed in `close`
        if lines:
            self._file.truncate(self._whole)
            self._file.seek(0, os.SEEK_END)
        else:
            self._append({"fingerprint": fingerprint})

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the complete lines; a last line that a kill cut off is forgotten."""
        self._whole = 0
        data = self.path.read_bytes() if self.path.is_file() else b""
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                return
            self._whole += len(line)

    def add(self, entry: dict[str, Any]) -> None:
        """Note a finished item by its `name`.

        Raises:
            OSError: The disk is full or read-only.
        """
        self.done[entry["name"]] = entry
        self._append(entry)

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; it stays for the next run."""
        self._file.close()

    def remove(self) -> None:
        """Close and delete the file: the run is complete."""
        self._file.close()
        self.path.unlink(missing_ok=True)
