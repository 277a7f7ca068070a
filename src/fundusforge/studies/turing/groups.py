"""Groups of readers, as Kim et al. 2022 make them: by specialty, and by specialty and years of work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusforge.studies.turing.answers import Reader


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """One way to part readers; the first group is the one that the others are compared with."""

    name: str
    """For machines."""
    title: str
    groups: tuple[tuple[str, NDArray[np.bool_]], ...]
    """Name of each group, and (R,) who belongs to it; a group can be empty."""


def groupings(readers: Sequence[Reader], *, reference: str, years: float) -> tuple[Grouping, Grouping]:
    """Return both ways to part readers: by specialty and years (method 1 of the paper), by specialty (2).

    Readers of the reference are one group in both; those of every other specialty are parted, in method 1,
    into under so many years of work, and so many or more.

    Args:
        readers: R readers.
        reference: Specialty that the others are compared with; its group is empty if nobody has it.
        years: Where years of work are cut.
    """
    specialty = np.array([reader.specialty for reader in readers], object)
    worked = np.array([reader.years for reader in readers], float)
    others = sorted(set(specialty.tolist()) - {reference})
    first = (reference, specialty == reference)
    parted = [first]
    for name in others:
        mine = specialty == name
        parted.append((f"{name}, under {years:g} years", mine & (worked < years)))
        parted.append((f"{name}, {years:g} years or more", mine & (worked >= years)))
    return (
        Grouping(name="specialty_years", title="by specialty and years of work", groups=tuple(parted)),
        Grouping(name="specialty", title="by specialty",
                 groups=(first, *((name, specialty == name) for name in others))),
    )  # fmt: skip
