"""A look into a dataset folder: what it holds, what is wrong with it, and a contact sheet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusforge.images import Grey, Image, grid, read_contrast, read_image, read_mask, resize, write_image
from fundusforge.records import MASKS, METADATA, DatasetError, Record, from_line, read_folder

Kind = Literal[
    "metadata", "unreadable", "mask_values", "mask_size", "empty_mask", "split_overlap", "field_of_view",
    "blank", "provenance", "patient_structure",
]  # fmt: skip
NOTES: frozenset[Kind] = frozenset({"empty_mask", "patient_structure"})
"""Kinds worth knowing that make a folder no less fit for use."""
COUNTED = ("split", "grade", "source", "camera", "eye", "labels", "synthetic")
"""Fields whose values are counted, in the order of the table; masks that are not empty are counted too."""
_UNFIT: frozenset[Kind] = frozenset({"unreadable", "mask_size", "mask_values"})
ANATOMY = frozenset({"vessels", "arteries", "veins", "disc"})
"""Masks that no eye leaves empty; an empty lesion mask says that there is none."""
Add = Callable[[Kind, str], None]
_LEAST_FIELD = 0.2
"""Part of the picture below which a field of view is nearly empty."""
_LEAST_SPREAD = 2.0
"""Standard deviation of the pixels inside the field of view, of 255, below which a picture is blank."""

_COLOURS = {
    "vessels": (90, 230, 255), "arteries": (255, 90, 90), "veins": (90, 130, 255), "disc": (255, 240, 60),
    "cup": (255, 170, 40), "fovea": (255, 255, 255), "microaneurysms": (255, 60, 60),
    "haemorrhages": (200, 0, 120), "hard_exudates": (120, 255, 90), "soft_exudates": (230, 160, 255),
}  # fmt: skip
_BELOW = ("disc", "cup", "fovea")
_SPARE = ((255, 120, 200), (140, 220, 140), (255, 200, 140), (160, 200, 255))


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Which folder to look into, and how."""

    folder: Path
    sheet: Path | None = None
    """Contact sheet to write, `.png` or `.jpg`; none if left out."""
    images: int = 24
    """Most images on the contact sheet, drawn by the seed."""
    tile: int = 256
    """Side of an image on the contact sheet, in pixels."""
    columns: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name, low in (("images", 1), ("tile", 32), ("columns", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing found wrong, or worth knowing."""

    kind: Kind
    where: str
    """An image, a line of the metadata, or a patient."""
    detail: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a dataset folder holds and what is wrong with it."""

    folder: str
    images: int
    patients: int
    counts: dict[str, dict[str, int]]
    """Images by value, for everything in `COUNTED`, and by mask; `-` where a value is not known."""
    sizes: dict[str, int]
    """Images by width x height."""
    problems: tuple[Problem, ...]

    @property
    def faults(self) -> tuple[Problem, ...]:
        """Problems that make the folder unfit, notes left out."""
        return tuple(problem for problem in self.problems if problem.kind not in NOTES)

    def to_dict(self) -> dict[str, Any]:
        """Return the inspection as plain values."""
        return asdict(self) | {"problems": [asdict(problem) for problem in self.problems]}

    def text(self, *, most: int = 20) -> str:
        """Return the tables and the first `most` problems of each kind as lines for a terminal."""
        lines = [f"{self.folder}: {self.images} images of {self.patients} patients"]
        for what, table in [*self.counts.items(), ("size", self.sizes)]:
            shown = ", ".join(f"{value} {count}" for value, count in table.items())
            lines.append(f"  {what:<10} {shown or '-'}")
        for kind, count in Counter(problem.kind for problem in self.problems).items():
            lines.append(f"{'note' if kind in NOTES else 'problem'}: {kind.replace('_', ' ')} ({count})")
            found = [problem for problem in self.problems if problem.kind == kind]
            lines += [f"  {problem.where}: {problem.detail}" for problem in found[:most]]
            lines += [f"  and {count - most} more"] if count > most else []
        return "\n".join(lines if self.problems else [*lines, "no problems found"])


def inspect_folder(config: InspectConfig, *, progress: Callable[[str], Any] | None = None) -> Inspection:
    """Count, check every pixel, and draw the contact sheet if one is asked for.

    Unlike every other reader of a folder it does not stop at the first fault: it lists them all.

    Args:
        config: The folder and the sheet.
        progress: Called with a line of text as the work goes on.

    Raises:
        DatasetError: There is no such folder, or it has no metadata or not one readable record.
        OSError: The contact sheet cannot be written.
    """
    records, problems = _read(config.folder)
    problems += _torn(records)
    sizes: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    sound: list[Record] = []
    for number, record in enumerate(records):
        if progress is not None and number % 200 == 0:
            progress(f"{number} of {len(records)} images checked")
        look = _look(config.folder, record)
        problems += look.problems
        sizes[look.size] += 1
        filled.update(f"{name} ({record.masks[name].origin})" for name in look.filled if name in record.masks)
        if not any(problem.kind in _UNFIT for problem in look.problems):
            sound.append(record)
    if config.sheet is not None and sound:
        drawn = np.random.default_rng(config.seed).permutation(len(sound))[: config.images]
        chosen = [sound[index] for index in sorted(int(place) for place in drawn)]
        sheet = contact_sheet(config.folder, chosen, tile=config.tile, columns=config.columns)
        write_image(config.sheet, sheet, text={"Comment": _mark(chosen)})
    return Inspection(
        folder=str(config.folder),
        images=len(records),
        patients=len({record.patient for record in records}),
        counts=_counts(records) | {"masks": dict(sorted(filled.items()))},
        sizes=dict(sizes.most_common()),
        problems=tuple(problems),
    )


def contact_sheet(folder: Path, records: Sequence[Record], *, tile: int = 256, columns: int = 6) -> Image:
    """Draw images in rows, masks outlined, with a legend of the masks' colours and a mark of what is shown.

    Args:
        folder: The dataset folder.
        records: Images to show.
        tile: Side of an image in pixels.
        columns: Images in a row.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: No records.
        DatasetError: A picture cannot be read.
    """
    tiles: list[Image] = []
    names: set[str] = set()
    for record in records:
        masks = {name: read_mask(folder / mask.path) for name, mask in record.masks.items() if not mask.soft}
        masks = {name: mask for name, mask in masks.items() if mask.any()}
        names |= set(shown(masks))
        tiles.append(outlined(read_image(folder / record.image), masks, tile=tile))
    sheet = grid(tiles, columns=min(columns, len(tiles)), background=255)
    legend = _legend(sheet.shape[1], [name for name in MASKS if name in names], _mark(records))
    return np.concatenate([sheet, legend])


def outlined(image: Image, masks: Mapping[str, Grey], *, tile: int = 256) -> Image:
    """Fit an image into a black square of `tile` pixels and draw the masks' outlines on it, thin and soft."""
    fine = 2 * tile  # outlines drawn at twice the size are half a pixel wide and let the vessels be seen
    scale = fine / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    top, left = (fine - height) // 2, (fine - width) // 2
    square = np.zeros((fine, fine, 3), np.uint8)
    square[top : top + height, left : left + width] = resize(image, (height, width))
    for name in shown(masks):
        soft = np.asarray(resize(masks[name], (height, width)))
        outlines, _ = cv2.findContours(
            (soft >= 128).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE, offset=(left, top)
        )
        cv2.drawContours(square, outlines, -1, mask_colour(name), 1)
    return np.asarray(resize(square, tile), np.uint8)


def shown(masks: Iterable[str]) -> list[str]:
    """Return the masks to draw, lowest first: vessels give way to the arteries and veins in them."""
    named = set(masks)
    below = [name for name in _BELOW if name in named]
    above = [name for name in MASKS if name in named and name not in _BELOW]
    return below + [name for name in above if name != "vessels" or not named & {"arteries", "veins"}]


def mask_colour(name: str) -> tuple[int, int, int]:
    """Return the colour, RGB of 0 to 255, in which a mask is always drawn."""
    return _COLOURS.get(name, _SPARE[MASKS.index(name) % len(_SPARE)])


def _mark(records: Sequence[Record]) -> str:
    if all(record.synthetic and not record.structure_from_patient for record in records):
        return "synthetic images"
    if all(record.synthetic for record in records):
        return "synthetic images on patients' masks: do not share"
    return "real or unmarked images: do not share"


def _legend(width: int, names: Sequence[str], mark: str) -> Image:
    """Draw the mark and the names of the masks beside their colours, in as many lines as they need."""
    font, scale, line = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 22
    entries = [(mark, (0, 0, 0))] + [(name.replace("_", " "), mask_colour(name)) for name in names]
    places: list[tuple[int, int]] = []
    x, y = 8, 0
    for text, _ in entries:
        length = cv2.getTextSize(text, font, scale, 1)[0][0] + 36
        if x > 8 and x + length > width:
            x, y = 8, y + line
        places.append((x, y))
        x += length
    strip = np.full((y + line + 4, width, 3), 255, np.uint8)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        if colour != (0, 0, 0):
            cv2.rectangle(strip, (x, y + 7), (x + 11, y + 18), colour, -1)
            cv2.rectangle(strip, (x, y + 7), (x + 11, y + 18), (90, 90, 90), 1)
            x += 16
        cv2.putText(strip, text, (x, y + 17), font, scale, (30, 30, 30), 1, cv2.LINE_AA)
    return strip


def _read(folder: Path) -> tuple[list[Record], list[Problem]]:
    """Read every line that can be read; the rest are problems."""
    path = folder / METADATA
    if not path.is_file():
        read_folder(folder)  # says in its own words what is missing
    records: list[Record] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        where = f"{METADATA}:{number}"
        try:
            record = from_line(line, where=where)
        except DatasetError as error:
            detail = str(error).removeprefix(f"{where}: ")
            problems.append(Problem(kind="metadata", where=where, detail=detail))
            continue
        if record.image in seen:
            twice = f"image {record.image!r} stands twice"
            problems.append(Problem(kind="metadata", where=where, detail=twice))
            continue
        seen.add(record.image)
        records.append(record)
    if not records:
        raise DatasetError(
            f"{path}: no readable records" + "".join(f"; {p.where}: {p.detail}" for p in problems[:1])
        )
    return records, problems


def _torn(records: Sequence[Record]) -> list[Problem]:
    """Find patients who stand in more than one split."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.split:
            splits[record.patient].add(record.split)
    return [
        Problem(
            kind="split_overlap", where=f"patient {patient}", detail=f"stands in {', '.join(sorted(found))}"
        )
        for patient, found in sorted(splits.items())
        if len(found) > 1
    ]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What the pixels of one record showed."""

    problems: list[Problem]
    size: str
    """Width x height, or `unreadable`."""
    filled: list[str]
    """Masks that are not empty."""


def _look(folder: Path, record: Record) -> _Look:
    """Read every pixel of one record."""
    problems = [Problem(kind=kind, where=record.image, detail=detail) for kind, detail in _marks(record)]

    def add(kind: Kind, detail: str) -> None:
        problems.append(Problem(kind=kind, where=record.image, detail=detail))

    image = _attempt(lambda: read_image(folder / record.image), add, "unreadable")
    for contrast in record.contrasts.values():
        path = folder / contrast.path
        if contrast.path != record.image:
            _attempt(lambda path=path: read_contrast(path, scale=1.0, offset=0.0), add, "unreadable")
    masks = _masks(folder, record, image, add)
    filled = [name for name, mask in masks.items() if mask.any()]
    for name in sorted(ANATOMY & masks.keys() - set(filled)):
        add("empty_mask", f"{name} is empty, though every eye has it")
    if image is not None:
        _check_field(image, masks.get("field_of_view"), add)
    size = "unreadable" if image is None else f"{image.shape[1]}x{image.shape[0]}"
    return _Look(problems=problems, size=size, filled=filled)


def _masks(folder: Path, record: Record, image: Image | None, add: Add) -> dict[str, Grey]:
    """Read the masks and the field of view that can be read and fit the image."""
    found: dict[str, Grey] = {}
    soft = {name for name, mask in record.masks.items() if mask.soft}
    for name, path in ({"field_of_view": record.field_of_view} | _mask_paths(record)).items():
        if path is None:
            continue
        mask = _attempt(lambda f=folder / path, s=name in soft: read_mask(f, soft=s), add, "mask_values")
        if mask is not None and image is not None and mask.shape != image.shape[:2]:
            sizes = [f"{shape[1]}x{shape[0]}" for shape in (mask.shape, image.shape)]
            add("mask_size", f"{name} is {sizes[0]}, the image {sizes[1]}")
        elif mask is not None:
            found[name] = mask
    return found


def _check_field(image: Image, field_of_view: Grey | None, add: Add) -> None:
    """Note a field of view that is nearly empty, or a picture that shows nothing inside it."""
    inside = image if field_of_view is None else image[field_of_view > 0]
    covered = 1.0 if field_of_view is None else float((field_of_view > 0).mean())
    if covered < _LEAST_FIELD:
        add("field_of_view", f"the field of view covers {covered:.1%} of the picture")
    elif inside.std() < _LEAST_SPREAD:
        add("blank", f"nothing to see: the pixels' standard deviation is {inside.std():.2f} of 255")


def _mask_paths(record: Record) -> dict[str, str | None]:
    return {name: mask.path for name, mask in record.masks.items()}


def _attempt(read: Callable[[], NDArray[Any]], add: Add, kind: Kind) -> NDArray[Any] | None:
    """Read a picture, or note why it cannot be read; values other than 0 and 255 are told from damage."""
    try:
        return read()
    except DatasetError as error:
        values = "must hold only" in str(error) or "must have 8 bits" in str(error)
        add(kind if values else "unreadable", str(error))
        return None


def _marks(record: Record) -> Iterator[tuple[Kind, str]]:
    """Find what is wrong with the record's own words."""
    if record.synthetic and record.provenance is None:
        yield "provenance", "synthetic without provenance"
    if record.provenance is not None and not record.synthetic:
        yield "provenance", "has a provenance but is not marked synthetic"
    if record.structure_from_patient:
        yield (
            "patient_structure",
            "shaped by a patient's own mask, which is a biometric: treat it as patient data",
        )


def _counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Count images by everything in `COUNTED`."""
    tables: dict[str, dict[str, int]] = {}
    for what in COUNTED:
        table: Counter[str] = Counter()
        for record in records:
            table.update(_values(record, what))
        tables[what] = dict(sorted(table.items()))
    return tables


def _values(record: Record, what: str) -> list[str]:
    value = getattr(record, what)
    if what == "labels":
        return list(value) or ["-"]
    if what == "synthetic":
        return ["yes" if value else "no"]
    return ["-" if value is None else str(value)]
