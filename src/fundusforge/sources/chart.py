"""Choosing images by words in a medical chart, as Kim et al. (2022) chose "normal" and "ERM".

The chart is a CSV file with a column `patient` or `file`, a column `keywords` or `text`, and optionally
`date` (YYYY-MM-DD or YYYYMMDD) or `visit` (1, 2, ...) and `eye` (left or right), which narrow a row to that
visit or eye. No message repeats a cell: charts hold names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusforge.records import DatasetError, Eye
from fundusforge.sources.files import rows

_EYES: dict[str, Eye] = {
    "left": "left",
    "l": "left",
    "os": "left",
    "right": "right",
    "r": "right",
    "od": "right",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a chart."""

    text: str
    file: str = ""
    patient: str = ""
    date: str = ""
    visit: int | None = None
    eye: Eye | None = None


def read_chart(path: Path) -> list[Row]:
    """Read a chart.

    Raises:
        DatasetError: Unreadable, a needed column is missing, or a cell is no date, visit or eye; names the
        line.
    """
    table = rows(path)
    columns = table[0].keys() if table else set()
    text = next((name for name in ("keywords", "text") if name in columns), None)
    if text is None or not columns & {"patient", "file"}:
        raise DatasetError(
            f"{path}: a chart needs a column 'patient' or 'file', and one 'keywords' or 'text'"
        )
    return [_row(row, text, f"{path}:{line}") for line, row in enumerate(table, 2)]


def _row(row: dict[str, str], text: str, where: str) -> Row:
    date = row.get("date", "").replace("-", "")
    if date and not re.fullmatch(r"\d{8}", date):
        raise DatasetError(f"{where}: the date is not of the form YYYY-MM-DD")
    visit, eye = row.get("visit", ""), row.get("eye", "").lower()
    if visit and not visit.isdecimal():
        raise DatasetError(f"{where}: the visit is no whole number")
    if eye and eye not in _EYES:
        raise DatasetError(f"{where}: the eye is neither left nor right")
    return Row(
        text=row[text],
        file=row.get("file", "").replace("\\", "/"),
        patient=row.get("patient", ""),
        date=date,
        visit=int(visit) if visit else None,
        eye=_EYES.get(eye),
    )


def split_words(words: Iterable[str]) -> tuple[str, ...]:
    """Split keywords at commas and trim them: `("erm, macular pucker",)` is two keywords."""
    return tuple(part.strip() for word in words for part in word.split(",") if part.strip())


def find_words(words: Sequence[str], texts: Iterable[str]) -> list[str]:
    """Return those keywords that stand in any of the texts as whole words, whatever the case.

    >>> find_words(["erm", "epiretinal membrane"], ["ERM, left", "thermal burn"])
    ['erm']
    """
    texts = list(texts)
    patterns = {word: r"(?<!\w)" + r"\s+".join(map(re.escape, word.split())) + r"(?!\w)" for word in words}
    return [
        w for w, pattern in patterns.items() if any(re.search(pattern, text, re.IGNORECASE) for text in texts)
    ]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart and the words to choose by."""

    rows: Sequence[Row]
    keywords: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Sort the rows by file and patient once, as there may be a hundred thousand."""
        by_file: dict[str, list[Row]] = {}
        by_patient: dict[str, list[Row]] = {}
        for row in self.rows:
            (by_file.setdefault(row.file, []) if row.file else by_patient.setdefault(row.patient, [])).append(
                row
            )
        object.__setattr__(self, "_by_file", by_file)
        object.__setattr__(self, "_by_patient", by_patient)

    def choose(
        self, *, file: str, patient: str, date: str, visit: int | None, eye: Eye | None
    ) -> tuple[str, ...] | None:
        """Return the keywords found for an image, lower case, `_` for spaces; None if it is not chosen.

        An image is chosen if a row speaks of it, a keyword stands in such a row (where keywords are asked
        for), and no excluded word does.
        """
        by_file: dict[str, list[Row]] = self._by_file  # type: ignore[attr-defined]
        by_patient: dict[str, list[Row]] = self._by_patient  # type: ignore[attr-defined]
        about = [
            row.text
            for row in (*by_file.get(file, ()), *(by_patient.get(patient, ()) if patient else ()))
            if (not row.date or row.date == date)
            and (row.visit is None or row.visit == visit)
            and (row.eye is None or eye is None or row.eye == eye)
        ]
        found = find_words(self.keywords, about)
        if not about or (self.keywords and not found) or find_words(self.exclude, about):
            return None
        return tuple(sorted(re.sub(r"\s+", "_", word.lower()) for word in found))
