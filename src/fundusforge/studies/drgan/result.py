"""What a part of the study gives: tables for people, figures for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fundusforge.config import to_json
from fundusforge.evaluate.figures import Figure
from fundusforge.records import write_text
from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.chain.result import Report, line


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text; the first is the head."""

    title: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Result(Report):
    """The content of `<part>.json`."""

    part: str
    """`fidelity`, `grades`, `masks`, `diversity`, `series` or `ablations`."""
    model: str
    """Name and first digits of the hash of the weights; of `ablations` the names of the variants."""
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    sentences: tuple[str, ...]
    """What the figures say."""
    warnings: tuple[str, ...]
    settings: dict[str, Any]
    command: str
    version: str
    """Of fundusforge."""
    schema: int = 1

    def lines(self) -> list[dict[str, Any]]:
        """Return what `docs/results/record.py` takes: each figure with a value.

        The same figure of real photographs is an entry of its own, `..._real`, as is that of halves of the
        real photographs against each other, `..._floor`.
        """
        return [entry for one in self.figures for entry in _entries(one, self.command)]

    def write(self, out: Path) -> None:
        """Write `<part>.json`, and the lines for `docs/results/record.py` as `<part>.jsonl`.

        Raises:
            OSError: The folder cannot be written.
        """
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / f"{self.part}.json", to_json(self) + "\n")
        write_text(out / f"{self.part}.jsonl", "".join(json.dumps(one) + "\n" for one in self.lines()))

    def _laid_out(self, *, markdown: bool) -> str:
        parts = [f"{one.title}\n\n{laid_out(one.rows, markdown=markdown)}" for one in self.tables]
        return "\n\n".join([*parts, *self.sentences, *(f"warning: {each}" for each in self.warnings)])


def _entries(figure: Figure, command: str) -> list[dict[str, Any]]:
    """Return the lines of one figure."""
    if figure.value is None:
        return []
    found, own = [line(figure, command)], line(figure, command) | {"n": figure.n_real}
    if figure.real is not None:
        beside = {"value": figure.real, "low": figure.real_low, "high": figure.real_high}
        found.append(own | beside | {"name": f"{figure.name}_real"})
    if figure.floor is not None:
        floor = {"value": figure.floor.value, "low": figure.floor.low, "high": figure.floor.high}
        found.append(own | floor | {"name": f"{figure.name}_floor"})
    return found


def shown(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a value with its interval, or a dash.

    >>> shown(0.12345, 0.1, 0.15), shown(24822.1), shown(None)
    ('0.123 [0.1, 0.15]', '24822', '-')
    """
    if value is None:
        return "-"
    each = [
        f"{one:.0f}" if abs(one) >= 1000 else f"{one:.3g}" for one in (value, low, high) if one is not None
    ]
    return each[0] if len(each) < 3 else f"{each[0]} [{each[1]}, {each[2]}]"
