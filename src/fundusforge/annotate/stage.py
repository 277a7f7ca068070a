"""`annotate`: photographs to a dataset folder that also has the structure a trained model finds in them.

Reads a dataset folder, or a plain folder of pictures, whose fields of view are then found first. What a
person drew, the phantom or a generator, stays as it is: prediction fills gaps and replaces older
predictions.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from fundusforge import __version__
from fundusforge.annotate.segmenter import Segmenter, detect_field, patient_digest
from fundusforge.annotate.shapes import SINGLE, plausible, to_mask
from fundusforge.images import Grey, Image, read_image, read_mask, write_image
from fundusforge.records import (
    METADATA,
    DatasetError,
    Record,
    read_folder,
    with_mask,
    write_metadata,
    write_text,
)

REJECTED = "rejected.jsonl"
NOTE = "annotation.json"
"""Which model predicted what; begun runs go on only with the same."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm"})


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """What to add."""

    masks: tuple[str, ...] = ("vessels",)
    """Structures to predict, all of them among the model's."""
    threshold: float | None = None
    """Probability from which a pixel belongs to a structure; the one chosen on the training images if None.
    """
    probabilities: bool = False
    """Also write `probabilities/<mask>/<key>.png`, 8 bit, 255 for certainty."""


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What became of one picture."""

    record: Record | None
    """None if it was rejected."""
    predicted: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    """Masks of another origin that were left as they are."""
    missing: tuple[str, ...] = ()
    """Structures of which nothing plausible was found; the record has no such mask."""
    file: str = ""
    reason: str = ""
    """Why it was rejected."""


def annotate(source: Path, out: Path, config: AnnotateConfig, segmenter: Segmenter) -> Iterator[Annotated]:
    """Copy a folder and add predicted masks; yields each picture when its files are on the disk.

    An interrupted run goes on where it stopped. Pictures that cannot be read, or in which no field of view is
    found, go to `rejected.jsonl` with the reason.

    Args:
        source: A dataset folder, or a folder of pictures.
        out: Folder to write; may be `source` itself if that is a dataset folder.
        config: What to add.
        segmenter: The model.

    Raises:
        DatasetError: No pictures, a broken dataset folder, a structure that the model does not predict, or an
            `out` begun with another model or other settings.
        OSError: The folder cannot be written.
    """
    if unknown := [name for name in config.masks if name not in segmenter.config.masks]:
        raise DatasetError(f"{segmenter.name} predicts {', '.join(segmenter.config.masks)}, not {unknown[0]}")
    records = entries(source)
    _begin(out, config, segmenter)
    results: list[Annotated] = []
    for record in records:
        try:
            done = _annotate_one(record, source, out, config, segmenter)
        except DatasetError as error:
            done = Annotated(record=None, file=record.image, reason=str(error))
        results.append(done)
        yield done
    rejected = [{"file": one.file, "reason": one.reason} for one in results if one.record is None]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rejected]
    write_text(out / REJECTED, "".join(lines))
    write_metadata(out, [one.record for one in results if one.record is not None])


def entries(source: Path) -> list[Record]:
    """Return the records of a dataset folder, or new ones of the pictures in a plain folder.

    Raises:
        DatasetError: Neither, or a broken dataset folder.
    """
    if not source.is_dir():
        raise DatasetError(f"{source}: is not a folder")
    if (source / METADATA).exists():
        return read_folder(source)
    files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DatasetError(f"{source}: holds neither {METADATA} nor pictures ({', '.join(sorted(SUFFIXES))})")
    names = [path.relative_to(source).as_posix() for path in files]
    return [
        Record(image=name, patient=patient_digest(name)[:16], source=source.resolve().name) for name in names
    ]


def _begin(out: Path, config: AnnotateConfig, segmenter: Segmenter) -> None:
    """Make the folder; refuse one that was begun with another model."""
    out.mkdir(parents=True, exist_ok=True)
    thresholds = {name: config.threshold or segmenter.threshold_of(name) for name in config.masks}
    note = {"model": segmenter.name, "thresholds": thresholds, "version": __version__}
    path = out / NOTE
    if path.exists():
        older = json.loads(path.read_text("utf-8"))
        if older != note:
            raise DatasetError(
                f"{path}: this folder was annotated by {older.get('model')} with thresholds "
                f"{older.get('thresholds')}, now {segmenter.name} with {thresholds}; name another folder"
            )
    write_text(path, json.dumps(note, indent=2) + "\n")


def _annotate_one(
    record: Record, source: Path, out: Path, config: AnnotateConfig, segmenter: Segmenter
) -> Annotated:
    """Copy one picture and what is known of it, and add what the model finds."""
    key = key_of(record.image)
    wanted = [n for n in config.masks if n not in record.masks or record.masks[n].origin == "predicted"]
    kept = tuple(name for name in config.masks if name not in wanted)
    mapped = config.masks if config.probabilities else tuple(wanted)
    targets = [out / f"{name}/{key}.png" for name in wanted]
    targets += [out / f"probabilities/{name}/{key}.png" for name in mapped if config.probabilities]
    image = read_image(source / record.image)
    raw = not (source / METADATA).exists()
    copied = _copied(record, source, out, image if raw else None, leave=wanted)
    field = copied.field_of_view or f"field_of_view/{key}.png"
    if copied.field_of_view is None:
        copied = replace(copied, field_of_view=field)
        _write(out / field, detect_field(image))
    if not all(target.exists() for target in targets) or out.resolve() == source.resolve():
        inside = read_mask(out / field)
        maps = segmenter.probabilities(image, inside)
        for name in mapped if config.probabilities else ():
            _write(out / f"probabilities/{name}/{key}.png", np.rint(maps[name] * 255).astype(np.uint8))
        for name in wanted:
            threshold = config.threshold or segmenter.threshold_of(name)
            _write(out / f"{name}/{key}.png", to_mask(maps[name], threshold, single=name in SINGLE))
    missing = tuple(name for name in wanted if not _plausible(name, out, copied, key))
    found = tuple(name for name in wanted if name not in missing)
    for name in found:
        copied = with_mask(copied, name, f"{name}/{key}.png", "predicted")
    return Annotated(record=copied, predicted=found, kept=kept, missing=missing, file=record.image)


def _plausible(name: str, out: Path, record: Record, key: str) -> bool:
    """Whether a predicted structure covers as much of the field of view as it may."""
    if record.field_of_view is None:
        return True
    return plausible(name, read_mask(out / f"{name}/{key}.png"), read_mask(out / record.field_of_view))


def key_of(image: str) -> str:
    """Return the path below `<mask>/` that belongs to an image: its own, without `images/` and suffix."""
    pure = PurePosixPath(image)
    parts = pure.parts[1:] if len(pure.parts) > 1 and pure.parts[0] == "images" else pure.parts
    return PurePosixPath(*parts).with_suffix("").as_posix()


def _copied(record: Record, source: Path, out: Path, pixels: Image | None, *, leave: Sequence[str]) -> Record:
    """Bring a record's files into `out`, but for the masks to `leave`, which are to be made anew.

    Pictures of a plain folder (their `pixels` are given) are written again, free of the file's metadata.
    """
    if pixels is not None:
        path = f"images/{key_of(record.image)}.png"
        if not (out / path).exists():
            _write(out / path, pixels)
        return replace(record, image=path)
    for name, path in record.files().items():
        if name not in leave:
            _link(source / path, out / path)
    return record


def _link(old: Path, new: Path) -> None:
    """Hard-link a file, or copy it where that is not possible; nothing is ever half-copied."""
    if new.exists():
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    partial = new.with_name(new.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(old, partial)
    except OSError:
        shutil.copyfile(old, partial)
    partial.replace(new)


def _write(path: Path, pixels: Grey | Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, pixels)


def rejects(results: Sequence[Annotated]) -> list[Annotated]:
    """Return the pictures that were rejected."""
    return [one for one in results if one.record is None]
