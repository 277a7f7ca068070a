"""The vessels of drawn trees beside those of real ones: the measures of the evaluation, as one family.

Density and length are those of `fundusforge.evaluate.amount`, all others of `evaluate.anatomy`; both sets are
read from the masks as stored. The tests are those of `evaluate.comparison`: Welch's t-test, and two one-sided
tests of equivalence, corrected together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fundusforge.evaluate.amount import Amount, vessel_amount
from fundusforge.evaluate.anatomy.measure import Anatomy
from fundusforge.evaluate.anatomy.population import MEASURES, anatomies
from fundusforge.evaluate.comparison import Quantity, Values, compare
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.figures import Better, Figure

AMOUNTS = (
    ("fraction", "vessel_density", "Vessel density", "of the field of view"),
    ("length", "vessel_length", "Vessel length", "diameters of the field of view"),
)
"""Attribute of `Amount`; name, title and unit of its figure."""
TREE = (
    "calibre", "arc_over_chord", "curvature", "bifurcations", "fractal_dimension", "broken_vessels",
    "orphan_share",
)  # fmt: skip
"""Attributes of `Anatomy` that speak of the tree alone."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A set and what was measured of each of its trees."""

    images: ImageSet
    amounts: Sequence[Amount]
    anatomies: Sequence[Anatomy]

    def values(self, attribute: str) -> Values:
        """Return the values that are known, and the record of each."""
        rows = self.amounts if attribute in {row[0] for row in AMOUNTS} else self.anatomies
        found = [(i, value) for i, row in enumerate(rows) if (value := getattr(row, attribute)) is not None]
        values = np.array([value for _, value in found], np.float64)
        return values, [self.images.records[i] for i, _ in found]


def trees(images: ImageSet) -> Measured:
    """Measure every tree of a set.

    Args:
        images: Each with a vessel mask.

    Raises:
        DatasetError: A picture cannot be read.
    """
    return Measured(
        images=images,
        amounts=[
            vessel_amount(images.mask(i, "vessels"), images.field_of_view(i)) for i in range(len(images))
        ],
        anatomies=anatomies(_evidence(images, images, margin=0.2, seed=0, draws=100, repeats=1), images),
    )


def figures(
    synthetic: Measured, real: Measured, *, name: str, margin: float = 0.2, seed: int = 0, draws: int = 1000,
    repeats: int = 100,
) -> list[Figure]:  # fmt: skip
    """Return mean and standardised difference (`_d`) of every measure, with the tests in the notes of `_d`.

    Args:
        synthetic: The drawn trees.
        real: The real ones.
        name: First part of the figures' names.
        margin: Largest difference that counts as none, in pooled standard deviations.
        seed: Of bootstrap and halves.
        draws: Bootstrap draws.
        repeats: Random halves of the real patients, for the floor.
    """
    rows: list[tuple[str, str, str, str, Better, str]] = [(*row, "none", "") for row in AMOUNTS]
    family = [
        Quantity(
            name=called, title=title, unit=unit, better=better, extractor="masks as stored, both sets",
            synthetic=synthetic.values(attribute), real=real.values(attribute),
            reason="no vessels, or none long enough", notes=(note,) if note else (),
        )
        for attribute, called, title, unit, better, note in (*rows, *(m for m in MEASURES if m[0] in TREE))
    ]  # fmt: skip
    settings = _evidence(
        synthetic.images, real.images, margin=margin, seed=seed, draws=draws, repeats=repeats
    )
    return [replace(one, name=f"{name}_{one.name}") for one in compare(settings, family)]


def equivalent(figure: Figure) -> bool | None:
    """Whether equivalence is shown by a difference (`_d`) of `figures`; None if it could not be tested."""
    tests = [note for note in figure.notes if note.startswith("Two one-sided tests")]
    return tests[0].endswith("(equivalent).") if tests else None


def _evidence(
    synthetic: ImageSet, real: ImageSet, *, margin: float, seed: int, draws: int, repeats: int
) -> Evidence:
    return Evidence(
        synthetic=synthetic, real=real, judge=None, size=512, margin=margin, reference=None, seed=seed,
        draws=draws, repeats=repeats,
    )  # fmt: skip
