"""Every held-out eye painted again: what the whole study is measured on.

The real photographs are those that a person graded and whose patients the generator never learnt from. Each
is painted a few times, on its own masks and at its own grade, so paintings and photographs have the same
mixture of grades and the same structure, and differ in nothing but who made the picture. With imitated
lesions the eyes keep vessels and disc, and the lesions are laid out anew for the same grade.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge import __version__
from fundusforge.annotate.segmenter import patient_digest
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.pictures import squared
from fundusforge.images import Grey, Image, read_image, read_mask, resize, resize_mask
from fundusforge.records import (
    METADATA,
    DatasetError,
    Record,
    Split,
    read_folder,
    write_metadata,
    write_text,
)  # fmt: skip
from fundusforge.sample.conditions import LESIONS as VISIBLE
from fundusforge.sample.severity_painter import AnyPainter, FlowPainter
from fundusforge.sample.stage import SampleConfig, sample
from fundusforge.severity import GRADES
from fundusforge.studies.chain.parting import write_part
from fundusforge.studies.drgan.result import Result, Table
from fundusforge.weights import sha256

NOTE = "study.json"
"""What a folder of the study is of."""
EYES, PAINTED = "eyes", "painted"
LEAST = 4
"""Eyes without which nothing can be said."""
Tell = Callable[[str], Any]
"""Called with a line of text as the work goes on."""
Places = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Which eyes to paint, and how often."""

    real: Path
    """Dataset folder of graded photographs with the masks that the generator paints on."""
    out: Path
    """Folder of the study; private, since it holds eyes of patients."""
    splits: tuple[Split, ...] = ("val", "test")
    """Splits of held-out eyes."""
    each: int = 2
    """Paintings of each eye."""
    lesions: Literal["own", "imitated"] = "own"
    """Paint on the eye's own lesions, or on ones laid out anew for its grade."""
    size: int | None = None
    """Side in pixels; the generator's own if None."""
    name: str = "drgan"
    """First part of the figures' names."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if self.each < 2 or self.draws < 100 or self.seed < 0 or not self.name:
            raise ValueError("expected 2 paintings of each eye or more, 100 draws or more, seed >= 0, a name")


@dataclass(frozen=True, kw_only=True)
class Eyes(ImageSet):
    """Records of one folder, all read at one side; nothing is shown outside the field of view."""

    side: int

    def image(self, index: int) -> Image:
        """Return image `index`, (side, side, 3) uint8 RGB."""
        pixels = resize(squared(read_image(self.folder / self.records[index].image)), self.side)
        return pixels * (self.field_of_view(index) > 0)[..., None]

    def mask(self, index: int, name: str) -> Grey:
        """Return a mask of image `index`, (side, side) uint8 0/255, inside the field of view."""
        found = read_mask(self.folder / self.records[index].masks[name].path)
        return resize_mask(squared(found), self.side) & self.field_of_view(index)

    def field_of_view(self, index: int) -> Grey:
        """Return the field of view of image `index`, (side, side) uint8 0/255; all of it if none is known.

        Raises:
            DatasetError: Nothing is inside it.
        """
        path = self.records[index].field_of_view
        if path is None:
            return np.full((self.side, self.side), 255, np.uint8)
        found = resize_mask(squared(read_mask(self.folder / path)), self.side)
        if not found.any():
            raise DatasetError(f"{self.folder / path}: the field of view is empty")
        return found

    def some(self, places: Sequence[int] | Places) -> Eyes:
        """Return the images at these places."""
        return replace(self, records=[self.records[int(place)] for place in places])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Held-out photographs and their paintings."""

    config: BenchConfig
    model: str
    """Name and first digits of the hash of the generator's weights."""
    patients: frozenset[str]
    """Digests of the patients whom the generator learnt from; empty if it does not say."""
    real: Eyes
    """All graded."""
    painted: Eyes
    turns: Places
    """(each, eyes) where in `painted` the paintings of each photograph stand."""
    warnings: tuple[str, ...]
    command: str
    tell: Tell

    @property
    def grades(self) -> NDArray[np.intp]:
        """(eyes,) grade of each photograph, which its paintings were asked for."""
        return np.array([record.grade for record in self.real.records], np.intp)

    def spread(self, count: int) -> list[int]:
        """Return places of at most `count` eyes, evenly spaced over all of them in the order of grades."""
        order = np.argsort(self.grades, kind="stable")
        return order[evenly(len(order), count)].tolist()

    def result(
        self, part: str, *, tables: Sequence[Table], figures: Sequence[Figure],
        sentences: Sequence[str] = (), warnings: Sequence[str] = (), **settings: Any,
    ) -> Result:  # fmt: skip
        """Return and write a part's result, with what all parts say."""
        plain = {k: v for k, v in asdict(self.config).items() if k not in {"real", "out"}}
        result = Result(
            part=part, model=self.model, tables=tuple(tables), figures=tuple(figures),
            sentences=tuple(sentences), warnings=(*self.warnings, *warnings),
            settings={**plain, "folder": self.config.real.name, "size": self.real.side, **settings},
            command=self.command, version=__version__,
        )  # fmt: skip
        result.write(self.config.out)
        return result


