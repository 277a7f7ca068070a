"""What readers of an image Turing test answered: `readers.csv` and `answers.csv` of a study folder.

Reading is strict: an unknown column, a reader who is not listed, an image that is real in one line and
synthetic in another, or a second showing without a first is an error that names file and line.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fundusforge.records import write_text

READERS, ANSWERS = "readers.csv", "answers.csv"
Label = Literal["real", "synthetic"]
LABELS: tuple[Label, ...] = ("real", "synthetic")
FIDELITY = (1, 10)
"""Least and greatest score."""
Floats = NDArray[np.float64]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class AnswersError(ValueError):
    """The files of a study cannot be used; the message names file and line, and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A line of `readers.csv`."""

    reader: str
    specialty: str
    years: float
    """Of work in the specialty."""
    started: str
    """ISO 8601; empty if the reader has not begun."""
    finished: str
    """ISO 8601; empty if the reader has not come to the end."""

    def __post_init__(self) -> None:
        """Refuse what no study writes."""
        _check_name("reader", self.reader)
        if not self.specialty.strip() or not self.specialty.isprintable():
            raise ValueError(f"specialty must be words, not {self.specialty!r}")
        if not 0 <= self.years <= 100:
            raise ValueError(f"years must be 0 to 100, not {self.years}")
        for name in ("started", "finished"):
            _check_time(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A line of `answers.csv`."""

    reader: str
    position: int
    """Place in the reader's row of images, from 1."""
    image: str
    """Name that says nothing of the truth; the same in both showings."""
    truth: Label
    condition: str
    showing: int
    """1, or 2 where an image was shown again."""
    answer: Label
    seconds: float
    fidelity: int | None = None
    """How much like a photograph, 1 to 10; None if not asked."""
    marks: tuple[Any, ...] = ()
    """Places that the reader marked."""

    def __post_init__(self) -> None:
        """Refuse what no study writes."""
        _check_name("reader", self.reader)
        _check_name("image", self.image)
        for name in ("truth", "answer"):
            if getattr(self, name) not in LABELS:
                raise ValueError(f"{name} must be real or synthetic, not {getattr(self, name)!r}")
        if self.position < 1 or self.showing not in (1, 2):
            raise ValueError(
                f"position must be 1 or more and showing 1 or 2, not {self.position}, {self.showing}"
            )
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"seconds must be 0 or more, not {self.seconds}")
        if self.fidelity is not None and not FIDELITY[0] <= self.fidelity <= FIDELITY[1]:
            raise ValueError(f"fidelity must be {FIDELITY[0]} to {FIDELITY[1]} or empty, not {self.fidelity}")

    @property
    def correct(self) -> bool:
        """Whether the reader was right."""
        return self.answer == self.truth


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """First showings of one condition as arrays of readers by images; NaN where there is no answer."""

    readers: tuple[Reader, ...]
    images: tuple[str, ...]
    synthetic: NDArray[np.bool_]
    """(N,) the truth."""
    said_real: Floats
    """(R, N) 1 if the reader called the image real, 0 if synthetic."""
    seconds: Floats
    """(R, N)."""
    fidelity: Floats
    """(R, N); NaN also where it was not asked."""

    @property
    def correct(self) -> Floats:
        """(R, N) 1 if the reader was right, 0 if wrong."""
        return np.where(self.synthetic, 1 - self.said_real, self.said_real)

    @property
    def missing(self) -> int:
        """Pairs of reader and image without an answer."""
        return int(np.isnan(self.said_real).sum())


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A study as it was answered."""

    readers: tuple[Reader, ...]
    """Those who count."""
    answers: tuple[Answer, ...]
    """Theirs."""
    left_out: tuple[Reader, ...] = ()
    """Readers who have not finished and do not count."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions, sorted."""
        return tuple(sorted({one.condition for one in self.answers}))

    def grid(self, condition: str | None = None) -> Grid:
        """Return the first showings of a condition; of the only one if None.

        Raises:
            AnswersError: There is no such condition, or several and none is named.
        """
        there = self.conditions
        if condition not in there and not (condition is None and len(there) == 1):
            raise AnswersError(f"expected one condition of {list(there)}, not {condition!r}")
        wanted = [
            one for one in self.answers
            if one.showing == 1 and one.condition == (there[0] if condition is None else condition)
        ]  # fmt: skip
        present = {one.reader for one in wanted}
        readers = tuple(reader for reader in self.readers if reader.reader in present)
        truths = {one.image: one.truth for one in wanted}
        images = tuple(sorted(truths))
        row = {reader.reader: place for place, reader in enumerate(readers)}
        column = {image: place for place, image in enumerate(images)}
        cells = np.full((3, len(readers), len(images)), np.nan)
        for one in wanted:
            fidelity = math.nan if one.fidelity is None else one.fidelity
            cells[:, row[one.reader], column[one.image]] = (one.answer == "real", one.seconds, fidelity)
        return Grid(
            readers=readers, images=images, said_real=cells[0], seconds=cells[1], fidelity=cells[2],
            synthetic=np.array([truths[image] == "synthetic" for image in images], np.bool_),
        )  # fmt: skip

    def repeats(self, condition: str | None = None) -> list[tuple[Answer, Answer]]:
        """Return first and second answer of every image that a reader saw twice."""
        chosen = [one for one in self.answers if condition is None or one.condition == condition]
        first = {(one.reader, one.condition, one.image): one for one in chosen if one.showing == 1}
        second = [one for one in chosen if one.showing == 2]
        return [(first[one.reader, one.condition, one.image], one) for one in second]


