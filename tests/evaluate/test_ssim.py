"""Structural similarity against scikit-image, by hand, and for what it means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from fundusforge.evaluate.ssim import ssim


def peer(first: np.ndarray, second: np.ndarray) -> float:
    return structural_similarity(
        first, second, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        channel_axis=-1 if first.ndim == 3 else None,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(64, 64, 3), (61, 83), (11, 11), (200, 150, 3)])
@pytest.mark.parametrize("kind", ["noise", "bright", "binary", "smooth"])
def test_equals_scikit_image(shape: tuple[int, ...], kind: str) -> None:
    """Within 2e-6, also where float32 loses most: bright, flat pictures."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, shape, np.uint8)
    if kind == "bright":
        first = (250 + first // 64).astype(np.uint8)
    elif kind == "binary":
        first = np.where(first > 230, 255, 0).astype(np.uint8)
    elif kind == "smooth":
        first = cv2.GaussianBlur(first, (0, 0), 4)
    second = np.clip(first.astype(int) + rng.integers(-9, 10, shape), 0, 255).astype(np.uint8)
    assert ssim(first, second) == pytest.approx(peer(first, second), abs=2e-6)


def test_flat_pictures_by_hand() -> None:
    """Two flat greys: only the term of the means is left."""
    a, b = 100 / 255, 150 / 255
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    found = ssim(np.full((32, 32), 100, np.uint8), np.full((32, 32), 150, np.uint8))
    assert found == pytest.approx(expected, abs=1e-5)


def test_meaning(fundus) -> None:
    """Itself 1; a little blur is nearer than much; a shift of the same vessels is farther than noise."""
    image = fundus(128, seed=1)["image"]
    assert ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    little, much = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.6, 3.0))
    assert 1 > ssim(image, little) > ssim(image, much) > ssim(image, 255 - image)


def test_inside_the_field_ignores_the_outside(fundus) -> None:
    """A change outside changes the whole-picture value only."""
    drawing = fundus(128, seed=2)
    image, field = drawing["image"], cv2.erode(drawing["field_of_view"], np.ones((13, 13)))
    spoilt = image.copy()
    spoilt[drawing["field_of_view"] == 0] = 90
    assert ssim(image, spoilt, field_of_view=field) == pytest.approx(1.0, abs=1e-6)
    assert ssim(image, spoilt) < 0.9


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.zeros((20, 20), np.uint8), np.zeros((20, 21), np.uint8), "one shape"),
        (np.zeros((20, 20)), np.zeros((20, 20)), "uint8"),
        (np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8), "11 px"),
    ],
)
def test_refuses(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(first, second)
