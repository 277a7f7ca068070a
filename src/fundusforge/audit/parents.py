"""Where a synthetic image comes from: the model that painted it, and the marks inside its file.

A model is found by the digits of its weights' SHA-256 that stand in a record's provenance, among the embedded
weights and the runs that are named. It must say what it was trained on: the terms of its sources and digests
of its patients.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundusforge import weights
from fundusforge.records import DatasetError
from fundusforge.training.checkpoint import model_file, read_metadata
from fundusforge.training.run import BEST, CONFIG, MODEL

SOURCE_TYPE = "digitalsourcetype/trainedAlgorithmicMedia"
"""End of the IPTC address that an XMP packet names for a model's image."""


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A trained generator and what it says of itself."""

    name: str
    """As records name it: name and first digits of the SHA-256 of its weights."""
    family: str
    version: str
    """Of fundusforge, that trained it."""
    images: int
    """Training images seen, counted with repetition."""
    terms: tuple[str, ...]
    """Terms of its training data, each `source: terms`; empty if it does not say."""
    sources: tuple[str, ...]
    patients: frozenset[str]
    """Digests of its training patients; empty if it does not say."""
    config: Mapping[str, Any]
    figures: Mapping[str, Any]
    """What it reached on its validation images."""
    settings: Mapping[str, Any] | None = None
    """How its run was trained (`config.json`), if the run is at hand."""
    card: str | None = None
    """The model card that lies beside embedded weights."""

    @property
    def digits(self) -> str:
        """First digits of the SHA-256 of its weights."""
        return self.name.rpartition("-")[2]


def parent(path: Path) -> Parent:
    """Describe one file of weights.

    Raises:
        CheckpointError: Missing, truncated or foreign.
    """
    metadata = read_metadata(path)
    settings, card = path.with_name(CONFIG), path.with_suffix(".md")
    return Parent(
        name=weights.name_of(path),
        family=metadata["kind"],
        version=metadata["version"],
        images=int(metadata["images"]),
        terms=tuple(json.loads(metadata.get("terms", "[]"))),
        sources=tuple(json.loads(metadata.get("sources", "[]"))),
        patients=frozenset(json.loads(metadata.get("patients", "[]"))),
        config=json.loads(metadata["config"]),
        figures=json.loads(metadata.get("figures", "{}")),
        settings=json.loads(settings.read_text("utf-8")) if settings.is_file() else None,
        card=card.read_text("utf-8") if card.is_file() else None,
    )


def known_parents(models: Iterable[Path]) -> dict[str, Parent]:
    """Describe the embedded models and those named, by the digits of their weights.

    Args:
        models: Run folders (their best and latest models both count) or files of weights.

    Raises:
        CheckpointError: Such a path holds no whole model.
    """
    files = [one.path for one in weights.catalogue()]
    for path in models:
        named = [path / name for name in (BEST, MODEL) if (path / name).is_file()]
        files += named or [model_file(path)]
    return {found.digits: found for found in map(parent, files)}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What a picture file says of itself."""

    declared: bool
    """Whether its XMP names the IPTC source type of a model's image."""
    text: Mapping[str, str]
    """Its text entries of fundusforge, without the prefix; a JPEG has none."""
    png: bool

    def faults(self, model: str) -> list[str]:
        """Return what keeps the file from being known as synthetic; nothing if all is well.

        Args:
            model: The model that the metadata name.
        """
        found: list[str] = []
        if not self.declared:
            found.append("its XMP does not say trainedAlgorithmicMedia")
        if self.png and self.text.get("synthetic") != "true":
            found.append("its PNG text does not say fundusforge:synthetic")
        if (said := self.text.get("model", model)) != model:
            found.append(f"the file names the model {said!r}, its metadata {model!r}")
        return found


def read_mark(path: Path) -> Mark:
    """Read the marks of a picture file; its pixels stay undecoded.

    Raises:
        DatasetError: No readable PNG or JPEG.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            entries, png = dict(picture.info), picture.format == "PNG"
    except Exception as error:  # Pillow's plug-ins raise anything on broken headers
        raise DatasetError(f"{path}: expected a PNG or JPEG ({error})") from None
    packet = entries.get("xmp") or entries.get("XML:com.adobe.xmp") or b""
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else str(packet)
    own = {
        key.removeprefix("fundusforge:"): str(value)
        for key, value in entries.items()
        if isinstance(key, str) and key.startswith("fundusforge:")
    }
    return Mark(declared=SOURCE_TYPE in text, text=own, png=png)
