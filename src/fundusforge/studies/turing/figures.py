"""Pictures of a reader study: groups as in Figure 4 of Kim et al. 2022, and the most and least convincing."""

# matplotlib annotates itself only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fundusforge.images import CHART_XMP, SYNTHETIC_XMP, Image, encode_image, read_image, resize
from fundusforge.records import write_bytes
from fundusforge.studies.turing.measures import Convincing, Measure, ReaderScore
from fundusforge.studies.turing.result import Condition, GroupRow

PANELS: tuple[tuple[Measure, str], ...] = (
    ("accuracy", "(a) Accuracy"), ("sensitivity", "(b) Sensitivity"), ("specificity", "(c) Specificity"),
    ("seconds", "(d) Elapsed time per image (s)"),
)  # fmt: skip
SIDE = 384
"""Of a picture on the sheet, in pixels."""
_BARS = ("#4d79a8", "#7aa6c2")


def draw_groups(path: Path, condition: Condition) -> None:
    """Write a PNG: group means with intervals, one row for each way to part readers; readers as dots.

    Raises:
        OSError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    lines = len(condition.tables)
    figure = Figure(figsize=(16, 4.4 * lines), dpi=100)
    grid = figure.subplots(lines, len(PANELS), squeeze=False)
    figure.subplots_adjust(
        left=0.03, right=0.99, bottom=0.07 / lines, top=1 - 0.2 / lines, hspace=0.38, wspace=0.14
    )
    people = {one.reader: one for one in condition.by_reader}
    for row, table, colour in zip(grid, condition.tables, _BARS, strict=True):
        parts = [f"Method {table.method}, {table.title}:"]
        parts += [f"{one.number} {one.group} ({len(one.members)})" for one in table.rows]
        names = textwrap.fill("     ".join(part.replace(" ", "\u00a0") for part in parts), 170)
        top = row[0].get_position().y1 + 0.13 / lines
        figure.text(0.5, top, names, ha="center", va="center")
        for axes, (measure, title) in zip(row, PANELS, strict=True):
            _panel(axes, table.rows, measure, people, colour=colour)
            axes.set_title(title, fontsize=11)
    write_bytes(path, encode_image(_drawn(figure), xmp=CHART_XMP))


def draw_convincing(path: Path, condition: Condition, find: Callable[[str], Path]) -> None:
    """Write a PNG of the synthetic images most and least often taken for real, marked as synthetic.

    Args:
        path: Where to.
        condition: The figures.
        find: Returns the file of an image.

    Raises:
        OSError: A picture cannot be read, or the file not written.
        ValueError: A file is no picture.
    """
    from matplotlib.figure import Figure

    lines = (("most often taken for real", condition.most_convincing),
             ("least often taken for real", condition.least_convincing))  # fmt: skip
    width = max(len(images) for _, images in lines)
    figure = Figure(figsize=(4 * width, 9.3), layout="constrained", dpi=100)
    figure.get_layout_engine().set(h_pad=0.15)  # pyright: ignore
    for line, (title, images) in enumerate(lines):
        for place, one in enumerate(images):
            axes = figure.add_subplot(2, width, line * width + place + 1)
            axes.imshow(_small(find(one.image)))
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{title if not place else ''}\n{_caption(one)}", fontsize=10, loc="left")
    write_bytes(path, encode_image(_drawn(figure), xmp=SYNTHETIC_XMP))


def _drawn(figure: Any) -> Image:
    """Return the pixels of a figure, (H, W, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _panel(
    axes: Any, rows: Sequence[GroupRow], measure: Measure, people: dict[str, ReaderScore], *, colour: str
) -> None:
    """Draw bars, intervals, readers, and the numbers above."""
    top = 0.0 if measure == "seconds" else 1.0
    for x, row in enumerate(rows):
        one = row.measures[measure]
        if one.value is None:
            axes.text(x, 0, "no reader" if not row.members else "none", ha="center", va="bottom", fontsize=8)
            continue
        axes.bar(x, one.value, width=0.7, color=colour, zorder=1)
        if one.low is not None and one.high is not None:
            ends = [[one.value - one.low], [one.high - one.value]]
            axes.errorbar(x, one.value, yerr=ends, color="black", capsize=4, zorder=3)
        values = [value for name in row.members if (value := _own(people[name], measure)) is not None]
        spread = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
        axes.scatter(x + spread, values, s=9, color="black", alpha=0.45, linewidths=0, zorder=2)
        top = max([top, one.high or one.value, *values])
    for x, row in enumerate(rows):
        one = row.measures[measure]
        if one.value is not None:
            sd = f"\n±{one.sd:.2f}" if one.sd is not None else ""
            axes.text(x, top * 1.04, f"{one.value:.2f}{sd}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(rows)), [str(row.number) for row in rows])
    axes.set_ylim(0, (top or 1.0) * 1.2)
    if measure != "seconds":
        axes.set_yticks(np.linspace(0, 1, 6))
    if measure == "accuracy":
        axes.axhline(0.5, color="black", linestyle=":", linewidth=1)


def _own(one: ReaderScore, measure: Measure) -> float | None:
    return one.seconds_mean if measure == "seconds" else getattr(one, measure).value


def _small(path: Path) -> np.ndarray:
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return pixels if scale == 1.0 else resize(pixels, size)


def _caption(one: Convincing) -> str:
    share = one.called_real
    return f"{share.hits} of {share.n} readers ({share.low:.0%} to {share.high:.0%})\n{one.image}"
