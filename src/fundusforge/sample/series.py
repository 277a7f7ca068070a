"""The same eye at several grades: vessels, disc, noise and colours stay, lesions are added.

A higher grade keeps every lesion of the lower ones, as a progressing eye does. The masks alone show each
grade by the rule of `severity` (grade 3 by more than 20 haemorrhages in each quadrant), as far as the
generator takes those masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fundusforge import __version__
from fundusforge.config import to_json
from fundusforge.images import SYNTHETIC_XMP, Image, grid, resize, write_image
from fundusforge.records import (
    METADATA,
    DatasetError,
    Mask,
    Origin,
    Provenance,
    Record,
    Split,
    write_metadata,
    write_text,
)  # fmt: skip
from fundusforge.sample.conditions import LESIONS as VISIBLE
from fundusforge.sample.conditions import Condition, Conditions, draw_seed
from fundusforge.sample.frame import Frame
from fundusforge.sample.layout_statistics import LayoutStatistics
from fundusforge.sample.layouts import Layout, imitate
from fundusforge.sample.severity_painter import AnyPainter
from fundusforge.sample.stage import stamps
from fundusforge.sample.supply import supply_of
from fundusforge.severity import LESIONS, grade

SHEET, TABLE = "series.png", "series.json"
"""Contact sheet, an eye in a row; and what was asked for, by image."""
SIDE = 320
"""Largest side of a picture on the sheet, pixels."""
_NOISE, _CODE, _LAYOUT = 2, 3, 5
"""Streams of an eye's seed, as in `stage` and `supply`."""


