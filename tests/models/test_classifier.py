"""Classifiers: what their settings refuse, exact activation maps, ordinal grades, losses of what is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fundusforge import weights
from fundusforge.models import classifier
from fundusforge.models.classifier import (
    Classification,
    ClassifierConfig,
    Cuts,
    Timm,
    grade_loss,
    start_from_imagenet,
)
from fundusforge.training.warm import load_warm

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ClassifierConfig(size=64, widths=(4, 8, 8), pool="all")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"targets": ()}, "each once"),
        ({"targets": ("erm", "erm")}, "each once"),
        ({"targets": ("grade", "erm")}, "either 'grade' alone"),
        ({"targets": ("erm",), "loss": "ordinal"}, "for grades"),
        ({"start": "imagenet"}, "no start 'imagenet'"),
        ({"backbone": "resnet18", "start": "retina"}, "no start 'retina'"),
        ({"size": 16}, "at least 32"),
        ({"dropout": 1.0}, "dropout"),
        ({"class_weights": (1.0, 2.0)}, "expected 5 class weights"),
        ({"targets": ("erm",), "class_weights": (0.0,)}, "must be positive"),
        ({"mixup": -1.0}, "mixup"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ClassifierConfig(**changes)


def test_an_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'resnet5'"):
        ClassifierConfig(backbone="resnet5").build()


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, pool="last", targets=("laser_marks", "erm")),
        ClassifierConfig(size=64, backbone="resnet18"),
        ClassifierConfig(size=64, backbone="mobilenetv3_small_050"),
        replace(SMALL, loss="ordinal"),
    ],
    ids=["levels", "findings", "resnet", "mobilenet", "ordinal"],
)
def test_evidence_is_exact(config: ClassifierConfig) -> None:
    """Its mean and the head's bias are the head's answer, which the logits follow from."""
    torch.manual_seed(0)
    net = Classification(config).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        maps = net.maps(images)
        answer = net.evidence(maps).mean((2, 3)) + net.head.bias
        expected = net.cuts(answer) if net.cuts is not None else answer
        assert torch.allclose(expected, net(images), atol=1e-4)
        assert net.features(maps).shape == (2, net.head.in_features)
        assert net(images).shape == (2, config.outputs)


def test_only_the_field_of_view_counts() -> None:
    """Evidence of the black surroundings is none, and their width does not dilute what is inside."""
    torch.manual_seed(0)
    net = Classification(replace(SMALL, pool="last")).eval()
    images = torch.full((1, 3, 64, 64), -1.0)
    images[..., 16:48, :] = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        evidence = net.evidence(net.maps(images))
        assert (evidence[..., :2, :] == 0).all()
        assert (evidence[..., 6:, :] == 0).all()
        assert torch.allclose(evidence.mean((2, 3)) + net.head.bias, net(images), atol=1e-5)
        net.encoder.maps = lambda images: [torch.ones(1, 8, 8, 8)]
        assert torch.allclose(net.features(net.maps(images)), torch.ones(1, 8)), "a mean of the inside"
        assert net(torch.full((1, 3, 64, 64), -1.0)).isfinite().all(), "nothing but black"


def test_imagenet_models_read_what_imagenet_was_normalised_to() -> None:
    net = Timm("resnet18")
    seen = []
    net.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.eval().maps(torch.full((1, 3, 32, 32), 2 * 0.485 - 1))
    assert seen[0][0, 0].abs().max() < 1e-6, "mean red is 0.485"
    assert net.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_cuts_are_proportional_odds() -> None:
    """Against McCullagh's definition, P(y <= k) = sigmoid(cut_k - s)."""
    cuts = Cuts(5)
    severity = torch.linspace(-6, 6, 13)[:, None]
    found = cuts(severity).exp().detach()
    at = np.array([-1.5, -0.5, 0.5, 1.5])
    below = 1 / (1 + np.exp(severity.numpy() - at))
    expected = np.diff(np.pad(below, ((0, 0), (1, 1)), constant_values=((0, 0), (0, 1))), axis=1)
    assert np.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(13), atol=1e-5)
    assert (found.argmax(1).diff() >= 0).all(), "the grade rises with severity"
    far = cuts(torch.tensor([[200.0], [-200.0]]))
    assert far.isfinite().all(), "also where no grade is left to doubt"


