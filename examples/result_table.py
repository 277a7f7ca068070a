"""Figures of an evaluation or an audit for `docs/results`: JSON lines, or a table beside real images.

    python examples/result_table.py runs/judged --name painter | python docs/results/record.py
    python examples/result_table.py runs/judged --name style --figures agreement_auc --over frechet
    python examples/result_table.py runs/judged --control runs/control --markdown

The control is an evaluation of real images in place of the synthetic ones, by the same metrics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from fundusforge.audit.findings import AUDIT, Audit, read_audit
from fundusforge.evaluate.figures import RESULTS, Figure, Results, read_results


@dataclass(frozen=True)
class ResultTable:
    """Print the figures of an evaluation or of an audit."""

    results: Annotated[Path, Positional]
    """Folder with results.json, or else audit.json."""
    control: Path | None = None
    """Folder with the results.json of real images, for the table."""
    name: str = "judged"
    """First part of the figures' names."""
    figures: tuple[str, ...] = ()
    """Print these alone."""
    over: tuple[str, ...] = ()
    """Figures of sets to print over the same figure of real halves, as `NAME_FIGURE_over_floor`."""
    markdown: bool = False
    """Print a table instead of JSON lines."""


def read(folder: Path) -> Results | Audit:
    """Read what a folder holds."""
    if (folder / RESULTS).exists():
        return read_results(folder / RESULTS)
    return read_audit(folder / AUDIT)


def lines(results: Results | Audit, name: str, figures: Sequence[str] = ()) -> list[str]:
    """Return a JSON line for every figure that has a value and an interval, or for those named."""
    return [
        json.dumps(
            {
                "name": f"{name}_{f.name}", "value": short(f.value), "low": short(f.low),
                "high": short(f.high), "n": f.n, "unit": f.unit or "1", "command": results.command,
            }
        )
        for f in results.figures
        if f.value is not None and (not figures or f.name in figures)
    ]  # fmt: skip


def over_floor(results: Results | Audit, name: str, wanted: Sequence[str]) -> list[str]:
    """Return a JSON line for each wanted figure over that of real halves, at their number of images.

    The interval is from the one end of the halves to the other.
    """
    found: list[str] = []
    for f in results.figures:
        if f.name in wanted and f.floor and f.matched is not None and f.floor.low > 0:
            row = {
                "name": f"{name}_{f.name}_over_floor", "value": short(f.matched / f.floor.value),
                "low": short(f.matched / f.floor.high), "high": short(f.matched / f.floor.low), "n": f.n,
                "unit": "ratio", "command": results.command,
            }  # fmt: skip
            found.append(json.dumps(row))
    return found


def table(results: Results | Audit, control: Results | Audit | None) -> list[str]:
    """Return a Markdown table of all figures, those without a value with their reason."""
    beside = {figure.name: figure for figure in control.figures} if control else {}
    head = [
        "figure",
        "generator",
        "n",
        "other real images, judged alike",
        "real halves",
        "generator at that size",
    ]
    rows = [head, ["---"] * len(head)]
    for f in results.figures:
        floor = f"{f.floor.low:.4g} to {f.floor.high:.4g}" if f.floor else ""
        matched = "" if f.matched is None else f"{f.matched:.4g}"
        other = words(beside[f.name]) if f.name in beside else ""
        rows.append([f"{f.title} (`{f.name}`)", words(f), str(f.n), other, floor, matched])
    return ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]


def short(value: float | None) -> float | None:
    """Return four digits that count."""
    return None if value is None else float(f"{value:.4g}")


def words(figure: Figure) -> str:
    """Return value and interval, and the value of the real images themselves."""
    if figure.value is None:
        return f"none: {figure.reason}"
    text = f"{figure.value:.4g}"
    if figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.4g}, {figure.high:.4g}]"
    return text if figure.real is None else f"{text}; real {figure.real:.4g}"


def main(c: ResultTable) -> None:
    """Print."""
    results = read(c.results)
    control = read(c.control) if c.control else None
    if c.markdown:
        print("\n".join(table(results, control)))
        return
    rows = [] if c.over and not c.figures else lines(results, c.name, c.figures)
    print("\n".join(rows + over_floor(results, c.name, c.over)))


if __name__ == "__main__":
    main(tyro.cli(ResultTable))
