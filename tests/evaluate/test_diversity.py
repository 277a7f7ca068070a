"""Likeness within a set: the pairs, the mean by hand, and a generator that has collapsed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fundusforge.evaluate.diversity import draw_pairs, figures
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.ssim import ssim
from fundusforge.images import read_image, write_image
from fundusforge.records import read_folder

Make = Callable[..., Path]


def evidence_of(synthetic: Path, real: Path, *, size: int = 176) -> Evidence:
    one, two = (ImageSet(folder=folder, records=read_folder(folder)) for folder in (synthetic, real))
    return Evidence(
        synthetic=one, real=two, judge=None, size=size, margin=0.2, reference=None, seed=1, draws=100,
        repeats=20,
    )  # fmt: skip


def test_pairs_are_distinct_and_of_different_patients() -> None:
    patients = list("aabbccddee")
    pairs = [tuple(pair) for pair in draw_pairs(patients, seed=0)]
    assert len(pairs) == len(set(pairs)) == 40  # 45 less one within each patient
    assert all(i < j and patients[i] != patients[j] for i, j in pairs)
    assert len(draw_pairs(patients, seed=0, count=7)) == 7
    assert len(draw_pairs([str(place) for place in range(12)], seed=0)) == 48
    assert len(draw_pairs([str(place) for place in range(90)], seed=0)) == 200
    assert not len(draw_pairs(["a", "a"], seed=0))
    assert not len(draw_pairs(["a"], seed=0))


def test_pairs_of_many_images_are_guessed_evenly() -> None:
    patients = [f"{index // 2}" for index in range(3000)]
    pairs = draw_pairs(patients, seed=3, count=3000)
    assert len(pairs) == len({tuple(pair) for pair in pairs}) == 3000
    assert (pairs[:, 0] // 2 != pairs[:, 1] // 2).all()
    counts = Counter(pairs.ravel().tolist())
    assert max(counts.values()) < 12
    assert np.mean(pairs) == pytest.approx(1499.5, abs=50)
    np.testing.assert_array_equal(pairs, draw_pairs(patients, seed=3, count=3000))
    assert not np.array_equal(pairs, draw_pairs(patients, seed=4, count=3000))


def test_the_mean_of_all_pairs(drawn_folder: Make) -> None:
    """Few enough images that all pairs count: the plain mean over pairs of different patients."""
    folder = drawn_folder(10, size=64, seed=30)
    found = {f.name: f for f in figures(evidence_of(folder, drawn_folder(8, seed=40), size=64))}
    records = read_folder(folder)
    images = [read_image(folder / record.image) for record in records]
    expected = [
        ssim(images[i], images[j])
        for i, j in itertools.combinations(range(10), 2)
        if records[i].patient != records[j].patient
    ]
    figure = found["diversity_ssim"]
    assert figure.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert figure.low <= figure.value <= figure.high
    assert f"{max(expected):.3g}" in figure.notes[1]
    assert found["diversity_msssim"].value is None
    assert "176 px" in found["diversity_msssim"].reason


def test_collapse_shows(drawn_folder: Make) -> None:
    """Eyes of one function are as alike as the real ones; one eye with new grain is far too alike."""
    real, plain = drawn_folder(16, size=176, seed=60), drawn_folder(16, size=176, seed=80)
    collapsed = drawn_folder(16, size=176, seed=80)
    image = read_image(collapsed / "images" / "000.png")
    for place, record in enumerate(read_folder(collapsed)):
        grain = np.random.default_rng(place).normal(0, 3, image.shape)
        write_image(collapsed / record.image, np.clip(image + grain, 0, 255).astype(np.uint8))
    for honest, broken in zip(
        *(figures(evidence_of(folder, real)) for folder in (plain, collapsed)), strict=True
    ):
        assert honest.low - 0.05 < honest.real < honest.high + 0.05
        assert broken.low > broken.real_high
        assert broken.low > broken.floor.high
        assert broken.low > honest.high


def test_one_patient_has_no_pairs(drawn_folder: Make) -> None:
    for figure in figures(evidence_of(drawn_folder(2, size=176), drawn_folder(6, size=176))):
        assert figure.value is None
        assert "different patients" in figure.reason
