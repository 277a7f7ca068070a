"""A trained classifier, ready for any fundus photograph: the grade of retinopathy, or findings.

Every photograph is cut to its field of view and brought to the size at which the classifier learnt; what is
outside is black. Probabilities are calibrated on the validation photographs of the training (see
`fundusforge.evaluate.classification`): one temperature for the grades, temperature and bias for each finding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusforge import weights
from fundusforge.annotate.picture import Found, Picture
from fundusforge.annotate.segmenter import frame
from fundusforge.config import from_json
from fundusforge.images import Grey, Image, resize
from fundusforge.models.classifier import GRADE, Classification, ClassifierConfig
from fundusforge.records import finding_label
from fundusforge.training import parallel
from fundusforge.training.checkpoint import fill, load_model, model_file

TOGETHER = 8
"""Photographs that the network reads at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grader:
    """A classifier with what it needs to be used on its own."""

    net: Classification
    """In evaluation mode, on its device."""
    config: ClassifierConfig
    name: str = "classifier"
    """Name and first digits of the SHA-256 of its weights."""
    temperature: tuple[float, ...] = (1.0,)
    """By what logits are divided: one number for grades, one for each finding."""
    bias: tuple[float, ...] = (0.0,)
    """What is added then."""
    thresholds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Per finding, the probability from which it is told; 0.5 where none was chosen."""
    diameter: float | None = None
    """Median diameter in pixels of the training images' fields of view, as the network saw them."""
    patients: frozenset[str] = frozenset()
    """Digests (see `segmenter.patient_digest`) of the patients it was trained on."""
    start: str = ""
    """What its first weights were."""

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> Grader:
        """Load a classifier.

        Args:
            path: A run folder or a file of weights.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            CheckpointError, ConfigError: Missing, truncated or foreign weights, or another family's.
        """
        file = model_file(Path(path))
        tensors, metadata = load_model(file, kind="classifier")
        config = from_json(ClassifierConfig, metadata["config"], where=str(file))
        net = Classification(config)
        fill(net, {name.removeprefix("net."): tensor for name, tensor in tensors.items()}, where=file)
        calibration = json.loads(metadata.get("calibration", "{}"))
        return cls(
            net=net.to(parallel.start(device).device).eval(),
            config=config,
            name=weights.name_of(file),
            temperature=tuple(calibration.get("temperature", (1.0,))),
            bias=tuple(calibration.get("bias", (0.0,))),
            thresholds=calibration.get("threshold", {}),
            diameter=calibration.get("diameter"),
            patients=frozenset(json.loads(metadata.get("patients", "[]"))),
            start=metadata.get("start", ""),
        )

    @property
    def gives(self) -> tuple[str, ...]:
        """`grade`, or the labels of the findings as records have them."""
        return tuple(finding_label(target) for target in self.config.targets)

    def threshold_of(self, finding: str) -> float:
        """Probability from which a finding is told."""
        return self.thresholds.get(finding, 0.5)

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        """Tell the grade, or of each finding whether it is there.

        Confidences are the calibrated probability of what is told: of that grade; of the finding if it is
        told, or else of its absence.

        Raises:
            DatasetError: A field of view is empty.
            ValueError: A field of view has another size than its image.
        """
        squares = [self.cut(picture.image, picture.field_of_view) for picture in pictures]
        return [self.found(row) for row in self.probabilities(self.logits(squares))]

    def found(self, probabilities: NDArray[np.float64]) -> Found:
        """Return what is told of one photograph by its probabilities (K,)."""
        if self.config.graded:
            grade = int(probabilities.argmax())
            return Found(values={GRADE: grade}, confidences={GRADE: float(probabilities[grade])})
        told = dict(zip(self.config.targets, probabilities.tolist(), strict=True))
        there = {name: bool(value >= self.threshold_of(name)) for name, value in told.items()}
        return Found(
            labels={finding_label(name): there[name] for name in told},
            confidences={finding_label(n): value if there[n] else 1 - value for n, value in told.items()},
        )

    def cut(self, image: Image, field_of_view: Grey) -> Image:
        """Return what the network reads of a photograph, (S, S, 3) uint8, black outside the field of view.

        Args:
            image: (H, W, 3) uint8 RGB of any size.
            field_of_view: (H, W) uint8, 0 outside.

        Raises:
            DatasetError: The field of view is empty.
            ValueError: It has another size than the image.
        """
        if field_of_view.shape != image.shape[:2]:
            raise ValueError(f"field of view is {field_of_view.shape}, but the image {image.shape[:2]}")
        side = self.config.size
        square = frame(field_of_view, side=side, diameter=self.diameter)
        inside = resize(square.cut(field_of_view), side) > 127
        return resize(square.cut(image), side) * inside[..., None]

    def batches(self, squares: Sequence[Image]) -> Iterator[Tensor]:
        """Yield what was cut as (n, 3, S, S) in [-1, 1] on the network's device, a few at once."""
        device = next(self.net.parameters()).device
        for start in range(0, len(squares), TOGETHER):
            stack = torch.from_numpy(np.stack(squares[start : start + TOGETHER])).to(device)
            yield stack.permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.inference_mode()
    def logits(self, squares: Sequence[Image]) -> NDArray[np.float64]:
        """Return the logits (N, K) of what was cut."""
        rows = [self.net(batch).double().cpu().numpy() for batch in self.batches(squares)]
        return np.concatenate([np.empty((0, self.config.outputs)), *rows])

    @torch.inference_mode()
    def features(self, squares: Sequence[Image]) -> NDArray[np.float32]:
        """Return the penultimate features (N, D) of what was cut."""
        rows = [self.net.features(self.net.maps(batch)).float().cpu() for batch in self.batches(squares)]
        return torch.cat([torch.empty(0, self.net.head.in_features), *rows]).numpy()

    def probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities (N, K) of logits (N, K): of grades, or of each finding."""
        scaled = torch.from_numpy(logits / np.array(self.temperature) + np.array(self.bias))
        return (scaled.softmax(1) if self.config.graded else scaled.sigmoid()).numpy()
