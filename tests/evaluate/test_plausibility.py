"""The rules by hand: fences, words, and what is not looked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fundusforge.evaluate.anatomy.measure import Anatomy
from fundusforge.evaluate.plausibility import usual, violations

PLAIN = Anatomy(
    vessel_fraction=0.1, calibre=6.0, arc_over_chord=1.05, curvature=4.0, bifurcations=6.0,
    fractal_dimension=1.5, broken_vessels=1, orphan_share=0.01, across_disc=0, disc_found=True,
    disc_diameter=0.15, disc_offset=0.1, fovea_found=True, fovea_confidence=0.8, fovea_distance=2.5,
    fovea_drop=5.0, snr_kim=25.0, snr_usual=25.0,
)  # fmt: skip
REAL = [replace(PLAIN, vessel_fraction=value) for value in (0.08, 0.09, 0.1, 0.11, 0.12)]


def test_fences_by_hand() -> None:
    """Quartiles 0.09 and 0.11: fences at 0.06 and 0.14."""
    assert usual(REAL)["vessel_fraction"] == pytest.approx((0.06, 0.14))
    assert usual(REAL)["broken_vessels"] == (1, 1)
    assert usual(REAL[:3]) == {}


def test_words() -> None:
    limits = usual(REAL)
    assert violations(PLAIN, limits) == ()
    worst = replace(
        PLAIN, vessel_fraction=0.03, broken_vessels=7, orphan_share=0.2, across_disc=1, disc_found=False,
        fovea_found=False,
    )  # fmt: skip
    assert violations(worst, limits) == (
        "no optic disc",
        "no fovea where it should be",
        "too little vessel: 3.0% of the field of view",
        "7 broken vessels",
        "orphan vessels: 20.0% of the vessels' length",
        "1 vessels across the disc",
    )
    assert violations(replace(PLAIN, vessel_fraction=0.2), limits) == ("too much vessel: 20.0%",)


def test_a_disc_must_lie_where_it_was_painted() -> None:
    assert violations(replace(PLAIN, disc_offset=0.5), {}) == ()
    assert violations(replace(PLAIN, disc_offset=None), {}) == ()
    astray = violations(replace(PLAIN, disc_offset=2.34), {})
    assert astray == ("optic disc astray: 2.3 disc diameters from the mask's",)


def test_a_low_count_is_no_fault() -> None:
    assert violations(replace(PLAIN, broken_vessels=0, orphan_share=0.0), usual(REAL)) == ()


def test_what_nobody_looked_for_is_not_missing() -> None:
    unknown = replace(PLAIN, disc_found=None, fovea_found=None, across_disc=None, orphan_share=None)
    assert violations(unknown, usual(REAL)) == ()
    assert violations(replace(PLAIN, broken_vessels=99), {}) == ()
