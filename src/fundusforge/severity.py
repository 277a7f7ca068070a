"""The rules of diabetic eye disease, written once: findings in, grade out; grade in, findings out.

Retinopathy: the international clinical disease severity scale (Wilkinson et al., Ophthalmology
2003;110:1677). 0 no abnormality; 1 microaneurysms only; 2 more than microaneurysms but less than severe;
3 severe, the 4-2-1 rule (more than 20 intraretinal haemorrhages in each of 4 quadrants, or definite
venous beading in 2 or more, or prominent intraretinal microvascular abnormality, IRMA, in 1 or more)
without signs of proliferation; 4 proliferative (neovascularisation, or vitreous or preretinal
haemorrhage).

Macular oedema: the risk of Messidor (Decenciere et al., Image Anal Stereol 2014;33:231) and IDRiD (Porwal
et al., Data 2018;3:25), from hard exudates alone: 0 none visible; 1 all farther than one disc diameter
from the fovea; 2 one nearer.

Nothing here draws: phantoms and mask layouts place lesions, and ask this module how many and which.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np

GRADES = (0, 1, 2, 3, 4)
GRADE_NAMES = ("none", "mild", "moderate", "severe", "proliferative")
QUADRANTS = ("superior_temporal", "superior_nasal", "inferior_temporal", "inferior_nasal")
"""Names of the quadrants, in the order of `Findings.quadrants`."""
LESIONS = ("microaneurysms", "haemorrhages", "hard_exudates", "soft_exudates")
"""Masks of what a retina of grade 0 has none of."""
SEVERE_HAEMORRHAGES = 20
"""The 4 of the 4-2-1 rule needs more than this many haemorrhages in each quadrant."""

Grade = Literal[0, 1, 2, 3, 4]
Risk = Literal[0, 1, 2]


@dataclass(frozen=True, kw_only=True)
class Quadrant:
    """Lesions of one quadrant of the retina. Counts are of separate lesions."""

    microaneurysms: int = 0
    haemorrhages: int = 0
    """Intraretinal: dot, blot and flame."""
    hard_exudates: int = 0
    soft_exudates: int = 0
    """Cotton-wool spots."""
    venous_beading: bool = False
    """Definite."""
    irma: bool = False
    """Prominent."""

    def __post_init__(self) -> None:
        for name in LESIONS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything a grader would note about one eye."""

    quadrants: tuple[Quadrant, Quadrant, Quadrant, Quadrant] = field(
        default_factory=lambda: (Quadrant(), Quadrant(), Quadrant(), Quadrant())
    )
    """In the order of `QUADRANTS`."""
    disc_neovascularisation: bool = False
    elsewhere_neovascularisation: bool = False
    proliferative_membranes: bool = False
    """Fibrovascular tissue: neovascularisation that has scarred, hence a sign of proliferation."""
    preretinal_haemorrhage: bool = False
    vitreous_haemorrhage: bool = False
    laser_marks: bool = False
    """Scars of panretinal photocoagulation; they tell of treatment and do not change the grade."""
    exudate_distance: float | None = None
    """Fovea to the nearest hard exudate in disc diameters; None if there is no hard exudate."""

    def __post_init__(self) -> None:
        if len(self.quadrants) != len(QUADRANTS):
            raise ValueError(f"findings need {len(QUADRANTS)} quadrants, not {len(self.quadrants)}")
        if (self.total("hard_exudates") > 0) != (self.exudate_distance is not None):
            raise ValueError("exudate_distance is given exactly when there are hard exudates")

    def total(self, lesion: str) -> int:
        """Sum of a count, or number of quadrants with a sign, over the four quadrants.

        Raises:
            ValueError: `lesion` is no field of `Quadrant`.
        """
        if lesion not in {f.name for f in fields(Quadrant)}:
            raise ValueError(
                f"unknown lesion {lesion!r}; known are {', '.join(f.name for f in fields(Quadrant))}"
            )
        return sum(int(getattr(quadrant, lesion)) for quadrant in self.quadrants)


def is_proliferative(findings: Findings) -> bool:
    """Whether any sign of proliferation is present."""
    return (
        findings.disc_neovascularisation
        or findings.elsewhere_neovascularisation
        or findings.proliferative_membranes
        or findings.preretinal_haemorrhage
        or findings.vitreous_haemorrhage
    )


def meets_four_two_one(findings: Findings) -> bool:
    """Whether the 4-2-1 rule of severe non-proliferative retinopathy is met by at least one of its arms."""
    return (
        all(quadrant.haemorrhages > SEVERE_HAEMORRHAGES for quadrant in findings.quadrants)
        or findings.total("venous_beading") >= 2
        or findings.total("irma") >= 1
    )


