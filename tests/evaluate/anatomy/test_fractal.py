"""Fractal dimension of sets whose dimension is known, and of sparser vessel trees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.morphology import skeletonize

from fundusforge.evaluate.anatomy.fractal import fractal_dimension
from fundusforge.sources.phantom import draw_eye


def sierpinski(size: int) -> np.ndarray:
    """Pascal's triangle modulo two: a pixel is set where its coordinates share no binary digit."""
    rows, columns = np.mgrid[:size, :size]
    return (rows & columns) == 0


def test_known_dimensions() -> None:
    line = np.zeros((512, 512), bool)
    line[200] = True
    diagonal = np.eye(512, dtype=bool)
    assert fractal_dimension(line) == pytest.approx(1)
    assert fractal_dimension(diagonal) == pytest.approx(1)
    assert fractal_dimension(np.ones((512, 512))) == pytest.approx(2)
    assert fractal_dimension(sierpinski(512)) == pytest.approx(math.log(3, 2))
    assert fractal_dimension(sierpinski(1024)) == pytest.approx(math.log(3, 2))


def test_a_carpet_in_thirds() -> None:
    """Sierpinski's carpet, 8 boxes of 9, in boxes of its own size."""
    carpet = np.ones((1, 1), bool)
    for _ in range(5):
        hole = np.zeros_like(carpet)
        carpet = np.block([[carpet, carpet, carpet], [carpet, hole, carpet], [carpet, carpet, carpet]])
    found = fractal_dimension(carpet, divisions=(3, 9, 27, 81))
    assert found == pytest.approx(math.log(8, 3))


def test_boxes_are_parts_of_the_field() -> None:
    """The same figure in a corner of a larger picture, with its field of view, has the same dimension."""
    field = np.zeros((700, 800), bool)
    field[100:612, 200:712] = True
    shown = np.zeros_like(field)
    shown[100:612, 200:712] = sierpinski(512)
    assert fractal_dimension(shown, field) == pytest.approx(math.log(3, 2))
    assert fractal_dimension(np.zeros((64, 64))) is None
    with pytest.raises(ValueError, match="field of view"):
        fractal_dimension(shown, np.zeros_like(field))


def test_a_tree_that_lost_its_twigs_is_of_lower_dimension() -> None:
    eye = draw_eye(4, size=512, render=False)
    full = skeletonize(eye.masks["vessels"] > 0)
    rows, columns = np.mgrid[:512, :512]
    bare = full & (np.hypot(columns - 256, rows - 256) < 130)
    dimension = fractal_dimension(full, eye.field_of_view)
    assert 1.3 < dimension < 1.7
    assert fractal_dimension(bare, eye.field_of_view) < dimension - 0.1
