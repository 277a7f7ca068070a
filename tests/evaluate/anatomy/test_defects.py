"""Broken and orphan vessels, and vessels across the disc: drawn by hand, and planted in phantoms."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from fundusforge.annotate.disc import Disc, find_disc
from fundusforge.evaluate.anatomy.defects import across_disc, broken_vessels, orphan_length
from fundusforge.evaluate.anatomy.skeleton import vessel_graph
from fundusforge.sources.phantom import draw_eye

SIZE = 300
FIELD = np.ones((SIZE, SIZE), bool)
DISC = Disc(centre=(150.0, 150.0), diameter=50.0)


def drawn(*lines: tuple[tuple[int, int], tuple[int, int]], width: int = 5) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for start, end in lines:
        cv2.line(mask, start, end, 255, width)
    return mask


def gaps(mask: np.ndarray) -> int:
    return len(broken_vessels(vessel_graph(mask), mask))


def test_a_gap_by_hand() -> None:
    """Two strokes in line are one broken vessel; far apart, at an angle, beside each other they are not."""
    assert gaps(drawn(((40, 100), (120, 100)), ((136, 100), (220, 100)))) == 1
    assert gaps(drawn(((40, 100), (120, 100)), ((160, 100), (240, 100)))) == 0
    assert gaps(drawn(((40, 100), (120, 100)), ((136, 104), (136, 190)))) == 0
    assert gaps(drawn(((40, 100), (120, 100)), ((40, 112), (120, 112)))) == 0
    assert gaps(drawn(((40, 100), (220, 100)))) == 0


def test_a_gap_is_empty_and_its_ends_alike() -> None:
    """No gap across another vessel, none between a trunk and a hair; a tip closes one gap at most."""
    pieces = ((40, 100), (112, 100)), ((134, 100), (220, 100))
    assert gaps(drawn(*pieces)) == 1
    assert gaps(drawn(*pieces, ((123, 20), (123, 180)))) == 0
    assert gaps(drawn(pieces[0], width=11) | drawn(pieces[1], width=3)) == 0
    assert gaps(drawn(*(((x, 100), (x + 40, 100)) for x in (20, 75, 130, 185)))) == 3


def test_orphans_by_hand() -> None:
    """A vessel from the disc, one over the edge, a broken-off one and a lone one: only the last is lost."""
    trunk, border = ((155, 150), (200, 150)), ((0, 250), (80, 250))
    piece, lone = ((216, 150), (250, 150)), ((60, 60), (60, 130))

    def orphan(*lines: tuple[tuple[int, int], tuple[int, int]], disc: Disc | None = DISC) -> float:
        mask = drawn(*lines)
        graph = vessel_graph(mask)
        return orphan_length(graph, broken_vessels(graph, mask), disc=disc, field_of_view=FIELD)

    assert orphan(trunk, border, piece) == 0
    assert orphan(trunk, border, piece, lone) == pytest.approx(70, abs=7)
    assert orphan(piece) > 0
    assert orphan(piece, disc=None) == 0
    assert orphan(trunk, lone, disc=None) > 0
    assert orphan(trunk, ((60, 60), (60, 66))) == 0


def test_across_the_disc_by_hand() -> None:
    def across(*lines: tuple[tuple[int, int], tuple[int, int]]) -> int:
        return across_disc(vessel_graph(drawn(*lines)), DISC)

    assert across(((60, 145), (240, 155))) == 1
    assert across(((150, 150), (240, 150))) == 0
    assert across(((60, 150), (150, 150)), ((150, 150), (220, 60)), ((150, 150), (220, 240))) == 0
    assert across(((60, 128), (240, 128))) == 0  # grazes the margin
    assert across(((60, 140), (240, 140)), ((60, 158), (240, 158))) == 2


def test_erasing_every_third_piece_breaks_vessels() -> None:
    """Rings cut out of the phantom's tree at even distances break it, and orphans stay fewer than breaks."""
    eye = draw_eye(3, size=384, render=False)
    disc = find_disc(eye.masks["disc"])
    whole = eye.masks["vessels"]
    rows, columns = np.mgrid[:384, :384]
    distance = np.hypot(columns - disc.centre[0], rows - disc.centre[1])
    cut = np.where(distance % 36 < 6, 0, whole)
    before, after = gaps(whole), gaps(cut)
    assert before <= 3
    assert after >= before + 25


def test_a_tree_without_a_root_is_an_orphan() -> None:
    """Erased about the disc and at the field's edge, the phantom's vessels hang on nothing."""
    eye = draw_eye(3, size=384, render=False)
    disc = find_disc(eye.masks["disc"])
    rows, columns = np.mgrid[:384, :384]
    near = np.hypot(columns - disc.centre[0], rows - disc.centre[1]) < 1.5 * disc.diameter
    far = cv2.erode(eye.field_of_view, np.ones((41, 41), np.uint8)) == 0
    share = []
    for mask in (eye.masks["vessels"], np.where(near | far, 0, eye.masks["vessels"])):
        graph = vessel_graph(mask)
        lost = orphan_length(graph, broken_vessels(graph, mask), disc=disc, field_of_view=eye.field_of_view)
        share.append(lost / graph.length)
    assert share[0] == 0
    assert share[1] > 0.8


def test_nothing_is_no_defect() -> None:
    graph = vessel_graph(np.zeros((SIZE, SIZE)))
    assert broken_vessels(graph, np.zeros((SIZE, SIZE))) == []
    assert orphan_length(graph, [], disc=None, field_of_view=FIELD) == 0
    assert across_disc(graph, DISC) == 0


def test_disc_by_hand() -> None:
    """The largest part, as a circle of its area."""
    mask = np.zeros((100, 100), np.uint8)
    cv2.circle(mask, (40, 60), 15, 255, -1)
    mask[5:8, 5:8] = 255
    found = find_disc(mask)
    assert found.centre == pytest.approx((40, 60))
    assert found.diameter == pytest.approx(30, abs=1.5)
    assert find_disc(np.zeros((10, 10))) is None
    assert math.isfinite(found.diameter)
