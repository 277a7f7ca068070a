"""DICOM: any folder of files, in any transfer syntax that pydicom and its plug-ins decode.

Of the header only laterality, age, sex and the camera's model reach an item, and the patient's identifier, of
which `prepare` stores a keyed hash. Dates put a patient's visits in order (1, 2, 3, ...) and are dropped.
Ages above 89 count as 90, as HIPAA's safe harbour asks. The model's name is free text; it is dropped where it
shares a word with a name, identifier, place or description elsewhere in the header. Items are named after the
SHA-256 of their file, as paths often hold names too: `sha256sum` finds a file again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fundusforge.records import DatasetError, Eye, Sex
from fundusforge.sources.chart import Chart, read_chart, split_words
from fundusforge.sources.dicom_pixels import count_frames, load_frame, parse, quiet
from fundusforge.sources.files import PICTURES, demand, natural
from fundusforge.sources.item import Item, Reject, Unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

EXPECTED = "DICOM files (.dcm or no suffix), in any subfolder"
_OTHER = PICTURES | {
    ".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".xml", ".html", ".pdf", ".xls", ".xlsx", ".doc",
    ".docx", ".ini", ".zip", ".gz", ".log", ".py",
}  # fmt: skip
_EYES: dict[str, Eye] = {"L": "left", "R": "right"}
_SEXES: dict[str, Sex] = {"F": "female", "M": "male", "O": "other"}
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_DATES = ("StudyDate", "AcquisitionDateTime", "AcquisitionDate", "SeriesDate", "ContentDate")
_PLAIN = {"Manufacturer", "ManufacturerModelName", "SoftwareVersions"}
_FREE_TEXT = {"PN", "LO", "SH", "LT", "ST", "UT", "UC", "AE"}
_MAKERS = frozenset({
    "topcon", "topco", "canon", "zeiss", "carl", "nidek", "kowa", "optos", "heidelberg", "heide", "natus",
    "forus", "clarity", "centervue", "icare", "volk", "optomed", "optovue", "camera", "fundus", "retina",
    "retinal", "retin",
})  # fmt: skip
"""Words that a model may share with the rest of the header."""


@dataclass(frozen=True, kw_only=True)
class Dicom:
    """DICOM files, with selection by chart keywords and first visit."""

    root: Path
    """Folder with DICOM files in it or below it."""
    kind: Literal["dicom"] = "dicom"
    name: str = "dicom"
    """What to call this data set in the records."""
    chart: Path | None = None
    """CSV file with columns patient or file, keywords or text, and optionally date, visit, eye."""
    keywords: tuple[str, ...] = ()
    """Keep only images whose chart has one of these whole words, whatever the case; commas separate."""
    exclude: tuple[str, ...] = ()
    """Drop images whose chart has one of these whole words."""
    first_visit_only: bool = False
    """Keep only each patient's first visit, by study date."""
    show_paths: bool = False
    """Name files by their path in messages and rejects; by default by the SHA-256 of their content."""
    terms: str | None = None
    """Terms of use of the images."""

    def items(self) -> Iterator[Item | Reject]:
        """Yield frames in natural order of the files' paths; the headers of all files are read first.

        Raises:
            DatasetError: No DICOM file, keywords without a chart, a broken chart, or nothing chosen by it.
        """
        return demand(self._items(), root=self.root, kind=self.kind, expected=EXPECTED)

    def _items(self) -> Iterator[Item | Reject]:
        chart = self._chart()
        seen: dict[str, str] = {}
        headers: list[Header] = []
        for path in find(self.root):
            found = self._header(path, seen)
            if isinstance(found, Reject):
                yield found
            else:
                headers.append(found)
        if not headers and not seen:
            return
        chosen = 0
        for header in rank_visits(headers):
            relative = header.path.relative_to(self.root).as_posix()
            about = {
                "patient": header.patient_id,
                "date": header.date,
                "visit": header.visit,
                "eye": header.eye,
            }
            labels = chart.choose(file=relative, **about) if chart else ()  # type: ignore[arg-type]
            if labels is None or (self.first_visit_only and header.visit not in (None, 1)):
                continue
            chosen += 1
            if self.first_visit_only and header.visit is None:
                yield Reject(
                    file=self._shown(header), reason="no study date, so the order of visits is unknown"
                )
                continue
            for index in range(header.frames):
                yield self._item(header, index, labels)
        if headers and not chosen:
            raise DatasetError(
                f"{self.root}: none of {len(headers)} images is chosen by the chart and the options"
            )

    def _chart(self) -> Chart | None:
        if self.chart is None:
            if self.keywords or self.exclude:
                raise DatasetError("keywords need a chart to stand in: give the CSV file as option chart")
            return None
        words, unwanted = split_words(self.keywords), split_words(self.exclude)
        return Chart(rows=read_chart(self.chart), keywords=words, exclude=unwanted)

    def _header(self, path: Path, seen: dict[str, str]) -> Header | Reject:
        """Read one file's header; `seen` holds the names given so far by digest."""
        number = len(seen) + 1
        try:
            data = path.read_bytes()
        except OSError as error:
            shown = path.relative_to(self.root) if self.show_paths else Path(f"file-{number}")
            seen[str(path)] = shown.name
            return Reject(file=shown, reason=f"cannot be read ({error.strerror})")
        digest = hashlib.sha256(data).hexdigest()[:16]
        key = f"dcm_{digest}"
        shown = path.relative_to(self.root) if self.show_paths else Path(key)
        if digest in seen:
            return Reject(file=shown, reason=f"the same file, byte for byte, as {seen[digest]}")
        seen[digest] = str(shown)
        try:
            return read_header(path, data, key)
        except Unreadable as error:
            return Reject(file=shown, reason=str(error))

    def _shown(self, header: Header) -> Path:
        return header.path.relative_to(self.root) if self.show_paths else Path(header.key)

    def _item(self, header: Header, index: int, labels: tuple[str, ...]) -> Item:
        return Item(
            key=header.key if header.frames == 1 else f"{header.key}_{index + 1:04d}",
            file=self._shown(header),
            load=partial(load_frame, header.path, index),
            patient=header.patient,
            source=self.name,
            visit=header.visit,
            eye=header.eye,
            age=header.age,
            sex=header.sex,
            camera=header.camera,
            terms=self.terms,
            labels=labels,
        )


