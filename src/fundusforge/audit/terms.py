"""Terms of use in order of strictness, so that a release can inherit the strictest of its training data.

Terms stand as free text in records (`terms`) and, as `source: terms`, in the metadata of models. A text is
read piece by piece (pieces end at `;`), and every piece must name terms of the table below: what is not
recognised counts as unknown, the strictest of all. (A known licence with an own clause beside it, within one
piece, is taken for that licence: put such clauses behind a `;`.) The order says which terms win where several
apply:

| level | what it asks of whoever uses the data |
|---|---|
| `public` | nothing (CC0, public domain, free of patients) |
| `attribution` | to name the source (CC BY, MIT, BSD, Apache) |
| `share-alike` | also to pass derived data on under the same terms (CC BY-SA) |
| `non-commercial` | no commercial use (CC BY-NC) |
| `non-commercial-share-alike` | both (CC BY-NC-SA) |
| `no-derivatives` | nothing derived may be passed on (CC BY-ND, CC BY-NC-ND) |
| `research` | research, or research and education, only |
| `no-redistribution` | not to be passed on at all |
| `unknown` | nobody has said; take it that nothing is allowed |

One order cannot tell everything: share-alike and non-commercial terms contradict each other although one
stands above the other. So all terms are kept and printed, not only the strictest. This is a sorting aid, no
legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal[
    "public", "attribution", "share-alike", "non-commercial", "non-commercial-share-alike", "no-derivatives",
    "research", "no-redistribution", "unknown",
]  # fmt: skip
LEVELS: tuple[Level, ...] = get_args(Level)
"""From the loosest to the strictest."""
MEANING: dict[Level, str] = {
    "public": "free for any use",
    "attribution": "any use that names the sources",
    "share-alike": "any use that names the sources; derived data under the same terms",
    "non-commercial": "no commercial use; name the sources",
    "non-commercial-share-alike": "no commercial use; name the sources; derived data under the same terms",
    "no-derivatives": "a source forbids passing derived data on: ask its owner before you do",
    "research": "research only; name the sources",
    "no-redistribution": "a source forbids passing it on: ask its owner whether that holds for derived data",
    "unknown": "terms of a source are unknown: take it that nothing is allowed",
}
_PATTERNS: tuple[tuple[Level, str], ...] = (
    ("no-redistribution", r"no(?:t to be|t be|n)?[ -]?re-?distribut\w*"),
    ("research", r"\bresearch\b"),
    ("no-derivatives", r"\bcc[ -]by(?:[ -]nc)?[ -]nd\b|no[ -]?deriv\w*"),
    ("non-commercial-share-alike", r"\bcc[ -]by[ -]nc[ -]sa\b"),
    ("non-commercial", r"\bcc[ -]by[ -]nc\b|\bnon-?commercial\b"),
    ("share-alike", r"\bcc[ -]by[ -]sa\b|\bshare-?alike\b"),
    ("attribution", r"\bcc[ -]by\b|(?:^|: *)(?:mit|bsd[\w -]*|apache[\w .-]*)(?: licen[cs]e)?$"),
    ("public", r"\bcc0\b|\bpublic domain\b|\bfree of patients\b"),
)
"""From the strictest to the loosest: the first that a piece contains is its level."""

_NEXT_SOURCE = r";\s*(?=[\w.-]+:\s)"
"""Where a text of several sources goes on to the next."""


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """The terms that data derived from several sources come under."""

    level: Level
    """The strictest of all."""
    entries: tuple[str, ...]
    """Every terms text that was met, sorted; `source: terms` where the source is known."""

    @property
    def text(self) -> str:
        """The entries in one line, as `terms` of a record."""
        return "; ".join(self.entries)

    @property
    def meaning(self) -> str:
        """What the strictest asks, in words."""
        return MEANING[self.level]


def level_of(text: str | None) -> Level:
    """Return the level of one text of terms.

    >>> level_of("chase: CC BY 4.0; idrid: CC BY-NC 4.0")
    'non-commercial'
    >>> level_of("free of patients; CC0"), level_of("research and education only"), level_of("see our site")
    ('public', 'research', 'unknown')
    """
    pieces = [piece for piece in (text or "").lower().split(";") if piece.strip()]
    return _strictest([_piece(piece) for piece in pieces] or ["unknown"])


def _piece(piece: str) -> Level:
    if "unknown" in piece:
        return "unknown"
    for level, pattern in _PATTERNS:
        if re.search(pattern, piece.strip()):
            return level
    return "unknown"


def _strictest(levels: Iterable[Level]) -> Level:
    return LEVELS[max(LEVELS.index(level) for level in levels)]


def strictest(texts: Iterable[str | None]) -> Inherited:
    """Return what is inherited from all of these texts; nothing at all is unknown.

    A text of several sources (`a: terms; b: terms`) is taken apart, so that equal entries fall together.
    """
    parts = [part.strip() for text in texts for part in re.split(_NEXT_SOURCE, text or "")]
    entries = sorted({part or "unknown" for part in parts}) or ["unknown"]
    return Inherited(level=_strictest(map(level_of, entries)), entries=tuple(entries))
