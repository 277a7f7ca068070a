"""Differences by hand, their tests against SciPy and statsmodels, and what may be claimed of a family."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fundusforge.evaluate.comparison import Quantity, cohens_d, compare, equivalence, holm, patient_means
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.records import Record, read_folder


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


def test_holm_by_hand_and_meaning() -> None:
    """The smallest of three counts threefold, and an adjusted p never falls below one before it."""
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_family_equals_statsmodels() -> None:
    """Holm, Welch's test and the two one-sided tests are those of statsmodels."""
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    rng = np.random.default_rng(2)
    p_values = [*rng.uniform(size=20) ** 3, 0.02, 0.02]
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])
    first, second = rng.normal(10, 1, 40), rng.normal(10.1, 2, 70)
    found = equivalence(first, second, margin=0.4)
    peer = weightstats.ttost_ind(first, second, -found.margin, found.margin, usevar="unequal")[0]
    assert found.tost_p == pytest.approx(peer)


def evidence(folder: Path) -> Evidence:
    images = ImageSet(folder=folder, records=read_folder(folder))
    return Evidence(
        synthetic=images, real=images, judge=None, size=64, margin=0.2, reference=None, seed=0, draws=100,
        repeats=20,
    )  # fmt: skip


def people(prefix: str, count: int) -> list[Record]:
    return [Record(image=f"{prefix}{i}.png", patient=f"{prefix}{i}", source="drawn") for i in range(count)]


def quantity(name: str, synthetic: np.ndarray, real: np.ndarray) -> Quantity:
    return Quantity(
        name=name, title=name, extractor="none",
        synthetic=(synthetic, people("s", len(synthetic))), real=(real, people("r", len(real))),
    )  # fmt: skip


def test_a_family_makes_claims_harder(drawn_folder: Callable[..., Path]) -> None:
    """A difference that stands alone is no longer claimed among twenty quantities that do not differ."""
    rng = np.random.default_rng(3)
    real = rng.normal(size=40)
    odd = quantity("odd", real[rng.permutation(40)] + 0.6, real)
    rest = [quantity(f"q{i}", rng.permutation(real), real) for i in range(19)]
    asked = evidence(drawn_folder())
    alone = compare(asked, [odd])[1]
    among = compare(asked, [odd, *rest])[1]
    assert alone.name == among.name == "odd_d"
    assert alone.value == among.value
    assert "(a difference is shown)" in alone.notes[0]
    assert "over 20 quantities (no difference shown, which proves nothing)" in among.notes[0]


def test_what_is_missing_is_said(drawn_folder: Callable[..., Path]) -> None:
    """A quantity that no image has, one without real values, and one that does not vary."""
    none, some = np.array([]), np.array([1.0, 2.0, 4.0])
    family = [quantity("a", none, some), quantity("b", some, none), quantity("c", np.ones(3), np.ones(3))]
    found = {figure.name: figure for figure in compare(evidence(drawn_folder()), family)}
    assert found["a"].value is None
    assert found["a"].reason == "no image has it"
    assert (found["b"].value, found["b"].real) == (pytest.approx(7 / 3), None)
    assert found["c"].value == found["c"].real == 1.0
    assert found["c_d"].value is None
    assert "values that vary" in found["c_d"].reason
    assert not {"a_d", "b_d"} & found.keys()
