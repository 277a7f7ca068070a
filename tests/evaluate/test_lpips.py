"""Perceptual distance on random weights: against the formula, for what it means, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision import models

from fundusforge.evaluate import lpips
from fundusforge.evaluate.evidence import Evidence, ImageSet
from fundusforge.evaluate.lpips import Perceptual
from fundusforge.records import DatasetError, Provenance, read_folder

SLICES = {
    "alex": ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)),
    "vgg": ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30)),
}
WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def backbone(kind: str) -> torch.nn.Sequential:
    torch.manual_seed(3)
    return (models.alexnet() if kind == "alex" else models.vgg16()).features.eval()


def write_weights(path: Path, kind: str) -> Path:
    """Write random weights under the names of the authors' package."""
    layers = backbone(kind)
    tensors = {
        f"net.slice{place + 1}.{name}": value.clone().contiguous()
        for place, (start, stop) in enumerate(SLICES[kind])
        for name, value in layers.state_dict().items()
        if start <= int(name.split(".")[0]) < stop
    }
    generator = torch.Generator().manual_seed(4)
    for place, width in enumerate(WIDTHS[kind]):
        tensors[f"lin{place}.model.1.weight"] = torch.rand((1, width, 1, 1), generator=generator)
    save_file(tensors, path)
    return path


def peer(first: np.ndarray, second: np.ndarray, kind: str, weights: Path) -> float:
    """Equation 1 of the paper on torchvision's own layers."""
    stored, layers = load_file(weights), backbone(kind)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (
        ((torch.from_numpy(p).float() / 127.5 - 1 - shift) / scale).permute(2, 0, 1)[None]
        for p in (first, second)
    )
    total = 0.0
    with torch.no_grad():
        for place, (start, stop) in enumerate(SLICES[kind]):
            x, y = layers[start:stop](x), layers[start:stop](y)
            difference = (F.normalize(x, dim=1) - F.normalize(y, dim=1)) ** 2
            total += float((difference * stored[f"lin{place}.model.1.weight"]).sum(1).mean())
    return total


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("lpips") / "alex.safetensors", "alex")


def test_equals_the_formula(weights: Path, fundus) -> None:
    first, second = (fundus(96, seed=seed)["image"] for seed in (1, 2))
    distance = Perceptual(weights)
    assert distance.backbone == "alex"
    assert distance(first, second) == pytest.approx(peer(first, second, "alex", weights), rel=1e-4)
    assert distance(first, first) == 0.0


def test_vgg_is_told_by_its_shapes(tmp_path: Path, fundus) -> None:
    weights = write_weights(tmp_path / "vgg.safetensors", "vgg")
    first, second = (fundus(64, seed=seed)["image"] for seed in (1, 2))
    distance = Perceptual(weights)
    assert distance.name.startswith("LPIPS vgg (vgg-")
    assert distance(first, second) == pytest.approx(peer(first, second, "vgg", weights), rel=1e-4)


def test_meaning(weights: Path, fundus) -> None:
    """More blur, more distance; random layers know as much."""
    image = fundus(128, seed=1)["image"]
    distance = Perceptual(weights)
    little, much = (distance(image, cv2.GaussianBlur(image, (0, 0), sigma)) for sigma in (0.7, 4))
    assert 0 < little < much


def test_refuses(weights: Path, tmp_path: Path, fundus) -> None:
    tensors = load_file(weights)
    for change, message in (
        ({"lin0.model.1.weight": None}, "misses tensor 'lin0"),
        ({"extra": torch.zeros(1)}, "unknown tensor 'extra'"),
        ({"lin1.model.1.weight": torch.zeros(1, 3, 1, 1)}, "another shape of tensor 'lin1"),
        ({"net.slice1.0.weight": None}, "no weights of LPIPS"),
    ):
        kept = {name: value for name, value in (tensors | change).items() if value is not None}
        save_file(kept, tmp_path / "broken.safetensors")
        with pytest.raises(DatasetError, match=f"broken.safetensors.*{message}"):
            Perceptual(tmp_path / "broken.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name in ("text.safetensors", "absent.safetensors"):
        with pytest.raises(DatasetError, match=name):
            Perceptual(tmp_path / name)
    grey = fundus(64, seed=1)["vessels"]
    with pytest.raises(ValueError, match="colour"):
        Perceptual(weights)(grey, grey)


def test_figures(weights: Path, drawn_folder: Callable[..., Path]) -> None:
    """Pairs that were painted and pairs within the sets; without weights one figure that says why not."""
    folder, count = drawn_folder(10, seed=900), 10
    real = ImageSet(folder=folder, records=read_folder(folder))
    painted = [
        replace(
            record, synthetic=True, split=None, structure_from_patient=True,
            provenance=Provenance(model="m", seed=0, index=index, condition=record.image),
        )
        for index, record in enumerate(real.records)
    ]  # fmt: skip
    evidence = Evidence(
        synthetic=ImageSet(folder=folder, records=painted), real=real, judge=None, size=64, margin=0.2,
        reference=None, seed=0, draws=100, repeats=5, lpips=weights,
    )  # fmt: skip
    pairs, within = lpips.figures(evidence)
    assert (pairs.name, pairs.value, pairs.n) == ("lpips_paired", 0.0, count)  # each its own photograph
    assert pairs.floor.low > 0
    assert within.name == "diversity_lpips"
    assert within.value == within.real > 0
    assert within.extractor.startswith("LPIPS alex")
    (missing,) = lpips.figures(replace(evidence, lpips=None))
    assert missing.value is None
    assert "--lpips" in missing.reason
