"""Settings of a study: who is learnt from, what the generator may see, and how much is to be drawn.

Rare photographs are taken patient by patient in an order that the seed decides, so that a smaller setting
lies within every larger one. Validation and test are the same for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, Record, finding_label, read_folder
from fundusforge.studies.augmentation.config import Grades, Ratios, Segmentation, Study
from fundusforge.training.batches import finding

RARE, COMMON, PAIRS = "rare", "common", "pairs"
"""Classes of the designs `ratios` and `segmentation`; those of `grades` are 0 to 4."""
VAL, TEST = "val", "test"
"""What the common sets are called."""


@dataclass(frozen=True, kw_only=True)
class Classed:
    """Photographs with their classes."""

    records: tuple[Record, ...]
    classes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Photographs by class."""
        return dict(sorted(Counter(self.classes).items()))

    def of(self, *classes: str) -> Classed:
        """Return those of some classes."""
        return self.at([i for i, name in enumerate(self.classes) if name in classes])

    def at(self, places: Sequence[int]) -> Classed:
        """Return those at these places, in their order here."""
        kept = sorted(places)
        return Classed(
            records=tuple(self.records[i] for i in kept), classes=tuple(self.classes[i] for i in kept)
        )


@dataclass(frozen=True, kw_only=True)
class Pool:
    """All photographs that a study may use."""

    folder: Path
    train: Classed
    val: Classed
    test: Classed
    external: Mapping[str, tuple[Path, Classed]]
    """Folder and photographs, by name."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: what the arms have in common."""

    name: str
    """Last part of the figures' names: 1_to_01; empty where there is one setting only."""
    title: str
    """For readers: 1:0.1."""
    real: Classed
    """Training photographs of the baseline."""
    teaching: Classed
    """Photographs that the generator may learn from."""
    wanted: Mapping[str, int]
    """Synthetic images of each class in the full amount; empty where nothing is to be filled."""
    even: bool = False
    """Arms with synthetic images draw classes equally often."""


def pool_of(study: Study) -> Pool:
    """Read the folders of a study.

    Raises:
        DatasetError: A broken folder, a patient in two sets, synthetic images among the real ones, a set with
            one class only.
    """
    records = read_folder(study.real)
    others = {folder.name: (folder, read_folder(folder)) for folder in study.external}
    check_splits((study.real, records))
    for folder, found in [(study.real, records), *others.values()]:
        if fake := sum(record.synthetic for record in found):
            raise DatasetError(f"{folder}: {fake} of {len(found)} images are synthetic; expected real ones")
    seen = {record.patient for record in records}
    for folder, found in others.values():
        if shared := len(seen & {record.patient for record in found}):
            raise DatasetError(f"{folder}: {shared} patients stand in {study.real}, too")
        seen |= {record.patient for record in found}
    parts = {
        split: classed(study, study.real, [record for record in records if record.split == split])
        for split in ("train", VAL, TEST)
    }
    external = {name: (folder, classed(study, folder, found)) for name, (folder, found) in others.items()}
    for name, part in {**parts, **{name: part for name, (_, part) in external.items()}}.items():
        if len(part.counts) < (1 if isinstance(study.design, Segmentation) else 2):
            where = f"{study.real}: split {name}" if name in parts else f"{name}:"
            raise DatasetError(
                f"{where} has {part.counts or 'no photograph'} of what the study tells apart; every set "
                "needs photographs of two classes at least"
            )
    return Pool(folder=study.real, external=external, **parts)


def classed(study: Study, folder: Path, records: Sequence[Record]) -> Classed:
    """Return the records of which people said what the study tells, with their classes."""
    found = [(record, class_of(study, folder, record)) for record in records]
    kept = [(told(study, record, name), name) for record, name in found if name is not None]
    return Classed(records=tuple(r for r, _ in kept), classes=tuple(name for _, name in kept))


def class_of(study: Study, folder: Path, record: Record) -> str | None:
    """Return a photograph's class, or None where people did not say, or it belongs to neither."""
    design = study.design
    if isinstance(design, Grades):
        known = record.grade is not None and (record.synthetic or "grade" not in record.predicted)
        return str(record.grade) if known else None
    if isinstance(design, Segmentation):
        mask = record.masks.get(design.mask)
        return PAIRS if mask is not None and mask.origin != "predicted" and not mask.soft else None
    there = finding(folder, record, design.rare)
    if there == 1:
        return RARE
    if design.common is not None:
        return COMMON if finding(folder, record, design.common) == 1 else None
    return COMMON if there == 0 else None


