"""Figures by subgroup: what is good on average may be poor for the old, for a camera, or for a grade.

Every figure is a function of weights (`fundusforge.evaluate.statistics`), so a subgroup is the same function
with all other images weighted zero, and its interval draws the patients of the subgroup alone.

A subgroup of few patients is not shown: a figure of four people comes near to one of a person. If the hidden
subgroups of an attribute hold too few patients together, their figure could be told from the others and the
whole; the smallest shown subgroup is then hidden too. A patient with images in several subgroups (both eyes,
two visits) counts in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate.evidence import Evidence, Given
from fundusforge.evaluate.figures import Attribute, Subgroup, measured
from fundusforge.evaluate.statistics import Statistic, Weights, bootstrap, weighted_mean
from fundusforge.records import Record

FEWEST = 5
"""Patients below which a subgroup is not shown."""
UNKNOWN = "unknown"
"""The subgroup of images of which the attribute is not known."""
_BANDS = (18, 40, 60, 75)
"""Ages in years at which a band begins, after the first."""


def age_band(age: float | None) -> str | None:
    """Return the band of an age in years, or None if it is not known.

    >>> age_band(59.5), age_band(80), age_band(3), age_band(None)
    ('40-59', '75+', '0-17', None)
    """
    if age is None:
        return None
    starts = (0, *_BANDS)
    place = int(np.searchsorted(_BANDS, age, side="right"))
    return f"{starts[place]}-{starts[place + 1] - 1}" if place < len(_BANDS) else f"{starts[place]}+"


def _grade(record: Record) -> str | None:
    return None if record.grade is None else str(record.grade)


ATTRIBUTES: dict[Attribute, Callable[[Record], str | None]] = {
    "age": lambda record: age_band(record.age),
    "sex": lambda record: record.sex,
    "eye": lambda record: record.eye,
    "camera": lambda record: record.camera,
    "source": lambda record: record.source,
    "grade": _grade,
}
"""How images are divided: a record to the name of its subgroup, or None where it is not known."""


def of_evidence(evidence: Evidence) -> tuple[Subgroup, ...]:
    """Return every kept figure by subgroup, of the synthetic images and of the real ones."""
    return tuple(
        replace(row, real=real)
        for real, kept in ((False, evidence.kept), (True, evidence.kept_real))
        for name, (given, records) in kept.items()
        for row in subgroups({name: given}, records, seed=evidence.seed, draws=evidence.draws)
    )


def subgroups(
    figures: Mapping[str, Given],
    records: Sequence[Record],
    *,
    seed: int,
    draws: int = 1000,
    attributes: Sequence[Attribute] = tuple(ATTRIBUTES),
    fewest: int = FEWEST,
) -> tuple[Subgroup, ...]:
    """Recompute figures for every subgroup.

    Args:
        figures: Figures by name. Each is (n,) values, one per image, of which the mean is the figure, and
            where NaN says that an image has none; or a function of the weights of all images (a pooled
            figure, or one of two sets that holds the other set itself).
        records: The records of the images.
        seed: Seed of the bootstrap draws.
        draws: Bootstrap draws.
        attributes: How to divide. An attribute that no record tells, or that is the same for all, is left
            out.
        fewest: Patients below which a subgroup is not shown.

    Returns:
        By figure, attribute and group, in that order.

    Raises:
        ValueError: Another number of values than of records.
    """
    found: list[Subgroup] = []
    for figure, given in figures.items():
        statistic, counted = (given, list(records)) if callable(given) else _mean(given, records)
        for attribute in attributes:
            groups = divided(counted, attribute)
            if len(groups) < 2:
                continue
            hidden = _hidden(groups, counted, fewest)
            for group, members in groups.items():
                place = Subgroup(
                    figure=figure, attribute=attribute, group=group, images=None, patients=None, value=None,
                    reason=f"not shown: fewer than {fewest} patients, or the smallest beside such",
                )  # fmt: skip
                found.append(
                    place
                    if group in hidden
                    else _measured(place, statistic, counted, members, seed=seed, draws=draws)
                )
    return tuple(found)


def _mean(values: NDArray[np.float64], records: Sequence[Record]) -> tuple[Statistic, list[Record]]:
    """Return the mean of those values that are known, and their records: only these patients count."""
    known = np.isfinite(values)
    kept = values[known]
    counted = [record for record, has in zip(records, known, strict=True) if has]
    return lambda weights: weighted_mean(kept, weights[0]), counted


def divided(records: Sequence[Record], attribute: Attribute) -> dict[str, list[int]]:
    """Return the places of the images of every subgroup; those unknown come last."""
    groups: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        groups.setdefault(ATTRIBUTES[attribute](record) or UNKNOWN, []).append(place)
    return {name: groups[name] for name in sorted(groups, key=lambda name: (name == UNKNOWN, name))}


def _patients(records: Sequence[Record], members: Sequence[int]) -> list[str]:
    return [records[place].patient for place in members]


def _hidden(groups: Mapping[str, Sequence[int]], records: Sequence[Record], fewest: int) -> set[str]:
    """Return the subgroups that are not shown."""
    sizes = {group: len(set(_patients(records, members))) for group, members in groups.items()}
    order = sorted(sizes, key=lambda group: (sizes[group], group))
    hidden = {group for group in order if sizes[group] < fewest}
    if hidden and sum(sizes[group] for group in hidden) < fewest:
        hidden.update([group for group in order if group not in hidden][:1])
    return hidden


def _measured(
    place: Subgroup,
    statistic: Statistic,
    records: Sequence[Record],
    members: Sequence[int],
    *,
    seed: int,
    draws: int,
) -> Subgroup:
    """Return the figure of the images at `members`, with its interval."""

    def within(weights: Sequence[Weights]) -> float | None:
        spread = np.zeros(len(records))
        spread[list(members)] = weights[0]
        return statistic([spread])

    patients = _patients(records, members)
    value = within([np.ones(len(members))])
    interval = bootstrap(within, patients, seed=seed, draws=draws)
    return replace(
        place, images=len(members), patients=len(set(patients)), **measured(value, interval),
        reason="" if value is not None else "it cannot be computed for these images",
    )  # fmt: skip
