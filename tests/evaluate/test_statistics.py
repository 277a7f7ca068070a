"""Intervals and floors against SciPy, by coverage, and for what clustering means."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fundusforge.evaluate.statistics import Statistic, bootstrap, real_floor, weighted_mean, weighted_variance


def mean_of(values: np.ndarray) -> Statistic:
    return lambda weights: weighted_mean(values, weights[0])


def names(count: int, each: int = 1) -> list[str]:
    return [f"p{index // each}" for index in range(count * each)]


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equals_scipy_on_independent_images(method: str) -> None:
    """One image a patient: SciPy's interval of a skewed sample, up to the noise of the draws."""
    values = np.random.default_rng(0).exponential(size=40)
    found = bootstrap(mean_of(values), names(40), seed=1, draws=20000, method=method)
    peer = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method=method, rng=np.random.default_rng(2)
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=0.04)
    assert found.method == method
    if method == "bca":  # and the correction is seen: the skewed sample's interval moves up
        assert found.high > bootstrap(mean_of(values), names(40), seed=1, draws=20000).high + 0.01


def test_bca_of_two_sets_equals_scipy() -> None:
    """The acceleration of a difference of means takes both sets in."""
    rng = np.random.default_rng(3)
    first, second = rng.exponential(size=30), rng.exponential(size=50)
    found = bootstrap(
        lambda w: weighted_mean(first, w[0]) - weighted_mean(second, w[1]),
        names(30), [f"q{i}" for i in range(50)], seed=1, draws=8000, method="bca",
    )  # fmt: skip
    peer = stats.bootstrap(
        (first, second), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=8000, method="bca",
        rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high), abs=0.03)


def test_copies_of_an_image_add_nothing() -> None:
    """Ten copies of every patient's image give the interval of one: patients are drawn, not images."""
    values = np.random.default_rng(4).normal(size=20)
    once = bootstrap(mean_of(values), names(20), seed=5)
    copied = bootstrap(mean_of(np.repeat(values, 10)), names(20, each=10), seed=5)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    unclustered = bootstrap(mean_of(np.repeat(values, 10)), names(200), seed=5)
    assert unclustered.high - unclustered.low < 0.5 * (once.high - once.low)


def test_centred_undoes_what_copies_do_to_a_distance() -> None:
    """The squared distance of two means grows with each draw; centred, its interval holds the value."""
    rng = np.random.default_rng(8)
    first, second = rng.normal(size=(12, 300)), rng.normal(size=(12, 300))

    def distance(weights) -> float:
        w, v = weights
        return float(((w @ first / w.sum() - v @ second / v.sum()) ** 2).sum())

    value = distance([np.ones(12), np.ones(12)])
    sets = names(12), [f"q{i}" for i in range(12)]
    plain = bootstrap(distance, *sets, seed=1)
    centred = bootstrap(distance, *sets, seed=1, method="centred")
    assert plain.low > value
    assert centred.low < value < centred.high
    assert centred.high - centred.low == pytest.approx(plain.high - plain.low)
    assert centred.words().startswith("95% centred bootstrap")


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 40 patients, 95 % intervals hold the true mean in 88 to 99 %."""
    rng = np.random.default_rng(6)
    inside = 0
    for repeat in range(200):
        found = bootstrap(mean_of(rng.normal(size=40)), names(40), seed=repeat, draws=300)
        inside += found.low <= 0.0 <= found.high
    assert 176 <= inside <= 198


def test_same_seed_same_interval() -> None:
    values = np.random.default_rng(7).normal(size=12)
    assert bootstrap(mean_of(values), names(12), seed=1) == bootstrap(mean_of(values), names(12), seed=1)
    assert bootstrap(mean_of(values), names(12), seed=1) != bootstrap(mean_of(values), names(12), seed=2)


def test_sets_that_share_patients_are_drawn_together() -> None:
    """The difference of a set and itself is nought in every draw only if both are drawn alike."""
    values = np.random.default_rng(8).normal(size=15)
    found = bootstrap(
        lambda w: weighted_mean(values, w[0]) - weighted_mean(values, w[1]), names(15), names(15), seed=1
    )
    assert (found.low, found.high) == (0.0, 0.0)


def test_says_why_there_is_no_interval() -> None:
    found = bootstrap(mean_of(np.array([1.0, 2.0])), ["a", "a"], seed=0)
    assert (found.low, found.high) == (None, None)
    assert "two patients" in found.words()
    never = bootstrap(lambda _: None, names(5), seed=0)
    assert "cannot be computed" in never.words()
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap(mean_of(np.array([])), [], seed=0)


def test_floor_keeps_patients_whole_and_is_symmetric() -> None:
    """Halves hold half of the patients, never half a patient, and differ by nothing on average."""
    values = np.repeat(np.random.default_rng(9).normal(size=10), 3)
    patients = names(10, each=3)

    def statistic(halves: list[np.ndarray]) -> float:
        first, second = halves
        assert np.array_equal(first + second, np.ones(30))
        assert all(len({first[3 * p], first[3 * p + 1], first[3 * p + 2]}) == 1 for p in range(10))
        assert first.sum() == 15
        return weighted_mean(values, first) - weighted_mean(values, second)

    found = real_floor(statistic, patients, seed=1, repeats=400)
    assert found.low < found.value < found.high
    assert abs(found.value) < 0.2 * (found.high - found.low)
    assert found.patients == 10
    assert real_floor(statistic, patients[:9], seed=1) is None


def test_weighted_moments_are_those_of_repeated_values() -> None:
    values, weights = np.array([1.0, 4.0, 6.0]), np.array([2.0, 0.0, 3.0])
    repeated = np.array([1, 1, 6, 6, 6])
    assert weighted_mean(values, weights) == pytest.approx(repeated.mean())
    assert weighted_variance(values, weights) == pytest.approx(repeated.var(ddof=1))
    assert weighted_variance(values, np.array([1.0, 0.0, 0.0])) is None
