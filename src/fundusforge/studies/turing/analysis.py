"""The analysis of an image Turing test: answers in, tables, figures and plain sentences out.

Only first showings count; repeats say how readers agree with themselves. Conditions are analysed apart, and
compared with the first where the same readers saw several.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge import __version__
from fundusforge.config import ConfigError, from_json, to_json
from fundusforge.records import write_text
from fundusforge.studies.chain.result import slug
from fundusforge.studies.turing import tables, wording
from fundusforge.studies.turing.agreement import Agreement, between, within
from fundusforge.studies.turing.answers import ANSWERS, READERS, Answers, Grid, read_answers
from fundusforge.studies.turing.crossed import Estimate
from fundusforge.studies.turing.equivalence import equivalence
from fundusforge.studies.turing.figures import draw_convincing, draw_groups
from fundusforge.studies.turing.gee import OUTCOMES, compare, corrected
from fundusforge.studies.turing.groups import groupings
from fundusforge.studies.turing.measures import (
    MEASURES,
    condition_difference,
    convincing,
    fidelity,
    measured,
    median_seconds,
    reader_scores,
    rushed,
)
from fundusforge.studies.turing.result import Condition, ConditionDifference, GroupRow, GroupTable
from fundusforge.studies.turing.study import STUDY, Study

RESULT, TABLES, TABLE, METHODS = "turing.json", "tables.md", "tables.csv", "methods.md"
_LINES = ("accuracy", "sensitivity", "specificity", "balanced", "d_prime", "criterion", "seconds")


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig:
    """What to analyse, and how."""

    study: Path
    """Study folder, with `readers.csv` and `answers.csv`, and its `images/` where there are any."""
    out: Path | None = None
    """Folder of results; `analysis` in the study folder if left out."""
    readers: Path | None = None
    """`readers.csv`, if it lies elsewhere."""
    answers: Path | None = None
    """`answers.csv`, if it lies elsewhere."""
    reference: str = "resident"
    """Specialty that the others are compared with."""
    years: float = 5
    """Years of work at which specialties are parted."""
    margin: float = 0.1
    """Largest distance of balanced accuracy from 1/2 that counts as guessing."""
    level: float = 0.05
    """Of each test of equivalence and of difference from 1/2."""
    unfinished: bool = False
    """Also count readers who have not come to the end."""
    draws: int = 1000
    """Bootstrap draws."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        if not 0 < self.margin < 0.5 or not 0 < self.level < 0.5:
            raise ValueError("margin and level must be in (0, 0.5)")
        if not 0 < self.years < 100 or self.draws < 100 or self.seed < 0:
            raise ValueError("expected years in (0, 100), 100 draws or more, and seed >= 0")

    @property
    def place(self) -> Path:
        """Folder of results."""
        return self.out or self.study / "analysis"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The content of `turing.json`."""

    conditions: tuple[Condition, ...]
    differences: tuple[ConditionDifference, ...]
    """Against the first condition; empty if there is one."""
    left_out: tuple[str, ...]
    """Readers who have not finished and do not count."""
    conclusions: tuple[str, ...]
    """Plain sentences."""
    warnings: tuple[str, ...]
    files: tuple[str, ...]
    """What was written beside `turing.json`."""
    settings: dict[str, Any]
    versions: dict[str, str]
    command: str
    version: str
    schema: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return what `turing.json` holds, as plain values."""
        return json.loads(to_json(self))

    def lines(self) -> list[dict[str, Any]]:
        """Return what `docs/results/record.py` takes: one entry for each figure with a value."""
        found: list[dict[str, Any]] = []
        for condition in self.conditions:
            stem = f"turing_{slug(condition.condition)}" if len(self.conditions) > 1 else "turing"
            found += self._of_row(stem, condition.overall)
            for table in condition.tables:
                for row in table.rows:
                    found += self._of_row(f"{stem}_{table.name}_{slug(row.group)}", row)
                for one in table.comparisons:
                    name = f"{stem}_{table.name}_{slug(one.group)}_{one.outcome}_{slug(one.effect)}"
                    n = one.readers + one.reference_readers
                    found.append(self._line(name, one.value, one.low, one.high, n, one.effect))
            if condition.repeated is not None:
                for name in ("percent", "kappa"):
                    one = getattr(condition.repeated, name)
                    found.append(
                        self._line(f"{stem}_repeated_{name}", one.value, one.low, one.high, one.images, "1")
                    )
        return [one for one in found if one["value"] is not None]

    def text(self) -> str:
        """Return tables, conclusions and warnings for a terminal."""
        warnings = [f"warning: {one}" for one in self.warnings]
        parts = [tables.text(self.conditions, self.differences), "\n".join(self.conclusions)]
        return "\n\n".join([*parts, *(["\n".join(warnings)] if warnings else [])])

    def _of_row(self, stem: str, row: GroupRow) -> list[dict[str, Any]]:
        figures: dict[str, Estimate | Agreement] = {name: row.measures[name] for name in _LINES}
        figures |= {"seconds_median": row.seconds_median, "fleiss_kappa": row.kappa}
        return [
            self._line(f"{stem}_{name}", one.value, one.low, one.high, one.readers,
                       "s" if name.startswith("seconds") else "1")
            for name, one in figures.items()
        ]  # fmt: skip

    def _line(
        self, name: str, value: float | None, low: float | None, high: float | None, n: int, unit: str
    ) -> dict[str, Any]:
        return {"name": name, "value": value, "low": low, "high": high, "n": n, "unit": unit,
                "command": self.command}  # fmt: skip


