"""Which anatomical rules an image breaks, in words: what a human looks at first.

Three rules hold for any photograph of a fundus: there is a disc, its centre lies inside the disc that was
painted (where there is a mask of that, and a segmenter found the other), and there is a fovea where its place
is in view. For the others no constant of nature is known, and the segmenter that reads the vessels adds
errors of its own. So the real images set them, read in the same way: a value is unusual beyond the fences of
Tukey (Exploratory Data Analysis, 1977), one and a half times the interquartile range outside the quartiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fundusforge.evaluate.anatomy.measure import Anatomy
from fundusforge.evaluate.evidence import ImageSet

Limits = Mapping[str, tuple[float, float]]
"""Usual range of measures of `Anatomy`, by name."""
_FEWEST = 4
"""Real images below which nothing is called usual."""
ASTRAY = 0.5
"""Distance in disc diameters from which the centre of a disc lies outside the disc that was painted."""
_WORDS = {
    "vessel_fraction": ("too little vessel: {:.1%} of the field of view", "too much vessel: {:.1%}"),
    "broken_vessels": ("", "{:.0f} broken vessels"),
    "orphan_share": ("", "orphan vessels: {:.1%} of the vessels' length"),
    "across_disc": ("", "{:.0f} vessels across the disc"),
}
"""What is said below and above the usual range; nothing where a low value is no fault."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image and what is wrong with it."""

    image: str
    """As named in its record."""
    patient: str
    violations: tuple[str, ...]
    """Broken rules in words."""
    anatomy: Anatomy

    @property
    def score(self) -> int:
        """Number of broken rules."""
        return len(self.violations)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self) | {"score": self.score, "violations": list(self.violations)}


def usual(real: Sequence[Anatomy]) -> Limits:
    """Return the range of each measure that real images show; none of a measure that fewer than 4 have."""
    found: dict[str, tuple[float, float]] = {}
    for name in _WORDS:
        values = [value for anatomy in real if (value := getattr(anatomy, name)) is not None]
        if len(values) >= _FEWEST:
            low, high = (float(quartile) for quartile in np.quantile(values, [0.25, 0.75]))
            found[name] = (low - 1.5 * (high - low), high + 1.5 * (high - low))
    return found


def violations(anatomy: Anatomy, limits: Limits) -> tuple[str, ...]:
    """Return the rules that an image breaks, in words; a rule whose measure or limit is absent is passed."""
    found: list[str] = []
    if anatomy.disc_found is False:
        found.append("no optic disc")
    if anatomy.disc_offset is not None and anatomy.disc_offset > ASTRAY:
        found.append(f"optic disc astray: {anatomy.disc_offset:.1f} disc diameters from the mask's")
    if anatomy.fovea_found is False:
        found.append("no fovea where it should be")
    for name, (below, above) in _WORDS.items():
        value = getattr(anatomy, name)
        if value is None or name not in limits:
            continue
        low, high = limits[name]
        if value > high:
            found.append(above.format(value))
        elif value < low and below:
            found.append(below.format(value))
    return tuple(found)


def rows(images: ImageSet, found: Sequence[Anatomy], limits: Limits) -> list[Row]:
    """Return one row per image, in order; sort them by `score` for the worst.

    Args:
        images: The images.
        found: The anatomy of each (`fundusforge.evaluate.anatomy.population.anatomies`).
        limits: Of real images (`usual`).
    """
    return [
        Row(
            image=record.image,
            patient=record.patient,
            violations=violations(anatomy, limits),
            anatomy=anatomy,
        )
        for record, anatomy in zip(images.records, found, strict=True)
    ]