def grade(findings: Findings) -> Grade:
    """Retinopathy grade 0-4 of the international clinical scale (Wilkinson et al. 2003).

    >>> grade(Findings())
    0
    >>> one = Quadrant(microaneurysms=3)
    >>> grade(Findings(quadrants=(one, one, one, one)))
    1
    >>> grade(Findings(vitreous_haemorrhage=True))
    4
    """
    if is_proliferative(findings):
        return 4
    if meets_four_two_one(findings):
        return 3
    beyond = ("haemorrhages", "hard_exudates", "soft_exudates", "venous_beading")
    if any(findings.total(lesion) for lesion in beyond):
        return 2
    return 1 if findings.total("microaneurysms") else 0


def oedema_risk(findings: Findings) -> Risk:
    """Macular oedema risk 0-2 of Messidor and IDRiD, from the hard exudate nearest to the fovea."""
    if findings.exudate_distance is None:
        return 0
    return 2 if findings.exudate_distance <= 1.0 else 1


def sample_findings(grade: int, rng: np.random.Generator) -> Findings:
    """Draw findings whose grade is exactly the one asked for.

    How often a lesion accompanies a grade is a plausible choice, not an epidemiological estimate.

    Args:
        grade: 0-4.
        rng: source of every random choice.

    Raises:
        ValueError: grade outside 0-4.
    """
    if grade not in GRADES:
        raise ValueError(f"grade must be 0 to 4, not {grade!r}")
    if grade == 0:
        return Findings()
    if grade == 1:
        return Findings(quadrants=_mild(rng))
    if grade == 4:
        quadrants = _severe(rng) if rng.random() < 0.5 else _moderate(rng)
        return _findings(rng, quadrants, proliferative=True)
    return _findings(rng, _moderate(rng) if grade == 2 else _severe(rng), proliferative=False)


_Quadrants = tuple[Quadrant, Quadrant, Quadrant, Quadrant]


def _mild(rng: np.random.Generator) -> _Quadrants:
    share = rng.multinomial(int(rng.integers(1, 13)), rng.dirichlet(np.ones(4)))
    a, b, c, d = (Quadrant(microaneurysms=int(n)) for n in share)
    return a, b, c, d


def _moderate(rng: np.random.Generator) -> _Quadrants:
    """Below the 4-2-1 rule: at most 20 haemorrhages a quadrant, beading in at most one, no IRMA."""
    load = rng.uniform(0.1, 1.0)
    exudates, wool = rng.random() < 0.6, rng.random() < 0.4
    beaded = int(rng.integers(4)) if rng.random() < 0.1 else -1
    drawn = [
        Quadrant(
            microaneurysms=int(rng.poisson(9 * load)),
            haemorrhages=min(SEVERE_HAEMORRHAGES, int(rng.poisson(8 * load * rng.uniform(0.3, 1.7)))),
            hard_exudates=int(rng.poisson(14 * load * rng.uniform(0, 1.6))) if exudates else 0,
            soft_exudates=int(rng.poisson(1.2 * load)) if wool else 0,
            venous_beading=i == beaded,
        )
        for i in range(4)
    ]
    if not any(q.haemorrhages for q in drawn):
        first = int(rng.integers(4))
        drawn[first] = replace(drawn[first], haemorrhages=int(rng.integers(1, 4)))
    return drawn[0], drawn[1], drawn[2], drawn[3]


def _severe(rng: np.random.Generator) -> _Quadrants:
    """At least one arm of the 4-2-1 rule, drawn from the seven ways to meet it."""
    drawn = list(_moderate(rng))
    arms = int(rng.integers(1, 8))
    if arms & 1:
        drawn = [replace(q, haemorrhages=int(rng.integers(21, 34))) for q in drawn]
    if arms & 2:
        beaded = set(rng.permutation(4)[: int(rng.integers(2, 5))].tolist())
        drawn = [replace(q, venous_beading=i in beaded) for i, q in enumerate(drawn)]
    if arms & 4:
        places = set(rng.permutation(4)[: int(rng.integers(1, 4))].tolist())
        drawn = [replace(q, irma=i in places) for i, q in enumerate(drawn)]
    return drawn[0], drawn[1], drawn[2], drawn[3]


def _findings(rng: np.random.Generator, quadrants: _Quadrants, *, proliferative: bool) -> Findings:
    near = rng.random() < 0.5
    distance = float(rng.uniform(0.2, 1.0) if near else rng.uniform(1.05, 1.8))
    signs = dict.fromkeys(
        (
            "disc_neovascularisation",
            "elsewhere_neovascularisation",
            "preretinal_haemorrhage",
            "vitreous_haemorrhage",
        ),
        False,
    )
    if proliferative:
        chance = (0.45, 0.6, 0.3, 0.15)
        signs = {name: bool(rng.random() < p) for name, p in zip(signs, chance, strict=True)}
        if not any(signs.values()):
            signs["elsewhere_neovascularisation"] = True
    new_vessels = signs["disc_neovascularisation"] or signs["elsewhere_neovascularisation"]
    return Findings(
        quadrants=quadrants,
        exudate_distance=distance if any(q.hard_exudates for q in quadrants) else None,
        proliferative_membranes=bool(new_vessels and rng.random() < 0.35),
        laser_marks=bool(proliferative and rng.random() < 0.35),
        **signs,
    )