def analyse(
    config: AnalysisConfig, *, command: str | None = None, progress: Callable[[str], Any] | None = None
) -> Analysis:
    """Analyse a study and write `turing.json`, `tables.md`, `tables.csv`, `methods.md` and pictures.

    Pictures: `groups.png` in the shape of the paper's Figure 4; `convincing.png`, the synthetic images most
    and least often taken for real, where the study's pictures are there. With several conditions, one of
    each, its name at the end.

    Args:
        config: What to analyse.
        command: The command line, for the record; reconstructed from the settings if None.
        progress: Called with a line of text as the work goes on.

    Raises:
        AnswersError: A file that does not hold what it should, nobody who counts, or no statsmodels.
        OSError: A file cannot be read or written.
    """
    tell = progress or (lambda text: None)
    answers = read_answers(
        config.readers or config.study / READERS, config.answers or config.study / ANSWERS,
        unfinished=config.unfinished,
    )  # fmt: skip
    conditions: list[Condition] = []
    grids: dict[str, Grid] = {}
    for name in answers.conditions:
        tell(f"condition {name}")
        grids[name] = answers.grid(name)
        conditions.append(_condition(config, answers, name, grids[name]))
    first, *rest = answers.conditions
    differences = tuple(
        ConditionDifference(
            condition=name, less=first, difference=condition_difference(grids[first], grids[name])
        )
        for name in rest
    )
    config.place.mkdir(parents=True, exist_ok=True)
    files, problems = _draw(config, conditions)
    settings = _settings(config)
    result = Analysis(
        conditions=tuple(conditions), differences=differences,
        left_out=tuple(reader.reader for reader in answers.left_out),
        conclusions=tuple(wording.conclusions(conditions, differences)),
        warnings=(*wording.warnings(answers, conditions), *problems),
        files=(TABLES, TABLE, METHODS, *files), settings=settings, versions=_versions(),
        command=command or _command(config), version=__version__,
    )  # fmt: skip
    write_text(config.place / TABLES, tables.markdown(conditions, differences))
    write_text(config.place / TABLE, tables.as_csv(conditions, differences))
    write_text(
        config.place / METHODS,
        wording.methods(answers, conditions, result.conclusions, result.versions, settings),
    )
    write_text(config.place / RESULT, to_json(result) + "\n")
    return result


