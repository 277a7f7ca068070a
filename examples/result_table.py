"""Figures of an evaluation as lines for `docs/results`: JSON, or a table beside those of real images.

    python examples/result_table.py runs/judged --name painter | python docs/results/record.py
    python examples/result_table.py runs/judged --control runs/control --markdown

The control is an evaluation of real images in place of the synthetic ones, by the same metrics.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from fundusforge.evaluate.figures import RESULTS, Figure, Results, read_results


@dataclass(frozen=True)
class ResultTable:
    """Print the figures of an evaluation."""

    results: Annotated[Path, Positional]
    """Folder with results.json."""
    control: Path | None = None
    """Folder with the results.json of real images, for the table."""
    name: str = "judged"
    """First part of the figures' names."""
    markdown: bool = False
    """Print a table instead of JSON lines."""


def lines(results: Results, name: str) -> list[str]:
    """Return a JSON line for every figure that has a value and an interval."""
    return [
        json.dumps(
            {
                "name": f"{name}_{f.name}", "value": f.value, "low": f.low, "high": f.high, "n": f.n,
                "unit": f.unit, "command": results.command,
            }
        )
        for f in results.figures
        if f.value is not None
    ]  # fmt: skip


def table(results: Results, control: Results | None) -> list[str]:
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
    results = read_results(c.results / RESULTS)
    control = read_results(c.control / RESULTS) if c.control else None
    print("\n".join(table(results, control) if c.markdown else lines(results, c.name)))


if __name__ == "__main__":
    main(tyro.cli(ResultTable))
