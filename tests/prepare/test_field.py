import math

import numpy as np
import pytest

from fundusforge.prepare.field import Field, Square, field_of_mask, find_field, whole_frame
from fundusforge.sources import SOURCES, Item


def photograph(height: int, width: int, **circle: float) -> tuple[np.ndarray, Field]:
    """A shaded disc with noise on nearly black ground."""
    bounds = {"left": 0, "top": 0, "right": width, "bottom": height} | circle
    field = Field(**bounds)
    rng = np.random.default_rng(5)
    x = np.linspace(0.6, 1.0, width)[None, :, None]
    image = np.array([200.0, 100.0, 50.0]) * x * np.ones((height, 1, 1)) + rng.normal(
        0, 6, (height, width, 3)
    )
    image[field.mask(height, width) == 0] = 0
    image += np.abs(rng.normal(0, 3, image.shape))
    return image.clip(0, 255).astype(np.uint8), field


CAMERAS = {
    "whole circle": (584, 565, {"x": 280, "y": 291, "radius": 268}),
    "cut above and below": (1168, 1752, {"x": 880, "y": 590, "radius": 815, "top": 20, "bottom": 1150}),
    "off the frame": (700, 1072, {"x": 500, "y": 350, "radius": 430}),
    "clipped on all sides": (512, 512, {"x": 256, "y": 256, "radius": 285}),
    "small and aside": (900, 1200, {"x": 400, "y": 500, "radius": 250}),
}


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a > 0) & (b > 0)).sum() / ((a > 0) | (b > 0)).sum())


@pytest.mark.parametrize("camera", CAMERAS)
def test_finds_circle_and_cuts(camera):
    height, width, circle = CAMERAS[camera]
    image, truth = photograph(height, width, **circle)
    found = find_field(image)
    assert found is not None
    assert overlap(found.mask(height, width), truth.mask(height, width)) > 0.985
    assert found.radius == pytest.approx(truth.radius, rel=0.02)
    assert found.fit > 0.9 and found.visible == pytest.approx(truth.visible, abs=0.03)


def test_ignores_a_notch_and_text_beside_the_circle():
    image, truth = photograph(800, 900, x=450, y=400, radius=350)
    image[140:180, 700:730] = 180
    image[20:40, 20:120:3] = 255
    found = find_field(image)
    assert found is not None and overlap(found.mask(800, 900), truth.mask(800, 900)) > 0.98


def test_squashed_circle_is_followed_by_its_hull():
    image, _ = photograph(600, 600, x=300, y=300, radius=280)
    squashed = np.ascontiguousarray(image[:, ::2])
    found = find_field(squashed)
    assert found is not None and found.hull
    truth = (squashed.max(axis=2) > 40).astype(np.uint8)
    assert overlap(found.mask(600, 300), truth) > 0.97
    assert found.square().side == pytest.approx(560, abs=8)


def test_no_surroundings_no_field():
    rng = np.random.default_rng(0)
    assert find_field(np.zeros((300, 300, 3), np.uint8)) is None
    assert find_field(rng.integers(120, 160, (300, 300, 3)).astype(np.uint8)) is None
    shaded = (np.linspace(60, 220, 300)[:, None, None] * np.ones((300, 300, 3))).astype(np.uint8)
    assert find_field(shaded) is None


def test_field_of_a_mask():
    truth = Field(x=300, y=260, radius=220, left=0, top=60, right=640, bottom=500)
    found = field_of_mask(truth.mask(520, 640))
    assert found is not None and overlap(found.mask(520, 640), truth.mask(520, 640)) > 0.99
    assert field_of_mask(np.zeros((40, 40), np.uint8)) is None
    assert field_of_mask(np.full((40, 60), 255, np.uint8)) == whole_frame(40, 60)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_a_straight_edge_is_no_circle(size):
    """It fits a circle of any radius; the square around the field stays in proportion to the picture."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    for angle in np.linspace(0, math.pi, 9):
        mask = (x * math.cos(angle) + y * math.sin(angle) > 0.1 * size).astype(np.uint8) * np.uint8(255)
        field = field_of_mask(mask)
        assert field is not None and field.square().side <= 4 * size


def test_square_pads_and_does_not_squash():
    field = Field(x=50, y=30, radius=45, left=0, top=0, right=100, bottom=60)
    square = field.square()
    assert square == Square(left=5, top=-15, side=90)
    pixels = np.arange(60 * 100, dtype=np.uint16).reshape(60, 100) + 1
    cut = square.cut(pixels)
    assert cut.shape == (90, 90)
    assert not cut[:15].any() and not cut[75:].any()
    np.testing.assert_array_equal(cut[15:75], pixels[:, 5:95])


def test_field_in_the_pixels_of_the_result():
    field = Field(x=500, y=400, radius=300, left=0, top=150, right=1000, bottom=800)
    small = field.within(field.square(), 120)
    assert (small.x, small.y, small.radius) == pytest.approx((60, 60, 60))
    assert small.top == pytest.approx(10)
    assert small.visible == pytest.approx(field.visible)


@pytest.mark.parametrize(("kind", "folder"), [("drive", "DRIVE"), ("hrf", "HRF")])
def test_agrees_with_the_publishers_masks(data_root, kind, folder):
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder}")
    items = [item for item in SOURCES[kind](root=data_root / folder).items() if isinstance(item, Item)]
    for item in items[::4]:
        mask = item.field_of_view()
        found = find_field(item.load())
        assert found is not None and overlap(found.mask(*mask.shape), mask) >= 0.98, item.key
