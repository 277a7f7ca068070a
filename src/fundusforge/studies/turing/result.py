"""What the analysis of a reader study holds, condition by condition: the content of `turing.json`."""

from __future__ import annotations

from dataclasses import dataclass

from fundusforge.studies.turing.agreement import Agreement, Repeated
from fundusforge.studies.turing.crossed import Estimate
from fundusforge.studies.turing.equivalence import Equivalence
from fundusforge.studies.turing.gee import Comparison
from fundusforge.studies.turing.measures import Convincing, Measure, ReaderScore


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """The figures of one group of readers."""

    number: int
    """As in the tables, from 1; 0 for all readers."""
    group: str
    members: tuple[str, ...]
    """Names of the readers."""
    measures: dict[Measure, Estimate]
    seconds_median: Estimate
    kappa: Agreement
    """Fleiss', between the readers of the group."""
    equivalence: Equivalence


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One way to part readers, with the figures of its groups and how they compare with the first."""

    method: int
    """1 by specialty and years, 2 by specialty, as the paper counts."""
    name: str
    title: str
    rows: tuple[GroupRow, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """All figures of one condition."""

    condition: str
    readers: int
    real: int
    """Images."""
    synthetic: int
    answers: int
    """First showings."""
    missing: int
    """Pairs of reader and image without an answer."""
    rushed: int
    """Answers given in less than a second."""
    overall: GroupRow
    tables: tuple[GroupTable, ...]
    by_reader: tuple[ReaderScore, ...]
    repeated: Repeated | None
    """None if no image was shown twice."""
    fidelity: dict[str, Estimate]
    """Mean score of `real` and `synthetic` images, and `real_less_synthetic`; empty if nobody gave one."""
    most_convincing: tuple[Convincing, ...]
    """Synthetic images most often taken for real."""
    least_convincing: tuple[Convincing, ...]


@dataclass(frozen=True, kw_only=True)
class ConditionDifference:
    """Balanced accuracy in one condition less that in the first."""

    condition: str
    less: str
    difference: Estimate
