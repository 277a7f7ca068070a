"""`sample`: a generator and a supply of structure to a dataset folder of synthetic images.

Every image is a function of (weights, seed, index): not of how many are made, in what order, or by how many
processes. Each carries where it came from, in the metadata and inside the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from joblib import Parallel, delayed

from fundusforge import __version__
from fundusforge.images import SYNTHETIC_XMP, write_image
from fundusforge.records import METADATA, DatasetError, Mask, Provenance, Record, Split, write_metadata
from fundusforge.sample.conditions import Condition, Conditions, draw_seed
from fundusforge.sample.severity_painter import AnyPainter
from fundusforge.sample.supply import supply_of

_NOISE, _CODE = 2, 3
"""Streams of an image's seed beside those of `conditions`."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What to sample."""

    count: int = 16
    """Number of images."""
    seed: int = 0
    """Seed of the whole sequence of images."""
    masks: str = "phantom"
    """Structure to paint on: `phantom`, a dataset folder with the masks the generator needs, or a model that
    draws them."""
    split: Split | None = None
    """Take only masks of this split of the folder; what a model draws is put into it."""
    size: int | None = None
    """Side of the images in pixels; the generator's own if None."""
    camera: str | None = None
    """Camera whose colours to imitate; drawn per image from all that the generator knows if None."""
    severity: float | None = None
    """Severity to paint, 0 to 4, by a generator that takes one; if None that of the structure, or what the
    masks speak for."""
    lesions: Literal["own", "imitated"] = "own"
    """Lesions of the structure, or laid out as real ones are (`sample.layouts`)."""
    grade: int | None = None
    """Grade of imitated lesions, 0 to 4; 0, 1, 2, 3, 4, 0, ... if None."""
    jobs: int = 1
    """Processes that draw or read structure."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.count < 1:
            raise DatasetError(f"the number of images must be at least 1, not {self.count}")
        if self.seed < 0:
            raise DatasetError(f"seed must not be negative, but is {self.seed}")


def sample(painter: AnyPainter, out: Path, config: SampleConfig) -> Iterator[Record]:
    """Write a dataset folder of synthetic images; yields each record when its files are on the disk.

    The metadata is written after the last one, so a folder is whole or not a dataset folder at all.

    Args:
        painter: The generator.
        out: Folder to write; it may exist but must not hold a dataset.
        config: What to sample.

    Raises:
        DatasetError: The folder holds a dataset, the supply of masks is broken or lacks one, or size, camera
            or severity are unknown to the generator.
        OSError: The folder cannot be written.
    """
    size = config.size or painter.config.size
    painter.check_size(size)
    painter.check_wish(camera=config.camera, severity=config.severity)  # refused before anything is drawn
    if (out / METADATA).exists():
        raise DatasetError(f"{out}: holds a dataset already; name another folder")
    splits = (config.split,) if config.split else None
    supply = supply_of(
        config.masks, names=painter.masks, seed=config.seed, splits=splits, lesions=config.lesions,
        grade=config.grade,
    )  # fmt: skip
    for name in ("images", "field_of_view", *painter.masks):
        (out / name).mkdir(parents=True, exist_ok=True)
    records = []
    for index, condition in enumerate(_drawn(supply, config.count, size=size, jobs=config.jobs)):
        record = _paint(painter, out, condition, index=index, size=size, config=config)
        records.append(record)
        yield record
    write_metadata(out, records)


def _drawn(supply: Conditions, count: int, *, size: int, jobs: int) -> Iterator[Condition]:
    """The first conditions in order, drawn by several processes if so wished."""
    draw = partial(supply.at, size=size)
    if jobs == 1:
        return (draw(index) for index in range(count))
    pool = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
    return cast(Iterator[Condition], pool(delayed(draw)(index) for index in range(count)))


def _paint(
    painter: AnyPainter, out: Path, condition: Condition, *, index: int, size: int, config: SampleConfig
) -> Record:
    """Paint one image, write its files, return its record."""
    names = painter.masks
    stack, inside = painter.stack(condition.masks, condition.field_of_view, size=size)
    random = torch.Generator().manual_seed(draw_seed(config.seed, index, stream=_CODE))
    chosen = painter.choose(
        stack, inside, random, grade=condition.grade, camera=config.camera, severity=config.severity
    )
    code = chosen.code
    image = painter.paint(stack, inside, seed=draw_seed(config.seed, index, stream=_NOISE), code=code)
    file = f"{index:06d}.png"
    provenance = Provenance(
        model=painter.name,
        seed=config.seed,
        index=index,
        condition=condition.name,
        code=tuple(round(float(value), 6) for value in code) if code is not None else (),
        version=__version__,
    )
    write_image(
        out / "images" / file,
        image,
        text=stamps(provenance, from_patient=condition.from_patient),
        xmp=SYNTHETIC_XMP,
    )
    write_image(out / "field_of_view" / file, inside)
    for name, layer in zip(names, stack, strict=True):
        write_image(out / name / file, layer)
    return Record(
        image=f"images/{file}",
        patient=condition.patient,
        source=painter.name,
        masks={name: Mask(path=f"{name}/{file}", origin=condition.origins[name]) for name in names},
        field_of_view=f"field_of_view/{file}",
        eye=condition.eye,
        camera=chosen.camera,
        terms="; ".join(_unique([*painter.terms, *([condition.terms] if condition.terms else [])])) or None,
        split=condition.split,
        grade=chosen.grade,
        predicted=("grade",) if chosen.predicted else (),
        synthetic=True,
        structure_from_patient=condition.from_patient,
        provenance=provenance,
    )


def stamps(provenance: Provenance, *, from_patient: bool) -> dict[str, str]:
    """Return the text of the picture file itself, so that a copy without metadata still says what it is."""
    return {
        "fundusforge:synthetic": "true",
        "fundusforge:structure_from_patient": str(from_patient).lower(),
        "fundusforge:model": provenance.model,
        "fundusforge:seed": f"{provenance.seed}/{provenance.index}",
        "fundusforge:version": provenance.version,
    }


def _unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))
