"""Which models `fundusforge annotate` asks for what: those that are named, else those that are embedded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from fundusforge import weights
from fundusforge.annotate.activations import Activations
from fundusforge.annotate.grades import Grader
from fundusforge.annotate.landmarks import Landmarks
from fundusforge.annotate.picture import Annotator
from fundusforge.annotate.segmenter import Segmenter
from fundusforge.annotate.structures import Structures
from fundusforge.cli.command import UsageError
from fundusforge.training.checkpoint import model_file, read_metadata


def annotators(
    masks: Sequence[str],
    *,
    landmarks: bool,
    activations: bool,
    grade: bool,
    models: Sequence[Path],
    threshold: float | None,
    tta: bool | None,
    method: Literal["cam", "gradcam"],
    device: str,
) -> list[Annotator]:
    """Return the annotators to ask, in order.

    Args:
        masks: Structures to find.
        landmarks: Whether to find fovea, cup and the side of the eye.
        activations: Whether to tell findings and draw their maps.
        grade: Whether to grade retinopathy.
        models: Run folders or files of weights, preferred for all that they predict.
        threshold: Of structures; each model's own if None.
        tta: Whether structures are averaged over mirror images; as configured if None.
        method: Of activation maps.
        device: Where the models run.

    Raises:
        UsageError: A named model has no use here, or a classifier is needed and none was named.
        DatasetError, CheckpointError, ConfigError: A model cannot be read, or none finds a structure.
    """
    named = [_Model(path) for path in models]
    asked: list[Annotator] = []
    for path, group in _groups(masks, named).items():
        segmenter = Segmenter.load(path, device=device, tta=tta)
        asked.append(Structures(segmenter=segmenter, masks=tuple(group), threshold=threshold))
    asked += [Landmarks()] if landmarks else []
    for wanted, flag, graded in ((activations, "--activations", False), (grade, "--grade", True)):
        if not wanted:
            continue
        grader = Grader.load(_classifier(named, flag, graded=graded), device=device)
        asked.append(grader if graded else Activations(grader=grader, method=method))
    if idle := [str(path) for path, one in zip(models, named, strict=True) if not one.used]:
        raise UsageError(f"{idle[0]}: nothing that was asked for is predicted by this model")
    return asked


class _Model:
    """A model's file, and what it predicts."""

    def __init__(self, path: Path) -> None:
        self.file = model_file(path)
        metadata = read_metadata(self.file)
        config = json.loads(metadata.get("config", "{}"))
        self.kind, self.used = metadata.get("kind", ""), False
        self.masks: tuple[str, ...] = tuple(config.get("masks", ())) if self.kind == "unet" else ()
        self.targets: tuple[str, ...] = tuple(config.get("targets", ()))


def _groups(masks: Sequence[str], named: Sequence[_Model]) -> dict[Path, list[str]]:
    """Return the masks by the file of the model that finds them, in order."""
    groups: dict[Path, list[str]] = {}
    for mask in masks:
        knowing = next((one for one in named if mask in one.masks), None)
        if knowing is not None:
            knowing.used = True
        file = weights.default("unet", masks=(mask,)) if knowing is None else knowing.file
        groups.setdefault(file, []).append(mask)
    return groups


def _classifier(named: Sequence[_Model], flag: str, *, graded: bool) -> Path:
    """Return the file of the classifier to use: of grades, or of findings."""
    for one in named:
        if one.kind == "classifier" and ("grade" in one.targets) == graded:
            one.used = True
            return one.file
    if graded:
        return weights.default("classifier", masks=("grade",))
    raise UsageError(
        f"{flag} needs a classifier of findings, and none is embedded: train one with `fundusforge train "
        "classifier FOLDER --preset findings --out RUN` and name it with --model RUN"
    )
