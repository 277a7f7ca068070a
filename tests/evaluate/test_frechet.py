"""Frechet distance: by hand, against torch-fidelity and SciPy, for what it means, and of small sets."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import linalg
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from fundusforge.evaluate import frechet
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.frechet import compare, figures, frechet_distance, frechet_infinity
from fundusforge.records import Record


def peer(first: np.ndarray, second: np.ndarray) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(s.astype(np.float64))) for s in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def vectors(rng, count: int, length: int, *, power: float = 1.0) -> np.ndarray:
    """Normal vectors whose variances fall off as those of features do, one on average."""
    variances = np.arange(1, length + 1) ** -power
    rows = rng.normal(size=(count, length)) * np.sqrt(variances / variances.mean())
    return rows.astype(np.float32)


@pytest.mark.parametrize("shape", [(30, 40, 64), (200, 150, 64), (50, 300, 64), (300, 50, 64), (65, 64, 64)])
def test_equals_torch_fidelity(shape: tuple[int, int, int]) -> None:
    """Fewer images than dimensions, more, and one set of each kind."""
    rng = np.random.default_rng(0)
    first, second = vectors(rng, shape[0], shape[2]), 0.2 + 1.3 * vectors(rng, shape[1], shape[2])
    assert frechet_distance(first, second) == pytest.approx(peer(first, second), rel=1e-6)


def test_equals_the_square_root_of_matrices() -> None:
    rng = np.random.default_rng(1)
    first, second = vectors(rng, 90, 20), vectors(rng, 70, 20) ** 2
    s, t = np.cov(first.T.astype(float)), np.cov(second.T.astype(float))
    gap = first.mean(0, dtype=float) - second.mean(0, dtype=float)
    expected = gap @ gap + np.trace(s) + np.trace(t) - 2 * np.trace(linalg.sqrtm(s @ t).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [20, 200])
def test_by_hand(count: int) -> None:
    """A shift costs its squared length, a factor f on all vectors (f - 1)^2 of the trace."""
    rng = np.random.default_rng(2)
    first = vectors(rng, count, 50)
    first -= first.mean(0)
    shift = rng.normal(size=50).astype(np.float32)
    assert frechet_distance(first, first + shift) == pytest.approx(float(shift @ shift), rel=1e-4)
    trace = float(first.astype(float).var(0, ddof=1).sum())
    assert frechet_distance(first, 3 * first) == pytest.approx(4 * trace, rel=1e-4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-4 * trace)


def test_is_finite_where_others_become_complex() -> None:
    """Sets of rank one, of a constant, of copies, of huge numbers: a real number, at least 0, no warning."""
    rng = np.random.default_rng(3)
    line = np.outer(rng.normal(size=30), rng.normal(size=200)).astype(np.float32)
    constant = np.full((30, 200), 5, np.float32)
    copies = np.repeat(vectors(rng, 2, 200), 15, axis=0)
    sets = [line, constant, copies, 1e6 * vectors(rng, 30, 200), vectors(rng, 250, 200)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = [frechet_distance(first, second) for first in sets for second in sets]
    assert all(isinstance(value, float) and np.isfinite(value) and value >= 0 for value in values)


def test_weights_are_copies_and_absences() -> None:
    rng = np.random.default_rng(4)
    for length in (100, 10):  # by rows, by columns
        first, second = vectors(rng, 40, length), 0.5 + vectors(rng, 30, length)
        w, v = rng.integers(0, 4, 40).astype(float), rng.integers(0, 3, 30).astype(float)
        copied = np.repeat(first, w.astype(int), axis=0), np.repeat(second, v.astype(int), axis=0)
        assert compare(first, second)([w, v]) == pytest.approx(peer(*copied), rel=1e-6)
        assert compare(first, second)([np.eye(40)[0], v]) is None


def test_meaning() -> None:
    """More of a shift, a lost mode and a wider spread cost more; the order of the images costs nothing."""
    rng = np.random.default_rng(5)
    first, second = vectors(rng, 300, 16), vectors(rng, 300, 16)
    alike = frechet_distance(first, second)
    shifted = [frechet_distance(first, second + amount) for amount in (0.2, 0.5, 1.0)]
    assert alike < shifted[0] < shifted[1] < shifted[2]
    assert frechet_distance(first, np.repeat(second[:5], 60, axis=0)) > 5 * alike
    assert frechet_distance(first, second[rng.permutation(300)]) == pytest.approx(alike)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((1, 4)), np.zeros((9, 4)), "two rows"),
        (np.zeros((5, 4)), np.zeros((9, 3)), "two rows"),
        (np.full((5, 4), np.nan), np.zeros((9, 4)), "not finite"),
    ],
)
def test_refuses(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(first.astype(np.float32), second.astype(np.float32))


# ---- figures -----------------------------------------------------------------------------------------------


class Stored:
    """Prepared vectors; an image's name is its row."""

    name, resize, key = "stored", "none", "stored"

    def __init__(self, *sets: np.ndarray) -> None:
        self.sets, self.dimensions = sets, sets[0].shape[1]


class Known(Evidence):
    """Evidence that looks vectors up instead of reading pictures."""

    def features(self, images: ImageSet) -> np.ndarray:
        rows = self.extractor.sets[int(images.folder.name)]
        return rows[[int(record.image) for record in images.records]]


