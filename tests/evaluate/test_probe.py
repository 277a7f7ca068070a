"""The probe against scikit-learn, by hand, and for what it means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fundusforge.evaluate.probe import probe_scores, weighted_auc


def names(prefix: str, count: int, images: int = 1) -> list[str]:
    return [f"{prefix}{index // images}" for index in range(count)]


def test_area_equals_scikit_learn_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    fake, real = rng.integers(0, 6, 40) * 1.0, rng.integers(2, 8, 30) * 1.0
    labels, scores = np.repeat([0, 1], [40, 30]), np.concatenate([fake, real])
    assert weighted_auc(fake, real) == pytest.approx(roc_auc_score(labels, scores))
    weights = [rng.integers(0, 4, 40) * 1.0, rng.integers(0, 4, 30) * 1.0]
    expected = roc_auc_score(labels, scores, sample_weight=np.concatenate(weights))
    assert weighted_auc(fake, real, weights) == pytest.approx(expected)
    assert weighted_auc(fake, real, [np.zeros(40), np.ones(30)]) is None


def test_area_by_hand() -> None:
    assert weighted_auc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


def test_equal_sets_cannot_be_told_apart_and_shifted_ones_can() -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(120, 32)).astype(np.float32) for _ in range(2))
    patients = names("a", 120), names("b", 120)
    equal = weighted_auc(*probe_scores(first, second, patients, seed=0))
    some = weighted_auc(*probe_scores(first + np.float32(0.25), second, patients, seed=0))
    much = weighted_auc(*probe_scores(first + np.float32(1.0), second, patients, seed=0))
    assert abs(equal - 0.5) < 0.12 and equal < some < much and much > 0.99


def test_the_odd_image_ranks_last() -> None:
    """One synthetic image that stays far from all real ones gets the least score."""
    rng = np.random.default_rng(2)
    first, second = (rng.normal(size=(60, 8)).astype(np.float32) for _ in range(2))
    first[:, 0] += 0.5
    first[17, 0] += 6
    fake, _ = probe_scores(first, second, (names("a", 60), names("b", 60)), seed=0)
    assert int(np.argmin(fake)) == 17


def test_a_patient_is_never_in_training_and_test() -> None:
    """Copies of an image under one patient would be learnt by heart; left out together they are not."""
    rng = np.random.default_rng(3)
    first, second = (np.repeat(rng.normal(size=(20, 64)), 4, 0).astype(np.float32) for _ in range(2))
    together = probe_scores(first, second, (names("a", 80, 4), names("b", 80, 4)), seed=0)
    apart = probe_scores(first, second, (names("a", 80), names("b", 80)), seed=0)
    assert weighted_auc(*apart) > 0.95 and weighted_auc(*together) < 0.75


def test_few_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="10 patients"):
        probe_scores(np.zeros((9, 2), np.float32), np.zeros((20, 2), np.float32),
                     (names("a", 9), names("b", 20)), seed=0)  # fmt: skip