def read_answers(readers: Path, answers: Path | None = None, *, unfinished: bool = False) -> Answers:
    """Read a study.

    Args:
        readers: Study folder, or its `readers.csv`.
        answers: `answers.csv`; needed if `readers` is a file.
        unfinished: Also count readers who have not come to the end; else they are left out and listed.

    Raises:
        AnswersError: A file does not hold what it should; names file and line.
        OSError: A file cannot be read.
    """
    people = readers if answers else readers / READERS
    said = answers or readers / ANSWERS
    everybody = tuple(reader for _, reader in _rows(people, Reader, _reader))
    names = [reader.reader for reader in everybody]
    if double := {name for name in names if names.count(name) > 1}:
        raise AnswersError(f"{people}: {', '.join(sorted(double))} stands in more than one line")
    kept = tuple(reader for reader in everybody if unfinished or reader.finished)
    if not kept:
        raise AnswersError(f"{people}: expected readers who have finished; of {len(names)} nobody has")
    counted = {reader.reader for reader in kept}
    every = _checked(said, people, set(names))
    chosen = tuple(one for one in every if one.reader in counted)
    if not chosen:
        raise AnswersError(f"{said}: holds no answer of a reader who counts")
    return Answers(
        readers=kept, answers=chosen,
        left_out=tuple(reader for reader in everybody if reader.reader not in counted),
    )  # fmt: skip


def write_answers(folder: Path, answers: Answers) -> None:
    """Write `readers.csv` and `answers.csv` as `read_answers` reads them.

    Raises:
        OSError: They cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    people = [*answers.readers, *answers.left_out]
    for name, kind, rows in ((READERS, Reader, people), (ANSWERS, Answer, answers.answers)):
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_columns(kind))
        writer.writerows([_cell(getattr(row, column)) for column in _columns(kind)] for row in rows)
        write_text(folder / name, text.getvalue())


def _checked(file: Path, people: Path, names: set[str]) -> list[Answer]:
    """Read `answers.csv` and hold its lines against each other."""
    found: list[Answer] = []
    truths: dict[str, Label] = {}
    seen: set[tuple[str, str, str, int]] = set()
    places: set[tuple[str, int]] = set()
    lines: list[str] = []
    for line, one in _rows(file, Answer, _answer):
        where = f"{file}, line {line}"
        if one.reader not in names:
            raise AnswersError(f"{where}: reader {one.reader!r} is not in {people}")
        if truths.setdefault(one.image, one.truth) != one.truth:
            raise AnswersError(f"{where}: image {one.image!r} is {truths[one.image]} in an earlier line")
        key = (one.reader, one.condition, one.image, one.showing)
        if key in seen or (one.reader, one.position) in places:
            what = f"position {one.position}" if key not in seen else f"showing {one.showing} of {one.image}"
            raise AnswersError(f"{where}: {one.reader} has answered {what} before")
        seen.add(key)
        places.add((one.reader, one.position))
        lines.append(where)
        found.append(one)
    for where, one in zip(lines, found, strict=True):
        if one.showing == 2 and (one.reader, one.condition, one.image, 1) not in seen:
            raise AnswersError(f"{where}: {one.image} is shown a second time without a first answer")
    return found


def _rows(file: Path, kind: type[Any], make: Callable[[dict[str, str]], Any]) -> Iterator[tuple[int, Any]]:
    """Yield line number and content of every line below the head."""
    columns = _columns(kind)
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnswersError(f"{file}: expected UTF-8, but byte {error.start} is not") from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(lines, None)
        if head != list(columns):
            raise AnswersError(f"{file}, line 1: expected the columns {','.join(columns)}, not {head}")
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(columns):
                raise ValueError(f"expected {len(columns)} cells, not {len(cells)}")
            yield lines.line_num, make(dict(zip(columns, cells, strict=True)))
    except AnswersError:
        raise
    except (ValueError, csv.Error) as error:
        raise AnswersError(f"{file}, line {lines.line_num}: {error}") from None


def _reader(row: dict[str, str]) -> Reader:
    return Reader(**(row | {"years": _number("years", row["years"])}))  # pyright: ignore[reportArgumentType]


def _answer(row: dict[str, str]) -> Answer:
    return Answer(
        reader=row["reader"], position=_whole("position", row["position"]), image=row["image"],
        truth=row["truth"], condition=row["condition"],  # pyright: ignore[reportArgumentType]
        showing=_whole("showing", row["showing"]), answer=row["answer"],  # pyright: ignore[reportArgumentType]
        seconds=_number("seconds", row["seconds"]),
        fidelity=_whole("fidelity", row["fidelity"]) if row["fidelity"] else None,
        marks=_marks(row["marks"]),
    )  # fmt: skip


def _marks(text: str) -> tuple[Any, ...]:
    if not text:
        return ()
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, list):
        raise ValueError(f"marks must be a JSON list or empty, not {text[:40]!r}")
    return tuple(found)


def _number(name: str, text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        raise ValueError(f"{name} must be a number such as 3 or 2.5, not {text!r}")
    return float(text)


def _whole(name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} must be letters, digits, dots, hyphens and underscores, not {name!r}")


def _check_time(what: str, text: str) -> None:
    if text:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{what} must be a time as 2024-05-31T09:30:00 or empty, not {text!r}") from None


def _columns(kind: type[Any]) -> Sequence[str]:
    return tuple(each.name for each in fields(kind))


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(value) if value else ""
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)
