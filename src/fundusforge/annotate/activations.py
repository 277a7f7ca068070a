"""Activation maps: where a classifier sees laser marks or membranes, as soft masks.

Nobody outlines these findings, so a classifier of whole photographs learns them and its maps show what spoke
for them (Zhou et al. 2020, DR-GAN, after Zhou et al. 2016). `cam` is exact for the classifiers here: what the
head sums up over the picture, at each place. `gradcam` (Selvaraju et al. 2017), by the library grad-cam,
weighs the last level alone by the gradients of the output.

A map is not an outline, and its values are no probabilities of pixels. They are scaled so that

    value / 255 = probability of the finding x evidence / highest evidence in the photograph,

where the probability is the calibrated one and negative evidence counts as none: the brightest pixel says how
sure the classifier is, and the others how much they spoke for it beside that one. A photograph in which the
finding is not told (see `Grader.threshold_of`) has an empty map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fundusforge.annotate.grades import Grader
from fundusforge.annotate.picture import Found, Picture
from fundusforge.annotate.segmenter import frame, paste
from fundusforge.images import Grey, Image, resize
from fundusforge.records import MASKS, DatasetError, finding_label

Method = Literal["cam", "gradcam"]


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Annotator of findings: whether they are there, and their maps, from a classifier of them."""

    grader: Grader
    method: Method = "cam"

    def __post_init__(self) -> None:
        """Refuse a classifier whose targets are no masks.

        Raises:
            DatasetError: It grades, or tells findings that no mask is named after.
        """
        if unfit := [name for name in self.grader.config.targets if name not in MASKS]:
            raise DatasetError(f"{self.grader.name}: {unfit[0]!r} is no mask, so it has no activation map")

    @property
    def name(self) -> str:
        """Name of the classifier and of the method."""
        return f"{self.grader.name}-{self.method}"

    @property
    def gives(self) -> tuple[str, ...]:
        """Masks of the findings, and their labels."""
        targets = self.grader.config.targets
        return tuple(dict.fromkeys([*targets, *(finding_label(name) for name in targets)]))

    def read(self, pictures: Sequence[Picture]) -> list[Found]:
        """Return the soft mask of every finding, empty where it is not told.

        Confidences are those of the finding being there, or of its absence where the mask is empty.

        Raises:
            DatasetError: A field of view is empty.
            ValueError: A field of view has another size than its image.
        """
        squares = [self.grader.cut(picture.image, picture.field_of_view) for picture in pictures]
        probabilities = self.grader.probabilities(self.grader.logits(squares))
        maps = self.evidence(squares)
        rows = zip(pictures, probabilities, maps, strict=True)
        return [self._found(picture, row, evidence) for picture, row, evidence in rows]

    def evidence(self, squares: Sequence[Image]) -> NDArray[np.float32]:
        """Return what speaks for each finding in what was cut, (N, K, h, w), 0 or more.

        Its scale is that of the logits with `cam`, and 0 to 1 with `gradcam`.
        """
        batches = self.grader.batches(squares)
        find = _cam if self.method == "cam" else _gradcam
        found = [find(self.grader, batch) for batch in batches]
        return np.concatenate(found) if found else np.empty((0, self.grader.config.outputs, 1, 1), np.float32)

    def _found(
        self, picture: Picture, probabilities: NDArray[np.float64], evidence: NDArray[np.float32]
    ) -> Found:
        masks: dict[str, Grey] = {}
        confidences: dict[str, float] = {}
        told = self.grader.found(probabilities)
        targets = self.grader.config.targets
        for name, value, found in zip(targets, probabilities.tolist(), evidence, strict=True):
            there = value >= self.grader.threshold_of(name)
            share = self._placed(found, picture) if there else np.zeros(picture.image.shape[:2], np.float32)
            masks[name] = np.rint(255 * value * share).astype(np.uint8)
            confidences[name] = value if there else 1 - value
        return replace(
            told, masks=masks, soft=frozenset(masks), confidences={**told.confidences, **confidences}
        )

    def _placed(self, evidence: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
        """Return evidence (h, w) in its place in the photograph (H, W), its highest value 1, 0 outside."""
        grader = self.grader
        square = frame(picture.field_of_view, side=grader.config.size, diameter=grader.diameter)
        whole = paste(resize(evidence, square.side), square, picture.image.shape)
        whole = np.where(picture.field_of_view > 0, whole.clip(0), np.float32(0))
        return whole / np.maximum(whole.max(), np.float32(1e-12))


@torch.inference_mode()
def _cam(grader: Grader, images: torch.Tensor) -> NDArray[np.float32]:
    net = grader.net
    return net.evidence(net.maps(images)).relu().float().cpu().numpy()


def _gradcam(grader: Grader, images: torch.Tensor) -> NDArray[np.float32]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps: list[NDArray[np.float32]] = []
    with GradCAM(model=grader.net, target_layers=[grader.net.last]) as method:
        for place in range(grader.config.outputs):
            targets = cast("list[torch.nn.Module]", [ClassifierOutputTarget(place)] * len(images))
            maps.append(method(input_tensor=images, targets=targets))
    grader.net.zero_grad(set_to_none=True)
    return np.stack(maps, 1).astype(np.float32)
