"""Where images come from: one file per published layout, each with a config that yields items.

Adding a layout is one file with a config (`kind`, `root`, options, `items()`) and a function `fits`, its name
in the union and in the table of recognisers below, one test and one line in `docs/sources.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, get_args

from pydantic import Field

from fundusforge.sources import brats, chase, dicom, drive, eyepacs, fives, folder, hrf, hvdropdb, idrid, odir
from fundusforge.sources.brats import Brats
from fundusforge.sources.chase import Chase
from fundusforge.sources.dicom import Dicom
from fundusforge.sources.drive import Drive
from fundusforge.sources.eyepacs import Eyepacs
from fundusforge.sources.fives import Fives
from fundusforge.sources.folder import Folder
from fundusforge.sources.hrf import Hrf
from fundusforge.sources.hvdropdb import Hvdropdb
from fundusforge.sources.idrid import Idrid
from fundusforge.sources.item import Item, MaskSource, Reject, Unreadable, to_mask
from fundusforge.sources.odir import Odir
from fundusforge.sources.phantoms import Phantoms

AnySource = (
    Drive | Chase | Hrf | Idrid | Eyepacs | Odir | Fives | Hvdropdb | Brats | Phantoms | Dicom | Folder
)
Source = Annotated[AnySource, Field(discriminator="kind")]
SOURCES: dict[str, type] = {config.kind: config for config in get_args(AnySource)}
"""Every source's config by its name on the command line."""

_FITS: dict[str, Callable[[Path], bool]] = {
    "drive": drive.fits, "chase": chase.fits, "hrf": hrf.fits, "idrid": idrid.fits, "eyepacs": eyepacs.fits,
    "odir": odir.fits, "fives": fives.fits, "hvdropdb": hvdropdb.fits, "brats": brats.fits,
    "dicom": dicom.fits, "folder": folder.fits,
}  # fmt: skip


def recognise(root: Path) -> list[str]:
    """Return the names of the formats that a folder looks like, the particular ones before `folder`."""
    found = [name for name, fits in _FITS.items() if root.is_dir() and fits(root)]
    return [name for name in found if name != "folder"] or found


__all__ = [
    "SOURCES", "AnySource", "Item", "MaskSource", "Reject", "Source", "Unreadable", "recognise", "to_mask",
]  # fmt: skip
