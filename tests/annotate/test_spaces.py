"""Latent grading spaces: exact draws of the shrunk Gaussian, stored and read back; too few are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import LedoitWolf

from fundusforge.annotate.spaces import GradingSpaces, Space, draw_features
from fundusforge.records import DatasetError
from fundusforge.training.checkpoint import CheckpointError, write

RNG = np.random.default_rng(0)
MIXING = RNG.normal(size=(6, 6))


def spaces() -> GradingSpaces:
    features = np.concatenate([RNG.normal(size=(12, 6)) @ MIXING + 10 * grade for grade in (0, 2, 4)])
    grades = np.repeat([0, 2, 4], 12)
    features, grades = np.vstack([features, np.zeros((1, 6))]), np.append(grades, 1)
    return GradingSpaces.fit(features.astype(np.float32), grades, model="grader-1")


def covariance(space: Space) -> np.ndarray:
    """Of the space, by the equation in the module's head."""
    sample = (space.factor.T @ space.factor).double().numpy()
    identity = np.eye(len(sample)) * np.trace(sample) / len(sample)
    return (1 - space.shrinkage) * sample + space.shrinkage * identity


@pytest.mark.parametrize("shape", [(9, 4), (5, 40)], ids=["many images", "many dimensions"])
def test_the_covariance_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    features = RNG.normal(size=shape) * np.linspace(0.1, 3, shape[1])
    space = Space.fit(features)
    reference = LedoitWolf().fit(features)
    assert np.allclose(covariance(space), reference.covariance_, atol=1e-5)
    assert np.allclose(space.mean, reference.location_, atol=1e-6)
    assert space.scale == pytest.approx(np.trace(reference.covariance_) / shape[1])
    assert len(space.factor) <= min(shape[0] - 1, shape[1]), "compact"


def test_draws_have_mean_and_covariance_of_the_space() -> None:
    space = Space.fit(RNG.normal(size=(5, 3)) @ np.diag([3.0, 1.0, 0.2]) + 7)
    drawn = space.sample(200_000, torch.Generator().manual_seed(0)).double()
    assert np.allclose(drawn.mean(0), space.mean, atol=0.03)
    assert np.allclose(torch.cov(drawn.T), covariance(space), rtol=0.02, atol=0.02)


def test_thousands_of_dimensions_need_no_square_matrix() -> None:
    space = Space.fit(RNG.normal(size=(4, 4096)).astype(np.float32))
    assert space.factor.shape == (3, 4096)
    assert space.sample(2, torch.Generator().manual_seed(0)).shape == (2, 4096)
    assert 0 < space.shrinkage <= 1


def test_grades_differ_and_draws_are_a_function_of_the_generator() -> None:
    found = spaces()
    assert found.counts == {0: 12, 1: 1, 2: 12, 3: 0, 4: 12}
    one, two = (found.sample(4, 50, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    means = {g: found.sample(g, 500, torch.Generator().manual_seed(0)).mean().item() for g in (0, 2, 4)}
    assert means[0] < 5 < means[2] < 25 < means[4] < 45


@pytest.mark.parametrize(("grade", "count"), [(1, 1), (3, 0), (7, 0)])
def test_a_grade_of_too_few_images_is_refused(grade: int, count: int) -> None:
    with pytest.raises(DatasetError, match=f"no latent space of grade {grade}: {count} training images"):
        spaces().sample(grade, 1, torch.Generator())
    with pytest.raises(ValueError, match="at least 2 photographs, not 1"):
        Space.fit(np.zeros((1, 4)))


def test_spaces_come_back_exactly(tmp_path: Path) -> None:
    found = spaces()
    found.save(tmp_path / "grades.safetensors")
    back = GradingSpaces.load(tmp_path / "grades.safetensors")
    assert (back.counts, back.model) == (found.counts, "grader-1")
    for grade in found.spaces:
        one, two = (s.sample(grade, 3, torch.Generator().manual_seed(1)) for s in (found, back))
        assert torch.equal(one, two)
    write(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="holds no grading spaces"):
        GradingSpaces.load(tmp_path / "other.safetensors")


def test_constant_features_have_a_space() -> None:
    space = Space.fit(np.ones((3, 4)))
    assert torch.equal(space.sample(2, torch.Generator()), torch.ones(2, 4))


def test_what_are_no_features_is_refused() -> None:
    for features, grades in (
        (np.full((2, 3), np.nan), np.zeros(2, int)),
        (np.ones((2, 3)), np.zeros(3, int)),
    ):
        with pytest.raises(ValueError, match="expected finite features"):
            GradingSpaces.fit(features, grades)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw_features(RNG.normal(size=(9, 5)).astype(np.float32), np.arange(9) % 3, tmp_path / "tsne.png")
    assert Image.open(tmp_path / "tsne.png").size == (720, 600)
    draw_features(np.zeros((3, 5), np.float32), np.zeros(3, int), tmp_path / "few.png")
    assert not (tmp_path / "few.png").exists()
