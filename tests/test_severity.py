"""The severity scale: each rule on hand-made findings, and the sampler against the rules."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fundusforge.severity import (
    GRADE_NAMES,
    GRADES,
    QUADRANTS,
    Findings,
    Quadrant,
    grade,
    meets_four_two_one,
    oedema_risk,
    sample_findings,
)

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def in_quadrants(count: int, **values) -> Findings:
    """Findings with the same lesions in the first `count` quadrants and none in the others."""
    exudates = bool(values.get("hard_exudates")) and count > 0
    quadrants = tuple(Quadrant(**values) if i < count else Quadrant() for i in range(4))
    return Findings(quadrants=quadrants, exudate_distance=0.5 if exudates else None)


def test_scale_has_five_named_grades_and_four_quadrants():
    assert len(GRADE_NAMES) == len(GRADES) == 5
    assert len(QUADRANTS) == len(Findings().quadrants) == 4


def test_healthy_eye_is_grade_0():
    assert grade(Findings()) == 0


def test_laser_scars_alone_do_not_raise_the_grade():
    assert grade(Findings(laser_marks=True)) == 0


@pytest.mark.parametrize("quadrants", [1, 2, 3, 4])
def test_any_number_of_microaneurysms_alone_is_grade_1(quadrants):
    assert grade(in_quadrants(quadrants, microaneurysms=200)) == 1


@pytest.mark.parametrize("lesion", ["haemorrhages", "hard_exudates", "soft_exudates", "venous_beading"])
def test_one_lesion_beyond_microaneurysms_is_grade_2(lesion):
    value = True if lesion == "venous_beading" else 1
    assert grade(in_quadrants(1, microaneurysms=2, **{lesion: value})) == 2


@pytest.mark.parametrize(
    ("quadrants", "haemorrhages", "expected"), [(4, 21, 3), (4, 20, 2), (3, 200, 2), (1, 200, 2)]
)
def test_four_means_more_than_twenty_haemorrhages_in_each_quadrant(quadrants, haemorrhages, expected):
    assert grade(in_quadrants(quadrants, haemorrhages=haemorrhages)) == expected


@pytest.mark.parametrize(("quadrants", "expected"), [(1, 2), (2, 3), (4, 3)])
def test_two_means_beading_in_two_quadrants(quadrants, expected):
    assert grade(in_quadrants(quadrants, venous_beading=True)) == expected


def test_one_means_irma_in_one_quadrant():
    assert grade(in_quadrants(1, irma=True)) == 3


@pytest.mark.parametrize(
    "sign",
    [
        "disc_neovascularisation",
        "elsewhere_neovascularisation",
        "proliferative_membranes",
        "preretinal_haemorrhage",
        "vitreous_haemorrhage",
    ],
)
def test_every_sign_of_proliferation_outranks_everything_else(sign):
    assert grade(Findings(**{sign: True})) == 4
    assert grade(replace(in_quadrants(4, irma=True, haemorrhages=30), **{sign: True})) == 4


@pytest.mark.parametrize(
    ("distance", "risk"), [(None, 0), (0.0, 2), (0.99, 2), (1.0, 2), (1.01, 1), (4.0, 1)]
)
def test_oedema_risk_turns_on_one_disc_diameter(distance, risk):
    exudates = 0 if distance is None else 3
    findings = Findings(
        quadrants=(Quadrant(hard_exudates=exudates), Quadrant(), Quadrant(), Quadrant()),
        exudate_distance=distance,
    )
    assert oedema_risk(findings) == risk


@pytest.mark.parametrize("wanted", GRADES)
@given(seed=SEEDS)
def test_sampled_findings_have_the_grade_asked_for(wanted, seed):
    assert grade(sample_findings(wanted, np.random.default_rng(seed))) == wanted


@pytest.mark.parametrize("wanted", GRADES)
def test_sampling_is_decided_by_the_generator(wanted):
    first, again, other = (sample_findings(wanted, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first == again
    assert wanted == 0 or first != other


def test_sampler_reaches_every_arm_of_the_rules_and_every_risk():
    severe = [sample_findings(3, np.random.default_rng(seed)) for seed in range(120)]
    assert all(meets_four_two_one(findings) for findings in severe)
    bleeding = [all(q.haemorrhages > 20 for q in findings.quadrants) for findings in severe]
    beading = [findings.total("venous_beading") >= 2 for findings in severe]
    irma = [findings.total("irma") >= 1 for findings in severe]
    arms = set(zip(bleeding, beading, irma, strict=True))
    assert len(arms) == 7
    assert {oedema_risk(findings) for findings in severe} == {0, 1, 2}


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="grade must be 0 to 4, not 5"):
        sample_findings(5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="4 quadrants, not 1"):
        Findings(quadrants=(Quadrant(),))
    with pytest.raises(ValueError, match="haemorrhages must not be negative"):
        Quadrant(haemorrhages=-1)
    with pytest.raises(ValueError, match="exudate_distance"):
        Findings(exudate_distance=1.0)
    with pytest.raises(ValueError, match="unknown lesion 'drusen'"):
        Findings().total("drusen")
