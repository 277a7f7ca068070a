"""A study is drawn, rendered and frozen.

Kim et al. 2022 showed 50 real and 50 synthetic images to 40 ophthalmologists, one by one, in one order for
all, with the ratio unknown to them and no way back. The defaults are theirs, but for the real images: no
reader (and no generator) should have met them, so images that models were trained on are left out unless
asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from fundusforge import __version__
from fundusforge.audit.terms import LEVELS, strictest
from fundusforge.images import Grey, encode_image
from fundusforge.prepare.split import check_splits
from fundusforge.records import METADATA, Record, read_folder, to_line, write_bytes, write_text
from fundusforge.studies.turing.render import (
    QUALITY,
    RESIZE,
    Source,
    common_field,
    field_of,
    render,
    size_warnings,
)
from fundusforge.studies.turing.study import (
    IMAGES,
    KEY,
    STUDY,
    Condition,
    FolderFacts,
    Key,
    Picture,
    Settings,
    Study,
    StudyError,
    Truth,
    Truths,
    key_text,
)

_TRIES = 200
"""Exchanges per picture before an order is given up."""
Progress = Callable[[Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True, kw_only=True)
class DesignConfig(Settings):
    """Which images to show, and how."""

    real: Path
    """Dataset folder of photographs."""
    synthetic: Path
    """Dataset folder of synthetic images."""
    out: Path
    """Study folder to write."""
    real_images: int = 50
    synthetic_images: int = 50
    orders: int = 1
    """Orders of the pictures: 1 for all readers the same, more for reader n the n-th."""

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        super().__post_init__()
        for name in ("real_images", "synthetic_images", "orders"):
            if getattr(self, name) < 1:
                raise StudyError(f"{name} must be 1 or more, not {getattr(self, name)}")

    def settings(self) -> Settings:
        """Return what of it may be shown."""
        return Settings(**{each.name: getattr(self, each.name) for each in fields(Settings)})


@dataclass(frozen=True, kw_only=True)
class Designed:
    """What was made."""

    study: Study
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    source: Source
    condition: Condition
    data: bytes
    width: int
    height: int


def design(config: DesignConfig, *, progress: Progress = iter) -> Designed:
    """Draw, render and freeze a study.

    Args:
        config: What to show.
        progress: Passes the images on while they are rendered, and may tell how far they are.

    Returns:
        The study, and what may tell the two kinds apart or stand against showing them.

    Raises:
        StudyError: The folder exists, too few images fit, or no order keeps the gap.
        DatasetError: A dataset folder is broken, or a patient stands in two splits.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise StudyError(f"{config.out}: is there already; expected a new folder, since studies are frozen")
    available = _available(config)
    sources = [
        *_drawn(available["real"], config.real_images, config),
        *_drawn(available["synthetic"], config.synthetic_images, config),
    ]
    sides = [source.native() for source in sources]
    side = config.side or min(sides)
    rendered = _rendered(sources, side, config, progress)
    names = _names(rendered, config)
    pictures = _pictures(rendered, names, config)
    orders = _orders(pictures, {names[id(one.source)]: one.source.truth for one in rendered}, config)
    key = Key(
        images={
            names[id(source)]: Truths(
                truth=source.truth, folder=str(source.folder), record=json.loads(to_line(source.record))
            )
            for source in sources
        }
    )
    study = Study(
        version=__version__, settings=config.settings(), resize=RESIZE,
        folders=tuple(_facts(available[truth], sources, sides, truth) for truth in ("real", "synthetic")),
        pictures=tuple(picture for picture, _ in pictures), orders=orders,
        key_sha256=hashlib.sha256(key_text(key).encode()).hexdigest(),
    ).sealed()  # fmt: skip
    _write(config.out, study, key, {picture.file: data for picture, data in pictures})
    return Designed(study=study, warnings=(*size_warnings(sources, sides, side), *_warnings(sources, config)))


