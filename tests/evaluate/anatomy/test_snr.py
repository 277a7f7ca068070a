"""Vessel signal-to-noise ratio: by hand in decibels, against lines of scikit-image, and under noise."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.draw import line

from fundusforge.annotate.disc import Disc, find_disc
from fundusforge.evaluate.anatomy.skeleton import vessel_graph
from fundusforge.evaluate.anatomy.snr import ZONES, vessel_snr
from fundusforge.sources.phantom import draw_eye

DISC = Disc(centre=(20.0, 100.0), diameter=40.0)


def bar(amplitude: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a level vessel, 50 bright and 5 px wide, on rows that alternate about 100 by the amplitude."""
    image = np.zeros((200, 200, 3), np.uint8)
    image[..., 1] = 100 + amplitude * (2 * (np.arange(200) % 2) - 1)[:, None]
    mask = np.zeros((200, 200), np.uint8)
    mask[98:103, 20:190] = 255
    image[mask > 0, 1] = 50
    return image, mask


def snr(image: np.ndarray, mask: np.ndarray, zone: str = "kim") -> float | None:
    return vessel_snr(image, mask, vessel_graph(mask), DISC, zone=ZONES[zone])


@pytest.mark.parametrize("zone", ["kim", "usual"])
def test_a_level_vessel_by_hand(zone: str) -> None:
    """Rows 93 to 97 and 103 to 107: six are bright and four dark."""
    image, mask = bar(10)
    beside = image[[*range(93, 98), *range(103, 108)], 100, 1].astype(float)
    expected = 20 * math.log10(50 / beside.std(ddof=1))
    assert snr(image, mask, zone) == pytest.approx(expected, abs=1e-6)
    assert beside.std(ddof=1) == pytest.approx(20 * math.sqrt(0.24 * 10 / 9))


def test_twice_the_noise_is_six_decibels_less() -> None:
    assert snr(*bar(8)) - snr(*bar(16)) == pytest.approx(20 * math.log10(2), abs=1e-6)


def test_a_flat_ground_stays_finite() -> None:
    """Noise is not taken for less than the rounding error."""
    assert snr(*bar(0)) == pytest.approx(20 * math.log10(50 * math.sqrt(12)))


def test_slanting_vessel_against_profiles_of_scikit_image() -> None:
    """At the five points of a slanting vessel, the pixels of lines that scikit-image draws across it."""
    rng = np.random.default_rng(0)
    image = rng.integers(80, 121, (300, 300, 3), dtype=np.uint8)
    image[..., 1] = cv2.GaussianBlur(image[..., 1], (0, 0), 2)
    mask = np.zeros((300, 300), np.uint8)
    disc = Disc(centre=(40.0, 40.0), diameter=50.0)
    cv2.line(mask, (45, 43), (285, 163), 255, 7)
    image[mask > 0, 1] = 60
    along = np.array([2.0, 1.0]) / math.sqrt(5)
    across = np.array([-along[1], along[0]])
    start = np.array([45.0, 43.0])
    # Where the vessel's middle is two and three diameters from the disc's centre.
    steps = np.linspace(0, 268, 26801)
    reach = np.hypot(*(start + steps[:, None] * along - disc.centre).T) / disc.diameter
    inner, outer = steps[np.argmax(reach >= 2)], steps[np.argmax(reach >= 3)]
    ratios = []
    for part in (np.arange(5) + 0.5) / 5:
        place = start + (inner + part * (outer - inner)) * along
        ends = [np.rint(place + side * 20 * across)[::-1].astype(int) for side in (-1, 1)]
        pixels = line(*ends[0], *ends[1])
        level, drawn = image[..., 1][pixels].astype(float), mask[pixels] > 0
        first, last = np.flatnonzero(drawn)[[0, -1]]
        noise = np.concatenate([level[first - 5 : first], level[last + 1 : last + 6]]).std(ddof=1)
        ratios.append(20 * math.log10(level[first : last + 1].mean() / noise))
    found = vessel_snr(image, mask, vessel_graph(mask), disc, zone=ZONES["kim"])
    assert found == pytest.approx(np.mean(ratios), abs=0.5)


def test_zones_are_where_they_are_named() -> None:
    """Noise in Kim's zone alone lowers Kim's figure and leaves the usual one; and the reverse."""
    calm, mask = bar(5)
    loud = bar(25)[0]
    far = np.arange(200) - 20 > 1.75 * DISC.diameter
    outer, inner = np.where(far[None, :, None], loud, calm), np.where(far[None, :, None], calm, loud)
    assert snr(outer, mask, "kim") < snr(calm, mask, "kim") - 10
    assert snr(outer, mask, "usual") == pytest.approx(snr(calm, mask, "usual"))
    assert snr(inner, mask, "usual") < snr(calm, mask, "usual") - 10
    assert snr(inner, mask, "kim") == pytest.approx(snr(calm, mask, "kim"))


def test_what_is_no_background_does_not_count() -> None:
    """A neighbour vessel beyond the wall and black outside the field are left out of the noise."""
    image, mask = bar(10)
    alone = snr(image, mask)
    field = np.ones((200, 200), bool)
    field[106:] = False
    dark = np.where(field[..., None], image, 0).astype(np.uint8)
    assert vessel_snr(dark, mask, vessel_graph(mask), DISC, zone=ZONES["kim"]) < alone - 5
    inside = vessel_snr(dark, mask, vessel_graph(mask), DISC, zone=ZONES["kim"], field_of_view=field)
    assert inside == pytest.approx(alone, abs=0.5)


def test_no_vessel_in_the_zone() -> None:
    image, mask = bar(10)
    mask[:, 90:] = 0
    assert snr(image, mask, "kim") is None
    assert snr(image, mask, "usual") is not None
    assert snr(image, np.zeros_like(mask)) is None


def test_noise_on_a_phantom_lowers_it() -> None:
    """White noise of three strengths: lower each time, in both zones."""
    eye = draw_eye(2, size=384)
    disc, mask = find_disc(eye.masks["disc"]), eye.masks["vessels"]
    graph = vessel_graph(mask)
    noise = np.random.default_rng(0).normal(size=eye.image.shape)
    images = [(eye.image + s * noise).clip(0, 255).astype(np.uint8) for s in (0, 6, 12, 24)]
    for zone in ZONES.values():
        found = [
            vessel_snr(image, mask, graph, disc, zone=zone, field_of_view=eye.field_of_view)
            for image in images
        ]
        assert found == sorted(found, reverse=True)
        # Where noise drowns the texture, twice the noise is six decibels.
        assert found[-2] - found[-1] == pytest.approx(6, abs=1.5)
