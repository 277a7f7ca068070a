"""What a study found: rows, comparisons, figures and plain sentences; `study.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fundusforge.evaluate.figures import Figure
from fundusforge.studies.augmentation.choice import Choice
from fundusforge.studies.augmentation.measures import TITLES
from fundusforge.studies.augmentation.power import Power
from fundusforge.studies.chain.facts import laid_out
from fundusforge.studies.chain.result import Report

STUDY, TABLES, METHODS, PICTURES = "study.json", "tables.md", "methods.md", "figures"
"""What a study's folder holds for readers."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A mean over seeds; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def words(self) -> str:
        """Return value and interval."""
        if self.value is None:
            return "none"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm on one set."""

    setting: str
    title: str
    learner: str
    arm: str
    where: str
    seeds: int
    images: int
    patients: int
    learnt: Mapping[str, int]
    """Training images, real and synthetic, by class."""
    values: Mapping[str, Value]
    """By measure."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The arm with synthetic images against the best free baseline, on one set."""

    setting: str
    title: str
    learner: str
    where: str
    synthetic: str
    free: str
    """Chosen on validation."""
    measure: str
    gain: Value
    over_plain: Value
    """Gain over no technique at all, which is what the papers report."""
    p: float | None
    """Two-sided, of no gain over the free baseline."""
    holm: float | None
    """The same after Holm's correction over all comparisons."""
    test: str
    mcnemar: float | None
    """Exact p of the decisions."""
    patients_error: float | None
    seeds_error: float | None
    seeds: int
    images: int
    patients: int
    verdict: str
    """helps, harms, or not shown."""
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Amount:
    """A point of the curve of amounts."""

    setting: str
    learner: str
    amount: float
    """As a part of the full one; 0 is the best free baseline."""
    images: int
    value: Value
    gain: Value
    """Over the best free baseline; no claim, since it is not corrected for."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a setting's synthetic images came from."""

    setting: str
    source: str
    taught: int | None
    beyond: int
    verdicts: Mapping[str, int]
    left_out: int
    used: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Characteristics:
    """The photographs of one class in one set (Kim et al. 2022, Table 1)."""

    part: str
    group: str
    images: int
    patients: int
    age: float | None
    """Mean, years."""
    age_deviation: float | None
    male: int
    female: int
    unknown: int
    """Of no stated sex."""


@dataclass(frozen=True, kw_only=True)
class StudyResult(Report):
    """The content of `study.json`."""

    name: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    choices: tuple[Choice, ...]
    amounts: tuple[Amount, ...]
    sources: tuple[Source, ...]
    characteristics: tuple[Characteristics, ...]
    foreseen: tuple[Power, ...]
    """Power by simulation, before anything was trained; empty where no area is tested."""
    figures: tuple[Figure, ...]
    sentences: tuple[str, ...]
    """The answers, in words."""
    warnings: tuple[str, ...]
    methods: str
    pictures: tuple[str, ...]
    """Files, from the study's folder."""
    settings: Mapping[str, Any]
    """The study's file."""
    command: str
    version: str
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    schema: int = 1

    def _laid_out(self, *, markdown: bool) -> str:
        tables = [self._performance(), self._gains(), self._chosen(), self._curve(), self._supplies()]
        tables += [self._who()]
        parts = [*self.sentences, *(laid_out(rows, markdown=markdown) for rows in tables if len(rows) > 1)]
        return "\n\n".join([*parts, *(f"warning: {warning}" for warning in self.warnings)])

    def _performance(self) -> list[tuple[str, ...]]:
        names = list(dict.fromkeys(name for row in self.rows for name in row.values))
        found = [("Setting", "Model", "Arm", "Tested on", "Seeds", *(TITLES[name] for name in names))]
        for row in self.rows:
            values = (row.values[name].words() if name in row.values else "" for name in names)
            found.append((row.title, row.learner, row.arm, row.where, str(row.seeds), *values))
        return found

    def _gains(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [
            ("Setting", "Model", "Tested on", "With", "Best free baseline", "Gain", "Gain over plain", "p",
             "p, Holm", "McNemar", "Verdict")
        ]  # fmt: skip
        for one in self.comparisons:
            p = [_number(value) for value in (one.p, one.holm, one.mcnemar)]
            found.append((one.title, one.learner, one.where, one.synthetic, one.free, one.gain.words(),
                          one.over_plain.words(), *p, one.verdict))  # fmt: skip
        return found

    def _chosen(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [("Setting", "Model", "Arm", "Validation", "Screening")]
        for one in self.choices:
            for arm in dict.fromkeys([*one.validation, *one.screened]):
                mark = " (chosen)" if arm in (one.free, one.synthetic) else ""
                scores = [_number(each.get(arm)) for each in (one.validation, one.screened)]
                found.append((one.setting, one.learner, arm + mark, *scores))
        return found

    def _curve(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [("Setting", "Model", "Amount", "Synthetic images", "Value", "Gain")]
        for one in self.amounts:
            cells = (f"{one.amount:g}", str(one.images), one.value.words(), one.gain.words())
            found.append((one.setting, one.learner, *cells))
        return found

    def _supplies(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [
            ("Setting", "Generator", "Learnt from", "Used", "Left out by the audit", "Verdicts")
        ]
        for one in self.sources:
            used = ", ".join(f"{count} {name}" for name, count in one.used.items())
            verdicts = ", ".join(f"{count} {name}" for name, count in one.verdicts.items())
            taught = "unknown" if one.taught is None else str(one.taught)
            found.append((one.setting, one.source, taught, used, str(one.left_out), verdicts))
        return found

    def _who(self) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [
            ("Set", "Class", "Images", "Patients", "Age (SD)", "Sex (M, F, unknown)")
        ]
        for one in self.characteristics:
            age = "" if one.age is None else f"{one.age:.2f}"
            age += "" if one.age_deviation is None else f" ({one.age_deviation:.2f})"
            sex = f"{one.male}, {one.female}, {one.unknown}"
            found.append((one.part, one.group, str(one.images), str(one.patients), age, sex))
        return found


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
