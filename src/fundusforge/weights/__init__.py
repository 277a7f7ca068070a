"""Embedded weights: small default models, each a safetensors file with its model card beside it.

`<name>.safetensors` carries the networks and, in its metadata, the family, the configuration, the terms of
the training data and the figures it reached; `<name>.md` is the card for people. Reading the catalogue
needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundusforge.records import DatasetError

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """One set of embedded weights."""

    name: str
    path: Path
    card: Path
    """Model card: data, terms, command, figures, limits."""
    family: str
    masks: tuple[str, ...]
    """Structures that the model predicts or paints on; what a classifier tells."""
    bytes: int
    sha256: str
    terms: tuple[str, ...]
    """Terms of every data set it was trained on."""
    figures: Mapping[str, Any]
    """What it reached on its validation images."""


def catalogue(folder: Path = FOLDER) -> tuple[Embedded, ...]:
    """Return every embedded model, by name.

    Raises:
        DatasetError: A file of weights is not whole.
    """
    return tuple(_describe(path) for path in sorted(folder.glob("*.safetensors")))


def _describe(path: Path) -> Embedded:
    metadata = read_metadata(path)
    config = json.loads(metadata.get("config", "{}"))
    return Embedded(
        name=path.stem,
        path=path,
        card=path.with_suffix(".md"),
        family=metadata.get("kind", ""),
        masks=_known(config),
        bytes=path.stat().st_size,
        sha256=sha256(path),
        terms=tuple(json.loads(metadata.get("terms", "[]"))),
        figures=json.loads(metadata.get("figures", "{}")),
    )


def _known(config: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(config.get("masks", config.get("targets", ())))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file without its tensors and without torch.

    Raises:
        DatasetError: Missing, truncated or no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DatasetError(f"{path}: not a whole safetensors file ({error})") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def name_of(path: Path) -> str:
    """Return what results call a file of weights: its name (or its run's) and 12 digits of its SHA-256."""
    own = path.stem not in {"model", "best"}
    return f"{path.stem if own else path.resolve().parent.name}-{sha256(path)[:12]}"


JUDGES = {"vessels": "vessels-unet"}
"""Segmenters that judge synthetic images where a better annotator, of more data, might have seen too much."""


def judge(mask: str, *, folder: Path = FOLDER) -> Path:
    """Return the embedded segmenter of a structure that shares no patient with the embedded generator.

    Raises:
        DatasetError: There is none.
    """
    path = folder / f"{JUDGES.get(mask, '')}.safetensors"
    return path if path.exists() else default("unet", masks=(mask,), folder=folder)


def named(name: str, *, folder: Path = FOLDER) -> Path:
    """Return embedded weights by their name, or the first of a family.

    Raises:
        DatasetError: There are none; the message lists those that there are.
    """
    path = folder / f"{name}.safetensors"
    families = {file: read_metadata(file).get("kind", "") for file in sorted(folder.glob("*.safetensors"))}
    if path in families:
        return path
    found = [path for path, family in families.items() if family == name]
    if not found:
        known = ", ".join(f"{path.stem} ({family})" for path, family in families.items()) or "none"
        raise DatasetError(f"no embedded weights of the name or family {name!r}; there are {known}")
    return found[0]


def default(family: str, *, masks: Sequence[str] = ("vessels",), folder: Path = FOLDER) -> Path:
    """Return the embedded weights of a family that know all of these masks; the first by name of several.

    Raises:
        DatasetError: There are none.
    """
    for path in sorted(folder.glob("*.safetensors")):
        metadata = read_metadata(path)
        known = _known(json.loads(metadata.get("config", "{}")))
        if metadata.get("kind") == family and set(masks) <= set(known):
            return path
    raise DatasetError(
        f"no embedded {family} model for {' and '.join(masks)} in this installation; name a run or a file "
        "of weights"
    )
