"""Which model is asked for what: a named one first, an embedded one else, and none for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fundusforge.annotate.activations import Activations
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.landmarks import Landmarks
from fundusforge.annotate.structures import Structures
from fundusforge.cli.annotating import annotators
from fundusforge.cli.command import UsageError
from fundusforge.config import to_json
from fundusforge.models import AnyConfig
from fundusforge.models.classifier import ClassifierConfig
from fundusforge.models.unet import UNetConfig
from fundusforge.training.checkpoint import save_model
from fundusforge.training.loop import Clock

PLAIN = {
    "landmarks": False, "activations": False, "grade": False, "models": (), "threshold": None, "tta": None,
    "method": "cam", "device": "cpu",
}  # fmt: skip


def saved(path: Path, config: AnyConfig) -> Path:
    torch.manual_seed(0)
    nets = nn.ModuleDict({"net": config.build().nets["net"]})
    save_model(path, nets, config_json=to_json(config), clock=Clock(images=8))
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    masks = ("vessels", "arteries")
    return saved(tmp_path / "tree.safetensors", UNetConfig(masks=masks, widths=(4, 8), crop=32))


@pytest.fixture
def grader(tmp_path: Path) -> Path:
    return saved(tmp_path / "grader.safetensors", ClassifierConfig(widths=(4, 8), size=64))


@pytest.fixture
def finder(tmp_path: Path) -> Path:
    config = ClassifierConfig(targets=("laser_marks",), widths=(4, 8), size=64)
    return saved(tmp_path / "finder.safetensors", config)


def test_embedded_models_find_what_has_no_other(tree: Path) -> None:
    found = annotators(("vessels", "disc", "arteries"), **PLAIN | {"models": (tree,), "landmarks": True})
    assert [one.gives for one in found] == [("vessels", "arteries"), ("disc",), ("fovea", "cup", "eye")]
    assert found[0].name.startswith("tree-") and found[1].name.startswith("disc-unet-")
    assert isinstance(found[2], Landmarks)


def test_settings_reach_the_models(tree: Path) -> None:
    (one,) = annotators(("vessels",), **PLAIN | {"models": (tree,), "threshold": 0.3, "tta": True})
    assert isinstance(one, Structures)
    assert one.threshold == 0.3 and one.segmenter.config.tta and one.name.endswith("0.3, mirrored)")


def test_classifiers_are_told_apart_by_what_they_tell(grader: Path, finder: Path) -> None:
    both = PLAIN | {"models": (finder, grader), "activations": True, "grade": True}
    maps, grades = annotators((), **both)
    assert isinstance(maps, Activations) and isinstance(grades, Grader)
    assert "laser_marks" in maps.gives and grades.gives == ("grade",)


def test_grades_have_an_embedded_classifier() -> None:
    (one,) = annotators((), **PLAIN | {"grade": True})
    assert isinstance(one, Grader) and one.name.startswith("grader-retina-")
    assert one.config.size > 1 and one.gives == ("grade",)


def test_a_missing_classifier_and_an_idle_model_are_refused(tree: Path, grader: Path) -> None:
    with pytest.raises(UsageError, match="--activations needs a classifier of findings.*--preset findings"):
        annotators((), **PLAIN | {"activations": True, "models": (grader,)})
    with pytest.raises(UsageError, match="grader.safetensors: nothing that was asked for"):
        annotators(("vessels",), **PLAIN | {"models": (tree, grader)})
