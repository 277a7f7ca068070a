"""Sliced Wasserstein distance: by hand, against the paper's formulation, and for what it means."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.stats import wasserstein_distance

from fundusforge.evaluate import swd
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.swd import Patches, distance, draw_directions, draw_patches, laplacian_pyramid
from fundusforge.images import read_image, write_image
from fundusforge.records import read_folder

KERNEL = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256


def peer_pyramid(image: np.ndarray) -> list[np.ndarray]:
    """Convolve, drop every second row and column; back by zeros in between; channel by channel, float64."""
    levels, current = [], image.astype(np.float64)
    while len(current) > 16:
        smaller = convolve(current, KERNEL[..., None], mode="mirror")[::2, ::2]
        spread = np.zeros_like(current)
        spread[::2, ::2] = smaller
        levels.append(current - convolve(spread, 4 * KERNEL[..., None], mode="mirror"))
        current = smaller
    return [*levels, current]


def peer_distance(first: np.ndarray, second: np.ndarray, directions: np.ndarray) -> float:
    """Standardise (n, c, 7, 7) patches per channel, project, and let SciPy compare each pair of samples."""
    flat = []
    for patches in (first.astype(np.float64), second.astype(np.float64)):
        mean, spread = patches.mean((0, 2, 3), keepdims=True), patches.std((0, 2, 3), keepdims=True)
        flat.append(((patches - mean) / spread).reshape(len(patches), -1))
    return 1000 * float(np.mean([wasserstein_distance(flat[0] @ d, flat[1] @ d) for d in directions]))


def patches_of(images: list[np.ndarray], level: int, *, seed: int = 0) -> np.ndarray:
    drawn = [
        draw_patches(laplacian_pyramid(image)[level], np.random.default_rng([seed, index]))
        for index, image in enumerate(images)
    ]
    return np.stack(drawn)


def of_levels(first: list[np.ndarray], second: list[np.ndarray]) -> np.ndarray:
    directions = draw_directions(147, seed=0)
    count = len(laplacian_pyramid(first[0]))
    return np.array(
        [
            distance(
                Patches.of(patches_of(first, k)), Patches.of(patches_of(second, k, seed=1)), directions[:64]
            )
            for k in range(count)
        ]
    )


@pytest.fixture(scope="module")
def eyes(fundus) -> list[np.ndarray]:
    return [fundus(128, seed=seed)["image"] for seed in range(24)]


@pytest.mark.parametrize("side", [16, 32, 128])
def test_pyramid_equals_convolution_and_adds_up(side: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    found, expected = laplacian_pyramid(image), peer_pyramid(image)
    assert [len(level) for level in found] == [len(level) for level in expected]
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
    back = found[-1]
    for level in reversed(found[:-1]):
        back = cv2.pyrUp(back) + level
    np.testing.assert_allclose(back, image, atol=1e-3)


def test_patches_are_pieces_of_the_level() -> None:
    """Coordinates as pixel values: every patch is a window, by channel, and all windows are drawn."""
    y, x = np.mgrid[:16, :16].astype(np.float32)
    patches = draw_patches(np.dstack([y, x, 100 + y]), np.random.default_rng(0)).reshape(-1, 3, 7, 7)
    assert patches.shape[0] == swd.PATCHES
    top, left = patches[:, 0, 0, 0], patches[:, 1, 0, 0]
    down, along = np.mgrid[:7, :7]
    np.testing.assert_array_equal(patches[:, 0], top[:, None, None] + down)
    np.testing.assert_array_equal(patches[:, 1], left[:, None, None] + along)
    np.testing.assert_array_equal(patches[:, 2], 100 + patches[:, 0])
    assert set(top) == set(left) == set(range(10))


@pytest.mark.parametrize("level", [0, 1, 3])
def test_equals_the_formulation(eyes: list[np.ndarray], level: int) -> None:
    first, second = patches_of(eyes[:6], level), patches_of(eyes[6:12], level)
    directions = draw_directions(147, seed=3)[:20]
    expected = peer_distance(first.reshape(-1, 3, 7, 7), second.reshape(-1, 3, 7, 7), directions)
    assert distance(Patches.of(first), Patches.of(second), directions) == pytest.approx(expected, rel=1e-4)


def test_one_line_by_hand() -> None:
    """On one direction that sees one pixel: the mean difference of what is sorted, in standard deviations.

    Half of the pixels are 0 and half 2 on one side (deviation 1); a quarter are 0, half 1, a quarter 2 on the
    other (deviation 1 / sqrt 2, so -sqrt 2, 0, sqrt 2 after standardising).
    """
    first, second = (
        np.repeat(np.array(v, np.float32), 49).reshape(4, 1, 49) for v in ([0, 2, 2, 0], [1, 2, 0, 1])
    )
    direction = np.eye(1, 49, 10, dtype=np.float32)
    expected = 1000 * np.mean([2**0.5 - 1, 1, 1, 2**0.5 - 1])
    assert distance(Patches.of(first), Patches.of(second), direction) == pytest.approx(expected, rel=1e-6)


def test_a_shift_of_a_whole_channel_is_standardised_away() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 9, (5, 30, 147)).astype(np.float32)
    shifted = values.copy()
    shifted[..., 49:98] = 3 * shifted[..., 49:98] + 40
    directions = draw_directions(147, seed=0)
    assert distance(Patches.of(values), Patches.of(shifted), directions) == pytest.approx(0, abs=1e-2)
    half = shifted.copy()
    half[:2, :, :49] += 60
    assert distance(Patches.of(values), Patches.of(half), directions) > 50


def test_weights_count_images() -> None:
    """An image counted twice is an image that stands there twice; one counted zero times is not there."""
    rng = np.random.default_rng(1)
    first, second = (rng.gamma(2, 5, (6, 20, 147)).astype(np.float32) for _ in range(2))
    directions = draw_directions(147, seed=0)[:30]
    weights = [np.array([2.0, 0, 1, 1, 2, 0]), np.array([0.0, 3, 1, 0, 1, 1])]
    places = [np.repeat(np.arange(6), w.astype(int)) for w in weights]
    expected = distance(Patches.of(first[places[0]]), Patches.of(second[places[1]]), directions)
    found = distance(Patches.of(first), Patches.of(second), directions, weights)
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="no image"):
        distance(Patches.of(first), Patches.of(second), directions, [np.zeros(6), np.ones(6)])


def test_unequal_numbers_are_compared_by_quantiles() -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.gamma(2, 5, (n, 100, 147)).astype(np.float32) for n in (3, 11))
    directions = draw_directions(147, seed=0)[:30]
    found = distance(Patches.of(first), Patches.of(second), directions)
    expected = peer_distance(first.reshape(-1, 3, 7, 7), second.reshape(-1, 3, 7, 7), directions)
    assert found == pytest.approx(expected, rel=0.02)


def test_flat_images_are_no_division_by_zero() -> None:
    flat = Patches.of(np.full((3, 10, 147), 7, np.float32))
    assert distance(flat, flat, draw_directions(147, seed=0)) == 0.0


def test_meaning(eyes: list[np.ndarray]) -> None:
    """Noise moves the finest level, the more the more; blur the fine ones; colours that vary the coarsest."""
    real, others = eyes[:12], eyes[12:]
    rng = np.random.default_rng(0)
    same = of_levels(others, real)
    noisy = [
        of_levels([np.clip(e + rng.normal(0, s, e.shape), 0, 255).astype(np.uint8) for e in others], real)
        for s in (6, 20)
    ]
    assert same[0] < noisy[0][0] < noisy[1][0]
    blurred = of_levels([cv2.GaussianBlur(e, (0, 0), 2) for e in others], real)
    assert blurred[0] > 2 * same[0]
    assert blurred[-1] < 1.3 * same[-1]
    tinted = [np.clip(e * np.array([1, 1 + 0.8 * (i % 2), 1]), 0, 255).astype(np.uint8)
              for i, e in enumerate(others)]  # fmt: skip
    moved = of_levels(tinted, real) / same
    assert moved[-1] > 1.5
    assert moved[-1] == max(moved)


def test_refuses_what_is_no_pyramid() -> None:
    for shape in ((100, 100, 3), (64, 32, 3), (8, 8)):
        with pytest.raises(ValueError, match="square"):
            laplacian_pyramid(np.zeros(shape, np.uint8))


def evidence_of(synthetic: Path, real: Path) -> Evidence:
    one, two = (ImageSet(folder=f, records=read_folder(f)) for f in (synthetic, real))
    return Evidence(
        synthetic=one,
        real=two,
        judge=None,
        size=64,
        margin=0.2,
        reference=None,
        seed=5,
        draws=100,
        repeats=9,
    )


def test_figures_of_folders(drawn_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every level and the mean, each between its ends; one level in memory at a time gives the same."""
    real = drawn_folder(12, seed=500)
    evidence = evidence_of(drawn_folder(6, seed=400), real)
    found = swd.figures(evidence)
    assert [figure.name for figure in found] == ["swd_64", "swd_32", "swd_16", "swd_mean"]
    assert found[-1].value == pytest.approx(np.mean([figure.value for figure in found[:-1]]))
    for figure in found:
        assert figure.low < figure.value < figure.high
        assert figure.floor is not None and figure.floor.low > 0
        assert figure.matched is not None and figure.matched > 0
        assert (figure.n, figure.n_real) == (6, 6)
    assert found[-1].matched == pytest.approx(np.mean([f.matched for f in found[:-1]]), rel=0.1)
    monkeypatch.setattr(swd, "_PATCH_BYTES", 1)
    assert swd.figures(evidence) == found


