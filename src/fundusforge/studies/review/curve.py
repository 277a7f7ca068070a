"""The curve of a training: distance and leaked share over images, with its snapshots marked, as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from fundusforge.studies.review.snapshots import Measured, Snapshot

WIDTH, HEIGHT = 960, 400
_LEFT, _RIGHT = 76.0, 940.0
_DISTANCE, _LEAKED = (34.0, 226.0), (268.0, 356.0)
"""Upper and lower edge of the two panels."""
Point = tuple[float, float]
Scale = Callable[[float], float]


def curve(rows: Sequence[Measured], marks: Sequence[Snapshot], *, bar: float) -> Markup:
    """Draw `validation/distance` and `validation/leaked`; nothing if there is no validation.

    The distance is drawn on a logarithmic scale where all of it is positive and spans a decade or more.

    Args:
        rows: Validations, by clock.
        marks: Snapshots, which are numbered from 1 in this order.
        bar: The leaked share from which no snapshot is released, drawn as a line.
    """
    if not rows:
        return Markup("")
    last = max([row.images[0] for row in rows] + [one.clock for one in marks])
    parts: list[str] = []

    def x(images: float) -> float:
        return _LEFT + images / max(1, last) * (_RIGHT - _LEFT)

    for tick in _ticks(0, max(1, last)):
        parts.append(_text(x(tick), 376, f"{tick:,.0f}", "middle"))
    parts.append(_text(_RIGHT, 394, "images seen", "end"))
    distances = [(x(row.images[0]), row.distance) for row in rows if row.distance is not None]
    leaks = [(x(row.images[0]), row.leaked) for row in rows if row.leaked is not None]
    for number, one in enumerate(marks, 1):
        at = f"{x(one.clock):.1f}"
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{_DISTANCE[0]}" y2="{_LEAKED[1]}" stroke="var(--quiet)" '
            'stroke-dasharray="3 4"/>'
        )
        parts.append(_text(x(one.clock), _DISTANCE[0] - 6, str(number), "middle"))
    parts += _panel(distances, _DISTANCE, "distance", "synthetic")
    if distances:
        y = _scale([value for _, value in distances], _DISTANCE)[0]
        for one in marks:
            if one.measured and one.measured.distance is not None:
                a, b = x(one.clock), y(one.measured.distance)
                path = f"M{a:.1f} {b - 7:.1f}l7 7-7 7-7-7z"
                parts.append(f'<path d="{path}" fill="var(--card)" stroke="var(--ink)" stroke-width="2"/>')
    parts += _panel(leaks, _LEAKED, "leaked", "real", low=0.0, high=2 * bar)
    if leaks:
        y = _scale([*(value for _, value in leaks), 0.0, 2 * bar], _LEAKED, straight=True)[0]
        at = f'y1="{y(bar):.1f}" y2="{y(bar):.1f}"'
        parts.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" {at} stroke="var(--stop-line)" stroke-width="1.5"/>')
    label = f"Distance and leaked share of {len(rows)} validations; the table below has the numbers"
    return Markup('<svg class="curve" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("".join(parts))
    )


def _panel(
    points: Sequence[Point], edges: Point, title: str, colour: str, *, low: float | None = None,
    high: float | None = None,
) -> list[str]:  # fmt: skip
    """Axis, title and line of one panel; `low` and `high` are shown in any case, on a straight scale."""
    top, bottom = edges
    frame = f'x="{_LEFT}" y="{top}" width="{_RIGHT - _LEFT}" height="{bottom - top}"'
    parts = [f'<rect {frame} fill="none" stroke="var(--line)"/>', _text(8, top - 8, title, "start")]
    if not points:
        return [*parts, _text((_LEFT + _RIGHT) / 2, (top + bottom) / 2, "not measured", "middle")]
    fixed = [value for value in (low, high) if value is not None]
    y, ticks = _scale([value for _, value in points] + fixed, edges, straight=bool(fixed))
    for tick in ticks:
        parts.append(f'<line x1="{_LEFT - 4}" x2="{_LEFT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
                     'stroke="var(--quiet)"/>')  # fmt: skip
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:.3g}", "end"))
    line = " ".join(f"{a:.1f},{y(b):.1f}" for a, b in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="var(--{colour})" stroke-width="2"/>')
    parts += [f'<circle cx="{a:.1f}" cy="{y(b):.1f}" r="3" fill="var(--{colour})"/>' for a, b in points]
    return parts


def _scale(values: Sequence[float], edges: Point, *, straight: bool = False) -> tuple[Scale, list[float]]:
    """Return what places a value between the edges of a panel, and the ticks."""
    least, most = min(values), max(values)
    logarithmic = not straight and least > 0 and most >= 10 * least
    bend = math.log10 if logarithmic else float
    if logarithmic:
        decades = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
        ticks = [10.0**power for power in decades][:: max(1, math.ceil(len(decades) / 6))]
    else:
        ticks = _ticks(least, most, parts=max(2, int((edges[1] - edges[0]) / 30)))
    low, high = bend(least), bend(most)
    reach, (top, bottom) = (high - low) or 1.0, edges

    def place(value: float) -> float:
        return bottom - 6 - (bend(value) - low) / reach * (bottom - top - 12)

    return place, ticks


def _ticks(low: float, high: float, *, parts: int = 6) -> list[float]:
    """Return round numbers from low to high, at most one more than `parts`."""
    if high <= low:
        return [low]
    rough = (high - low) / parts
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(x: float, y: float, words: str, anchor: str) -> str:
    """Words of this module only: they are not escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'
