"""What an evaluation reports: figures with their interval and floor, and `results.json`.

A figure is either a finite number or None with the reason; NaN and infinity are refused where they arise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from fundusforge.config import from_json, to_json
from fundusforge.evaluate.statistics import Floor, Interval
from fundusforge.records import write_text

RESULTS = "results.json"

Better = Literal["higher", "lower", "zero", "none"]
"""Which way is better: up, down, towards zero, or neither (a description)."""
Attribute = Literal["age", "sex", "eye", "camera", "source", "grade"]
"""What images are divided by."""
SCHEMA = 3
"""Of `results.json`; a change that an older reader would misread raises it."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One reported number and everything that is needed to believe it."""

    name: str
    """For machines: lower case, underscores."""
    title: str
    """For readers."""
    value: float | None
    """None if it cannot be computed; `reason` says why."""
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """How the interval from `low` to `high` was made."""
    unit: str = ""
    """Empty for a pure number."""
    better: Better = "none"
    n: int
    """Synthetic images that entered."""
    n_real: int = 0
    """Real images that entered."""
    real: float | None = None
    """The same figure of the real images, where one set alone has it."""
    real_low: float | None = None
    real_high: float | None = None
    floor: Floor | None = None
    """The figure with one random half of the real patients in place of the synthetic images."""
    matched: float | None = None
    """The figure of as many synthetic images as the floor's halves hold: what compares with the floor where a
    figure depends on the number of images. None where it does not, or where that is not known."""
    extractor: str
    """What turned pictures into what is measured: a segmenter, the masks as stored, the pixels themselves."""
    resize: str
    """How pictures were brought to one size."""
    seed: int
    notes: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        """Refuse NaN, infinity, and a missing value without a reason."""
        for each in fields(self):
            number = getattr(self, each.name)
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(
                    f"figure {self.name}: {each.name} is {number}; give None and a reason instead"
                )
        if self.value is None and not self.reason:
            raise ValueError(f"figure {self.name} has neither a value nor a reason")

    @property
    def held(self) -> float | None:
        """What is held against the floor: the figure at the floor's size where it is known, or the value."""
        return self.value if self.matched is None else self.matched

    @property
    def within_floor(self) -> bool | None:
        """Whether as many real images give such a value too; None if that is not known."""
        if self.held is None or self.floor is None:
            return None
        return self.floor.low <= self.held <= self.floor.high

    def words(self) -> str:
        """Return value, interval, the real images' value and the floor in one line."""
        if self.value is None:
            return f"not computed: {self.reason}"
        parts = [f"{self.value:.4g}{' ' * bool(self.unit)}{self.unit}"]
        if self.low is not None and self.high is not None:
            parts[0] += f" [{self.low:.4g}, {self.high:.4g}]"
        if self.real is not None:
            parts.append(f"real {self.real:.4g}")
        if self.floor is not None:
            halves = f"real halves {self.floor.low:.4g} to {self.floor.high:.4g}"
            parts.append(halves if self.matched is None else f"{halves}, at their size {self.matched:.4g}")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """One figure of the images of one subgroup."""

    figure: str
    """Name of the figure."""
    real: bool = False
    """Whether it is of the real images, not of the synthetic ones."""
    attribute: Attribute
    group: str
    images: int | None
    """None where the subgroup is not shown."""
    patients: int | None
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    """How the interval was made."""
    reason: str = ""
    """Why there is no value."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One synthetic image in the failure atlas."""

    image: str
    """As named in its record."""
    violations: tuple[str, ...]
    """Anatomical rules that it breaks, in words."""
    score: float | None
    """Log-odds of being real, by a probe that has not seen it; None without a probe."""


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """The images that look least, and most, like real ones: by broken rules, then by the probe."""

    least: tuple[Judged, ...] = ()
    """The worst first."""
    most: tuple[Judged, ...] = ()
    """The best first."""


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """What a dataset folder held when it was judged."""

    folder: str
    """As given on the command line, or relative to `results.json`."""
    images: int
    patients: int
    synthetic: int
    structure_from_patient: int
    """Synthetic images that a patient's own mask shaped."""
    sources: dict[str, int]
    """Images by source."""
    models: dict[str, int]
    """Synthetic images by the model that made them."""
    conditions: dict[str, int]
    """Synthetic images by what they were painted on (`phantom`, `record`)."""
    terms: tuple[str, ...]
    metadata_sha256: str
    """SHA-256 of `metadata.jsonl`."""


@dataclass(frozen=True, kw_only=True)
class JudgeSummary:
    """The segmenter that re-read the images."""

    name: str
    threshold: float
    training_patients: int | None
    """None if the segmenter does not say."""
    shared_with_generator: Literal["none", "unknown"]
    """Whether it shares a training patient with the generator; an overlap is an error, never a result."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """The content of `results.json`."""

    synthetic: FolderSummary
    against: FolderSummary
    judge: JudgeSummary | None
    """Of vessels."""
    judges: dict[str, JudgeSummary] = field(default_factory=dict[str, JudgeSummary])
    """Of further structures, by the name of the mask."""
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    settings: dict[str, str | int | float | bool | list[str] | None]
    command: str
    version: str
    """Of fundusforge."""
    subgroups: tuple[Subgroup, ...] = ()
    """Figures that are means of images, or pooled over them, by subgroup; few patients are not shown."""
    atlas: Atlas = Atlas()
    schema: int = SCHEMA

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: There is none.
        """
        return figure_of(self.figures, name)

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds, as plain values."""
        return json.loads(to_json(self))

    def text(self) -> str:
        """Return the figures and warnings as lines of text for a terminal."""
        width = max((len(figure.name) for figure in self.figures), default=0)
        lines = [f"{figure.name:<{width}}  {figure.words()}" for figure in self.figures]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def write(self, path: Path) -> None:
        """Write `results.json`, strict JSON, atomically."""
        write_text(path, to_json(self) + "\n")


def figure_of(figures: Sequence[Figure], name: str) -> Figure:
    """Return the figure of that name.

    Raises:
        KeyError: There is none; the message lists those there are.
    """
    for figure in figures:
        if figure.name == name:
            return figure
    raise KeyError(f"no figure {name!r}; there are {', '.join(f.name for f in figures)}")


def read_results(path: Path) -> Results:
    """Read `results.json`, strictly.

    Raises:
        fundusforge.config.ConfigError: Not such a file; the message names it and the fault.
        OSError: It cannot be read.
    """
    return from_json(Results, Path(path).read_text("utf-8"), where=str(path))


def measured(value: float | None, interval: Interval) -> dict[str, Any]:
    """Return the arguments of `Figure` that a value and its interval fill."""
    low, high = (interval.low, interval.high) if value is not None else (None, None)
    return {"value": value, "low": low, "high": high, "interval": interval.words()}