def test_large_halves_use_fewer_directions(
    drawn_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The floor stays where it was, and its note says on how many directions it stands."""
    evidence = evidence_of(drawn_folder(6, seed=400), drawn_folder(12, seed=500))
    every = swd.figures(evidence)[-1]
    assert "6 images a side, 128 directions" in every.notes[1]
    monkeypatch.setattr(swd, "_REPEAT_VALUES", 6 * swd.PATCHES * 40)
    few = swd.figures(evidence)[-1]
    assert "6 images a side, 40 directions" in few.notes[1]
    assert few.floor is not None and every.floor is not None
    assert few.floor.value == pytest.approx(every.floor.value, rel=0.15)
    assert few.value == every.value


def test_blurred_folder_leaves_the_floor(drawn_folder: Callable[..., Path]) -> None:
    """Drawn eyes of another seed lie near the floor; the same blurred lie far outside at the fine level."""
    plain, real = drawn_folder(16, seed=600), drawn_folder(16, seed=700)
    blurred = real.parent / "blurred"
    shutil.copytree(plain, blurred)
    for path in (blurred / "images").iterdir():
        write_image(path, cv2.GaussianBlur(read_image(path), (0, 0), 1.5))
    (same, *_), (other, *_) = (swd.figures(evidence_of(folder, real)) for folder in (plain, blurred))
    assert same.within_floor
    assert same.matched > same.value, "halves are smaller than the sets"
    assert other.value > 1.5 * other.floor.high
    assert other.low > other.floor.high and other.within_floor is False