def bench(
    config: BenchConfig, painter: AnyPainter, *, masks: Sequence[str] | None = None,
    command: str | None = None, progress: Tell | None = None,
) -> Bench:  # fmt: skip
    """Paint the held-out eyes, or go on with it, or read what was painted.

    Args:
        config: Which eyes, and how often.
        painter: The generator.
        masks: Masks that every eye must have; those that the generator paints on if None.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, too few eyes that can be painted, a grade that the generator cannot
            paint, or a study of another model or of other settings in `out`.
        OSError: `out` cannot be written.
    """
    tell = progress or (lambda text: None)
    side = config.size or painter.config.size
    painter.check_size(side)
    eyes, warnings = held_out(config, painter, masks or painter.masks, side=side)
    told = {k: v for k, v in asdict(config).items() if k not in {"real", "out", "name", "draws", "size"}}
    told |= {"guidance": painter.guidance} if isinstance(painter, FlowPainter) else {}
    begin(config.out, told | {"model": painter.name, "side": side, "eyes": _known_by(config.real)})
    painted = config.out / PAINTED
    if not (painted / METADATA).exists():
        _paint(config, painter, eyes, side=side, tell=tell)
    paintings = Eyes(folder=painted, records=read_folder(painted), side=side)
    return Bench(
        config=config, model=painter.name, patients=painter.patients, real=eyes, painted=paintings,
        turns=_turns(eyes, paintings, config), warnings=warnings, command=command or _command(config),
        tell=tell,
    )  # fmt: skip


