"""Agreement: pooled under weights, with a judge that reads well, badly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fundusforge.evaluate.agreement import Pool, agreement, check_judge
from fundusforge.evaluate.evidence import ImageSet, Judge
from fundusforge.records import DatasetError, read_folder


def dark(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
    """A segmenter: vessels of the drawn eye are darker than what lies around them."""
    import cv2

    green = image[..., 1].astype(np.float32)
    return (1 / (1 + np.exp(-(cv2.GaussianBlur(green, (0, 0), 4) - green) / 8))).astype(np.float32)


@pytest.fixture
def images(drawn_folder: Callable[..., Path]) -> ImageSet:
    folder = drawn_folder(6, size=96, seed=40)
    return ImageSet(folder=folder, records=read_folder(folder))


def pool(images: ImageSet, segment: Callable) -> Pool:
    return agreement(images, lambda s, i: segment(s.image(i), s.field_of_view(i)), 0.5)


def test_pooled_area_equals_scikit_learn(images: ImageSet) -> None:
    found = pool(images, dark)
    truth, scores = [], []
    for index in range(len(images)):
        inside = images.field_of_view(index) > 0
        truth.append(images.mask(index, "vessels")[inside] > 0)
        scores.append(dark(images.image(index), None)[inside])
    assert found.value("auc") == pytest.approx(
        roc_auc_score(np.concatenate(truth), np.concatenate(scores)), abs=1e-5
    )


def test_weights_count_images(images: ImageSet) -> None:
    """Weight two is the image twice; weight nought is the image left out."""
    found = pool(images, dark)
    chosen = ImageSet(folder=images.folder, records=[images.records[i] for i in (1, 1, 4)])
    weights = np.array([0.0, 2, 0, 0, 1, 0])
    for name in ("auc", "f1", "sensitivity", "specificity"):
        assert found.value(name, weights) == pytest.approx(pool(chosen, dark).value(name))
    assert found.value("auc", np.zeros(6)) is None


def test_meaning(images: ImageSet) -> None:
    """The mask itself is 1, a reader of darkness above chance, a blind one a half."""
    masks = {images.image(i).tobytes(): images.mask(i, "vessels") for i in range(len(images))}
    perfect = pool(images, lambda image, _: masks[image.tobytes()] / np.float32(255))
    blind = pool(images, lambda image, _: np.full(image.shape[:2], 0.4, np.float32))
    assert (perfect.value("auc"), perfect.value("f1")) == (1.0, 1.0)
    assert 0.7 < pool(images, dark).value("auc") < 1.0
    assert (blind.value("auc"), blind.value("f1"), blind.value("specificity")) == (0.5, 0.0, 1.0)


def judge(patients: frozenset[str] | None) -> Judge:
    return Judge(name="reader", segment=dark, threshold=0.5, patients=patients)


def test_a_judge_of_the_same_school_is_refused() -> None:
    assert check_judge(judge(frozenset({"a", "b"})), {"c"}) == "none"
    assert check_judge(judge(None), {"c"}) == "unknown"
    assert check_judge(judge(frozenset({"a"})), None) == "unknown"
    with pytest.raises(DatasetError, match=r"reader was trained on 2 patients .*\(b, c\)"):
        check_judge(judge(frozenset({"a", "b", "c"})), ["c", "b", "d"])


def test_a_judge_of_another_mask(drawn_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A reader of brightness finds the disc: figures under the mask's name, those of vessels as before."""
    from fundusforge.evaluate.stage import EvaluateConfig, evaluate

    def bright(image: np.ndarray, field_of_view: np.ndarray | None) -> np.ndarray:
        return (image[..., 1] / 255).astype(np.float32)

    disc = Judge(name="disc reader", segment=bright, threshold=0.6, patients=frozenset({"somebody"}))
    config = EvaluateConfig(
        synthetic=drawn_folder(4, seed=41), against=drawn_folder(6, seed=42), out=tmp_path,
        metrics=("agreement",), draws=100, floor_repeats=10,
    )  # fmt: skip
    found = evaluate(config, judge=judge(None), judges={"disc": disc}, generator_patients={"nobody"})
    names = ("auc", "f1", "sensitivity", "specificity")
    assert [figure.name for figure in found.figures] == [
        *(f"agreement_{name}" for name in names), *(f"agreement_disc_{name}" for name in names)
    ]  # fmt: skip
    assert found.figure("agreement_disc_auc").value > 0.99
    assert found.figure("agreement_disc_auc").real > 0.99
    assert found.figure("agreement_disc_f1").extractor == "disc reader"
    assert found.figure("agreement_auc").extractor == "reader"
    assert found.judges["disc"].shared_with_generator == "none"
    with pytest.raises(DatasetError, match="disc reader was trained on 1 patients"):
        evaluate(config, judges={"disc": disc}, generator_patients={"somebody"})
