"""`annotate`: photographs to a dataset folder that also says what trained models find in them.

Reads a dataset folder, or a plain folder of pictures, whose fields of view are then found first, and asks
one annotator after the other (`fundusforge.annotate.picture`). What a person drew or told, the phantom or a
generator, stays as it is: prediction fills gaps and replaces older predictions, and what it fills in is
marked as predicted. Every finished picture is a line of `annotation.jsonl`, so a stopped run goes on.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fundusforge import __version__
from fundusforge.annotate.files import copied, key_of, write_picture
from fundusforge.annotate.picture import Annotator, Found, Picture
from fundusforge.annotate.segmenter import detect_field, patient_digest
from fundusforge.images import read_image, read_mask
from fundusforge.prepare.journal import Journal
from fundusforge.records import (
    METADATA,
    DatasetError,
    Record,
    from_line,
    read_folder,
    to_line,
    with_mask,
    write_metadata,
    write_text,
)

REJECTED = "rejected.jsonl"
JOURNAL = "annotation.jsonl"
"""What looked at the pictures, then a line for each: what was found, kept and missing."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm"})
FIELDS = frozenset({"grade", "eye"})
"""Fields of a record that annotators may fill in."""
READERS = 2
"""Threads that read pictures ahead."""


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """How to annotate."""

    probabilities: bool = False
    """Also write `probabilities/<mask>/<key>.png`, 8 bit, 255 for certainty."""
    batch: int = 1
    """Pictures that an annotator is given at once."""

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, not {self.batch}")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What became of one picture."""

    record: Record | None
    """None if it was rejected."""
    predicted: tuple[str, ...] = ()
    """Masks, labels and fields that were filled in."""
    kept: tuple[str, ...] = ()
    """Those that were known and left as they are."""
    missing: dict[str, str] = field(default_factory=dict[str, str])
    """What was looked for and not found, or cannot be what it looks like, and why; the record has no such
    mask or value."""
    file: str = ""
    reason: str = ""
    """Why it was rejected."""


@dataclass(kw_only=True)
class _Job:
    """One picture on its way."""

    record: Record
    """With its files in `out`, without what is to be predicted anew."""
    picture: Picture
    found: list[Found] = field(default_factory=list[Found])


def annotate(
    source: Path, out: Path, annotators: Sequence[Annotator], config: AnnotateConfig
) -> Iterator[Annotated]:
    """Copy a folder and add what annotators find; yields each picture when its files are on the disk.

    Pictures that cannot be read, or in which no field of view is found, go to `rejected.jsonl` with the
    reason.

    Args:
        source: A dataset folder, or a folder of pictures.
        out: Folder to write; may be `source` itself if that is a dataset folder.
        annotators: Asked in this order; each sees what those before it found.
        config: How.

    Raises:
        DatasetError: No pictures, a broken dataset folder, two pictures of one name, or an `out` begun with
            other models or settings.
        OSError: The folder cannot be written.
    """
    records = entries(source)
    _check_keys(records, source)
    gives = tuple(dict.fromkeys(name for one in annotators for name in one.gives))
    bare = [without(record, gives) for record in records]
    journal = _journal(out, annotators, config, bare, in_place=out.resolve() == source.resolve())
    results: list[Annotated] = []
    try:
        load = _Loader(source, out, gives)
        for some in _chunks(_ahead(bare, load, journal, ahead=2 * config.batch), config.batch):
            for done in _work(some, out, annotators, config, journal):
                results.append(done)
                yield done
        _close(out, results)
    finally:
        journal.close()


def without(record: Record, names: Sequence[str]) -> Record:
    """Return a record without what a model filled in before under these names."""
    stale = {name for name in names if name in record.predicted}
    masks = {n: m for n, m in record.masks.items() if n not in names or m.origin != "predicted"}
    gone = stale | (record.masks.keys() - masks.keys())
    return replace(
        record,
        masks=masks,
        labels=tuple(label for label in record.labels if label not in stale),
        predicted=tuple(name for name in record.predicted if name not in stale),
        confidences={name: sure for name, sure in record.confidences.items() if name not in gone},
        **dict.fromkeys(stale & FIELDS),
    )


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


