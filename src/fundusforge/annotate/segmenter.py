"""A trained segmenter, ready for any fundus photograph whatever its size.

Networks read vessels best at the scale at which they learned them, so every photograph is first cut to its
field of view and brought to the field-of-view diameter of the training images; the probabilities are scaled
back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusforge import weights
from fundusforge.config import from_json
from fundusforge.images import Grey, Image, grey_clahe, resize
from fundusforge.models.layers import fuse
from fundusforge.models.unet import Segmentation, UNetConfig, predict
from fundusforge.prepare.field import Square, field_of_mask, find_field
from fundusforge.records import DatasetError
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file

Probability = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""


def patient_digest(patient: str) -> str:
    """Return what a model stores of a patient it has seen: 32 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(patient.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmenter:
    """A segmentation network with what it needs to be used on its own."""

    net: Segmentation
    """In evaluation mode, on its device."""
    config: UNetConfig
    name: str = "segmenter"
    """Name and first digits of the SHA-256 of its weights."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Per mask, the probability of highest F1 on training images; 0.5 where none was measured."""
    diameter: float | None = None
    """Median diameter in pixels of the training images' fields of view, as the network saw them."""
    patients: frozenset[str] = frozenset()
    """Digests (see `patient_digest`) of the patients it was trained on."""

    @classmethod
    def load(
        cls, path: Path | None = None, *, masks: Sequence[str] = ("vessels",), device: str = "auto",
        tta: bool | None = None,
    ) -> Segmenter:  # fmt: skip
        """Load a segmenter.

        Args:
            path: A run folder or a file of weights; the embedded segmenter of `masks` if None.
            masks: Structures that an embedded segmenter must know.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...
            tta: Average over mirror images, or not; as the model was configured if None.

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
            DatasetError: No embedded weights for these masks in this installation.
        """
        file = model_file(Path(path)) if path is not None else weights.default("unet", masks=masks)
        tensors, metadata = load_model(file, kind="unet")
        config = from_json(UNetConfig, metadata["config"], where=str(file))
        # The encoder's weights come from the file; nothing is downloaded to load a model.
        net = Segmentation(replace(config, pretrained=False))
        fill(net, {name.removeprefix("net."): tensor for name, tensor in tensors.items()}, where=file)
        calibration = json.loads(metadata.get("calibration", "{}"))
        fuse(net.eval())
        return cls(
            net=net.to(parallel.start(device).device).to(memory_format=torch.channels_last),
            config=config if tta is None else replace(config, tta=tta),
            name=weights.name_of(file),
            thresholds=calibration.get("threshold", {}),
            diameter=calibration.get("diameter"),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
        )

    @property
    def threshold(self) -> float:
        """Threshold of the vessels."""
        return self.threshold_of("vessels")

    def threshold_of(self, mask: str) -> float:
        """Probability from which a pixel belongs to a mask."""
        return self.thresholds.get(mask, 0.5)

    def probability(
        self, image: Image, field_of_view: Grey | None = None, *, mask: str = "vessels"
    ) -> Probability:
        """Return the probability of one structure; see `probabilities`.

        Raises:
            DatasetError: The model does not predict this structure.
        """
        if mask not in self.config.masks:
            raise DatasetError(f"{self.name} predicts {', '.join(self.config.masks)}, not {mask}")
        return self.probabilities(image, field_of_view)[mask]

    def probabilities(self, image: Image, field_of_view: Grey | None = None) -> dict[str, Probability]:
        """Predict every structure that the model knows.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            field_of_view: (H, W) uint8, 0 outside; found in the image if None.

        Returns:
            Per mask (H, W) float32 in [0, 1], 0 outside the field of view.

        Raises:
            DatasetError: No field of view is found, or it is empty.
            ValueError: The field of view has another size than the image.
        """
        field_of_view = detect_field(image) if field_of_view is None else field_of_view
        return next(self.stream([(image, field_of_view)]))

    def stream(
        self, pictures: Iterable[tuple[Image, Grey]], *, batch: int = 1
    ) -> Iterator[dict[str, Probability]]:
        """Predict many photographs, each with its field of view, as `probabilities` does, `batch` at once."""
        waiting = iter(pictures)
        while some := list(islice(waiting, batch)):
            cut = [self._cut(*picture) for picture in some]
            found = self._predict([image for image, _, _ in cut], [inside for _, inside, _ in cut])
            for (_, outer), (_, _, square), maps in zip(some, cut, found, strict=True):
                yield {
                    name: paste(np.clip(resize(values, square.side), 0, 1), square, outer.shape) * (outer > 0)
                    for name, values in zip(self.config.masks, maps, strict=True)
                }

    def _cut(self, image: Image, field_of_view: Grey) -> tuple[Image, Grey, Square]:
        """Bring a photograph to what the network reads: (S, S, 3), inside where 1 (S, S), and the square."""
        if field_of_view.shape != image.shape[:2]:
            raise ValueError(f"field of view is {field_of_view.shape}, but the image {image.shape[:2]}")
        side = self.config.diameter
        square = frame(field_of_view, side=side, diameter=self.diameter)
        inside = (resize(square.cut(field_of_view), side) > 127).astype(np.uint8)
        small = resize(square.cut(image), side) * inside[..., None]
        return grey_clahe(small) if self.config.inputs == "grey" else small, inside, square

    def _predict(self, pixels: Sequence[Image], inside: Sequence[Grey]) -> Probability:
        """Run the network on squares (S, S, 3) and their fields of view of 0 and 1; returns (N, C, S, S)."""
        device = next(self.net.parameters()).device
        image = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2)  # channels last in memory
        field = torch.from_numpy(np.stack(inside)).to(device)[:, None].float()
        return predict(self.net, self.config, image.float() / 127.5 - 1, field).float().cpu().numpy()


