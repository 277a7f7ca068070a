"""The dataset folder: `metadata.jsonl` and image files, one line one `Record`.

The folder follows the Hugging Face `imagefolder` convention: `file_name` is the picture and
`<what>_file_name` every further one, so `datasets.load_dataset("imagefolder", data_dir=...)` opens it. Real
and synthetic images are the same noun; every stage reads and writes such folders. Paths are relative to the
folder, with forward slashes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

METADATA = "metadata.jsonl"
MASKS = (
    "vessels", "arteries", "veins", "disc", "cup", "fovea", "microaneurysms", "haemorrhages", "hard_exudates",
    "soft_exudates", "neovascularisation", "laser_marks", "proliferative_membranes", "epiretinal_membrane",
    "drusen", "ridge", "necrosis", "oedema", "enhancing", "whole_tumour",
)  # fmt: skip
"""Names a mask may bear. Adding a structure is adding its name here."""
LABELS = {"laser_marks": "laser", "epiretinal_membrane": "erm"}
"""What sources call a finding of the whole image, by the mask that would outline it; others share a name."""
CONTRASTS = ("t1", "t1c", "t2", "flair")
"""Names of magnetic-resonance contrasts, in the order in which models stack them."""

Origin = Literal["human", "predicted", "generated", "phantom"]
Split = Literal["train", "val", "test"]
Eye = Literal["left", "right"]
Sex = Literal["female", "male", "other"]


class DatasetError(ValueError):
    """A dataset folder is broken or unfit for the command; the message names the file and the line."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """One structure mask: an 8-bit single-channel PNG of the image's size, 0 outside and 255 inside."""

    path: str
    """Relative path."""
    origin: Origin
    """Who drew it: a human, a model (`predicted`), the generator itself, or the phantom."""
    soft: bool = False
    """Whether it has values between 0 and 255: an activation map, which has no outline."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One 16-bit contrast of a magnetic-resonance slice; intensity = stored value * scale + offset."""

    path: str
    scale: float
    offset: float


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a synthetic image came from: enough to make it again."""

    model: str
    """Name of the model and the first digits of the SHA-256 of its weights."""
    seed: int
    index: int
    """Place in the sequence that `seed` starts."""
    condition: str
    """What it was painted on (`phantom:<seed>`, or a record's image path), or `latent` if nothing was."""
    code: tuple[float, ...] = ()
    """Camera-and-colour code (see `fundusforge.images.colour_code`), if the model takes one."""
    version: str = ""
    """Version of fundusforge."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image and what is known of it."""

    image: str
    """Relative path of the picture (of the first contrast, for magnetic resonance)."""
    patient: str
    """Keyed hash of the patient, or the name of a phantom; splits are by patient, never by image."""
    source: str
    """Data set, or the run that made it."""
    masks: Mapping[str, Mask] = field(default_factory=dict[str, Mask])
    field_of_view: str | None = None
    """Relative path of the field-of-view mask, 0/255."""
    contrasts: Mapping[str, Contrast] = field(default_factory=dict[str, Contrast])
    visit: int | None = None
    """1 for the patient's first visit; order only, never a date."""
    eye: Eye | None = None
    age: float | None = None
    """Years."""
    sex: Sex | None = None
    camera: str | None = None
    terms: str | None = None
    """Licence or terms of use of the source."""
    split: Split | None = None
    grade: int | None = None
    """International clinical diabetic retinopathy severity, 0 to 4."""
    oedema_risk: int | None = None
    """Risk of diabetic macular oedema, 0 to 2 (Messidor, IDRiD)."""
    labels: tuple[str, ...] = ()
    """Further findings of the whole image, sorted."""
    predicted: tuple[str, ...] = ()
    """Names of those fields above (`grade`, `eye`, ...) and labels that a model filled in, not a person."""
    confidences: Mapping[str, float] = field(default_factory=dict[str, float])
    """How sure a model was, 0 to 1, by mask, label or field that it filled in."""
    synthetic: bool = False
    structure_from_patient: bool = False
    """True if a patient's own mask shaped a synthetic image: a vessel tree is a biometric."""
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if unknown := sorted(set(self.masks) - set(MASKS)):
            raise DatasetError(f"unknown mask {unknown[0]!r}; known are {', '.join(MASKS)}")
        if unknown := sorted(set(self.contrasts) - set(CONTRASTS)):
            raise DatasetError(f"unknown contrast {unknown[0]!r}; known are {', '.join(CONTRASTS)}")
        for name, value, high in (("grade", self.grade, 4), ("oedema_risk", self.oedema_risk, 2)):
            if value is not None and not 0 <= value <= high:
                raise DatasetError(f"{name} must be between 0 and {high}, not {value}")
        for name, value in self.confidences.items():
            if not 0 <= value <= 1:
                raise DatasetError(f"confidence of {name!r} must be between 0 and 1, not {value}")
        if self.visit is not None and self.visit < 1:
            raise DatasetError(f"visit must be 1 or more, not {self.visit}")
        if self.age is not None and not 0 <= self.age <= 150:
            raise DatasetError(f"age must be between 0 and 150 years, not {self.age}")

    def files(self) -> dict[str, str]:
        """Every picture by what it shows: `image`, `field_of_view`, masks and contrasts by name."""
        found = {"image": self.image} | {name: mask.path for name, mask in self.masks.items()}
        if self.field_of_view:
            found["field_of_view"] = self.field_of_view
        return found | {name: contrast.path for name, contrast in self.contrasts.items()}


_PLAIN = tuple(
    f.name for f in fields(Record) if f.name not in {"image", "masks", "field_of_view", "contrasts"}
)
"""Fields that stand in a line under their own name; the others are spread over `<what>_file_name`."""
_ADAPTER = TypeAdapter(Record)


def to_line(record: Record) -> str:
    """Return the record as one line of `metadata.jsonl` (no newline); what is unknown is left out.

    Raises:
        DatasetError: A number that is not finite, which JSON cannot hold.
    """
    row: dict[str, Any] = {"file_name": record.image}
    row |= {f"{what}_file_name": path for what, path in record.files().items() if what != "image"}
    plain = _ADAPTER.dump_python(record, mode="json")
    # By identity: a grade of 0 equals False, but must be kept.
    row |= {
        name: value
        for name in _PLAIN
        if (value := plain[name]) is not None and value is not False and value != [] and value != {}
    }
    if record.masks:
        row["mask_origins"] = {name: mask.origin for name, mask in record.masks.items()}
    if soft := {name: True for name, mask in record.masks.items() if mask.soft}:
        row["soft_masks"] = soft
    if record.contrasts:
        row["contrast_scales"] = {
            n: {"scale": c.scale, "offset": c.offset} for n, c in record.contrasts.items()
        }
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise DatasetError(f"{record.image}: a number is infinite or not a number") from None


def from_line(line: str, *, where: str = METADATA) -> Record:
    """Read one line of `metadata.jsonl`, strictly.

    Raises:
        DatasetError: Malformed JSON, an unknown, missing or repeated field, a value of another type, an
            unknown mask, or a path that is absolute or leaves the folder. The message begins with `where`.
    """
    try:
        row = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetError(f"{where}: not JSON ({error})") from None
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None
    if not isinstance(row, dict) or "file_name" not in row:
        raise DatasetError(f"{where}: expected a JSON object with a file_name")
    try:
        # By way of JSON text, because only there does strict reading take a list for a tuple.
        nested = json.dumps(_nest(cast("dict[str, Any]", row)))
        return _ADAPTER.validate_json(nested, extra="forbid", strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ")
        raise DatasetError(f"{where}: {place}: {message}" if place else f"{where}: {message}") from None
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; refuse a name that stands twice in it."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DatasetError(f"field {name!r} stands twice")
        found[name] = value
    return found


def _refuse_constant(name: str) -> float:
    raise DatasetError(f"{name} is not a number that JSON knows")


def _nest(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the flat row on disk into the shape of `Record`."""
    names = ("mask_origins", "contrast_scales", "soft_masks", "confidences")
    origins, scales, soft, sure = (_table(row, name) for name in names)
    nested: dict[str, Any] = {"image": _safe(row["file_name"]), "masks": {}, "contrasts": {}}
    # Hugging Face writes one table for all rows, with null where a row has no such key.
    nested["confidences"] = {name: value for name, value in sure.items() if value is not None}
    for key, value in row.items():
        what = key.removesuffix("_file_name")
        if key in {"file_name", *names} or value is None:
            continue
        if key in _PLAIN:
            nested[key] = value
        elif what == key:
            raise DatasetError(f"unknown field {key!r}")
        elif what == "field_of_view":
            nested[what] = _safe(value)
        elif what in CONTRASTS:
            nested["contrasts"][what] = {**_table(scales, what), "path": _safe(value)}
            scales.pop(what, None)
        elif what in MASKS:
            outline = {"origin": origins.pop(what, None), "soft": soft.pop(what, None) or False}
            nested["masks"][what] = {"path": _safe(value), **outline}
        else:
            raise DatasetError(f"unknown field {key!r}")
    if left := sorted(name for name, value in (origins | scales | soft).items() if value is not None):
        raise DatasetError(f"an origin or a scale is given for {left[0]!r}, but no such file")
    return nested


def _table(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a copy of the object under `key`, empty where there is none."""
    value = row.get(key)
    if not isinstance(value, dict | None):
        raise DatasetError(f"{key}: expected an object, not {value!r}")
    return dict(cast("dict[str, Any]", value or {}))


def _safe(path: object) -> str:
    """Return `path`, spelt plainly (`a//./b` is `a/b`), if it stays inside the folder."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise DatasetError(f"a file name must be text, not {path!r}")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or (len(path) > 1 and path[1] == ":"):
        raise DatasetError(f"path {path!r} is absolute or leaves the folder")
    return str(pure)


def read_folder(
    folder: Path, *, splits: Sequence[Split] | None = None, check_files: bool = True
) -> list[Record]:
    """Read a dataset folder, strictly.

    Args:
        folder: Folder with `metadata.jsonl`.
        splits: Keep only records of these splits.
        check_files: Also require that every picture exists, opens, and that masks have the image's size. Only
            headers are read; pixels are checked when they are used, or by `fundusforge inspect`.

    Raises:
        DatasetError: No folder, no metadata, an empty or a broken line, a missing or unreadable file, a mask
            of another size, a link that leads out of the folder, the same image twice. The message names file
            and line.
    """
    folder = Path(folder)
    path = folder / METADATA
    if not path.is_file():
        reason = (
            "is not a folder"
            if not folder.is_dir()
            else f"has no {METADATA}; `fundusforge prepare` makes one"
        )
        raise DatasetError(f"{folder}: {reason}")
    records: list[Record] = []
    seen: set[str] = set()
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        record = from_line(line, where=where)
        if record.image in seen:
            raise DatasetError(f"{where}: image {record.image!r} stands twice")
        seen.add(record.image)
        if splits is None or record.split in splits:
            if check_files:
                _check_files(folder, record, where)
            records.append(record)
    if not records:
        wanted = f" of split {' or '.join(splits)}" if splits else ""
        raise DatasetError(f"{path}: no records{wanted}")
    return records


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; only a newline ends one (`splitlines` also breaks at U+2028)."""
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from None
    return lines if lines[-1] else lines[:-1]


def _check_files(folder: Path, record: Record, where: str) -> None:
    """Raise unless every picture lies in the folder, can be opened and has the size of the image."""
    size: tuple[int, int] | None = None
    real = folder.resolve()
    for what, path in record.files().items():
        if not (folder / path).exists():
            raise DatasetError(f"{where}: missing file {path!r} ({what})")
        if not (folder / path).resolve().is_relative_to(real):
            raise DatasetError(f"{where}: {path!r} ({what}) is a link that leaves the folder")
        try:
            found = _picture_size(folder / path)
        except Exception as error:  # Pillow's plug-ins raise anything on broken headers
            reason = "no known picture format" if "cannot identify" in str(error) else error
            raise DatasetError(f"{where}: unreadable image {path!r} ({what}): {reason}") from None
        size = size or found
        if found != size:
            raise DatasetError(
                f"{where}: {what} {path!r} is {found[0]}x{found[1]} pixels, "
                f"but image {record.image!r} is {size[0]}x{size[1]}"
            )


def _picture_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the header, upright as `fundusforge.images.read_image` would give it."""
    from PIL import Image

    with Image.open(path) as picture:
        width, height = picture.size
        # Asking a PNG without that chunk for its orientation would decode all of its pixels.
        tagged = picture.format != "PNG" or "exif" in picture.info
        turned = tagged and picture.getexif().get(0x0112) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def write_metadata(folder: Path, records: Iterable[Record]) -> None:
    """Write `metadata.jsonl` at once: aside, then renamed over the old one.

    Raises:
        OSError: The folder cannot be written.
    """
    text = "".join(to_line(record) + "\n" for record in records)
    write_text(Path(folder) / METADATA, text)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file aside, flush it to the disk and rename it into place; nothing is ever half-written."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def finding_label(finding: str) -> str:
    """Return the label that stands for a finding in `Record.labels`.

    >>> finding_label("epiretinal_membrane"), finding_label("proliferative_membranes"), finding_label("erm")
    ('erm', 'proliferative_membranes', 'erm')
    """
    return LABELS.get(finding, finding)


def with_mask(record: Record, name: str, path: str, origin: Origin, *, soft: bool = False) -> Record:
    """Return the record with one mask added or replaced."""
    return replace(record, masks={**record.masks, name: Mask(path=path, origin=origin, soft=soft)})