def _check_keys(records: Sequence[Record], source: Path) -> None:
    """Refuse pictures that differ in nothing but their suffix: their masks would be one file."""
    first: dict[str, str] = {}
    for record in records:
        older = first.setdefault(key_of(record.image), record.image)
        if older != record.image:
            raise DatasetError(f"{source}: {older} and {record.image} need different names for their masks")


def _journal(
    out: Path, annotators: Sequence[Annotator], config: AnnotateConfig, records: Sequence[Record], *,
    in_place: bool,
) -> Journal:  # fmt: skip
    """Open the journal of a folder; a finished one gives way to another annotation of the folder itself.

    Raises:
        DatasetError: The folder was annotated otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = [*(one.name for one in annotators), *(["probabilities"] if config.probabilities else [])]
    fingerprint = f"{'; '.join(parts)}; fundusforge {__version__}"
    path = out / JOURNAL
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    older = json.loads(lines[0]).get("fingerprint") if lines else fingerprint
    if older != fingerprint:
        if not in_place or len(lines) <= len(records):
            raise DatasetError(
                f"{path}: this folder was annotated by {older}; now by {fingerprint}: name another folder"
            )
        path.unlink()
    return Journal(out, fingerprint, name=JOURNAL)


def _digest(record: Record) -> str:
    return sha256(to_line(record).encode()).hexdigest()[:16]


class _Loader:
    """Brings a record's files into `out` and reads what annotators need."""

    def __init__(self, source: Path, out: Path, gives: Sequence[str]) -> None:
        self.source, self.out, self.gives = source, out, gives
        self.raw = not (source / METADATA).exists()

    def __call__(self, record: Record) -> _Job:
        image = read_image(self.source / record.image)
        here = copied(record, self.source, self.out, image if self.raw else None)
        if here.field_of_view is None:
            here = replace(here, field_of_view=f"field_of_view/{key_of(record.image)}.png")
            write_picture(self.out / f"{here.field_of_view}", detect_field(image))
        masks = {n: read_mask(self.out / m.path) for n, m in here.masks.items() if not m.soft}
        inside = read_mask(self.out / f"{here.field_of_view}")
        eye = None if "eye" in here.predicted else here.eye
        return _Job(record=here, picture=Picture(image=image, field_of_view=inside, masks=masks, eye=eye))


