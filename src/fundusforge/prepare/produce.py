"""One item of a source to files of the dataset folder; runs in any process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image, encode_contrast, resize, write_image
from fundusforge.prepare.duplicates import print_of
from fundusforge.prepare.patients import hash_patient
from fundusforge.prepare.picture import (
    Prepared,
    Unfit,
    blacken,
    enhance,
    prepare_contrast,
    prepare_image,
    prepare_mask,
    whole_square,
)
from fundusforge.prepare.quality import SIDE, field_fault, measure, quality_fault
from fundusforge.prepare.settings import PrepareConfig
from fundusforge.prepare.text import find_text, view_of
from fundusforge.records import Contrast, DatasetError, Mask, Record, to_line
from fundusforge.sources.item import Item

T = TypeVar("T")


class CannotWrite(DatasetError):
    """The output folder takes no files; the run stops."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """An item and where its files go."""

    item: Item
    name: str
    """File name without suffix, unique in the folder."""
    root: str
    """The source's folder, which no message may show."""
    out: Path
    key: bytes
    config: PrepareConfig


def produce(job: Job) -> dict[str, Any]:
    """Prepare one item and write its files.

    Returns:
        A journal entry: `name` with either `record` (a line of metadata) and `print` (see `duplicates`), or
        `file` and `reason`.

    Raises:
        CannotWrite: The output folder is full or read-only.
    """
    try:
        pictures, record, found = _slice(job) if job.item.contrasts else _photograph(job)
    except Unfit as error:
        return {"name": job.name, "file": shown(job.item.file), "reason": str(error)}
    for path, pixels in pictures.items():
        try:
            write_image(job.out / path, pixels, quality=job.config.jpeg_quality)
        except OSError as error:
            raise CannotWrite(f"{job.out}: cannot be written ({error.strerror or error})") from None
    return {"name": job.name, "record": to_line(record), "print": found}


def _photograph(job: Job) -> tuple[dict[str, NDArray], Record, dict[str, str]]:
    item, config = job.item, job.config
    image: Image = _load(job, item.load)
    view: Grey | None = _load(job, item.field_of_view) if item.field_of_view else None
    prepared = prepare_image(image, view, size=config.size)
    shape = image.shape[:2]
    if fault := field_fault(prepared.field, config.quality):
        raise Unfit(fault)
    judged = prepared if config.size >= SIDE else _larger(image, prepared)
    if fault := quality_fault(measure(judged.image, judged.field_of_view), config.quality):
        raise Unfit(fault)
    if config.reject_text:
        _refuse_text(image, prepared)
    del image
    enhanced = enhance(prepared.image, gamma=config.gamma, clahe=config.clahe)
    field_path, suffix = f"field_of_view/{job.name}.png", ".jpg" if config.format == "jpeg" else ".png"
    record = _record(job, image=f"images/{job.name}{suffix}", field_of_view=field_path)
    pictures: dict[str, NDArray] = {record.image: blacken(enhanced, prepared.field_of_view)}
    pictures[field_path] = prepared.field_of_view
    for name, mask in item.masks.items():
        pixels = _named(name, _load, job, mask.load)
        drawn = _named(name, prepare_mask, pixels, prepared.square, shape=shape, size=config.size)
        pictures[record.masks[name].path] = drawn
    return pictures, record, asdict(print_of(judged.image, judged.field_of_view))


def _larger(image: Image, prepared: Prepared) -> Prepared:
    """Return the picture at the size at which quality is judged, for an output smaller than that."""
    inside = _nearest(prepared.field_of_view, (SIDE, SIDE))
    larger = blacken(resize(prepared.square.cut(image), SIDE), inside)
    return replace(prepared, image=larger, field_of_view=inside)


def _nearest(mask: Grey, size: Sequence[int]) -> Grey:
    """Resize to (width, height) by the nearest pixel."""
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _refuse_text(image: Image, prepared: Prepared) -> None:
    """Raise `Unfit` if letters stand inside the field of view."""
    view = view_of(image, prepared.square)
    inside = _nearest(prepared.field_of_view, view.shape[1::-1])
    if row := find_text(view, inside):
        raise Unfit(f"text inside the field of view: {row.letters} letters in a row")


def _slice(job: Job) -> tuple[dict[str, NDArray], Record, dict[str, str]]:
    """Prepare a slice of magnetic resonance: padded and resized, no field of view and no quality gate."""
    item, size = job.item, job.config.size
    preview: Image = _load(job, item.load)
    square = whole_square(*preview.shape[:2])
    shape, everywhere = preview.shape[:2], np.full((size, size), 255, np.uint8)
    prepared = resize(square.cut(preview), size)
    contrasts: dict[str, Contrast] = {}
    pictures: dict[str, NDArray] = {}
    for name, load in item.contrasts.items():
        values = prepare_contrast(_load(job, load), size=size, zscore=job.config.zscore_slices)
        stored, scale, offset = encode_contrast(values)
        contrasts[name] = Contrast(path=f"contrasts/{name}/{job.name}.png", scale=scale, offset=offset)
        pictures[contrasts[name].path] = stored
    record = _record(job, image=f"images/{job.name}.png", contrasts=contrasts)
    pictures[record.image] = prepared
    for name, mask in item.masks.items():
        pixels = _named(name, _load, job, mask.load)
        pictures[record.masks[name].path] = _named(name, prepare_mask, pixels, square, shape=shape, size=size)
    return pictures, record, asdict(print_of(prepared, everywhere))


def _record(job: Job, *, image: str, **further: Any) -> Record:
    item = job.item
    return Record(
        image=image,
        patient=hash_patient(job.key, item.source, item.patient),
        source=item.source,
        masks={
            name: Mask(path=f"masks/{name}/{job.name}.png", origin=mask.origin)
            for name, mask in item.masks.items()
        },
        visit=item.visit,
        eye=item.eye,
        age=item.age,
        sex=item.sex,
        camera=item.camera,
        terms=item.terms,
        split=item.split,
        grade=item.grade,
        oedema_risk=item.oedema_risk,
        labels=tuple(sorted(item.labels)),
        **further,
    )


def _load(job: Job, load: Callable[[], T]) -> T:
    """Read pixels; whatever a decoder raises becomes a reason that shows no path above the source."""
    try:
        return load()
    except (DatasetError, ValueError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or type(error).__name__})"
    except Exception as error:  # noqa: BLE001 - decoders of broken files raise anything
        reason = f"cannot be read ({type(error).__name__})"
    raise Unfit(plain(reason, root=job.root, file=shown(job.item.file)))


def shown(file: Path) -> str:
    """Return a path as text that can be written; bytes that are no unicode become question marks."""
    return _unicode(file.as_posix())


def _unicode(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def plain(reason: str, *, root: str, file: str) -> str:
    """Return a message without the source's folder and without the file's own name, which is told beside."""
    reason, root = _unicode(reason), _unicode(root)
    reason = reason.replace(f"{root}/", "").replace(root, "") if root else reason
    return reason.removeprefix(file).removeprefix(": ") or "cannot be read"


def _named(name: str, function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call and put the mask's name before the reason."""
    try:
        return function(*args, **options)
    except Unfit as error:
        raise Unfit(f"{name}: {error}") from None


def directories(items: Mapping[str, Item]) -> list[str]:
    """Return the folders that these items' files go to, relative."""
    names = {"images"}
    for item in items.values():
        names |= {f"masks/{name}" for name in item.masks} | {f"contrasts/{name}" for name in item.contrasts}
        if not item.contrasts:
            names.add("field_of_view")
    return sorted(names)
