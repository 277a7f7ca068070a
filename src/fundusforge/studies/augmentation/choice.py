"""Which arm stands for its kind: chosen on validation alone, never on a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fundusforge.records import DatasetError
from fundusforge.studies.augmentation.arms import PLAIN
from fundusforge.studies.augmentation.cells import Outcome
from fundusforge.studies.augmentation.measures import Measures
from fundusforge.studies.augmentation.settings import VAL


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The best free arm and the best with synthetic images, by the mean over seeds on validation."""

    setting: str
    learner: str
    free: str
    synthetic: str | None
    """None where nothing is to be filled."""
    validation: Mapping[str, float]
    """Score of every arm that was run with all seeds."""
    screened: Mapping[str, float]
    """Score of every free arm in the screening; empty where none was made."""


def ranked(measures: Measures, arms: Mapping[str, Sequence[Outcome]]) -> dict[str, float]:
    """Return the validation scores of arms, the best first; of equal ones the earlier stays ahead.

    Raises:
        DatasetError: The score cannot be computed on validation.
    """
    found: dict[str, float] = {}
    for name, outcomes in arms.items():
        value = measures.value(outcomes, VAL, measures.main)
        if value is None:
            raise DatasetError(f"{measures.main} cannot be computed on validation, on which arms are chosen")
        found[name] = value
    return dict(sorted(found.items(), key=lambda row: -row[1]))


def sifted(scores: Mapping[str, float], keep: int) -> list[str]:
    """Return the free arms that get all seeds: the best so many, beside the plain one."""
    return [name for name in scores if name != PLAIN][:keep]
