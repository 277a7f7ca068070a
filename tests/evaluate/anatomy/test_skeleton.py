"""The vessel graph: drawn shapes by hand, Euler's number against scikit-image, calibre and length."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.measure import euler_number

from fundusforge.evaluate.anatomy.skeleton import branch_points, vessel_graph
from fundusforge.sources.phantom import draw_eye


def strokes(*lines: tuple[tuple[int, int], tuple[int, int]], width: int = 5, size: int = 200) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    for start, end in lines:
        cv2.line(mask, start, end, 255, width)
    return mask


def test_a_y_bifurcates_once() -> None:
    """Three branches of known length meet in one point; where it is, is known too."""
    graph = vessel_graph(strokes(((100, 180), (100, 100)), ((100, 100), (50, 40)), ((100, 100), (150, 40))))
    assert sorted(graph.degrees) == [1, 1, 1, 3]
    assert branch_points(graph) == (1, 0)
    assert np.hypot(*(graph.nodes[graph.degrees == 3][0] - (100, 100))) < 5
    lengths = sorted(segment.length for segment in graph.segments)
    assert lengths == pytest.approx([78, 78, 80], abs=6)
    assert {segment.component for segment in graph.segments} == {1}


def test_a_cross_is_a_crossing() -> None:
    """Thinning makes two bifurcations of it; a slanting one too."""
    for lines in (
        (((20, 100), (180, 100)), ((100, 20), (100, 180))),
        (((20, 60), (180, 140)), ((100, 20), (110, 180))),
    ):
        assert branch_points(vessel_graph(strokes(*lines))) == (0, 1)


def test_a_ring_has_no_end() -> None:
    mask = np.zeros((120, 120), np.uint8)
    cv2.circle(mask, (60, 60), 40, 255, 5)
    (segment,) = vessel_graph(mask).segments
    assert segment.ends[0] == segment.ends[1]
    assert segment.length == pytest.approx(2 * math.pi * 40, rel=0.03)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 10])
def test_calibre_of_a_bar_is_its_width(width: int) -> None:
    mask = np.zeros((100, 60), np.uint8)
    mask[5:95, 20 : 20 + width] = 255
    (segment,) = vessel_graph(mask).segments
    assert segment.calibre == pytest.approx(width)
    assert 90 - width - 2 <= segment.length <= 90


def test_length_does_not_count_pixel_steps() -> None:
    """A slanting line is as long as it is, not the sum of its pixels' steps (8 % more at this angle)."""
    (segment,) = vessel_graph(strokes(((20, 30), (180, 100)), width=3)).segments
    assert segment.length == pytest.approx(math.hypot(160, 70), rel=0.02)


def test_twigs_of_an_uneven_wall_are_pruned() -> None:
    mask = strokes(((20, 100), (180, 100)), width=9)
    cv2.circle(mask, (100, 95), 5, 255, -1)
    assert len(vessel_graph(mask, prune=False).segments) >= 1
    assert len(vessel_graph(mask).segments) == 1
    cv2.line(mask, (100, 95), (100, 70), 255, 3)
    assert branch_points(vessel_graph(mask)) == (1, 0)


@pytest.mark.parametrize("seed", range(6))
def test_euler_number_equals_scikit_image(seed: int) -> None:
    """Nodes less segments are parts less holes, of any mask whose holes are not tiny."""
    if seed < 3:
        mask = draw_eye(seed, size=384, render=False).masks["vessels"] > 0
    else:
        noise = np.random.default_rng(seed).normal(size=(200, 200))
        mask = cv2.GaussianBlur(noise, (0, 0), 3) > 0.05
    # The graph closes holes below nine pixels; so must what it is compared with.
    from skimage.morphology import remove_small_holes

    mask = np.pad(mask, 1)
    filled = remove_small_holes(mask, max_size=8, connectivity=1)
    graph = vessel_graph(mask, prune=False)
    assert len(graph.nodes) - len(graph.segments) == euler_number(filled, connectivity=2)


def test_empty_and_wrong() -> None:
    graph = vessel_graph(np.zeros((20, 20)))
    assert (graph.length, len(graph.nodes), branch_points(graph)) == (0, 0, (0, 0))
    dot = np.zeros((20, 20))
    dot[5, 5] = 1
    assert vessel_graph(dot).length == 0
    with pytest.raises(ValueError, match="vessel mask"):
        vessel_graph(np.zeros((4, 4, 3)))