def _available(config: DesignConfig) -> dict[Truth, list[Source]]:
    """Return the images that may be drawn."""
    photographs, drawings = read_folder(config.real), read_folder(config.synthetic)
    check_splits((config.real, photographs))
    for folder, records, wrong in ((config.real, photographs, True), (config.synthetic, drawings, False)):
        if others := [record.image for record in records if record.synthetic is wrong]:
            kind = "synthetic" if wrong else "real"
            raise StudyError(f"{folder / METADATA}: {others[0]} and {len(others) - 1} more are {kind}")
    masks = config.masks if "mask" in config.conditions else ()

    def fit(folder: Path, records: Sequence[Record], truth: Truth) -> list[Source]:
        return [
            Source(truth=truth, folder=folder, record=record)
            for record in records
            if not record.contrasts and set(masks) <= set(record.masks)
        ]

    held_out = [record for record in photographs if record.split in config.splits]
    return {
        "real": fit(config.real, held_out, "real"),
        "synthetic": fit(config.synthetic, drawings, "synthetic"),
    }


def _drawn(available: Sequence[Source], count: int, config: DesignConfig) -> list[Source]:
    """Draw images, one of every patient before a second of any."""
    if len(available) < count:
        real = not available or available[0].truth == "real"
        raise StudyError(
            f"{config.real if real else config.synthetic}: expected {count} images"
            + (f" of split {' or '.join(config.splits)}" if real else "")
            + (f" with masks {', '.join(config.masks)}" if "mask" in config.conditions else "")
            + f", found {len(available)}"
        )
    rng = np.random.default_rng([config.seed, 1])
    patients: dict[str, list[Source]] = defaultdict(list)
    for place in rng.permutation(len(available)):
        patients[available[place].record.patient].append(available[place])
    rounds = [(turn, one) for found in patients.values() for turn, one in enumerate(found)]
    return [one for _, one in sorted(rounds, key=lambda entry: entry[0])][:count]


def _rendered(
    sources: Sequence[Source], side: int, config: DesignConfig, progress: Progress
) -> list[_Rendered]:
    """Render every image under its condition, or under each."""
    whole: dict[str, Grey] = {str(source.path): field_of(source, side) for source in sources}
    if config.field == "common":
        whole = dict.fromkeys(whole, common_field(whole))
    found: list[_Rendered] = []
    places = {truth: 0 for truth in ("real", "synthetic")}
    for place, source in enumerate(progress(sources)):
        turn = places[source.truth]
        places[source.truth] += 1
        each = (
            config.conditions
            if config.assign == "each"
            else (config.conditions[turn % len(config.conditions)],)
        )
        for condition in each:
            pixels = render(
                source, condition, config, field=whole[str(source.path)], seed=config.seed * 65537 + place
            )
            data = encode_image(pixels, suffix=f".{config.encoding}", quality=QUALITY)
            height, width = pixels.shape[:2]
            found.append(_Rendered(source=source, condition=condition, data=data, width=width, height=height))
    return found


def _names(rendered: Sequence[_Rendered], config: DesignConfig) -> dict[int, str]:
    """Name every image (by identity of its source) after its pixels and the seed.

    Raises:
        StudyError: Two images are the same.
    """
    pixels: dict[int, Any] = {}
    for one in rendered:
        pixels.setdefault(id(one.source), hashlib.sha256(f"image {config.seed} ".encode())).update(one.data)
    names = {source: digest.hexdigest()[:16] for source, digest in pixels.items()}
    owner: dict[str, Source] = {}
    for one in rendered:
        other = owner.setdefault(names[id(one.source)], one.source)
        if other is not one.source:
            raise StudyError(f"{one.source.path} and {other.path} are the same picture; remove one of them")
    return names


def _pictures(
    rendered: Sequence[_Rendered], names: Mapping[int, str], config: DesignConfig
) -> list[tuple[Picture, bytes]]:
    """Return pictures with their bytes, in an order that says nothing."""
    found: list[tuple[Picture, bytes]] = []
    for one in rendered:
        digest = hashlib.sha256(one.data).hexdigest()
        name = hashlib.sha256(f"file {config.seed} {one.condition} {digest}".encode()).hexdigest()[:16]
        picture = Picture(
            image=names[id(one.source)], condition=one.condition, file=f"{IMAGES}/{name}.{config.encoding}",
            sha256=digest, width=one.width, height=one.height,
        )  # fmt: skip
        found.append((picture, one.data))
    return sorted(found, key=lambda entry: entry[0].file)