def evidence(synthetic: np.ndarray, real: np.ndarray, *, each: int = 1, grades: bool = False) -> Evidence:
    def images(place: int, rows: np.ndarray) -> ImageSet:
        records = [
            Record(image=str(i), patient=f"{place}-{i // each}", source="s", grade=i % 2 if grades else None)
            for i in range(len(rows))
        ]
        return ImageSet(folder=Path(str(place)), records=records)

    return Known(
        synthetic=images(0, synthetic), real=images(1, real), judge=None, size=64, margin=0.2, reference=None,
        seed=0, draws=200, repeats=20, extractor=Stored(synthetic, real),
    )  # fmt: skip


def by_name(found: list) -> dict:
    return {figure.name: figure for figure in found}


def test_small_sets_are_refused_with_a_reason() -> None:
    rng = np.random.default_rng(6)
    found = by_name(figures(evidence(vectors(rng, 16, 32), vectors(rng, 60, 32))))
    assert {figure.value for figure in found.values()} == {None}
    assert "16 synthetic images are fewer than the 50" in found["frechet"].reason
    nobody = evidence(vectors(rng, 60, 32), vectors(rng, 60, 32))
    object.__setattr__(nobody, "extractor", None)
    assert all("no extractor" in figure.reason for figure in figures(nobody))


def test_excess_is_right_where_the_plain_distance_is_not() -> None:
    """60 images of 256 dimensions: the plain distance is many times the truth, the excess within a fifth."""
    rng = np.random.default_rng(7)
    shift = np.zeros(256, np.float32)
    shift[:10] = 2.0
    truth = float(shift @ shift)
    found = by_name(figures(evidence(vectors(rng, 60, 256) + shift, vectors(rng, 60, 256))))
    plain, excess = found["frechet"], found["frechet_excess"]
    assert plain.value > 3 * truth
    assert excess.value == pytest.approx(truth, rel=0.2)
    assert plain.low < plain.value < plain.high
    assert excess.low < excess.value < excess.high
    assert excess.high - excess.low == pytest.approx(plain.high - plain.low)
    assert plain.floor is not None and excess.floor.low < 0 < excess.floor.high < excess.value
    assert "fewer than 5000" in plain.notes[0]
    assert "fewer than the 512" in found["frechet_infinity"].reason


def test_alike_sets_have_no_excess() -> None:
    rng = np.random.default_rng(8)
    found = by_name(figures(evidence(vectors(rng, 80, 64), vectors(rng, 80, 64))))
    excess = found["frechet_excess"]
    assert excess.floor.low < excess.value < excess.floor.high
    assert excess.low < 0 < excess.high
    assert found["frechet"].low > 5 * abs(excess.value)


def test_extrapolation_is_unbiased_where_it_is_given() -> None:
    """160 images of 64 dimensions, 20 times: sets alike scatter about 0, plain distances lie far off."""
    rng = np.random.default_rng(9)
    plain, extrapolated = [], []
    for seed in range(20):
        known = evidence(vectors(rng, 160, 64), vectors(rng, 160, 64))
        statistic = compare(*known.extractor.sets)
        plain.append(statistic([np.ones(160), np.ones(160)]))
        extrapolated.append(frechet_infinity(statistic, known.synthetic, known.real, seed=seed))
    assert min(plain) > 7
    assert abs(np.mean(extrapolated)) < 0.06 * np.mean(plain)
    figure = by_name(figures(known))["frechet_infinity"]
    assert figure.low < figure.value < figure.high


def test_patients_widen_the_interval() -> None:
    """Every image twice, as two of one patient, adds nothing to what is known."""
    rng = np.random.default_rng(10)
    rows, real = vectors(rng, 30, 8), vectors(rng, 30, 8)
    copied = np.repeat(rows, 2, axis=0), np.repeat(real, 2, axis=0)
    each = [by_name(figures(evidence(*copied, each=each)))["frechet"] for each in (1, 2)]
    assert each[1].high - each[1].low > 1.2 * (each[0].high - each[0].low)


def test_by_grade() -> None:
    """One grade of two is shifted: its distance says so, and the mean stands between."""
    rng = np.random.default_rng(11)
    synthetic, real = vectors(rng, 120, 8), vectors(rng, 120, 8)
    synthetic[1::2] += 2
    found = by_name(figures(evidence(synthetic, real, grades=True)))
    wrong, right = found["frechet_grade_1"], found["frechet_grade_0"]
    assert (right.n, right.n_real) == (60, 60)
    assert wrong.value > 10 * right.value
    assert found["frechet_grades"].value == pytest.approx((wrong.value + right.value) / 2)
    few = by_name(figures(evidence(synthetic[:99], real, grades=True)))
    assert few["frechet_grade_1"].value is None
    assert few["frechet_grades"].reason == "there is no frechet_grade_1"


def test_large_sets_get_fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "_QUICK", 16)
    rng = np.random.default_rng(12)
    found = by_name(figures(evidence(vectors(rng, 64, 64), vectors(rng, 64, 64))))
    assert "100 draws" in found["frechet"].interval
