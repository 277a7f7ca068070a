"""DeLong, McNemar, the jackknife and the power, each against an independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

from fundusforge.evaluate.classification import finding_statistics
from fundusforge.studies.augmentation.config import Foreseen
from fundusforge.studies.augmentation.paired import (
    area,
    area_variance,
    components,
    delong,
    gain_test,
    interval_of,
    jackknife,
    mcnemar,
)
from fundusforge.studies.augmentation.power import needed, power, words


def drawn(seed: int, count: int = 40, *, gap: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Scores of two models on the same photographs, (2, N), with ties, and their truth."""
    rng = np.random.default_rng(seed)
    truth = np.arange(count) < count // 3
    common = rng.standard_normal(count) + truth
    return np.round(np.stack([common + gap * rng.standard_normal(count) for _ in range(2)]), 1), truth


def psi(hit: float, alarm: float) -> float:
    return 1.0 if hit > alarm else 0.5 if hit == alarm else 0.0


def by_hand(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas and covariance matrix of DeLong, DeLong and Clarke-Pearson 1988, written out."""
    hits, alarms = scores[:, truth], scores[:, ~truth]
    kernel = np.array([[[psi(x, y) for y in alarms[k]] for x in hits[k]] for k in range(len(scores))])
    v10, v01 = kernel.mean(2), kernel.mean(1)
    return kernel.mean((1, 2)), np.cov(v10) / hits.shape[1] + np.cov(v01) / alarms.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_delong_is_the_published_formula(seed: int) -> None:
    scores, truth = drawn(seed)
    areas, covariance = by_hand(scores, truth)
    assert area(scores[0], truth) == pytest.approx(areas[0])
    theirs = finding_statistics(stats.norm.cdf(scores[0]), truth.astype(int), threshold=0.5)["auc"]
    assert areas[0] == pytest.approx(theirs([np.ones(len(truth))]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    patients = [str(i) for i in range(len(truth))]
    found = delong(scores[:1], scores[1:], truth, patients)
    assert found.gain == pytest.approx(areas[0] - areas[1])
    assert found.error == pytest.approx(math.sqrt(variance))
    t = abs(found.gain) / math.sqrt(variance)
    assert found.p == pytest.approx(2 * stats.t.sf(t, len(truth) - 1))


def test_the_areas_of_seeds_are_averaged() -> None:
    rows = np.stack([drawn(seed)[0][0] for seed in range(3)])
    truth = drawn(0)[1]
    each = [components(row, truth) for row in rows]
    assert np.allclose(components(rows, truth), np.mean(each, 0))
    assert area(rows, truth) == pytest.approx(np.mean([area(row, truth) for row in rows]))


def test_photographs_of_one_patient_count_as_one() -> None:
    """Every photograph twice, under one name, is no more evidence than once."""
    scores, truth = drawn(3)
    names = [f"p{i}" for i in range(len(truth))]
    once = delong(scores[:1], scores[1:], truth, names)
    twice = delong(np.tile(scores[:1], 2), np.tile(scores[1:], 2), np.tile(truth, 2), names * 2)
    assert twice.gain == pytest.approx(once.gain)
    assert twice.error == pytest.approx(once.error)
    apart = delong(
        np.tile(scores[:1], 2), np.tile(scores[1:], 2), np.tile(truth, 2), list(map(str, range(80)))
    )
    assert apart.error < 0.75 * once.error, "as if they were 80 patients"


def test_the_clustered_variance_is_that_of_repeated_sampling() -> None:
    """Patients with two eyes that resemble each other, one with and one without the finding at times."""

    def sample(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
        person = np.repeat(rng.standard_normal(60), 2)
        truth = rng.random(120) < 0.4
        first, second = (truth * 1.0 + person + 0.7 * rng.standard_normal(120) for _ in range(2))
        return (
            np.stack([first, second + 0.5 * rng.standard_normal(120)]),
            truth,
            [str(i // 2) for i in range(120)],
        )

    gains, variances = [], []
    for seed in range(400):
        scores, truth, patients = sample(np.random.default_rng(seed))
        parts = components(scores[0], truth) - components(scores[1], truth)
        gains.append(area(scores[0], truth) - area(scores[1], truth))
        variances.append(area_variance(parts, truth, np.array([int(name) for name in patients])))
    assert np.mean(variances) == pytest.approx(np.var(gains), rel=0.15)


def test_too_few_patients_are_refused() -> None:
    scores, truth = drawn(0)
    with pytest.raises(ValueError, match="two patients"):
        area_variance(components(scores[0], truth), truth, np.where(truth, 0, np.arange(len(truth))))


def test_the_jackknife_agrees_with_delong() -> None:
    scores, truth = drawn(5, 90)
    probability = stats.norm.cdf(scores)
    patients = [str(i) for i in range(len(truth))]

    def figure(row: np.ndarray):
        statistic = finding_statistics(row, truth.astype(int), threshold=0.5)["auc"]
        return lambda weights: statistic([weights])

    found = jackknife([figure(probability[0])], [figure(probability[1])], patients)
    other = delong(scores[:1], scores[1:], truth, patients)
    assert found is not None
    assert found.gain == pytest.approx(other.gain)
    assert found.error == pytest.approx(other.error, rel=0.03)


def test_the_jackknife_of_a_mean_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal(20), rng.standard_normal(20)

    def mean_of(values: np.ndarray):
        return lambda weights: float(weights @ values / weights.sum())

    found = jackknife([mean_of(first)], [mean_of(second)], [str(i) for i in range(20)])
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue)
    never = [lambda weights: None]
    assert jackknife(never, [mean_of(second)], [str(i) for i in range(20)]) is None


def test_seeds_add_their_variance_and_few_degrees_of_freedom() -> None:
    gains = [0.01, 0.05, 0.03]
    alone = gain_test(gains, 0.0, patients=50, method="")
    assert alone.p == pytest.approx(stats.ttest_1samp(gains, 0).pvalue), "no variance of patients: a t-test"
    both = gain_test(gains, 0.02**2, patients=50, method="")
    spread = np.var(gains, ddof=1) / 3
    assert both.error == pytest.approx(math.sqrt(spread + 0.02**2))
    assert 2 < both.degrees < 60 and both.p > alone.p
    assert gain_test([0.0, 0.0], 0.0, patients=9, method="").p == 1.0


def test_what_is_of_seed_and_patient_together_counts_once() -> None:
    """Two-way: gain of seed s on patient i is a_i + b_si; the variance of the mean is known."""
    patients, seeds, own, joint = 60, 4, 1.0, 2.0
    rng = np.random.default_rng(2)
    errors, means = [], []
    for _ in range(600):
        values = own * rng.standard_normal(patients) + joint * rng.standard_normal((seeds, patients))
        each = values.var(1, ddof=1) / patients
        whole = values.mean(0).var(ddof=1) / patients
        found = gain_test(values.mean(1).tolist(), whole, each=each.tolist(), patients=patients, method="")
        errors.append(found.error**2)
        means.append(found.gain)
    truth = (own**2 + joint**2 / seeds) / patients
    assert np.var(means) == pytest.approx(truth, rel=0.15)
    assert truth < np.mean(errors) < 1.35 * truth, "a seeds' part below zero is cut, so a little above"


@pytest.mark.parametrize(("first", "second"), [(9, 2), (3, 3), (12, 0), (0, 1)])
def test_mcnemar_is_the_exact_test(first: int, second: int) -> None:
    """Against statsmodels, with photographs on which both agree."""
    right = np.array([True] * first + [False] * second + [True, False] * 4)
    other = np.array([False] * first + [True] * second + [True, False] * 4)
    table = [[4, first], [second, 4]]
    expected = reference_mcnemar(table, exact=True).pvalue
    assert mcnemar(right, other, [str(i) for i in range(len(right))]) == pytest.approx(min(1.0, expected))


def test_mcnemar_flips_whole_patients() -> None:
    """Against all 2^n signs: three patients with two eyes, two with one."""
    steps = np.array([2, 2, 1, -1, 2])
    right = np.array([True, True, True, True, True, False, True, True])
    other = ~right
    patients = list("aabbcdee")
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    expected = np.mean(np.abs(signs @ np.abs(steps)) >= abs(steps.sum()))
    assert mcnemar(right, other, patients) == pytest.approx(expected)


def test_intervals_draw_patients_and_seeds() -> None:
    """A gain that varies between seeds alone has an interval; of one seed, patients alone are drawn."""
    patients = [str(i) for i in range(30)]

    def always(value: float):
        return lambda weights: value

    apart = interval_of([always(v) for v in (0.1, 0.2, 0.3)], [always(0.0)] * 3, patients, seed=0, draws=400)
    assert apart.low == pytest.approx(0.1, abs=0.04) and apart.high == pytest.approx(0.3, abs=0.04)
    values = np.random.default_rng(0).standard_normal(30)
    one = interval_of([lambda w: float(w @ values / w.sum())], None, patients, seed=0, draws=2000)
    error = values.std() / math.sqrt(30)
    assert one.high - one.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_the_simulated_test_keeps_its_level() -> None:
    """Gains alone are claimed, at half of the level or less, whatever the seeds' deviation."""
    for deviation in (0.0, 0.03):
        found = power(40, 80, 4, Foreseen(auc=0.75, gain=0.0, seed_deviation=deviation, repeats=500))
        assert 0.002 < (found.power + found.false) / 2 < 0.036


def test_power_is_that_of_theory() -> None:
    """Without correlation and without seeds' deviation, a z-test of two independent areas."""
    assumed = Foreseen(auc=0.7, gain=0.1, correlation=0.0, seed_deviation=0.0, repeats=500)
    positives, negatives = 120, 120
    variance = 0.0
    for theta in (0.7, 0.8):
        # Of the binormal model with equal variances, the two components have the same variance.
        point = math.sqrt(2) * stats.norm.ppf(theta)
        grid = np.random.default_rng(0).standard_normal(200_000)
        share = stats.norm.cdf(grid + point).var()
        variance += share / positives + share / negatives
    expected = stats.norm.sf(1.96 - 0.1 / math.sqrt(variance))
    assert power(positives, negatives, 1, assumed).power == pytest.approx(expected, abs=0.06)


def test_more_patients_and_seeds_find_more() -> None:
    assumed = Foreseen(auc=0.75, gain=0.06, seed_deviation=0.03, repeats=80)
    rows = needed(20, 40, (2, 8), assumed)
    few, many = (next(row for row in rows if row.seeds == seeds) for seeds in (2, 8))
    assert few.positives == many.positives == 20 and few.power < many.power < 0.8
    last = [row for row in rows if row.seeds == 8][-1]
    assert last.power >= 0.8 and last.positives > 20
    assert "too few for 80%" in words(few) and "enough for 80%" in words(last)
    assert power(20, 40, 8, assumed, comparisons=10).power < many.power


def test_impossible_studies_are_refused() -> None:
    with pytest.raises(ValueError, match="two photographs"):
        power(1, 50, 3, Foreseen())
    with pytest.raises(ValueError, match="below 1"):
        Foreseen(auc=0.9, gain=0.2)
