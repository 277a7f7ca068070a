"""What a trained model says of every photograph of a set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fundusforge.annotate.grades import Grader
from fundusforge.annotate.segmenter import Segmenter, detect_field
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.vessels import from_counts, tally
from fundusforge.images import Image, read_image, read_mask
from fundusforge.records import Record
from fundusforge.studies.augmentation.parts import Part
from fundusforge.studies.augmentation.tools import Said


def read_classes(run: Path, part: Part, targets: tuple[str, ...], device: str) -> Said:
    """Return a classifier's calibrated probabilities.

    Raises:
        CheckpointError, ConfigError: No classifier in the run.
        DatasetError: A picture cannot be read, or shows no field of view.
    """
    grader = Grader.load(run, device=device)
    squares = [square(grader, part.folder, record) for record in part.records]
    rows = grader.probabilities(grader.logits(squares))
    return Said(rows=rows, threshold=grader.threshold_of(targets[0]), start=grader.start)


def square(grader: Grader, folder: Path, record: Record) -> Image:
    """Return what a classifier reads of a record, (S, S, 3) uint8."""
    image = read_image(folder / record.image)
    if record.field_of_view:
        return grader.cut(image, read_mask(folder / record.field_of_view))
    inside = np.full(image.shape[:2], 255, np.uint8) if record.synthetic else detect_field(image)
    return grader.cut(image, inside)


def read_masks(run: Path, part: Part, targets: tuple[str, ...], device: str) -> Said:
    """Return a segmenter's F1 and area under the ROC curve of each eye, inside the field of view.

    F1 is at the threshold that was chosen on the training photographs; NaN where there is nothing to find.

    Raises:
        CheckpointError, ConfigError: No segmenter in the run.
        DatasetError: A picture cannot be read.
    """
    segmenter, name = Segmenter.load(run, device=device, masks=targets), targets[0]
    images, threshold = ImageSet(folder=part.folder, records=part.records), segmenter.threshold_of(targets[0])
    rows: list[tuple[float, float]] = []
    for index in range(len(images)):
        field = images.field_of_view(index)
        probability = segmenter.probability(images.image(index), field, mask=name)
        one = tally(probability, images.mask(index, name), field, threshold=threshold)
        f1 = from_counts(np.asarray(one.counts))[0]
        rows.append((np.nan if f1 is None else f1, np.nan if one.auc is None else one.auc))
    return Said(rows=np.array(rows, np.float64).reshape(-1, 2), threshold=threshold, start="")
