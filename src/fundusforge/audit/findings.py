"""What an audit reports: one finding per synthetic image, what unrelated patients show, and `audit.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fundusforge.config import from_json, to_json
from fundusforge.evaluate.figures import Figure, FolderSummary, figure_of
from fundusforge.records import write_text

AUDIT = "audit.json"
SCHEMA = 2
"""Version of the content of `audit.json`; raised when a field changes its meaning or goes."""

Test = Literal["pixels", "pixels_half", "trees", "trees_half", "features"]
"""What is compared: fine structure of the picture, the vessel tree (each whole or by its best half), or
vectors of an extractor."""
TESTS: tuple[Test, ...] = ("pixels", "pixels_half", "trees", "trees_half", "features")
Verdict = Literal["copy", "same tree", "half copy", "alike", "near", "clear"]
"""From worst to best; docs/audit.md says what each means. All but `near` and `clear` are offences."""
VERDICTS: tuple[Verdict, ...] = ("copy", "same tree", "half copy", "alike", "near", "clear")
OFFENCES: tuple[Verdict, ...] = ("copy", "same tree", "half copy", "alike")


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """The training picture most like an image in one test."""

    test: Test
    value: float
    """Correlation, or share of matched vessel length; higher is more alike, 1 is the same."""
    p: float
    """Share of held-out patients with a picture at least as like to a training picture of another patient,
    counting the image itself as one: never 0."""
    excess: float
    """How far above the held-out patients' median, in steps from their median to their 95th percentile."""
    neighbour: str
    """The training picture, as its metadata names it; where there are several training folders, from the
    folder that holds all of them."""
    region: str = "whole"
    """`whole`, or the half that looks alike: `left`, `right`, `top`, `bottom` of the neighbour."""
    same_patient: bool = False
    """Whether image and neighbour bear the same patient's name."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The verdict on one synthetic image."""

    image: str
    """As its metadata names it."""
    verdict: Verdict
    p: float
    """As `Likeness.p`, of the largest excess of all tests: with it, testing several times is paid for."""
    neighbour: str
    """The training picture of the test that decided."""
    likeness: tuple[Likeness, ...]
    sha256: dict[str, str] = field(default_factory=dict[str, str])
    """Of each file that was looked at, by what it shows: `image`, `field_of_view`, masks by name. The gate
    refuses an image whose files are others, so also one without."""

    @property
    def offends(self) -> bool:
        """Whether the image is more like a training picture than chance explains."""
        return self.verdict in OFFENCES


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What a test gives for held-out patients: the likeness to the nearest picture of another patient."""

    test: str
    """A `Test`, or `all`: the largest excess of all tests."""
    patients: int
    images: int
    median: float
    q95: float
    q99: float
    largest: float
    threshold: float
    """Least likeness (for `all`, excess) whose p is at most the level."""


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """Real images that an audit compared with, of one folder or of several."""

    images: int
    """That were looked at and count."""
    patients: int
    terms: tuple[str, ...]
    """Of all of them, each `source: terms`."""
    folders: tuple[FolderSummary, ...]
    """What was read of each folder, before patients were left out of chance."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Data sets that the images are of."""
        return tuple(sorted({source for folder in self.folders for source in folder.sources}))


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The content of `audit.json`."""

    schema: int = SCHEMA
    synthetic: FolderSummary
    train: RealSet
    holdout: RealSet
    level: float
    """False alarms allowed: the share of unrelated images that may be called offences. Above what was
    wished where there are too few held-out patients."""
    bar: float
    """Least excess of an offence."""
    chance: tuple[Chance, ...]
    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]
    quarantined: tuple[str, ...] = ()
    """Images that were moved aside."""
    settings: dict[str, str | int | float | bool | list[str] | None]
    command: str
    version: str

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: There is none.
        """
        return figure_of(self.figures, name)

    def offenders(self) -> tuple[Finding, ...]:
        """Return the findings that are offences, the most alike first."""
        found = [finding for finding in self.findings if finding.offends]
        return tuple(sorted(found, key=lambda f: -max(each.excess for each in f.likeness)))

    def counts(self) -> dict[str, int]:
        """Return the number of images of every verdict."""
        return {v: sum(finding.verdict == v for finding in self.findings) for v in VERDICTS}

    def to_dict(self) -> dict[str, Any]:
        """Return what `audit.json` holds, as plain values."""
        return json.loads(to_json(self))

    def write(self, path: Path) -> None:
        """Write `audit.json`, strict JSON, atomically."""
        write_text(path, to_json(self) + "\n")


def read_audit(path: Path) -> Audit:
    """Read `audit.json`, strictly.

    Raises:
        fundusforge.config.ConfigError: Not such a file; the message names it and the fault.
        OSError: It cannot be read.
    """
    return from_json(Audit, Path(path).read_text("utf-8"), where=str(path))
