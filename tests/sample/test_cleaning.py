"""Cleaning of drawn trees: blur taken back, gaps bridged, what hangs on nothing removed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fundusforge.evaluate.anatomy.defects import broken_vessels, orphan_length
from fundusforge.evaluate.anatomy.skeleton import vessel_graph
from fundusforge.sample.cleaning import blur_of, connected, deblurred, threshold_of
from fundusforge.sources.phantom import EyeConfig, draw_eye

SIDE = 192


def tree(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A phantom's vessels and field of view, float32 in [0, 1] and uint8."""
    eye = draw_eye(seed, size=SIDE, grade=0, render=False, config=EyeConfig(field_angle=(45.0, 45.0)))
    return eye.masks["vessels"].astype(np.float32) / 255, eye.field_of_view


def doubtful(vessels: np.ndarray, seed: int) -> np.ndarray:
    """What an auto-encoder makes of a tree: blurred, in places faint, and specks where nothing is."""
    rng = np.random.default_rng(seed)
    faint = cv2.resize(rng.uniform(0.25, 1.0, (24, 24)).astype(np.float32), (SIDE, SIDE))
    specks = np.zeros_like(vessels)
    for row, column in rng.integers(20, SIDE - 20, (12, 2)):
        specks[row : row + 3, column : column + 3] = 0.9
    return np.maximum(cv2.GaussianBlur(vessels, (0, 0), 1.0) * faint, specks)


def orphans(mask: np.ndarray, inside: np.ndarray) -> tuple[float, int]:
    graph = vessel_graph(mask)
    gaps = broken_vessels(graph, mask)
    return orphan_length(graph, [], disc=None, field_of_view=inside), len(gaps)


def test_deblurring_sharpens_and_leaves_a_sharp_map_alone() -> None:
    vessels, _ = tree(1)
    blurred = cv2.GaussianBlur(vessels, (0, 0), 1.25)
    sharp = deblurred(blurred, 1.25)
    assert np.abs(sharp - vessels).mean() < 0.7 * np.abs(blurred - vessels).mean()
    assert sharp.min() >= 0 and sharp.max() <= 1 and sharp.shape == vessels.shape
    assert deblurred(vessels, 0.0) is vessels


def test_the_blur_and_the_threshold_are_found_again() -> None:
    pairs = [tree(seed)[0] for seed in (1, 2)]
    drawn = [cv2.GaussianBlur(vessels, (0, 0), 1.25) for vessels in pairs]
    assert blur_of(pairs, drawn) == 1.25
    assert blur_of(pairs, pairs) == 0
    assert threshold_of(pairs, [0.6 * vessels for vessels in pairs]) < 0.6


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_binarisation_leaves_fewer_orphans_and_gaps_than_a_threshold(seed: int) -> None:
    vessels, inside = tree(seed)
    probability = doubtful(vessels, seed)
    plain = np.where(probability > 0.4, inside, np.uint8(0))
    clean = connected(probability, inside, threshold=0.4)
    before, after = orphans(plain, inside), orphans(clean, inside)
    assert after[0] < 0.5 * before[0], "orphan length"
    assert after[1] <= before[1], "broken vessels"
    truth = vessels > 0
    overlap = [
        2 * np.count_nonzero((m > 0) & truth) / (np.count_nonzero(m) + truth.sum()) for m in (plain, clean)
    ]
    assert overlap[1] > overlap[0] - 0.02, "and the tree is still the tree"
    assert not clean[inside == 0].any() and set(np.unique(clean)) <= {0, 255}


def test_a_gap_is_bridged_only_where_something_leads_across() -> None:
    probability, inside = np.zeros((96, 96), np.float32), np.full((96, 96), 255, np.uint8)
    probability[48, 10:86] = 1
    probability[10:40, 30] = 1  # ends 8 pixels above, and nothing leads on
    probability[10:44, 60] = 1
    probability[44:48, 60] = 0.2  # ends 4 pixels above, and faintly leads on
    clean = connected(probability, inside, threshold=0.5) > 0
    assert clean[44:48, 60].all() and clean[10:44, 60].all()
    assert not clean[10:40, 30].any(), "what hangs on nothing is no vessel"


def test_nothing_drawn_gives_nothing() -> None:
    empty, inside = np.zeros((64, 64), np.float32), np.full((64, 64), 255, np.uint8)
    assert not connected(empty, inside, threshold=0.5).any()
