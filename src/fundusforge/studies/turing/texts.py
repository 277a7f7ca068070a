"""All words that readers meet, in one JSON file per language.

`texts/en.json` is the list of what there is: a file in another language has the same entries with the same
placeholders. `specialties` and `words` (for marks) are free: their keys are what is stored, their values are
shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from string import Formatter
from typing import Any

from fundusforge.studies.turing.study import StudyError

Texts = Mapping[str, Any]
FREE = ("specialties", "words")
"""Tables whose keys a file chooses itself."""
LETTERS = ("read.key_real", "read.key_synthetic", "read.key_mark")
"""Keys of the keyboard."""
RESERVED = ("F", "P")
"""Keys that enlarge: to fit, pixel by pixel."""
SHIPPED = ("en", "de")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,()/-]{0,59}")


def read_texts(file: Path | None = None) -> Texts:
    """Read a file of texts; English if None, or the name of a shipped language.

    Raises:
        StudyError: The file is missing or broken; an entry is missing, unknown or no text, or has other
            placeholders than it should. The message names all of them.
    """
    shipped = _shipped("en")
    if file is None:
        return shipped
    if str(file) in SHIPPED:
        return _shipped(str(file))
    try:
        found = json.loads(Path(file).read_bytes())
    except FileNotFoundError:
        raise StudyError(
            f"{file}: no such file; expected texts as JSON, or one of {', '.join(SHIPPED)}"
        ) from None
    except ValueError as error:
        raise StudyError(f"{file}: not JSON ({error})") from None
    faults = list(_faults(shipped, found, ""))
    if not faults and len({found["read"][name.removeprefix("read.")].upper() for name in LETTERS}) < len(
        LETTERS
    ):
        faults = [f"{', '.join(LETTERS)}: expected three different letters"]
    if faults:
        raise StudyError(f"{file}: {'; '.join(faults)}")
    return found


def _shipped(language: str) -> Texts:
    return json.loads((files("fundusforge.studies.turing") / "texts" / f"{language}.json").read_bytes())


def _faults(wanted: Any, found: Any, where: str) -> Iterator[str]:
    """Yield what is wrong with an entry and those below it."""
    if isinstance(wanted, str):
        if not isinstance(found, str) or not found.strip():
            yield f"{where}: expected a text"
        elif _placeholders(found) != _placeholders(wanted):
            yield f"{where}: expected the placeholders {sorted(_placeholders(wanted) or [])}"
        elif where in LETTERS and (len(found) != 1 or not found.isalpha() or found.upper() in RESERVED):
            yield f"{where}: expected one letter other than {' and '.join(RESERVED)}"
        return
    if not isinstance(found, dict):
        yield f"{where or 'file'}: expected a table"
        return
    if where in FREE:
        if not found:
            yield f"{where}: expected one entry or more"
        for key, value in found.items():
            if not _KEY.fullmatch(key) or not isinstance(value, str) or not value.strip():
                yield f"{where}.{key}: expected a short name and a text"
        return
    for key in sorted(wanted.keys() - found.keys()):
        yield f"{where}.{key} is missing".removeprefix(".")
    for key in sorted(found.keys() - wanted.keys()):
        yield f"{where}.{key} is unknown".removeprefix(".")
    for key in sorted(wanted.keys() & found.keys()):
        yield from _faults(wanted[key], found[key], f"{where}.{key}".removeprefix("."))


def _placeholders(text: str) -> set[str] | None:
    try:
        return {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError:
        return None
