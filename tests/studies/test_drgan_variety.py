"""Paintings of one mask, and of one eye at every grade."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from drgan_bench import STRANGERS, painter_of, repainted, write_eyes
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from fundusforge.images import read_image
from fundusforge.models.drgan import DRGANConfig
from fundusforge.records import DatasetError, read_folder, write_metadata
from fundusforge.severity import LESIONS
from fundusforge.studies.drgan.diversity import diversity
from fundusforge.studies.drgan.eyes import Bench, BenchConfig, bench
from fundusforge.studies.drgan.slider import COUNTS, SERIES, slider, spearman

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eyes(tmp_path_factory.mktemp("variety") / "real", 8)


def test_one_and_the_same_picture_is_called_so(folder: Path, tmp_path: Path) -> None:
    result = diversity(repainted(folder, tmp_path))
    assert result.figure("drgan_ssim_same_mask").value == pytest.approx(1)
    assert "one and the same picture: noise" in result.sentences[0]
    eyes = result.figure("drgan_ssim_eyes")
    assert eyes.value == pytest.approx(eyes.real), "the paintings are the photographs, the pairs are the same"
    assert eyes.real < 0.95 and (eyes.n, eyes.n_real) == (8, 8)


def test_similarity_is_that_of_another_implementation(folder: Path, tmp_path: Path) -> None:
    noisy = repainted(folder, tmp_path, noise=25.0)
    figure = diversity(noisy).figure("drgan_ssim_same_mask")
    values = []
    for first, second in noisy.turns.T.tolist():
        full = structural_similarity(
            noisy.painted.image(first), noisy.painted.image(second), gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=255, channel_axis=2, full=True,
        )[1].mean(2)  # fmt: skip
        inside = noisy.painted.field_of_view(first)[5:-5, 5:-5] > 0
        values.append(full[5:-5, 5:-5][inside].mean())
    assert figure.value == pytest.approx(np.mean(values), abs=1e-5)
    assert figure.low <= figure.value <= figure.high < 0.95
    assert diversity(noisy, most=3).figure("drgan_ssim_same_mask").n == 6


class Finder:
    """Counts spots by their blue; anything else it takes for nothing."""

    name, diameter, patients = "finder-1", 256.0, STRANGERS
    config: Any = SimpleNamespace(masks=LESIONS, diameter=256)

    def __init__(self) -> None:
        self.read = 0

    def threshold_of(self, name: str) -> float:
        return 0.5

    def probabilities(self, image: np.ndarray, field: np.ndarray) -> dict[str, np.ndarray]:
        self.read += 1
        shown = (image[..., 2] > 128).astype(np.float32)
        return {name: shown if name == "hard_exudates" else np.zeros_like(shown) for name in LESIONS}


class Obedient:
    """Paints exudates blue, every one, and nothing else."""

    def __init__(self) -> None:
        masks = ("vessels", "disc", "hard_exudates")
        self.inner = painter_of(
            DRGANConfig(masks=masks, size=256, width=2, blocks=0, vector=6, perceptual=0.0)
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def paint(self, stack: np.ndarray, field: np.ndarray, **options: Any) -> np.ndarray:
        image = np.zeros((*field.shape, 3), np.uint8)
        image[..., 2] = stack[2]
        return image


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Eyes of 256 px, on which lesions of every grade find room."""
    root = tmp_path_factory.mktemp("wide")
    config = BenchConfig(real=write_eyes(root / "real", 4, grades=2, size=256), out=root / "study", draws=100)
    return bench(config, painter_of(), masks=("vessels", "disc", "hard_exudates"))


def test_an_obedient_painter_shows_more_at_higher_grades(wide: Bench) -> None:
    wide = replace(wide, real=replace(wide.real, side=256))
    finder = Finder()
    result = slider(wide, Obedient(), finder, eyes=2)
    assert finder.read == 10
    figure = result.figure("drgan_series_spearman_ex")
    rows = json.loads((wide.config.out / SERIES / COUNTS).read_text("utf-8"))
    grades, found = zip(*((row["grade"], row["found"]["hard_exudates"]) for row in rows), strict=True)
    assert figure.value == pytest.approx(spearmanr(grades, found).statistic) and figure.value > 0.7
    assert (figure.n, figure.low is not None) == (10, True)
    for row in rows:
        image = read_image(wide.config.out / SERIES / row["image"])[..., 2]
        assert row["found"]["hard_exudates"] == cv2.connectedComponents((image > 128).astype(np.uint8))[0] - 1
        assert (
            abs(row["found"]["hard_exudates"] - row["asked"]["hard_exudates"])
            <= 0.3 * row["asked"]["hard_exudates"]
        )
    assert result.figure("drgan_series_spearman_ex_asked").value > 0.7
    assert result.figure("drgan_series_spearman_ma").value is None
    assert "no mask of microaneurysms" in " ".join(result.warnings)
    assert result.figure("drgan_series_rises").value == 1.0
    again = Finder()
    assert slider(wide, Obedient(), again, eyes=2).figures == result.figures and again.read == 0
    records = read_folder(wide.config.out / SERIES)
    write_metadata(wide.config.out / SERIES, records[:5])
    with pytest.raises(DatasetError, match="holds another series"):
        slider(wide, Obedient(), Finder(), eyes=2)


def test_rank_correlation_of_ties_and_constants() -> None:
    first, second = np.array([0.0, 1, 1, 2, 3, 3]), np.array([5.0, 4, 6, 6, 9, 7])
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert spearman(first, -first) == pytest.approx(-1)
    assert spearman(first, np.ones(6)) is None
