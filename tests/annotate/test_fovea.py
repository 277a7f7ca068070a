"""The fovea finder against the phantom's ground truth, with the fovea there, painted over, or out of view."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from fundusforge.annotate.disc import Disc, find_disc, geometry
from fundusforge.annotate.fovea import Search, find_fovea
from fundusforge.sources.phantom import Eye, draw_eye

SEEDS = (0, 1, 3, 4, 7, 10)


@lru_cache(maxsize=len(SEEDS))
def eye(seed: int) -> Eye:
    return draw_eye(seed, size=384)


def look(seed: int, image: np.ndarray | None = None, *, side: str | None = None) -> Search:
    drawn = eye(seed)
    return find_fovea(
        drawn.image if image is None else image, find_disc(drawn.masks["disc"]),
        vessels=drawn.masks["vessels"], field_of_view=drawn.field_of_view, eye=side,
    )  # fmt: skip


def away(seed: int, search: Search) -> float:
    """Distance from the truth in disc diameters (the phantom counts from a pixel's corner)."""
    truth = np.array(eye(seed).fovea_centre) - 0.5
    return float(np.hypot(*(truth - search.fovea.centre))) / find_disc(eye(seed).masks["disc"]).diameter


@pytest.mark.parametrize("seed", SEEDS)
def test_finds_the_phantoms_fovea(seed: int) -> None:
    """Within half a disc of the truth, whether or not the side is known."""
    for side in (eye(seed).eye, None):
        search = look(seed, side=side)
        assert search.in_view
        assert search.fovea.confidence > 0.5
        assert away(seed, search) < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_does_not_find_one_that_was_painted_over(seed: int) -> None:
    """A plane fitted to the surroundings covers the macula: none is found, though its place is in view."""
    drawn = eye(seed)
    x, y = drawn.fovea_centre
    rows, columns = np.mgrid[:384, :384] + 0.5
    distance = np.hypot(columns - x, rows - y) / find_disc(drawn.masks["disc"]).diameter
    ring = (distance > 1.1) & (distance < 1.8) & (drawn.field_of_view > 0) & (drawn.masks["vessels"] == 0)
    terms = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
    fit = np.linalg.lstsq(terms[ring], drawn.image[ring].astype(float), rcond=None)[0]
    covered = np.where((distance < 1.2)[..., None], (terms @ fit).clip(0, 255), drawn.image)
    covered[drawn.field_of_view == 0] = 0
    search = look(seed, covered.astype(np.uint8), side=drawn.eye)
    assert search.fovea is None
    assert search.in_view


def test_one_out_of_view_is_not_missing() -> None:
    """A field of view that ends between disc and fovea: no fovea, and nothing is said of its absence."""
    drawn = eye(0)
    disc = find_disc(drawn.masks["disc"])
    rows, columns = np.mgrid[:384, :384]
    near = np.hypot(columns - disc.centre[0], rows - disc.centre[1]) < 2.2 * disc.diameter
    search = find_fovea(drawn.image, disc, field_of_view=near & (drawn.field_of_view > 0))
    assert search == Search(fovea=None, in_view=False)


def test_a_drawn_spot_at_a_known_place() -> None:
    """A dark spot on an even ground is found to a twentieth of a disc, and its geometry is known."""
    rows, columns = np.mgrid[:300, :400]
    disc = Disc(centre=(300.0, 150.0), diameter=60.0)
    spot = np.exp(-((columns - 150) ** 2 + (rows - 165) ** 2) / (2 * 20.0**2))
    image = np.repeat((150 * (1 - 0.4 * spot))[..., None], 3, axis=-1).astype(np.uint8)
    search = find_fovea(image, disc, eye="right")
    assert np.hypot(search.fovea.centre[0] - 150, search.fovea.centre[1] - 165) < 3
    place = geometry(disc, search.fovea.centre)
    assert place.distance == pytest.approx(np.hypot(150, 15) / 60, abs=0.05)
    assert place.drop == pytest.approx(np.degrees(np.arctan2(15, 150)), abs=1.5)
    assert find_fovea(image, disc, eye="left").fovea is None
    even = np.full_like(image, 120)
    assert find_fovea(even, disc, eye="right").fovea is None
