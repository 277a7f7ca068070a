"""How lesions are laid out in real eyes, as numbers of a population: counted, fitted, stored as JSON.

Counts: per grade and kind the share of eyes without any, and of the others one plus a negative binomial
(mean, and variance beyond Poisson's), split over the quadrants by a Dirichlet-multinomial. A cell of fewer
than `least` eyes is pooled with those of the neighbouring grades, the next sicker one first, until it has as
many; eyes whose lesions a model found are counted only where eyes drawn by people do not suffice.

Sizes: logarithms of diameters are normal, within an eye and between eyes. Shapes: deciles of the aspect, how
ragged outlines are, and whether long ones lie along vessels.

Places: within a quadrant, the density of a kind is a product of four factors, of the distances to the disc's
centre, to the fovea, to the nearest vessel and to the nearest of its own kind, each a step function. Factors
are fitted by iterative scaling (Darroch and Ratcliff, Ann Math Stat 1972;43:1470) until places of the model
have the distances of real ones; with the last factor it is a nearest-neighbour process fitted by
pseudo-likelihood (Baddeley and van Lieshout, Ann Inst Stat Math 1995;47:601).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fundusforge.config import from_json, to_json
from fundusforge.records import DatasetError, write_text
from fundusforge.severity import GRADES, LESIONS

EDGES: dict[str, tuple[float, ...]] = {
    "disc": (0.8, 1.1, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0),
    "fovea": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    "vessel": (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45),
    "own": (0.05, 0.08, 0.12, 0.17, 0.25, 0.35, 0.5, 0.75, 1.1, 1.6, 2.5),
}
"""Distances in disc diameters at which the steps of a factor change; a factor has one step more."""
MEASURED = Path(__file__).with_name("layouts.json")
"""The statistics that come with the package."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many lesions of a kind an eye of a grade has."""

    lesion: str
    grade: int
    eyes: int
    """Counted in this cell."""
    predicted: int
    """Of these, eyes whose lesions a model found."""
    grades: tuple[int, ...]
    """Pooled in this cell."""
    absent: float
    """Share of eyes that have none."""
    mean: float
    """Of the eyes that have some."""
    spread: float
    """Variance of the number beyond one, less its mean, over the square of its mean: 0 for Poisson."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What lesions of a kind look like and where they lie, whatever the grade."""

    lesion: str
    eyes: int
    lesions: int
    size: float
    """Mean logarithm of the diameter in disc diameters."""
    between: float
    """Standard deviation of an eye's mean logarithm."""
    within: float
    """Standard deviation of logarithms in one eye."""
    aspects: tuple[float, ...]
    """Deciles of short over long axis: 11 numbers, the first and the last of 2 and 98 per cent."""
    fill: float
    """Median of area over that of the ellipse of the same moments."""
    along: float
    """Mean cosine of twice the angle of long lesions with the nearest vessel: 1 along, 0 any, -1 across."""
    quadrants: tuple[float, float, float, float]
    """Shares in the order of `severity.QUADRANTS`."""
    evenness: float
    """Concentration of the Dirichlet distribution of an eye's own shares; eyes are alike where large."""
    disc: tuple[float, ...]
    """Factors of the density by distance to the disc's centre; the steps are those of `EDGES`."""
    fovea: tuple[float, ...]
    vessel: tuple[float, ...]
    own: tuple[float, ...]
    """By distance to the nearest lesion of the same kind."""

    def __post_init__(self) -> None:
        """Refuse a factor that does not have the steps of `EDGES`."""
        for name, edges in EDGES.items():
            steps = getattr(self, name)
            if len(steps) != len(edges) + 1 or min(steps) < 0 or max(steps) <= 0:
                raise DatasetError(
                    f"{self.lesion}: the factor of {name!r} needs {len(edges) + 1} steps, none negative and "
                    f"not all 0, not {steps}"
                )
        if len(self.aspects) != 11:
            raise DatasetError(f"{self.lesion}: aspects are 11 deciles, not {len(self.aspects)} numbers")


@dataclass(frozen=True, kw_only=True)
class LayoutStatistics:
    """How lesions are laid out in a population of eyes. No number is of a single eye."""

    sources: tuple[str, ...]
    """Data sets measured, each `source: terms`."""
    eyes: int
    least: int
    """Eyes that each cell has at least, by pooling."""
    counts: tuple[Count, ...]
    kinds: tuple[Kind, ...]
    severe_by_count: float
    """Share of eyes of grade 3 that are so by haemorrhages alone: more than 20 in each quadrant."""

    def __post_init__(self) -> None:
        """Refuse statistics that lack a kind or a cell."""
        if lacking := [name for name in LESIONS if name not in {kind.lesion for kind in self.kinds}]:
            raise DatasetError(f"layout statistics lack the kind {lacking[0]!r}")
        cells = {(count.lesion, count.grade) for count in self.counts}
        for name, grade in ((name, grade) for name in LESIONS for grade in GRADES[1:]):
            if (name, grade) not in cells and not (grade == 1 and name != "microaneurysms"):
                raise DatasetError(f"layout statistics lack the number of {name} in grade {grade}")

    def kind(self, lesion: str) -> Kind:
        """Return what is known of a kind.

        Raises:
            DatasetError: Nothing is.
        """
        for kind in self.kinds:
            if kind.lesion == lesion:
                return kind
        raise DatasetError(f"unknown lesion {lesion!r}; known are {', '.join(k.lesion for k in self.kinds)}")

    def count(self, lesion: str, grade: int) -> Count:
        """Return how many an eye of a grade has.

        Raises:
            DatasetError: Nobody counted.
        """
        for count in self.counts:
            if (count.lesion, count.grade) == (lesion, grade):
                return count
        raise DatasetError(f"nobody counted {lesion} in grade {grade}")


def read_statistics(path: Path | None = None) -> LayoutStatistics:
    """Read statistics; those that come with the package if `path` is None.

    Raises:
        ConfigError: No such statistics in the file; the message names file and field.
        OSError: The file cannot be read.
    """
    path = Path(path or MEASURED)
    return from_json(LayoutStatistics, path.read_text("utf-8"), where=str(path))


def write_statistics(path: Path, statistics: LayoutStatistics) -> None:
    """Write statistics as JSON."""
    write_text(Path(path), to_json(statistics) + "\n")
