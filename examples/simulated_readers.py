"""A reading study of simulated readers whose skills are known, of the size of Kim et al. 2022.

    python examples/simulated_readers.py --out runs/simulated-readers
    fundusforge turing analyse runs/simulated-readers

Forty readers judge 50 real and 50 synthetic images, ten of them twice. Residents and non-retinal specialists
are equally good (69 % of real images right, 33 % of synthetic ones), retinal specialists better (78 % and
45 %) and quicker (a median of 8 s an image, not 10), whatever their years of work. Readers differ in ability,
leaning and speed and images in difficulty as `fundusforge.studies.turing.simulation` says. Writes
`readers.csv` and `answers.csv`, and prints the true odds ratios against residents, one line of JSON each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from fundusforge.studies.turing.answers import write_answers
from fundusforge.studies.turing.simulation import Group, simulate

RESIDENT = Group(specialty="resident", readers=12, sensitivity=0.69, specificity=0.33, years=2)
OTHER = replace(RESIDENT, specialty="non-retinal specialist", readers=7)
RETINAL = Group(
    specialty="retinal specialist", readers=7, sensitivity=0.78, specificity=0.45, seconds=8, years=3
)
GROUPS = (
    RESIDENT, replace(OTHER, years=3), replace(OTHER, years=9), RETINAL, replace(RETINAL, years=11),
)  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """Simulate a reading study."""

    out: Path
    """Folder to write."""
    seed: int = 0
    """Of every draw."""


def odds(group: Group, outcome: str) -> float:
    """Return the odds of a right answer, of as many real as synthetic images."""
    both = (group.sensitivity + group.specificity) / 2
    share = {"sensitivity": group.sensitivity, "specificity": group.specificity, "accuracy": both}[outcome]
    return share / (1 - share)


def main(c: Simulated) -> None:
    """Simulate, write, print what is true."""
    write_answers(c.out, simulate(GROUPS, repeated=10, seed=c.seed))
    for group in (OTHER, RETINAL):
        ratios = {
            outcome: round(odds(group, outcome) / odds(RESIDENT, outcome), 3)
            for outcome in ("accuracy", "sensitivity", "specificity")
        }
        print(json.dumps({"group": group.specialty, "true_odds_ratio": ratios}))


if __name__ == "__main__":
    main(tyro.cli(Simulated))
