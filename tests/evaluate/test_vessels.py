"""Vessel scores against scikit-learn, by hand, and for what they mean."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)

from fundusforge.evaluate.agreement import Pool
from fundusforge.evaluate.vessels import (
    average_precision,
    best_threshold,
    from_counts,
    tally,
    vessel_scores,
)


def drawn(seed: int, *, size: int = 96, noise: float = 0.25) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy probability map, the mask it was made from, and a round field of view."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    mask = np.where((x + 3 * np.sin(y / 7)) % 12 < 2, 255, 0).astype(np.uint8)
    field = np.where(np.hypot(y - size / 2, x - size / 2) < size * 0.45, 255, 0).astype(np.uint8)
    probability = np.clip(0.3 + 0.4 * (mask > 0) + rng.normal(0, noise, mask.shape), 0, 1)
    return probability.astype(np.float32), mask, field


@pytest.mark.parametrize("as_bytes", [False, True])
def test_equals_scikit_learn_inside_the_field(as_bytes: bool) -> None:
    """Pooled figures are scikit-learn's on the pixels inside, ties (clipped or 8-bit scores) included."""
    images = [drawn(seed) for seed in range(3)]
    maps = [np.rint(p * 255).astype(np.uint8) if as_bytes else p for p, _, _ in images]
    masks, fields = [m for _, m, _ in images], [f for _, _, f in images]
    scores = vessel_scores(maps, masks, fields, threshold=0.5)

    inside = np.concatenate([f.ravel() > 0 for f in fields])
    truth = np.concatenate([m.ravel() > 0 for m in masks])[inside]
    values = np.concatenate([(m / 255 if as_bytes else m).ravel() for m in maps])[inside]
    assert scores.auc == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert scores.f1 == pytest.approx(f1_score(truth, values >= 0.5), abs=1e-12)
    assert scores.sensitivity == pytest.approx(recall_score(truth, values >= 0.5), abs=1e-12)
    assert scores.specificity == pytest.approx(recall_score(~truth, values < 0.5), abs=1e-12)
    own = [roc_auc_score(m[f > 0] > 0, p[f > 0]) for p, m, f in zip(maps, masks, fields, strict=True)]
    assert scores.mean_auc == pytest.approx(np.mean(own), abs=1e-12)
    assert (scores.images, scores.pixels) == (3, int(inside.sum()))


def test_by_hand() -> None:
    """One hit, one miss, one alarm, one rejection; two of four pairs in order and one tied."""
    probability = np.array([[0.9, 0.4], [0.6, 0.4]], np.float32)
    mask = np.array([[255, 255], [0, 0]], np.uint8)
    scores = vessel_scores([probability], [mask], threshold=0.5)
    assert (scores.f1, scores.sensitivity, scores.specificity) == (0.5, 0.5, 0.5)
    assert scores.auc == pytest.approx(2.5 / 4)


def test_outside_the_field_does_not_count() -> None:
    """Wrong everywhere outside and right everywhere inside is perfect."""
    _, mask, field = drawn(0)
    probability = np.where(field > 0, mask, 255 - mask)
    scores = vessel_scores([probability], [mask], [field], threshold=0.5)
    assert (scores.f1, scores.auc) == (1.0, 1.0)
    assert vessel_scores([probability], [mask], threshold=0.5).auc < 1.0


def test_meaning_noise_lowers_and_inversion_mirrors() -> None:
    """More noise means less agreement; the inverted map has the mirrored area."""
    clean, mask, field = drawn(1, noise=0.1)
    noisy, _, _ = drawn(1, noise=0.5)
    better = vessel_scores([clean], [mask], [field], threshold=0.5)
    worse = vessel_scores([noisy], [mask], [field], threshold=0.5)
    assert better.auc > worse.auc > 0.5
    assert better.f1 > worse.f1
    mirrored = vessel_scores([1 - noisy], [mask], [field], threshold=0.5)
    assert mirrored.auc == pytest.approx(1 - worse.auc, abs=1e-5)


def test_best_threshold_is_the_best_of_all() -> None:
    """No threshold of scikit-learn's precision-recall curve beats it."""
    images = [drawn(seed) for seed in (4, 5)]
    maps, masks, fields = map(list, zip(*images, strict=True))
    chosen = best_threshold(maps, masks, fields)
    inside = [f > 0 for f in fields]
    truth = np.concatenate([m[i] > 0 for m, i in zip(masks, inside, strict=True)])
    values = np.concatenate([p[i] for p, i in zip(maps, inside, strict=True)])
    precision, recall, _ = precision_recall_curve(truth, values)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert vessel_scores(maps, masks, fields, threshold=chosen).f1 == pytest.approx(best, abs=1e-12)


