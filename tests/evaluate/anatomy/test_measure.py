"""The anatomy of one image, where there is next to nothing to measure."""

from __future__ import annotations

import numpy as np
import pytest

from fundusforge.evaluate.anatomy.measure import measure


@pytest.mark.parametrize(
    "places",
    [[], [(30, 30)], [(30, 30), (30, 31), (31, 30)], [(30, 30), (30, 31), (30, 32), (31, 31), (29, 31)]],
)
def test_specks_have_no_length(places: list[tuple[int, int]]) -> None:
    """Vessels of no length have an amount, and nothing that is told per length."""
    vessels = np.zeros((64, 64), np.uint8)
    for place in places:
        vessels[place] = 255
    found = measure(np.full((64, 64, 3), 100, np.uint8), vessels, disc=None, field_of_view=None, eye=None)
    assert found.vessel_fraction == pytest.approx(len(places) / 64**2)
    assert found.orphan_share is None and found.bifurcations is None and found.calibre is None
