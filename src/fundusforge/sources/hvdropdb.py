"""HVDROPDB: eyes of premature infants with vessels, disc or demarcation ridge (Agrawal et al. 2024).

HVDROPDB-RIDGE/Neo_Images/12.png  HVDROPDB-RIDGE/Neo_Masks/12.png   (and RetCam_..., -BV, -OD)
images/barrdistorted_1001_0.3_0.3_Neo_12.png  ridge/barrdistorted_1001_0.3_0.3_Neo_12.png

Some releases are augmented by barrel distortion; all distortions of one photograph are one patient here.
Numbers of the same camera in different structures' folders count as one patient too, as the publisher does
not say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from fundusforge.sources.files import by_stem, demand, load_image, load_mask, pictures
from fundusforge.sources.item import Item, MaskSource, Reject

EXPECTED = "HVDROPDB-RIDGE/Neo_Images with Neo_Masks (or RetCam_..., -BV, -OD), or images with ridge"
_STRUCTURES = {
    "ridge": re.compile(r"ridge", re.IGNORECASE),
    "vessels": re.compile(r"vessel|(?<![a-z])bv(?![a-z])", re.IGNORECASE),
    "disc": re.compile(r"disc|(?<![a-z])od(?![a-z])", re.IGNORECASE),
}
_IMAGES = re.compile(r"(.*?)[ _-]*images?", re.IGNORECASE)
_CAMERAS = {"neo": "Forus 3nethra Neo", "retcam": "RetCam"}
_NAME = re.compile(
    r"(?:barrdistorted_(?P<warp>.+?)_)?(?:(?P<camera>neo|retcam)[_ -]*)?(?P<number>\d+)", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Hvdropdb:
    """HVDROPDB, ridge, vessel and disc masks of infants' eyes."""

    root: Path
    """Folder that holds folders of images and masks, at any depth."""
    kind: Literal["hvdropdb"] = "hvdropdb"

    def items(self) -> Iterator[Item | Reject]:
        """Yield images by folder and number.

        Raises:
            DatasetError: The folder holds nothing of this layout.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item]:
        for images, masks in _pairs(self.root):
            drawn = {name: by_stem(folder) for name, folder in masks.items()}
            for path in pictures(images):
                place = "_".join((*images.relative_to(self.root).parts, path.stem))
                camera, patient = _who(path, images)
                found = {
                    name: files[path.stem.lower()]
                    for name, files in drawn.items()
                    if path.stem.lower() in files
                }
                yield Item(
                    key=re.sub(r"[^\w.-]+", "_", place),
                    file=path.relative_to(self.root),
                    load=partial(load_image, path),
                    patient=patient,
                    source="hvdropdb",
                    masks={name: MaskSource(load=partial(load_mask, mask)) for name, mask in found.items()},
                    camera=camera,
                    terms="CC BY 4.0",
                )


def _who(path: Path, images: Path) -> tuple[str | None, str]:
    """Return the camera and a name of the patient, from the names of file and folder."""
    match = _NAME.fullmatch(path.stem)
    folder = next((name for name in _CAMERAS if name in images.name.lower()), "")
    if match is None:
        return _CAMERAS.get(folder), f"hvdropdb-{folder}-{path.stem}"
    camera = (match["camera"] or folder).lower()
    return _CAMERAS.get(camera), f"hvdropdb-{camera}-{int(match['number'])}"


def _pairs(root: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yield each folder of images with its folders of masks by structure."""
    for images in sorted(path for path in root.rglob("*") if path.is_dir()) if root.is_dir() else ():
        if not (match := _IMAGES.fullmatch(images.name)):
            continue
        masks: dict[str, Path] = {}
        for sibling in sorted(path for path in images.parent.iterdir() if path.is_dir() and path != images):
            plain = re.fullmatch(rf"{re.escape(match[1])}[ _-]*masks?", sibling.name, re.IGNORECASE)
            told = images.parent.name if plain else sibling.name
            if (name := _structure(told)) and (plain or name == sibling.name.lower()):
                masks[name] = sibling
        if masks:
            yield images, masks


def _structure(text: str) -> str | None:
    return next((name for name, pattern in _STRUCTURES.items() if pattern.search(text)), None)


def fits(root: Path) -> bool:
    """Tell whether the folder looks like HVDROPDB."""
    return any(
        (match := _NAME.fullmatch(path.stem)) and (match["camera"] or "hvdrop" in images.parent.name.lower())
        for images, _ in _pairs(root)
        for path in pictures(images)
    )