def evenly(count: int, most: int) -> list[int]:
    """Return at most so many places, evenly spaced from the first to the last.

    >>> evenly(10, 4), evenly(2, 4), evenly(0, 4)
    ([0, 3, 6, 9], [0, 1], [])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def begin(out: Path, told: dict[str, Any]) -> None:
    """Note what a folder of the study is of, or refuse to go on with something else.

    Raises:
        DatasetError: The folder holds a study of something else.
    """
    file, plain = out / NOTE, json.loads(json.dumps(told, default=str))
    if file.exists() and (known := json.loads(file.read_text("utf-8"))) != plain:
        odd = sorted(key for key in known.keys() | plain.keys() if known.get(key) != plain.get(key))
        raise DatasetError(f"{out}: holds a study with another {', '.join(odd)}; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(plain, indent=2) + "\n")


def _known_by(folder: Path) -> str:
    return sha256(folder / METADATA)


def held_out(
    config: BenchConfig, painter: AnyPainter, masks: Sequence[str], *, side: int
) -> tuple[Eyes, tuple[str, ...]]:
    """Return the photographs that can be painted again, and what was left out.

    Raises:
        DatasetError: A broken folder, synthetic images, or fewer than four such eyes.
    """
    records = read_folder(config.real, splits=config.splits or None)
    if fake := sum(record.synthetic for record in records):
        raise DatasetError(f"{config.real}: {fake} of {len(records)} images are synthetic")
    graded = [r for r in records if r.grade is not None and "grade" not in r.predicted]
    unseen = [r for r in graded if patient_digest(r.patient) not in painter.patients]
    needed = _needed(masks) if config.lesions == "imitated" else tuple(masks)
    kept = [r for r in unseen if set(needed) <= r.masks.keys()]
    found = {
        "that no person graded": len(records) - len(graded),
        "of patients whom the generator learnt from": len(graded) - len(unseen),
        f"that lack a mask of {', '.join(needed)}": len(unseen) - len(kept),
    }
    left = [
        f"{count} of {len(records)} photographs {why} are left out." for why, count in found.items() if count
    ]
    if len(kept) < LEAST:
        raise DatasetError(
            f"{config.real}: {len(kept)} held-out eyes can be painted, and {LEAST} are needed. "
            f"{' '.join(left) or 'There are no more'}"
        )
    if not painter.patients:
        left.append("The generator does not say whom it learnt from: it may have seen these eyes.")
    return Eyes(folder=config.real, records=kept, side=side), tuple(left)


def _needed(masks: Sequence[str]) -> tuple[str, ...]:
    """Return the masks without which lesions cannot be laid out."""
    return tuple(dict.fromkeys([*(name for name in masks if name not in VISIBLE), "vessels", "disc"]))


def _paint(config: BenchConfig, painter: AnyPainter, eyes: Eyes, *, side: int, tell: Tell) -> None:
    """Paint grade by grade, and then write the metadata of all paintings."""
    painted, records = config.out / PAINTED, list[Record]()
    splits: dict[str, Split | None] = {record.patient: record.split for record in eyes.records}
    for grade in GRADES:
        own = [record for record in eyes.records if record.grade == grade]
        if not own:
            continue
        part = painted / f"grade-{grade}"
        if not (part / METADATA).exists():
            tell(f"painting {config.each} x {len(own)} eyes of grade {grade}")
            place = write_part(config.real, own, config.out / EYES / f"grade-{grade}", split="test")
            wanted = SampleConfig(
                count=config.each * len(own), seed=len(GRADES) * config.seed + grade, masks=str(place),
                size=side, severity=float(grade) if painter.graded else None, lesions=config.lesions,
                grade=grade if config.lesions == "imitated" else None,
            )  # fmt: skip
            for _ in sample(painter, part, wanted):
                pass
        records += [_moved(record, part.name, splits) for record in read_folder(part)]
    write_metadata(painted, records)
    for part in painted.glob(f"grade-*/{METADATA}"):
        part.unlink()


def _moved(record: Record, folder: str, splits: Mapping[str, Split | None]) -> Record:
    """Return a painting's record as it stands one folder higher, in its patient's split."""
    return replace(
        record,
        image=f"{folder}/{record.image}",
        masks={name: replace(mask, path=f"{folder}/{mask.path}") for name, mask in record.masks.items()},
        field_of_view=f"{folder}/{record.field_of_view}",
        split=splits[record.patient],
    )


def _turns(eyes: Eyes, painted: Eyes, config: BenchConfig) -> Places:
    """Find the paintings of each eye, in the order in which they were painted."""
    places: dict[str, list[int]] = {}
    for place, record in enumerate(painted.records):
        assert record.provenance is not None
        condition = record.provenance.condition
        places.setdefault(
            condition.rpartition("+grade-")[0] if config.lesions == "imitated" else condition, []
        ).append(place)
    found = [places.get(record.image, []) for record in eyes.records]
    if any(len(each) != config.each for each in found):
        raise DatasetError(f"{painted.folder}: expected {config.each} paintings of each of {len(eyes)} eyes")
    return np.array(found, np.intp).T


def _command(config: BenchConfig) -> str:
    return f"fundusforge drgan tables --real {config.real} --out {config.out} --seed {config.seed}"