def test_best_threshold_lies_between_the_classes() -> None:
    """Separable scores: the threshold stands half-way."""
    probability = np.array([[0.2, 0.8]], np.float32)
    assert best_threshold([probability], [np.array([[0, 255]], np.uint8)]) == pytest.approx(0.5)


def test_tallies_add_up() -> None:
    """Summed tallies give the pooled F1 exactly; each keeps its own exact area and all of its pixels."""
    images = [drawn(seed) for seed in range(4)]
    tallies = [tally(p, m, f, threshold=0.5) for p, m, f in images]
    exact = vessel_scores(*map(list, zip(*images, strict=True)), threshold=0.5)
    assert from_counts(np.sum([t.counts for t in tallies], axis=0))[0] == exact.f1
    assert np.mean([t.auc for t in tallies]) == pytest.approx(exact.mean_auc)
    assert sum(t.vessel_levels.sum() + t.background_levels.sum() for t in tallies) == exact.pixels


def test_what_cannot_be_computed_is_none() -> None:
    """A field of view without vessels has no area and no sensitivity, and nothing is NaN."""
    empty = np.zeros((8, 8), np.uint8)
    scores = vessel_scores([np.zeros((8, 8), np.float32)], [empty], threshold=0.5)
    assert (scores.f1, scores.auc, scores.sensitivity, scores.mean_auc) == (None, None, None, None)
    assert scores.specificity == 1.0
    with pytest.raises(ValueError, match="no vessel pixel"):
        best_threshold([np.zeros((8, 8), np.float32)], [empty])


@pytest.mark.parametrize(
    ("maps", "masks", "fields", "message"),
    [
        ([], [], None, "at least one"),
        ([np.zeros((4, 4), np.float32)], [np.zeros((4, 5), np.uint8)], None, "alike"),
        ([np.full((4, 4), np.nan, np.float32)], [np.zeros((4, 4), np.uint8)], None, "finite"),
        ([np.full((4, 4), 2.0)], [np.zeros((4, 4), np.uint8)], None, r"\[0, 1\]"),
        ([np.zeros((4, 4))], [np.zeros((4, 4), np.uint8)], [np.zeros((2, 2), np.uint8)], "field of view"),
    ],
)
def test_refuses(maps: list, masks: list, fields: list | None, message: str) -> None:
    """Bad input is refused with what was expected."""
    with pytest.raises(ValueError, match=message):
        vessel_scores(maps, masks, fields, threshold=0.5)


def test_second_observer_of_chase(data_root: Path) -> None:
    """A second human scores about 0.77 of F1 against the first, as is known of this set."""
    firsts = sorted((data_root / "CHASE_DB1").rglob("*_1stHO.png"))
    if not firsts:
        pytest.skip("CHASE_DB1 is not among the data sets")
    pictures = [
        [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (first, second)]
        for first in firsts
        if (second := first.with_name(first.name.replace("1st", "2nd"))).is_file()
    ]
    masks, others = ([pair[place] for pair in pictures] for place in (0, 1))
    scores = vessel_scores(
        [np.where(other > 0, 255, 0).astype(np.uint8) for other in others], masks, threshold=0.5
    )
    assert scores.images == len(firsts)
    assert 0.75 < scores.f1 < 0.79
    assert scores.specificity > 0.97


def test_average_precision_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((2, 64, 64)) < 0.05
    found = np.clip(0.3 * truth + rng.random(truth.shape) * 0.7, 0.01, 0.99).astype(np.float32)
    pool = Pool([tally(f, t, threshold=0.5) for f, t in zip(found, truth, strict=True)])
    wanted = average_precision_score(truth.ravel(), found.ravel())
    assert pool.value("aupr") == pytest.approx(wanted, abs=2e-3)
    one = average_precision_score(truth[0].ravel(), found[0].ravel())
    assert pool.value("aupr", np.array([1.0, 0.0])) == pytest.approx(one, abs=2e-3)


def test_average_precision_by_hand() -> None:
    # best first: one positive, one negative, two positives: (1 + 2/3 + 3/4) / 3 with the last two in order
    assert average_precision(np.array([1, 1, 0, 1]), np.array([0, 0, 1, 0])) == pytest.approx(29 / 36)
    assert average_precision(np.array([0, 0]), np.array([3, 1])) is None
