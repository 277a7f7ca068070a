"""Vessel amount by hand, and what it means."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from fundusforge.evaluate.amount import vessel_amount


def test_a_bar_by_hand() -> None:
    """A bar of 20 x 3 pixels, half of the picture in the field of view: 30 of 200 pixels, a thin skeleton."""
    mask = np.zeros((20, 20), np.uint8)
    mask[:, 8:11] = 255
    field = np.zeros((20, 20), np.uint8)
    field[:10] = 255
    found = vessel_amount(mask, field)
    assert (found.pixels, found.inside) == (30, 200)
    assert found.fraction == pytest.approx(0.15)
    assert 7 <= found.skeleton <= 10
    assert found.length == pytest.approx(found.skeleton / (2 * math.sqrt(200 / math.pi)))


def test_thicker_vessels_are_more_but_not_longer(fundus) -> None:
    """Dilation raises the amount and leaves the length nearly as it was."""
    drawing = fundus(256, seed=3)
    thin, field = drawing["vessels"], drawing["field_of_view"]
    before, after = vessel_amount(thin, field), vessel_amount(cv2.dilate(thin, np.ones((3, 3))), field)
    assert after.fraction > 1.2 * before.fraction
    assert after.length == pytest.approx(before.length, rel=0.25)


def test_free_of_size() -> None:
    """The same two vessels at twice the size have the same fraction and length."""
    found = []
    for size in (256, 512):
        mask, field = np.zeros((size, size), np.uint8), np.zeros((size, size), np.uint8)
        cv2.circle(field, (size // 2, size // 2), int(0.45 * size), 255, -1)
        cv2.ellipse(mask, (size // 2, size // 2), (size // 4, size // 5), 0, 0, 300, 255, size // 32)
        cv2.line(mask, (0, size // 2), (size // 3, size // 3), 255, size // 32)
        found.append(vessel_amount(mask, field))
    small, large = found
    assert large.fraction == pytest.approx(small.fraction, rel=0.1)
    assert large.length == pytest.approx(small.length, rel=0.05)


@pytest.mark.parametrize("field", [np.zeros((8, 8), np.uint8), np.ones((4, 4), np.uint8)])
def test_refuses_a_field_that_does_not_fit(field: np.ndarray) -> None:
    with pytest.raises(ValueError, match="field of view"):
        vessel_amount(np.zeros((8, 8), np.uint8), field)
