"""What a disc may look like: one part, and neither a speck nor half the eye."""

from __future__ import annotations

import numpy as np
import pytest

from fundusforge.annotate.shapes import implausible, largest_part


def test_the_largest_part_is_kept_whole() -> None:
    """A cut through a part is closed; a smaller part and a speck go; nothing stays nothing."""
    mask = np.zeros((40, 40), np.uint8)
    mask[5:15, 5:15] = 255
    mask[5:14, 10] = 0
    mask[30:33, 30:33] = mask[20, 20] = 255
    found = largest_part(mask)
    assert (found[5:15, 5:15] == 255).all() and np.count_nonzero(found) == 100
    assert not largest_part(np.zeros((4, 4), np.uint8)).any()


@pytest.mark.parametrize(("side", "fits"), [(0, False), (3, False), (15, True), (50, False)])
def test_a_disc_is_neither_a_speck_nor_half_the_eye(side: int, fits: bool) -> None:
    """The field of view has 10 000 pixels: a disc has 50 to 800."""
    field, mask = np.zeros((200, 100), np.uint8), np.zeros((200, 100), np.uint8)
    field[:100] = 255
    mask[:side, :side] = 255
    reason = implausible("disc", mask, field)
    assert (not reason) is fits
    assert side == 0 or fits or f"{side**2 / 10000:.2%}" in reason
    assert not implausible("vessels", mask, field)


def test_without_a_field_of_view_the_picture_counts() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[:10, :7] = 255
    assert not implausible("disc", mask, None)
    assert implausible("disc", mask, (mask > 0) | np.eye(100, dtype=bool))
