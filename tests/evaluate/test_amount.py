"""Vessel amount by hand, its tests against SciPy and statsmodels' formula, and what they mean."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy import stats

from fundusforge.evaluate.amount import cohens_d, equivalence, patient_means, vessel_amount


def test_a_bar_by_hand() -> None:
    """A bar of 20 x 3 pixels, half of the picture in the field of view: 30 of 200 pixels, a thin skeleton."""
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 8:11] = 255
    field = np.zeros((20, 20), np.uint8)
    field[:10] = 255
    found = vessel_amount(mask, field)
    assert (found.pixels, found.inside) == (30, 200)
    assert found.fraction == pytest.approx(0.15)
    assert 7 <= found.skeleton <= 10
    assert found.length == pytest.approx(found.skeleton / (2 * math.sqrt(200 / math.pi)))


def test_thicker_vessels_are_more_but_not_longer(fundus) -> None:
    """Dilation raises the amount and leaves the length nearly as it was."""
    drawing = fundus(256, seed=3)
    thin, field = drawing["vessels"], drawing["field_of_view"]
    before, after = vessel_amount(thin, field), vessel_amount(cv2.dilate(thin, np.ones((3, 3))), field)
    assert after.fraction > 1.2 * before.fraction
    assert after.length == pytest.approx(before.length, rel=0.25)


def test_free_of_size() -> None:
    """The same two vessels at twice the size have the same fraction and length."""
    found = []
    for size in (256, 512):
        mask, field = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
        cv2.circle(field, (size // 2, size // 2), int(0.45 * size), 255, -1)
        cv2.ellipse(mask, (size // 2, size // 2), (size // 4, size // 5), 0, 0, 300, 255, size // 32)
        cv2.line(mask, (0, size // 2), (size // 3, size // 3), 255, size // 32)
        found.append(vessel_amount(mask, field))
    small, large = found
    assert large.fraction == pytest.approx(small.fraction, rel=0.1)
    assert large.length == pytest.approx(small.length, rel=0.05)


def test_cohens_d_by_hand_and_weighted() -> None:
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0])
    assert cohens_d(first, second) == pytest.approx(-1.0)
    weights = np.array([2.0, 1.0, 0.0]), np.array([0.0, 1.0, 2.0])
    repeated = cohens_d(np.array([1.0, 1, 2]), np.array([3.0, 4, 4]))
    assert cohens_d(first, second, weights) == pytest.approx(repeated)
    assert cohens_d(np.ones(3), np.ones(3)) is None
    assert cohens_d(np.ones(1), first) is None


def test_welch_and_tost_equal_scipy() -> None:
    """The t-test is SciPy's; each one-sided test is SciPy's on values moved by the margin."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(10, 1, 80), rng.normal(10.1, 2, 50)
    found = equivalence(first, second, margin=0.5)
    peer = stats.ttest_ind(first, second, equal_var=False)
    assert (found.t, found.degrees, found.p) == pytest.approx((peer.statistic, peer.df, peer.pvalue))
    lower = stats.ttest_ind(first + found.margin, second, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(first - found.margin, second, equal_var=False, alternative="less").pvalue
    assert found.tost_p == pytest.approx(max(lower, upper))
    pooled = math.sqrt((79 * first.var(ddof=1) + 49 * second.var(ddof=1)) / 128)
    assert found.margin == pytest.approx(0.5 * pooled)


def test_no_difference_found_is_not_equivalence() -> None:
    """Few values: neither a difference nor equivalence. Many alike: equivalence. Far apart: a difference."""
    rng = np.random.default_rng(1)
    few = equivalence(rng.normal(size=6), rng.normal(size=6))
    many = equivalence(rng.normal(size=4000), rng.normal(size=4000))
    apart = equivalence(rng.normal(size=400), rng.normal(1, 1, 400))
    assert few.p > 0.05
    assert few.tost_p > 0.05
    assert many.tost_p < 0.05
    assert apart.p < 0.001
    assert apart.tost_p > 0.5
    assert equivalence(np.ones(5), np.ones(5)) is None


def test_patient_means() -> None:
    found = patient_means(np.array([1.0, 3.0, 10.0]), ["b", "b", "a"])
    assert found.tolist() == [10.0, 2.0]


@pytest.mark.parametrize("field", [np.zeros((8, 8), np.uint8), np.ones((4, 4), np.uint8)])
def test_refuses_a_field_that_does_not_fit(field: np.ndarray) -> None:
    with pytest.raises(ValueError, match="field of view"):
        vessel_amount(np.zeros((8, 8), np.uint8), field)
