"""What speaks against a disc: every reason planted, right discs left alone, and where vessels converge."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from fundusforge.annotate.convergence import convergence
from fundusforge.annotate.disc import Disc, doubts, find_disc
from fundusforge.sources.phantom import Eye, draw_eye

SEEDS = (0, 1, 3, 4, 7, 10)


@lru_cache(maxsize=len(SEEDS))
def eye(seed: int) -> Eye:
    return draw_eye(seed, size=256, render=False)


def ellipse(like: np.ndarray, x: float, y: float, across: float, high: float) -> np.ndarray:
    rows, columns = np.mgrid[: like.shape[0], : like.shape[1]]
    return np.where(np.hypot((columns - x) / across, (rows - y) / high) <= 1, 255, 0).astype(np.uint8)


def place(seed: int) -> Disc:
    found = find_disc(eye(seed).masks["disc"])
    assert found is not None
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_right_disc_is_not_doubted(seed: int) -> None:
    drawn = eye(seed)
    assert doubts(drawn.masks["disc"], drawn.masks["vessels"], drawn.field_of_view) is None
    assert doubts(drawn.masks["disc"], None, drawn.field_of_view) is None


def test_discs_at_the_fovea_are_noticed() -> None:
    """A disc moved to where no vessels are: in most drawn eyes the vessels say so, and nothing else can."""
    noticed = 0
    for seed in SEEDS:
        drawn = eye(seed)
        radius = place(seed).diameter / 2
        wrong = ellipse(drawn.field_of_view, *drawn.fovea_centre, radius, radius) & drawn.field_of_view
        told = doubts(wrong, drawn.masks["vessels"], drawn.field_of_view)
        noticed += told is not None
    assert noticed >= 5


def test_every_fault_of_the_outline_has_its_words() -> None:
    drawn, disc = eye(0), place(0)
    field, (x, y), radius = drawn.field_of_view, disc.centre, disc.diameter / 2
    right = ellipse(field, x, y, radius, radius)

    def told(mask: np.ndarray) -> str:
        return doubts(mask, drawn.masks["vessels"], field) or ""

    assert told(np.zeros_like(field)) == "there is no disc"
    assert "of the field of view; expected" in told(ellipse(field, x, y, 3, 3))
    assert "of the field of view; expected" in told(ellipse(field, 128, 128, 80, 80))
    assert "as long as wide" in told(ellipse(field, x, y, 0.6 * radius, 1.5 * radius))
    assert "a second place" in told(right | ellipse(field, 256 - x, y, 0.9 * radius, 0.9 * radius))
    assert told(right | ellipse(field, 256 - x, y, 3, 3)) == ""


def test_a_disc_that_the_field_cuts_is_doubtful() -> None:
    """A field of view that ends a quarter of a disc beyond its centre."""
    drawn, disc = eye(0), place(0)
    columns = np.arange(256)[None, :]
    field = np.where(columns < disc.centre[0] + 0.25 * disc.diameter, drawn.field_of_view, 0)
    assert "cuts the disc" in (doubts(drawn.masks["disc"] & field, None, field) or "")


def test_rays_converge_where_they_start() -> None:
    """Lines from one point, drawn without their inner part, vote for that point."""
    rows, columns = np.mgrid[:200, :240]
    field = np.full((200, 240), 255, np.uint8)
    right, down = columns - 80.0, rows - 110.0
    angle, radius = np.degrees(np.arctan2(down, right)), np.hypot(right, down)
    vessels = np.zeros(field.shape, np.uint8)
    for ray in (-170, -115, -60, -20, 35, 80, 130):
        turned = np.radians(np.abs((angle - ray + 180) % 360 - 180))
        vessels[(turned < 1.5) & (radius * np.sin(turned) < 1.5) & (radius > 20)] = 255
    votes = convergence(vessels, field)
    assert votes is not None
    assert votes.shape == field.shape
    assert votes.max() == pytest.approx(1)
    y, x = np.unravel_index(int(votes.argmax()), votes.shape)
    assert np.hypot(x - 80, y - 110) < 8


def test_without_vessels_nothing_converges() -> None:
    field = np.full((64, 64), 255, np.uint8)
    assert convergence(np.zeros_like(field), field) is None
