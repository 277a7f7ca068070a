"""`fundusforge inspect`: what a dataset folder holds and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fundusforge.cli.command import DONE, REJECTS, emit, say


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Look into a dataset folder: what it holds, and what is wrong with it.

    Prints how many images there are by split, grade, mask, source and more, reads every pixel and lists all
    problems, and draws a contact sheet with the masks outlined. A contact sheet of real photographs is
    patient data, and says so.

    Examples:
      fundusforge inspect data/drive
      fundusforge inspect synthetic --sheet overview.png --images 60
    """

    folder: Annotated[Path, Positional, arg(metavar="FOLDER")]
    """Dataset folder."""
    sheet: Annotated[Path | None, arg(metavar="FILE")] = None
    """Contact sheet to write, .png or .jpg; <folder>-contact.png in the current folder if left out."""
    no_sheet: bool = False
    """Draw no contact sheet."""
    images: int = 24
    """Most images on the contact sheet."""
    seed: int = 0
    """Decides which images are on the contact sheet."""
    max_rejects: int = 0
    """Exit with 1 if more problems than this are found; notes do not count."""
    quiet: bool = False
    """No progress on standard error."""
    json: bool = False
    """Print the result as JSON on standard output."""

    def run(self) -> int:
        """Inspect."""
        from fundusforge.inspection import InspectConfig, inspect_folder

        sheet = self.sheet or Path(f"{self.folder.resolve().name}-contact.png")
        config = InspectConfig(
            folder=self.folder, sheet=None if self.no_sheet else sheet, images=self.images, seed=self.seed
        )
        found = inspect_folder(config, progress=None if self.quiet else say)
        if config.sheet and config.sheet.exists():
            say(f"contact sheet in {config.sheet}")
        emit(found.to_dict(), found.text(), as_json=self.json)
        return REJECTS if len(found.faults) > self.max_rejects else DONE