def test_losses_count_only_what_is_known() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    grades = torch.tensor([0, 4, -1, 2])
    expected = F.cross_entropy(logits[[0, 1, 3]], grades[[0, 1, 3]])
    assert torch.allclose(grade_loss(logits, grades), expected)
    assert grade_loss(logits, torch.full((4,), -1)) == 0
    p = logits.softmax(1)[[0, 1, 3], grades[[0, 1, 3]]]
    focal = (-((1 - p) ** 2) * p.log()).mean()
    assert torch.allclose(grade_loss(logits, grades, focal=True), focal)
    recipe = replace(SMALL, targets=("erm", "laser_marks")).build()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        one, other = (
            recipe.losses("main", {"image": images, "labels": torch.tensor([[1.0, -1.0], [0.0, known]])}, 0)
            for known in (-1.0, 1.0)
        )
        unknown = recipe.losses("main", {"image": images, "labels": torch.full((2, 2), -1.0)}, 0)
        recipe.nets.eval()
        logits = recipe.nets["net"](images)
    assert one["classification"] != other["classification"]
    assert unknown["classification"] == 0


def test_class_weights_count_grades_and_findings_as_often_as_they_say() -> None:
    """Against the same images repeated."""
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    grades = torch.tensor([0, 4, -1])
    often = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0])
    repeated = torch.tensor([0, 1, 1, 1])
    for focal in (False, True):
        expected = grade_loss(logits[repeated], grades[repeated], focal=focal)
        assert torch.allclose(grade_loss(logits, grades, focal=focal, often=often), expected)
    for loss in ("cross_entropy", "focal"):
        config = replace(SMALL, targets=("erm",), loss=loss, class_weights=(3.0,))
        recipe, plain = config.build(), replace(config, class_weights=()).build()
        recipe.nets.load_state_dict(plain.nets.state_dict())
        images, labels = torch.rand(3, 3, 64, 64), torch.tensor([[0.0], [1.0], [-1.0]])
        for one in (recipe, plain):
            one.nets.eval()  # batch statistics would tell repeated images
        weighed = recipe.losses("main", {"image": images, "labels": labels}, 0)
        expected = plain.losses("main", {"image": images[repeated], "labels": labels[repeated]}, 0)
        assert torch.allclose(weighed["classification"], expected["classification"])


def test_mixup_mixes_pictures_and_losses_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: a share of each picture, and the same share of the loss of its label."""
    recipe = replace(SMALL, targets=("erm",), mixup=0.4).build()
    recipe.nets.eval()
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([[0.0], [1.0]])
    batch = {"image": images, "labels": labels}
    monkeypatch.setattr(torch, "randperm", lambda count: torch.arange(count).flip(0))
    torch.manual_seed(5)
    found = recipe.losses("main", batch, 0)["classification"]
    torch.manual_seed(5)
    share = torch.distributions.Beta(0.4, 0.4).sample().item()
    assert 0 < share < 1
    logits = recipe.nets["net"](share * images + (1 - share) * images.flip(0))
    error = F.binary_cross_entropy_with_logits
    expected = share * error(logits, labels) + (1 - share) * error(logits, labels.flip(0))
    assert torch.allclose(found, expected)
    torch.manual_seed(5)
    assert torch.equal(found, recipe.losses("main", batch, 0)["classification"]), "a function of the seed"
    torch.manual_seed(6)
    assert not torch.equal(found, recipe.losses("main", batch, 0)["classification"])


def test_strong_changes_are_those_of_segmentation() -> None:
    assert SMALL.build().view.augment == "classification"
    view = replace(SMALL, strong=True).build().view
    assert view.augment == "segmentation" and view.scale == classifier.STRONG_ZOOM and view.size == 64


def test_the_retina_start_fits_by_name() -> None:
    """The embedded features lie under the names of the backbone `retina`."""
    recipe = ClassifierConfig(start="retina").build()
    before = recipe.nets["net"].encoder.stages[2][0][0].weight.clone()
    report = load_warm(recipe.nets, weights.default("selfsupervised", masks=()))
    assert all(name.startswith("net.encoder.stages.") for name in report.loaded)
    own = [name for name in recipe.nets.state_dict() if "encoder" in name]
    assert set(own) == set(report.loaded), "the whole backbone"
    assert not torch.equal(before, recipe.nets["net"].encoder.stages[2][0][0].weight)


def test_imagenet_weights_are_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building never downloads; starting does, and says so where it cannot."""
    config = ClassifierConfig(size=64, backbone="resnet18", start="imagenet")
    asked = []

    class Watched(Timm):
        def __init__(self, name: str, *, pretrained: bool = False) -> None:
            asked.append(pretrained)
            if pretrained:
                raise OSError("no route")
            super().__init__(name)

    monkeypatch.setattr(classifier, "Timm", Watched)
    net = Classification(config)
    assert asked == [False]
    with pytest.raises(ValueError, match=r"ImageNet weights of resnet18 cannot be had \(no route\)"):
        start_from_imagenet(net, config)
