"""Learned perceptual image patch similarity, LPIPS (Zhang et al., CVPR 2018), where its weights are at hand.

The network is torchmetrics'; its weights come from a safetensors file that the user names, since the
backbone's are published without terms that let them ship here. A distance: 0 for equal pictures.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusforge.evaluate import diversity, likeness
from fundusforge.evaluate.evidence import Evidence
from fundusforge.evaluate.figures import Figure
from fundusforge.evaluate.likeness import Measure
from fundusforge.evaluate.ssim import check_pair
from fundusforge.records import DatasetError
from fundusforge.weights import name_of

_SMALLEST = 64
"""Least side of a picture in pixels: the backbones halve it up to four times."""


class Perceptual:
    """The distance with the weights of one file."""

    def __init__(self, path: Path) -> None:
        """Read the weights.

        Args:
            path: Safetensors with the names of the authors' package: `net.slice1.0.weight`, ...,
                `lin0.model.1.weight`, ...; AlexNet or VGG-16 is told from the shapes.

        Raises:
            DatasetError: The file cannot be read, or a tensor is missing, unknown or of another shape.
        """
        torch: Any = import_module("torch")
        networks: Any = import_module("torchmetrics.functional.image.lpips")
        stored = _read(path)
        self._torch = torch
        self.backbone = _backbone(path, stored)
        self.name = f"LPIPS {self.backbone} ({name_of(path)})"
        # Neither flag downloads anything: linear layers and backbone begin at random.
        self._network: Any = networks._LPIPS(pretrained=False, net=self.backbone, pnet_rand=True)
        needed = {name: value for name, value in self._network.state_dict().items() if _counts(name)}
        wrong = [name for name in needed if name in stored and stored[name].shape != needed[name].shape]
        for what, names in (
            ("misses", sorted(set(needed) - set(stored))),
            ("has an unknown", sorted(set(stored) - set(needed))),
            ("has another shape of", wrong),
        ):
            if names:
                raise DatasetError(f"{path}: {what} tensor {names[0]!r} for LPIPS on {self.backbone}")
        self._network.load_state_dict(stored, strict=False)

    def __call__(
        self, first: NDArray[Any], second: NDArray[Any], *, field_of_view: NDArray[Any] | None = None
    ) -> float:
        """Return the distance of two pictures, 0 for equal ones.

        Args:
            first: (H, W, 3) uint8, at least 64 pixels each way.
            second: Of the same shape.
            field_of_view: None; the distance is of whole pictures.

        Raises:
            ValueError: Other shapes or types, or a field of view.
        """
        check_pair(first, second, smallest=_SMALLEST)
        if field_of_view is not None or first.ndim != 3:
            raise ValueError("LPIPS compares whole pictures in colour")
        with self._torch.inference_mode():
            return float(self._network(self._tensor(first), self._tensor(second)))

    def _tensor(self, picture: NDArray[Any]) -> Any:
        """Return (H, W, 3) uint8 as (1, 3, H, W) float32 in [-1, 1]."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
        return tensor[None].float() / 127.5 - 1.0


def _read(path: Path) -> dict[str, Any]:
    """Return the tensors of a file by name, without constants and without names that stand twice."""
    safetensors: Any = import_module("safetensors")
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if _counts(name)}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise DatasetError(f"{path}: not a whole safetensors file ({error})") from None


def _counts(name: str) -> bool:
    """Whether a tensor is a weight of its own: `lins.0` is `lin0`, and the scaling is constant."""
    return not name.startswith(("lins.", "scaling_layer."))


def _backbone(path: Path, stored: dict[str, Any]) -> str:
    if "net.slice1.0.weight" not in stored:
        raise DatasetError(f"{path}: no weights of LPIPS; expected 'net.slice1.0.weight' among the tensors")
    return "alex" if stored["net.slice1.0.weight"].shape[-1] == 11 else "vgg"


def figures(evidence: Evidence) -> list[Figure]:
    """Return the distance of painted pairs and that of pairs within the sets, or why they are not there."""
    if evidence.lpips is None:
        return [
            Figure(
                name="diversity_lpips", title="Perceptual distance of pairs within the set", value=None,
                n=len(evidence.synthetic), n_real=len(evidence.real), extractor="LPIPS", resize="none",
                seed=evidence.seed, reason="no weights of LPIPS were given (--lpips)",
            )
        ]  # fmt: skip
    distance = Perceptual(evidence.lpips)
    measure = Measure(
        name="lpips", title="Perceptual distance", compare=distance, better="lower",
        extractor=distance.name, smallest=_SMALLEST,
    )  # fmt: skip
    return [*likeness.paired(evidence, measure), diversity.within(evidence, measure)]
