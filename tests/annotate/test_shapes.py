"""What a disc may look like: one part, and neither a speck nor half the eye."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fundusforge.annotate.shapes import implausible, largest_part


def test_the_largest_part_is_kept_whole() -> None:
    """A cut through a part is closed; a smaller part and a speck go; nothing stays nothing."""
    disc = np.zeros((80, 80), np.uint8)
    cv2.circle(disc, (30, 30), 20, 255, cv2.FILLED)
    mask = disc.copy()
    mask[10:48, 30:32] = 0
    mask[70:75, 70:75] = mask[60, 60] = 255
    found = largest_part(mask)
    assert np.count_nonzero(found != disc) < 0.03 * np.count_nonzero(disc)
    assert not found[60:].any()
    assert not largest_part(np.zeros((4, 4), np.uint8)).any()


def test_a_tail_does_not_stretch_the_disc() -> None:
    disc = np.zeros((80, 120), np.uint8)
    cv2.circle(disc, (40, 40), 20, 255, cv2.FILLED)
    tailed = disc.copy()
    tailed[38:43, 60:110] = 255
    assert np.count_nonzero(largest_part(tailed) != disc) < 0.05 * np.count_nonzero(disc)


@pytest.mark.parametrize("corner", [(0, 0), (0, 79), (40, 79)])
def test_a_part_at_the_border_stays_there(corner: tuple[int, int]) -> None:
    disc = np.zeros((80, 80), np.uint8)
    cv2.circle(disc, corner[::-1], 20, 255, cv2.FILLED)
    assert np.count_nonzero(largest_part(disc) != disc) < 0.12 * np.count_nonzero(disc), "corners are rounded"
    speck = np.zeros((80, 80), np.uint8)
    speck[corner] = 255
    assert largest_part(speck)[corner] == 255


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