def _condition(config: AnalysisConfig, answers: Answers, name: str, grid: Grid) -> Condition:
    """Compute all figures of one condition."""
    options = {"draws": config.draws, "seed": config.seed}
    everybody = np.ones(len(grid.readers), np.bool_)
    parted: list[GroupTable] = []
    both = groupings(grid.readers, reference=config.reference, years=config.years)
    family = iter(corrected([
        one for grouping in both for outcome in OUTCOMES for one in compare(grid, grouping, outcome)
    ]))  # fmt: skip
    known: dict[str, GroupRow] = {}
    for method, grouping in enumerate(both, 1):
        rows: list[GroupRow] = []
        for number, (group, members) in enumerate(grouping.groups, 1):
            if group not in known:
                known[group] = _row(config, grid, number, group, members)
            rows.append(
                known[group] if known[group].number == number else _row(config, grid, number, group, members)
            )
        count = (len(rows) - 1) * len(OUTCOMES)
        parted.append(
            GroupTable(method=method, name=grouping.name, title=grouping.title, rows=tuple(rows),
                       comparisons=tuple(next(family) for _ in range(count)))
        )  # fmt: skip
    most, least = convincing(grid)
    said = [one for one in answers.answers if one.condition == name]
    return Condition(
        condition=name, readers=len(grid.readers), real=int((~grid.synthetic).sum()),
        synthetic=int(grid.synthetic.sum()), answers=grid.said_real.size - grid.missing, missing=grid.missing,
        rushed=rushed(said), overall=_row(config, grid, 0, "all readers", everybody), tables=tuple(parted),
        by_reader=tuple(reader_scores(grid)), repeated=within(answers.repeats(name), **options),
        fidelity=fidelity(grid), most_convincing=tuple(most), least_convincing=tuple(least),
    )  # fmt: skip


def _row(
    config: AnalysisConfig, grid: Grid, number: int, group: str, rows: NDArray[np.bool_]
) -> GroupRow:  # fmt: skip
    options = {"draws": config.draws, "seed": config.seed}
    return GroupRow(
        number=number, group=group,
        members=tuple(reader.reader for reader, mine in zip(grid.readers, rows, strict=True) if mine),
        measures={name: measured(grid, name, rows) for name in MEASURES},
        seconds_median=median_seconds(grid, rows, **options), kappa=between(grid, rows, **options),
        equivalence=equivalence(grid, rows, group=group, margin=config.margin, level=config.level),
    )  # fmt: skip


def _draw(config: AnalysisConfig, conditions: Sequence[Condition]) -> tuple[list[str], list[str]]:
    """Write the pictures; return their names, and what stood against one."""
    files: list[str] = []
    problems: list[str] = []
    for one in conditions:
        end = f"_{slug(one.condition)}" if len(conditions) > 1 else ""
        files.append(f"groups{end}.png")
        draw_groups(config.place / files[-1], one)
        shown = [each.image for each in (*one.most_convincing, *one.least_convincing)]
        pictures = _pictures(config.study, one.condition)
        if not shown or not pictures:
            continue
        if missing := [image for image in shown if image not in pictures]:
            problems.append(
                f"No picture of {missing[0]} in {config.study.name}: no sheet of images was made."
            )
            continue
        files.append(f"convincing{end}.png")
        draw_convincing(config.place / files[-1], one, pictures.__getitem__)
    return files, problems


def _pictures(study: Path, condition: str) -> dict[str, Path]:
    """Return the file of every image: as `study.json` tells, else as its name says."""
    if (file := study / STUDY).is_file():
        try:
            known = from_json(Study, file.read_bytes(), where=str(file)).pictures
        except ConfigError:
            known = ()
        found = {one.image: study / one.file for one in known if one.condition == condition}
        if found:
            return {image: path for image, path in found.items() if path.is_file()}
    folder = study / "images"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem: path for path in files if path.suffix.lower() in {".png", ".jpg", ".jpeg"}}


def _settings(config: AnalysisConfig) -> dict[str, Any]:
    """Return the settings without folders."""
    return {
        name: value for name, value in asdict(config).items()
        if name not in {"study", "out", "readers", "answers"}
    }  # fmt: skip


def _versions() -> dict[str, str]:
    names = ("statsmodels", "numpy", "scipy")
    return {"fundusforge": __version__, "python": platform.python_version()} | {
        name: version_of(name) for name in names
    }


def _command(config: AnalysisConfig) -> str:
    parts = ["fundusforge", "turing", "analyse", str(config.study)]
    for name in ("out", "readers", "answers", *_settings(config)):
        value, default = getattr(config, name), AnalysisConfig.__dataclass_fields__[name].default
        if value != default:
            option = "--" + name.replace("_", "-")
            parts += [option] if value is True else [option, str(value)]
    return shlex.join(parts)
