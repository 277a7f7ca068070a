"""`sample` of a generator that draws from vectors: a dataset folder of synthetic images with their masks.

Every image is a function of (weights, seed, index), and of nobody's structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fundusforge import __version__
from fundusforge.images import SYNTHETIC_XMP, encode_contrast, write_image
from fundusforge.models.stylegan import StyleGANConfig
from fundusforge.records import (
    METADATA,
    Contrast,
    DatasetError,
    Mask,
    Provenance,
    Record,
    finding_label,
    write_metadata,
)  # fmt: skip
from fundusforge.sample.latents import Drawer, Drawn
from fundusforge.sample.stage import stamps


def draw(drawer: Drawer, out: Path, *, count: int = 16, seed: int = 0) -> Iterator[Record]:
    """Write a dataset folder of synthetic images; yields each record when its files are on the disk.

    The metadata is written after the last one, so a folder is whole or not a dataset folder at all.

    Args:
        drawer: The generator.
        out: Folder to write; it may exist but must not hold a dataset.
        count: Number of images.
        seed: Seed of the whole sequence of images.

    Raises:
        DatasetError: The folder holds a dataset, or count or seed are out of range.
        OSError: The folder cannot be written.
    """
    if count < 1 or seed < 0:
        raise DatasetError(f"count must be at least 1 and the seed not negative, not {count} and {seed}")
    if (out / METADATA).exists():
        raise DatasetError(f"{out}: holds a dataset already; name another folder")
    records = []
    for index in range(count):
        drawn = drawer.draw(drawer.latent(seed, index))
        record = write_drawn(drawer, out, drawn, seed=seed, index=index)
        record = replace(record, **_shown(drawer, seed, index))
        records.append(record)
        yield record
    write_metadata(out, records)


def _shown(drawer: Drawer, seed: int, index: int) -> dict[str, Any]:
    """Grade and labels that were asked for, as fields of a record."""
    condition = drawer.condition(seed, index)
    if condition is None or not isinstance(drawer.config, StyleGANConfig):
        return {}
    grade, findings = drawer.config.shown(condition)
    return {"grade": grade, "labels": tuple(finding_label(name) for name in findings)}


def write_drawn(
    drawer: Drawer, out: Path, drawn: Drawn, *, seed: int, index: int, condition: str = "latent",
    from_patient: bool = False,
) -> Record:  # fmt: skip
    """Write the files of one drawn image; return its record.

    Args:
        drawer: What drew it.
        out: Dataset folder.
        drawn: What was drawn.
        seed: Seed of the sequence.
        index: Its place there, which names the files.
        condition: What it was drawn from, in words.
        from_patient: Whether it may show the structure of a patient.
    """
    file = f"{index:06d}.png"
    provenance = Provenance(
        model=drawer.name, seed=seed, index=index, condition=condition, version=__version__
    )
    pictures = {f"images/{file}": drawn.image}
    pictures |= {f"{name}/{file}": mask for name, mask in drawn.masks.items()}
    if drawn.field_of_view is not None:
        pictures[f"field_of_view/{file}"] = drawn.field_of_view
    contrasts = dict[str, Contrast]()
    for name, values in drawn.contrasts.items():
        pixels, scale, offset = encode_contrast(values)
        path = f"contrasts/{name}/{file}"
        contrasts[name] = Contrast(path=path, scale=scale, offset=offset)
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        write_image(out / path, pixels)
    for path, pixels in pictures.items():
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("images/"):
            write_image(
                out / path, pixels, text=stamps(provenance, from_patient=from_patient), xmp=SYNTHETIC_XMP
            )
        else:
            write_image(out / path, pixels)
    return Record(
        image=f"images/{file}",
        patient=f"{drawer.name}-{seed}-{index}",
        source=drawer.name,
        masks={name: Mask(path=f"{name}/{file}", origin="generated") for name in drawn.masks},
        contrasts=contrasts,
        field_of_view=f"field_of_view/{file}" if drawn.field_of_view is not None else None,
        terms="; ".join(drawer.terms) or None,
        synthetic=True,
        structure_from_patient=from_patient,
        provenance=provenance,
    )