def _ahead(
    records: Sequence[Record], load: _Loader, journal: Journal, *, ahead: int
) -> Iterator[tuple[Record, _Job | Annotated]]:
    """Yield every record in order with what the journal says of it, or loaded by threads some way ahead."""

    def attempt(record: Record) -> _Job | Annotated:
        done = journal.done.get(record.image)
        if done is not None and done["digest"] == _digest(record):
            return _remembered(done)
        try:
            return load(record)
        except DatasetError as error:
            return Annotated(record=None, file=record.image, reason=str(error))

    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Record, Future[_Job | Annotated]]] = deque()
        for record in records:
            waiting.append((record, pool.submit(attempt, record)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _remembered(line: dict[str, Any]) -> Annotated:
    """Return what the journal says of a picture."""
    record = from_line(json.dumps(line["record"]), where=JOURNAL) if line["record"] else None
    lists = {name: tuple(line[name]) for name in ("predicted", "kept")}
    return Annotated(
        record=record, missing=line["missing"], file=line["name"], reason=line["reason"], **lists
    )


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    waiting = iter(items)
    while some := list(islice(waiting, size)):
        yield some


def _work(
    some: Sequence[tuple[Record, _Job | Annotated]],
    out: Path,
    annotators: Sequence[Annotator],
    config: AnnotateConfig,
    journal: Journal,
) -> Iterator[Annotated]:
    """Show the loaded pictures to the annotators and note each one's end."""
    jobs = [job for _, job in some if isinstance(job, _Job)]
    broken = _look(jobs, annotators, always=config.probabilities)
    for bare, job in some:
        if isinstance(job, Annotated) and bare.image in journal.done:
            yield job
            continue
        if isinstance(job, _Job):
            job = broken.get(id(job)) or _merged(job, annotators, out, config)
        done = replace(job, file=bare.image)
        row = json.loads(to_line(done.record)) if done.record else None
        line = asdict(replace(done, record=None)) | {"record": row}
        journal.add({"name": bare.image, "digest": _digest(bare), **line})
        yield done


def _look(jobs: Sequence[_Job], annotators: Sequence[Annotator], *, always: bool) -> dict[int, Annotated]:
    """Let the annotators see the pictures; return those with which one of them could do nothing.

    Where all that an annotator may give is known, it is asked only if `always`.
    """
    broken: dict[int, Annotated] = {}
    for annotator in annotators:
        seen = [
            job
            for job in jobs
            if id(job) not in broken and (always or any(_open(job, name) for name in annotator.gives))
        ]
        try:
            found = annotator.read([job.picture for job in seen])
        except DatasetError:  # one of them; which one?
            found = []
            for job in list(seen):
                try:
                    found += annotator.read([job.picture])
                except DatasetError as error:
                    broken[id(job)] = Annotated(record=None, reason=str(error))
                    seen.remove(job)
        for job, one in zip(seen, found, strict=True):
            job.found.append(one)
            new = {name: mask for name, mask in one.masks.items() if name not in job.record.masks}
            job.picture.masks |= {name: mask for name, mask in new.items() if name not in one.soft}
    return broken


def _open(job: _Job, name: str) -> bool:
    """Whether nobody has drawn or told this yet."""
    known = name in job.record.masks or name in job.record.labels
    return not known and (name not in FIELDS or getattr(job.record, name) is None)


def _merged(job: _Job, annotators: Sequence[Annotator], out: Path, config: AnnotateConfig) -> Annotated:
    """Write what was found of one picture, and put it into its record."""
    record, key = job.record, key_of(job.record.image)
    gives = dict.fromkeys(name for annotator in annotators for name in annotator.gives)
    kept = tuple(name for name in gives if not _open(job, name))
    missing: dict[str, str] = {}
    sure: dict[str, float] = {}
    for found in job.found:
        for name, values in found.probabilities.items() if config.probabilities else ():
            write_picture(out / f"probabilities/{name}/{key}.png", np.rint(values * 255).astype(np.uint8))
        for name, mask in found.masks.items():
            if name not in kept:
                write_picture(out / f"{name}/{key}.png", mask)
                record = with_mask(record, name, f"{name}/{key}.png", "predicted", soft=name in found.soft)
        told = {name: value for name, value in found.values.items() if name not in kept}
        labels = [name for name, there in found.labels.items() if there and name not in kept]
        record = replace(
            record,
            labels=tuple(sorted({*record.labels, *labels})),
            predicted=tuple(sorted({*record.predicted, *told, *labels})),
            **told,
        )
        sure |= {name: round(value, 4) for name, value in found.confidences.items() if name not in kept}
        missing |= {name: reason for name, reason in found.missing.items() if name not in kept}
    record = replace(record, confidences={**record.confidences, **sure})
    filled = tuple(name for name in gives if name in sure and name not in missing)
    return Annotated(record=record, predicted=filled, kept=kept, missing=missing)


def _close(out: Path, results: Sequence[Annotated]) -> None:
    """Write the metadata and the list of rejected pictures."""
    rejected = [{"file": one.file, "reason": one.reason} for one in results if one.record is None]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rejected]
    write_text(out / REJECTED, "".join(lines))
    write_metadata(out, [one.record for one in results if one.record is not None])


def rejects(results: Sequence[Annotated]) -> list[Annotated]:
    """Return the pictures that were rejected."""
    return [one for one in results if one.record is None]