@dataclass(frozen=True, kw_only=True)
class Header:
    """What is read of one file's header; `patient_id`, `date` and `study` do not leave this module."""

    path: Path
    key: str
    patient: str
    patient_id: str
    date: str
    study: str
    frames: int
    eye: Eye | None
    age: float | None
    sex: Sex | None
    camera: str | None
    visit: int | None = None


def find(root: Path) -> list[Path]:
    """Return what may be DICOM: all but hidden files, `DICOMDIR` and those whose suffix says otherwise."""
    found = (path for path in root.rglob("*") if path.suffix.lower() not in _OTHER and path.is_file())
    kept = [
        path
        for path in found
        if path.name.upper() != "DICOMDIR"
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(kept, key=lambda path: natural(path.relative_to(root).as_posix()))


def read_header(path: Path, data: bytes, key: str) -> Header:
    """Read the few things of a header that are used.

    Raises:
        Unreadable: No DICOM, no pixel data, or cut off.
    """
    dataset = parse(data)
    if "PixelData" not in dataset:
        raise Unreadable("a DICOM file without pixel data")
    with quiet():
        return _read_elements(dataset, path, key)


def _read_elements(dataset: Dataset, path: Path, key: str) -> Header:
    identifier, issuer = _text(dataset, "PatientID"), _text(dataset, "IssuerOfPatientID")
    name, born = _text(dataset, "PatientName"), _text(dataset, "PatientBirthDate")
    study = _text(dataset, "StudyInstanceUID")
    fallback = "\n".join((name, born)) if name else study or key
    date = next((text[:8] for tag in _DATES if re.match(r"\d{8}", text := _text(dataset, tag))), "")
    return Header(
        path=path,
        key=key,
        patient="\n".join((identifier, issuer)) if identifier else fallback,
        patient_id=identifier,
        date=date,
        study=study,
        frames=count_frames(dataset),
        eye=_EYES.get(_laterality(dataset)),
        age=read_age(_text(dataset, "PatientAge")),
        sex=_SEXES.get(_text(dataset, "PatientSex").upper()),
        camera=_camera(dataset),
    )


def _text(dataset: Dataset, name: str) -> str:
    """Return an element's value as text, empty where it is missing or broken."""
    try:
        value = dataset.get(name)
    except Exception:  # a broken element raises whatever its conversion raises
        return ""
    return "" if value is None else str(value).strip().strip("\0")


def _laterality(dataset: Dataset) -> str:
    """Return `L`, `R` or something else from the image, the frame or the series."""
    found = _text(dataset, "ImageLaterality") or _text(dataset, "Laterality")
    if not found:
        for shared in dataset.get("SharedFunctionalGroupsSequence") or ():
            for anatomy in shared.get("FrameAnatomySequence") or ():
                found = _text(anatomy, "FrameLaterality")
    return found.upper()


def read_age(text: str) -> float | None:
    """Return years from a DICOM age string (`063Y`, `018M`, `006W`, `010D`); above 89 it is 90.

    >>> read_age("063Y"), read_age("018M"), read_age("095Y"), read_age("old")
    (63.0, 1.5, 90.0, None)
    """
    match = re.fullmatch(r"(\d{1,3})([YMWD])", text.upper())
    if match is None:
        return None
    years = round(int(match[1]) * _YEARS[match[2]], 2)
    return None if years > 130 else 90.0 if years > 89 else years


def _words(text: str) -> set[str]:
    """Return the words of a text in lower case: three letters or four digits, and its first five signs."""
    words = re.findall(r"[A-Z]?[^\W\d_A-Z]{2,}|[A-Z]{3,}|\d{4,}", text)
    return {word.casefold() for word in (*words, text[:5]) if len(word) > 2} - _MAKERS


def _camera(dataset: Dataset) -> str | None:
    """Return the camera's model, unless it looks like, or shares a word with, something that identifies."""
    model = _text(dataset, "ManufacturerModelName")
    if not model or len(model) > 40 or re.search(r"\d{6}|[\^@\n]|\d\.\d+\.\d+\.", model):
        return None
    words = _words(model)
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # as in _text
            continue
        if element.VR in _FREE_TEXT and element.keyword not in _PLAIN and words & _words(str(element.value)):
            return None
    return model


def rank_visits(headers: list[Header]) -> list[Header]:
    """Number each patient's visits by date, from 1; one undated study is visit 1, several are unknown."""
    dates: dict[str, set[str]] = {}
    studies: dict[str, set[str]] = {}
    for header in headers:
        dates.setdefault(header.patient, set()).add(header.date)
        studies.setdefault(header.patient, set()).add(header.study)
    order = {patient: sorted(found) for patient, found in dates.items()}
    ranked = []
    for header in headers:
        known = order[header.patient]
        if "" not in known:
            visit = known.index(header.date) + 1
        else:
            visit = 1 if len(known) == 1 and len(studies[header.patient]) == 1 else None
        ranked.append(replace(header, visit=visit))
    return ranked


def fits(root: Path) -> bool:
    """Tell whether the folder holds a DICOM file."""
    for path in find(root):
        with path.open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
    return False
