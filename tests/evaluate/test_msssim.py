"""Multi-scale similarity against the formula, near torchmetrics, by hand, and for what it means."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from fundusforge.evaluate.msssim import WEIGHTS, msssim
from fundusforge.evaluate.ssim import ssim


def peer(first: np.ndarray, second: np.ndarray) -> float:
    """The paper's formula in float64, one channel at a time, over the positions where the window fits."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def local(values: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(values, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    product = 1.0
    x, y = (np.atleast_3d(picture).astype(np.float64) / 255 for picture in (first, second))
    for place, weight in enumerate(WEIGHTS):
        factors = []
        for channel in range(x.shape[2]):
            a, b = x[..., channel], y[..., channel]
            mean_a, mean_b = local(a), local(b)
            covariance = local(a * b) - mean_a * mean_b
            variances = local(a * a) - mean_a**2 + local(b * b) - mean_b**2
            factor = (2 * covariance + 0.03**2) / (variances + 0.03**2)
            if place == len(WEIGHTS) - 1:
                factor *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            factors.append(factor)
        product *= max(np.mean(factors), 0.0) ** weight
        height, width = (side // 2 * 2 for side in x.shape[:2])
        x, y = (sum(p[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)) / 4 for p in (x, y))
    return float(product)


def pair(shape: tuple[int, ...], kind: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    first = rng.integers(0, 256, shape, np.uint8)
    if kind == "smooth":
        first = cv2.GaussianBlur(first, (0, 0), 4)
    elif kind == "binary":
        first = np.where(cv2.GaussianBlur(first, (0, 0), 2) > 131, 255, 0).astype(np.uint8)
    noise = rng.integers(-30, 31, shape)
    return first, np.clip(cv2.GaussianBlur(first, (0, 0), 1.5) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(176, 176), (201, 187, 3), (256, 256, 3)])
@pytest.mark.parametrize("kind", ["noise", "smooth", "binary"])
def test_equals_the_formula(shape: tuple[int, ...], kind: str) -> None:
    first, second = pair(shape, kind)
    assert msssim(first, second) == pytest.approx(peer(first, second), abs=1e-5)
    assert msssim(first, second) == pytest.approx(msssim(second, first), abs=1e-7)


def test_near_torchmetrics() -> None:
    """Its coarsest scale counts reflected borders too, which moves the value a little."""
    first, second = pair((256, 256, 3), "smooth")
    tensors = (torch.from_numpy(p).permute(2, 0, 1)[None] / 255 for p in (first, second))
    expected = float(multiscale_structural_similarity_index_measure(*tensors, data_range=1.0))
    assert msssim(first, second) == pytest.approx(expected, abs=1e-3)


def test_flat_pictures_by_hand() -> None:
    """Two flat greys differ in the term of the means alone, which counts at the coarsest scale."""
    a, b = 100 / 255, 150 / 255
    expected = ((2 * a * b + 1e-4) / (a * a + b * b + 1e-4)) ** 0.1333
    found = msssim(np.full((176, 176), 100, np.uint8), np.full((176, 176), 150, np.uint8))
    assert found == pytest.approx(expected, abs=1e-5)


def test_meaning(fundus) -> None:
    """Itself 1; less with more blur; a negative has no likeness; coarse structure counts more than grain."""
    image = fundus(192, seed=1)["image"]
    assert msssim(image, image) == pytest.approx(1.0, abs=1e-6)
    little, much = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.6, 3.0))
    assert 1 > msssim(image, little) > msssim(image, much) > msssim(image, 255 - image)
    grain = np.random.default_rng(0).integers(-20, 21, image.shape)
    grainy = np.clip(image + grain, 0, 255).astype(np.uint8)
    assert msssim(image, grainy) > ssim(image, grainy) + 0.1
    assert 0 <= msssim(image, 255 - image) < 0.1


@pytest.mark.parametrize(
    ("first", "message"), [(np.zeros((175, 300), np.uint8), "176 px"), (np.zeros((200, 200)), "uint8")]
)
def test_refuses(first: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        msssim(first, first)
    whole = np.zeros((176, 176), np.uint8)
    with pytest.raises(ValueError, match="whole pictures"):
        msssim(whole, whole, field_of_view=whole)