def _orders(
    pictures: Sequence[tuple[Picture, bytes]], truths: Mapping[str, Truth], config: DesignConfig
) -> tuple[tuple[int, ...], ...]:
    """Draw which pictures are repeated, evenly of every kind and condition, and the orders of all."""
    if config.repeats > len(pictures):
        raise StudyError(
            f"expected at most {len(pictures)} repeats, one of every picture, not {config.repeats}"
        )
    rng = np.random.default_rng([config.seed, 2])
    turns: dict[tuple[str, str], int] = defaultdict(int)
    ranked: list[tuple[int, int]] = []
    for place in rng.permutation(len(pictures)).tolist():
        kind = (truths[pictures[place][0].image], pictures[place][0].condition)
        ranked.append((turns[kind], place))
        turns[kind] += 1
    again = [place for _, place in sorted(ranked, key=lambda entry: entry[0])][: config.repeats]
    shown = [*range(len(pictures)), *again]
    images = [pictures[place][0].image for place in shown]
    drawn = [spaced(images, gap=config.gap, rng=rng) for _ in range(config.orders)]
    return tuple(tuple(shown[place] for place in order) for order in drawn)


def spaced(images: Sequence[str], *, gap: int, rng: np.random.Generator) -> list[int]:
    """Draw an order in which `gap` others or more stand between two of the same name.

    Raises:
        StudyError: None was found.
    """
    order = [int(place) for place in rng.permutation(len(images))]

    def near() -> list[int]:
        names = [images[place] for place in order]
        return [place for place, name in enumerate(names) if name in names[max(0, place - gap) : place]]

    wrong = near()
    for _ in range(_TRIES * len(order)):
        if not wrong:
            return order
        one, other = wrong[int(rng.integers(len(wrong)))], int(rng.integers(len(order)))
        order[one], order[other] = order[other], order[one]
        found = near()
        if len(found) <= len(wrong):
            wrong = found
        else:
            order[one], order[other] = order[other], order[one]
    raise StudyError(
        f"no order of {len(order)} pictures keeps {gap} others between two of the same image: take more "
        "images, fewer repeats or conditions, or a smaller --gap"
    )


def _facts(
    available: Sequence[Source], sources: Sequence[Source], sides: Sequence[int], truth: Truth
) -> FolderFacts:
    native = [side for source, side in zip(sources, sides, strict=True) if source.truth == truth]
    records = [source.record for source in available]
    return FolderFacts(
        folder=available[0].folder.resolve().name, images=len(records),
        patients=len({record.patient for record in records}),
        sources=tuple(sorted({record.source for record in records})),
        terms=tuple(sorted({record.terms or "unknown" for record in records})),
        sides=(min(native), max(native)),
    )  # fmt: skip


def _warnings(sources: Sequence[Source], config: DesignConfig) -> list[str]:
    """Say what stands against showing these images, and what else may tell them apart."""
    said: list[str] = []
    real = [source.record for source in sources if source.truth == "real"]
    terms = strictest(f"{record.source}: {record.terms or 'unknown'}" for record in real)
    if LEVELS.index(terms.level) >= LEVELS.index("no-derivatives"):
        said.append(f"terms of the real images: {terms.meaning} ({terms.text}); showing them must be allowed")
    if len({record.patient for record in real}) < len(real):
        said.append("several real images are of one patient")
    if "train" in config.splits and any(record.split == "train" for record in real):
        said.append("real images of split train are shown: generators may have learnt from them")
    if any(source.record.structure_from_patient for source in sources):
        said.append("synthetic images show the vessels of patients, whose photographs readers may see too")
    if "mask" in config.conditions:
        origins = {
            truth: sorted(
                {s.record.masks[m].origin for s in sources if s.truth == truth for m in config.masks}
            )
            for truth in ("real", "synthetic")
        }
        if origins["real"] != origins["synthetic"]:
            said.append(
                f"masks of real images are {' and '.join(origins['real'])}, of synthetic ones "
                f"{' and '.join(origins['synthetic'])}: their style may tell them apart"
            )
    return said


def _write(out: Path, study: Study, key: Key, pictures: Mapping[str, bytes]) -> None:
    """Write the study folder for its owner alone; `study.json` comes last."""
    from fundusforge.config import to_json

    out.mkdir(parents=True, exist_ok=True)
    os.chmod(out, 0o700)
    (out / IMAGES).mkdir()
    for file in sorted(pictures):
        write_bytes(out / file, pictures[file])
    write_text(out / KEY, key_text(key))
    os.chmod(out / KEY, 0o600)
    write_text(out / STUDY, to_json(study) + "\n")