@dataclass(frozen=True, kw_only=True)
class SeriesConfig:
    """What to make."""

    grades: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Ascending."""
    eyes: int = 4
    """Number of eyes."""
    seed: int = 0
    """Seed of the whole sequence of eyes."""
    masks: str = "phantom"
    """Eyes to take: `phantom`, a dataset folder with vessels and disc, or a model that draws both."""
    split: Split | None = None
    """Take only eyes of this split of the folder."""
    size: int | None = None
    """Side in pixels; the generator's own if None."""
    camera: str | None = None
    """Camera whose colours to imitate; drawn per eye if None."""

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not self.grades or list(self.grades) != sorted(set(self.grades)):
            raise DatasetError(f"grades must ascend, each once, not {self.grades}")
        if not 0 <= self.grades[0] <= self.grades[-1] <= 4:
            raise DatasetError(f"grades must be 0 to 4, not {self.grades}")
        if self.eyes < 1:
            raise DatasetError(f"the number of eyes must be at least 1, not {self.eyes}")
        if self.seed < 0:
            raise DatasetError(f"seed must not be negative, but is {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of one image."""

    image: str
    eye: int
    """Place in the sequence of eyes."""
    grade: int
    counts: dict[str, int]
    """Lesions by kind."""
    shown: tuple[str, ...]
    """Masks of lesions that the generator takes; it cannot paint the others."""


def layouts_of(
    frame: Frame, grades: Sequence[int], statistics: LayoutStatistics, *, seed: int
) -> list[Layout]:
    """Return one layout for every grade, each keeping what the one before had.

    Args:
        frame: The eye.
        grades: Ascending, 0 to 4.
        statistics: How real lesions are laid out.
        seed: Decides everything.

    Raises:
        ValueError: Grades that do not ascend, or outside 0 to 4.
        DatasetError: The retina in view has no room for a grade.
    """
    made: list[Layout] = []
    for asked in grades:
        made.append(
            imitate(statistics, asked, frame, seed=seed, visible=True, keep=made[-1] if made else None)
        )
    return made


def series(
    painter: AnyPainter, out: Path, config: SeriesConfig, statistics: LayoutStatistics
) -> Iterator[Record]:
    """Write a dataset folder of eyes at several grades; yields each record when its files are on the disk.

    The folder also gets a contact sheet and `series.json`, the `Asked` of every image. Metadata come last.

    Args:
        painter: The generator.
        out: Folder to write; it may exist but must not hold a dataset.
        config: What to make.
        statistics: How real lesions are laid out.

    Raises:
        DatasetError: The folder holds a dataset, the supply of eyes is broken or lacks vessels or disc, or
            size or camera are unknown to the generator.
        OSError: The folder cannot be written.
    """
    size = config.size or painter.config.size
    painter.check_size(size)
    painter.check_wish(camera=config.camera, severity=None)  # refused before anything is drawn
    if (out / METADATA).exists():
        raise DatasetError(f"{out}: holds a dataset already; name another folder")
    # Masks that no layout draws come from the eyes themselves; place and shape of lesions need two of them.
    names = tuple(dict.fromkeys([*(n for n in painter.masks if n not in VISIBLE), "vessels", "disc"]))
    splits = (config.split,) if config.split else None
    eyes: Conditions = supply_of(config.masks, names=names, seed=config.seed, splits=splits)
    for name in ("images", "field_of_view", *painter.masks):
        (out / name).mkdir(parents=True, exist_ok=True)
    records, asked, tiles = list[Record](), list[Asked](), list[Image]()
    for number in range(config.eyes):
        eye = eyes.at(number, size=size)
        frame = Frame.of_masks(eye.masks, eye.field_of_view, eye=eye.eye)
        seed = draw_seed(config.seed, number, stream=_LAYOUT)
        for layout in layouts_of(frame, config.grades, statistics, seed=seed):
            record, image = _written(painter, out, eye, layout, number=number, size=size, config=config)
            records.append(record)
            asked.append(
                Asked(
                    image=record.image, eye=number, grade=layout.grade,
                    counts={name: layout.findings.total(name) for name in LESIONS},
                    shown=shown_by(painter),
                )
            )  # fmt: skip
            tiles.append(resize(image, min(size, SIDE)))
            yield record
    sheet = grid(tiles, columns=len(config.grades))
    write_image(out / SHEET, sheet, xmp=SYNTHETIC_XMP)
    write_text(out / TABLE, to_json(asked, kind=list[Asked]) + "\n")
    write_metadata(out, records)


def shown_by(painter: AnyPainter) -> tuple[str, ...]:
    """Return the masks of lesions that a generator takes."""
    return tuple(name for name in painter.masks if name in VISIBLE)


def _written(
    painter: AnyPainter, out: Path, eye: Condition, layout: Layout, *, number: int, size: int,
    config: SeriesConfig,
) -> tuple[Record, Image]:  # fmt: skip
    """Paint one image, write its files, return its record and the picture."""
    names, seed, given = painter.masks, config.seed, grade(layout.findings)
    stack, inside = painter.stack({**eye.masks, **layout.masks}, eye.field_of_view, size=size)
    # The same draws at every grade: the eye keeps its camera, its colours and its noise.
    random = torch.Generator().manual_seed(draw_seed(seed, number, stream=_CODE))
    chosen = painter.choose(stack, inside, random, grade=given, camera=config.camera)
    code = chosen.code
    image = painter.paint(stack, inside, seed=draw_seed(seed, number, stream=_NOISE), code=code)
    file = f"{number:06d}-{given}.png"
    provenance = Provenance(
        model=painter.name, seed=seed, index=number, condition=f"{eye.name}+grade-{given}",
        code=tuple(round(float(value), 6) for value in code) if code is not None else (),
        version=__version__,
    )  # fmt: skip
    text = stamps(provenance, from_patient=eye.from_patient)
    write_image(out / "images" / file, image, text=text, xmp=SYNTHETIC_XMP)
    write_image(out / "field_of_view" / file, inside)
    for name, layer in zip(names, stack, strict=True):
        write_image(out / name / file, layer)
    origins: dict[str, Origin] = {
        name: "generated" if name in layout.masks else eye.origins[name] for name in names
    }
    terms: list[str] = list(dict.fromkeys([*painter.terms, *([eye.terms] if eye.terms else [])]))
    record = Record(
        image=f"images/{file}",
        patient=eye.patient,
        source=painter.name,
        masks={name: Mask(path=f"{name}/{file}", origin=origins[name]) for name in names},
        field_of_view=f"field_of_view/{file}",
        eye=eye.eye,
        camera=chosen.camera,
        terms="; ".join(terms) or None,
        split=eye.split,
        grade=given,
        synthetic=True,
        structure_from_patient=eye.from_patient,
        provenance=provenance,
    )
    return record, image