def told(study: Study, record: Record, name: str) -> Record:
    """Return a record that says its class by itself, whatever becomes of its masks when it is made small."""
    if isinstance(study.design, Ratios) and name == RARE:
        label = finding_label(study.design.rare)
        predicted = tuple(each for each in record.predicted if each != label)
        return replace(record, labels=tuple(sorted({*record.labels, label})), predicted=predicted)
    if isinstance(study.design, Grades):
        predicted = tuple(each for each in record.predicted if each != "grade")
        return replace(record, grade=int(name), predicted=predicted)
    return record


def settings_of(study: Study, pool: Pool) -> list[Setting]:
    """Return the settings of a study.

    Raises:
        DatasetError: Too few photographs for one of them.
    """
    design = study.design
    if isinstance(design, Ratios):
        return _ratios(design, pool, seed=study.seed)
    if isinstance(design, Grades):
        counts = pool.train.counts
        full = design.per_grade
        wanted = {name: full or max(counts.values()) - count for name, count in counts.items()}
        wanted = {name: count for name, count in wanted.items() if count}
        return [Setting(name="", title="all", real=pool.train, teaching=pool.train, wanted=wanted)]
    found: list[Setting] = []
    for count in design.counts or (len(pool.train.records),):
        if count > len(pool.train.records):
            raise DatasetError(
                f"{pool.folder}: {len(pool.train.records)} training pairs, but {count} are asked for"
            )
        real = nested(pool.train, count, seed=study.seed)
        name = f"of_{count}" if design.counts else ""
        found.append(
            Setting(name=name, title=f"{count} real", real=real, teaching=real, wanted={PAIRS: design.pairs})
        )
    return found


def _ratios(design: Ratios, pool: Pool, *, seed: int) -> list[Setting]:
    rare, common = pool.train.of(RARE), pool.train.of(COMMON)
    apart: Classed | None = None
    if design.teaching == "apart":
        order = _order(rare, seed=seed)
        cut = round(design.apart * len(order))
        apart, rare = rare.at(order[:cut]), rare.at(order[cut:])
    most = min(len(common.records), design.most_common or len(common.records))
    found: list[Setting] = []
    for ratio in sorted(design.ratios, reverse=True):
        commons = min(most, int(len(rare.records) / ratio + 1e-9))
        rares = round(ratio * commons)
        if min(commons, rares) < 2:
            raise DatasetError(
                f"{pool.folder}: {len(rare.records)} training photographs with {design.rare} are too few for "
                f"1:{ratio:g}"
            )
        few, many = nested(rare, rares, seed=seed), nested(common, commons, seed=seed)
        real = Classed(records=many.records + few.records, classes=many.classes + few.classes)
        gap, even = commons - rares, False
        if not gap and design.beyond:
            gap, even = round(design.beyond * rares), True
        found.append(
            Setting(
                name="1_to_" + f"{ratio:g}".replace(".", ""),
                title=f"1:{ratio:g}",
                real=real,
                teaching=real if apart is None else Classed(
                    records=many.records + apart.records, classes=many.classes + apart.classes
                ),
                wanted={RARE: gap} if gap > 0 else {},
                even=even,
            )
        )  # fmt: skip
    return found


def nested(part: Classed, count: int, *, seed: int) -> Classed:
    """Return so many photographs, patient by patient; of one seed, fewer lie within more."""
    return part.at(_order(part, seed=seed)[:count])


def evened(part: Classed, *, seed: int) -> Classed:
    """Return as many photographs of every class as there are of the rarest, drawn by the seed."""
    least = min(part.counts.values())
    rng = np.random.default_rng([seed, 7])
    chosen: list[int] = []
    for name in part.counts:
        places = [i for i, each in enumerate(part.classes) if each == name]
        chosen += [places[i] for i in rng.permutation(len(places))[:least].tolist()]
    return part.at(chosen)


def _order(part: Classed, *, seed: int) -> list[int]:
    """Return the places of photographs, patient by patient, in an order that the seed decides."""
    patients = sorted({record.patient for record in part.records})
    rank = dict(
        zip(np.random.default_rng([seed, 3]).permutation(len(patients)).tolist(), patients, strict=True)
    )
    turn = {patient: place for place, patient in rank.items()}
    return sorted(
        range(len(part.records)), key=lambda i: (turn[part.records[i].patient], part.records[i].image)
    )
