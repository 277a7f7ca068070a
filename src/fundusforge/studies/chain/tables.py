"""Tables of the chain: likeness to real eyes, facts, vessels, and trees of the training set that came out.

Several sources of trees (an auto-encoder, a GAN, the phantom) are held against the same real eyes by the same
figures; held-out real eyes, where there are any, go through all of them as one more set, and say what a
figure is worth. The result names training pictures, so it is kept like the images.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fundusforge import __version__
from fundusforge.audit.stage import AuditConfig
from fundusforge.config import to_json
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.ssim import RADIUS
from fundusforge.evaluate.stage import summary
from fundusforge.prepare.split import check_splits
from fundusforge.records import DatasetError, Record, Split, read_folder, write_text
from fundusforge.studies.chain import anatomy
from fundusforge.studies.chain.facts import fact
from fundusforge.studies.chain.leakage import Calibration, calibrate
from fundusforge.studies.chain.result import HELD_OUT, SetTable, Tables, slug
from fundusforge.studies.chain.similarity import Kind, References, how

TABLES = "tables.json"
_FEW = 20


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """What to compare, and how."""

    sources: Mapping[str, Path]
    """Dataset folders of synthetic eyes with vessel masks, by name; the first is the chain itself."""
    real: Path
    """Dataset folder of the real eyes that were learnt from."""
    out: Path
    """Folder for `tables.json`; private, since it names training pictures."""
    splits: tuple[Split, ...] = ("train",)
    """Splits of the real folder that were learnt from; all if empty."""
    held_out: Path | None = None
    """Dataset folder of real eyes that nobody learnt from; may be the real folder."""
    held_out_splits: tuple[Split, ...] = ()
    """Splits of it to take; all by default. Patients who were learnt from are left out in any case."""
    reference: str | None = None
    """Real image of the one reference, as its metadata names it; the first in order by default."""
    images: int = 20
    """Images of a set, the first in order, whose likeness is measured."""
    most: int = 200
    """Images of a set, the first in order, of which vessels and leaks are measured; and of references."""
    side: int = 512
    """Side in pixels at which pictures are compared."""
    binary: bool = False
    """Compare vessel maps of 0 and 255 alone; else grey ones, as averaging areas leaves them."""
    photographs: bool = True
    """Compare the photographs, too."""
    leaks: bool = True
    """Search the training trees for every drawn tree."""
    margin: float = 0.2
    """Largest standardised difference that counts as equivalent."""
    level: float = AuditConfig.level
    """False alarms allowed in the search for training trees."""
    excess: float = AuditConfig.margin
    """Least excess of a leaked tree, as `margin` of the audit."""
    online: bool = False
    """Whether the synthetic sets can be had by others, for Table 2."""
    name: str = "chain"
    """First part of the figures' names."""
    draws: int = 1000
    """Bootstrap draws."""
    floor_repeats: int = 100
    """Random halves of the real patients for the floor of the vessels' figures."""
    jobs: int = 1
    """Threads of the search."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        names = [slug(name) for name in self.sources]
        if not names or len(set(names)) < len(names) or not all(names) or slug(HELD_OUT) in names:
            raise ValueError(
                f"sources need names that differ in letters and digits and are not {HELD_OUT!r}, "
                f"not {list(self.sources)}"
            )
        least = {"images": 1, "most": 2, "side": 2 * RADIUS + 1, "draws": 100, "floor_repeats": 1, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 < self.level <= 0.2 or not 0 < self.margin < 10 or self.excess < 0:
            raise ValueError("expected 0 < level <= 0.2, 0 < margin < 10, and an excess of 0 or more")


def tables(
    config: TablesConfig, *, command: str | None = None, progress: Callable[[str], Any] | None = None
) -> Tables:
    """Compare every source of trees with the real eyes, and write `tables.json`.

    Figures of the first source are called `chain_vessel_ssim`, `chain_vessel_ssim_real`,
    `chain_vessel_ssim_gap`, `chain_leaked_share` and so on, those of another `chain_<source>_vessel_ssim`.

    Args:
        config: Folders and settings.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: A broken folder, one without vessel masks, synthetic images among the real ones, fewer
            than two real patients, a patient in two splits, or no such reference.
    """
    tell = progress or (lambda text: None)
    real = _real(config.real, config.splits)
    sets = {name: _set(path) for name, path in config.sources.items()}
    held = _held_out(config, real)
    if held is not None:
        sets[HELD_OUT] = held
    chosen = _chosen(config, real)
    measured = ImageSet(folder=real.folder, records=_around(real.records, chosen, config.most))
    kinds: tuple[Kind, ...] = ("vessel", "photograph") if config.photographs else ("vessel",)
    tell(f"comparing {len(measured)} real eyes with each other")
    place = [record.image for record in measured.records].index(real.records[chosen].image)
    references = [
        References.of(measured, kind, chosen=place, side=config.side, binary=config.binary) for kind in kinds
    ]
    real_trees = anatomy.trees(measured)
    gauge = calibrate(
        real, None if held is None else _first(held, config.most), level=config.level, margin=config.excess,
        jobs=config.jobs,
    ) if config.leaks else None  # fmt: skip
    found: list[SetTable] = []
    for number, (name, images) in enumerate(sets.items()):
        tell(f"{name}: {len(images)} images")
        stem = config.name if number == 0 else f"{config.name}_{slug(name)}"
        drawn = gauge if name != HELD_OUT else None
        found.append(_table(config, name, stem, images, references, real_trees, drawn, len(real)))
    result = Tables(
        sets=tuple(found), real=summary(real, config.out), reference=real.records[chosen].image,
        maps=how("vessel", side=config.side, binary=config.binary),
        chance=gauge.chance if gauge else (), warnings=_warnings(real, sets, gauge),
        settings=_settings(config), command=command or _command(config), version=__version__,
    )  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(config.out / TABLES, to_json(result) + "\n")
    return result


def _table(
    config: TablesConfig, name: str, stem: str, images: ImageSet, references: list[References],
    real_trees: anatomy.Measured, gauge: Calibration | None, learnt: int,
) -> SetTable:  # fmt: skip
    """Measure one set."""
    options: dict[str, Any] = {"name": stem, "seed": config.seed, "draws": config.draws}
    figures = [
        figure for each in references for figure in each.figures(_first(images, config.images), **options)
    ]
    some = _first(images, config.most)
    figures += anatomy.figures(
        anatomy.trees(some), real_trees, margin=config.margin, repeats=config.floor_repeats, **options
    )
    leak = None if gauge is None else gauge.leak(some, **options)
    return SetTable(
        name=name, stem=stem, folder=summary(images, config.out), leak=leak,
        fact=fact(name, some, training_images=learnt if name != HELD_OUT else 0,
                  online=config.online and name != HELD_OUT),
        figures=(*figures, *((leak.share, leak.nearest) if leak else ())),
    )  # fmt: skip


def _set(folder: Path) -> ImageSet:
    """Read a folder; only images with their own vessel masks count."""
    images = ImageSet(folder=folder, records=read_folder(folder)).having("vessels")
    if not len(images):
        raise DatasetError(f"{folder}: no image has a vessel mask")
    return images


def _real(folder: Path, splits: tuple[Split, ...]) -> ImageSet:
    records = read_folder(folder, splits=splits or None)
    if fake := sum(record.synthetic for record in records):
        raise DatasetError(f"{folder}: {fake} of {len(records)} images are synthetic; expected real eyes")
    images = ImageSet(folder=folder, records=records).having("vessels")
    if len(set(images.patients)) < 2:
        raise DatasetError(f"{folder}: expected vessel masks of two patients or more")
    return images


def _held_out(config: TablesConfig, real: ImageSet) -> ImageSet | None:
    """Read the held-out folder less the patients who were learnt from."""
    if config.held_out is None:
        return None
    images = ImageSet(
        folder=config.held_out, records=read_folder(config.held_out, splits=config.held_out_splits or None)
    ).having("vessels")
    images = images.without_patients(frozenset(real.patients))
    if not len(images) or any(record.synthetic for record in images.records):
        raise DatasetError(f"{config.held_out}: expected real eyes of patients who were not learnt from")
    check_splits((real.folder, real.records), (images.folder, images.records))
    return images


def _chosen(config: TablesConfig, real: ImageSet) -> int:
    """Return the place of the one reference."""
    names = [record.image for record in real.records]
    if config.reference is None:
        return 0
    if config.reference not in names:
        raise DatasetError(f"{real.folder}: no vessel map of {config.reference!r} to be the reference")
    return names.index(config.reference)


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(folder=images.folder, records=images.records[:count])


def _around(records: Sequence[Record], chosen: int, count: int) -> list[Record]:
    """Return the first so many records, among them in any case the chosen one."""
    kept = list(records[:count])
    return kept if chosen < count else [*kept[:-1], records[chosen]]


def _warnings(real: ImageSet, sets: Mapping[str, ImageSet], gauge: Calibration | None) -> tuple[str, ...]:
    found: list[str] = []
    for name, images in sets.items():
        if len(images) < _FEW:
            found.append(f"{name} is small ({len(images)} images).")
        if shaped := sum(record.structure_from_patient for record in images.records):
            found.append(
                f"{shaped} of {len(images)} images of {name} bear a patient's own tree "
                "(structure_from_patient): treat them as patient data."
            )
    if (patients := len(set(real.patients))) < _FEW:
        found.append(f"The real set is small ({len(real)} images of {patients} patients).")
    if gauge is not None and gauge.unrelated.level(gauge.level) > gauge.level:
        found.append(
            f"With {gauge.unrelated.patients} unrelated patients a false alarm rate below "
            f"{gauge.unrelated.level(gauge.level):.2%} cannot be shown."
        )
    if gauge is not None and gauge.doubles:
        found.append(
            f"{gauge.doubles} patients were left out of chance: their trees stand in the training set under "
            "another name. Is somebody there twice?"
        )
    return tuple(found)


def _settings(config: TablesConfig) -> dict[str, Any]:
    """Return the settings without folders, which the summaries name."""
    folders = {"sources", "real", "held_out", "out"}
    return {name: value for name, value in asdict(config).items() if name not in folders}


def _command(config: TablesConfig) -> str:
    parts = ["fundusforge", "chain", "tables", *(f"{name}={path}" for name, path in config.sources.items())]
    parts += ["--real", config.real, "--out", config.out, "--side", str(config.side)]
    return shlex.join(os.fspath(part) for part in [*parts, "--seed", str(config.seed)])