def frame(field_of_view: Grey, *, side: int, diameter: float | None) -> Square:
    """Return the square to cut, so that a field of view has the size that it had in training.

    Args:
        field_of_view: (H, W) uint8, 0 outside.
        side: Pixels to which the square will be resized.
        diameter: Pixels that the field of view shall then measure; None leaves it as `prepare` frames it.

    Raises:
        DatasetError: The field of view is empty.
    """
    square = _square_of(field_of_view)
    if not diameter:
        return square
    wanted = max(8, round(square.side * side / diameter))
    shift = (square.side - wanted) // 2
    return Square(left=square.left + shift, top=square.top + shift, side=wanted)


def _square_of(field_of_view: Grey) -> Square:
    field = field_of_mask(field_of_view)
    if field is None:
        raise DatasetError("the field of view is empty")
    return field.square()


def field_extent(field_of_view: Grey) -> int:
    """Return the diameter in pixels of a field of view (H, W), as `prepare` frames it.

    Raises:
        DatasetError: It is empty.
    """
    return _square_of(field_of_view).side


def detect_field(image: Image) -> Grey:
    """Return the field of view of a photograph (H, W, 3), as a mask (H, W) of 0 and 255.

    Raises:
        DatasetError: None is found.
    """
    field = find_field(image)
    if field is None:
        raise DatasetError("no field of view found: expected a bright retina in dark surroundings")
    return field.mask(*image.shape[:2])


def paste(values: Probability, square: Square, shape: tuple[int, ...]) -> Probability:
    """Return (H, W) with the values of the square in their place, 0 elsewhere."""
    height, width = shape[:2]
    top, bottom = max(0, square.top), min(height, square.top + square.side)
    left, right = max(0, square.left), min(width, square.left + square.side)
    whole = np.zeros((height, width), np.float32)
    whole[top:bottom, left:right] = values[
        top - square.top : bottom - square.top, left - square.left : right - square.left
    ]
    return whole


def known_patients(patients: Iterable[str]) -> frozenset[str]:
    """Digests of these patients, to compare with `Segmenter.patients`."""
    return frozenset(patient_digest(patient) for patient in patients)
