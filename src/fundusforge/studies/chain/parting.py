"""Real eyes parted into folds by patient, and their trees warped, as dataset folders of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fundusforge import __version__
from fundusforge.images import SYNTHETIC_XMP, Grey, resize_mask, write_image
from fundusforge.models.recipe import View
from fundusforge.records import (
    METADATA,
    DatasetError,
    Mask,
    Provenance,
    Record,
    Split,
    read_folder,
    write_metadata,
)
from fundusforge.sample.conditions import Condition, FolderConditions, draw_seed
from fundusforge.sample.stage import stamps
from fundusforge.training.augment import Sample, draw

WARPED = "warped"
"""What warped trees are called: their source, and the model that their records name."""
_FINER = 3
"""How much finer than its own grid a tree is warped: on its own, the interpolation breaks ten vessels of it.
An odd number, since a vessel is made thinner about its middle."""
_WARP = 6
"""Stream of a tree's seed beside those of `fundusforge.sample`."""


def folds_of(patients: Sequence[str], *, folds: int, seed: int) -> list[frozenset[str]]:
    """Part patients into folds whose sizes differ by one at most.

    Args:
        patients: The patient of each image; names may stand there often, in any order.
        folds: How many, at least 2.
        seed: Another seed, other folds.

    Returns:
        Who is held out in each fold; everybody is held out once.

    Raises:
        DatasetError: Fewer patients than folds, or fewer than two folds.
    """
    names = sorted(set(patients))
    if not 2 <= folds <= len(names):
        raise DatasetError(f"expected 2 folds or more and a patient for each, got {folds} of {len(names)}")
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    return [frozenset(names[place] for place in order[fold::folds]) for fold in range(folds)]


def write_part(folder: Path, records: Sequence[Record], out: Path, *, split: Split) -> Path:
    """Write some records of a dataset folder as one of their own, all of one split.

    Pictures are hard links where the file system has them, else copies: files of this package are renamed
    into place and never changed, so the two folders do not touch each other. What was written before and is
    whole is left as it is.

    Args:
        folder: Where the pictures are.
        records: Of that folder.
        out: Folder to write.
        split: What all records are given.

    Raises:
        DatasetError: Other records stand in the folder to write.
        OSError: It cannot be written.
    """
    parted = [replace(record, split=split) for record in records]
    if (out / METADATA).exists():
        if read_folder(out) != parted:
            raise DatasetError(f"{out}: holds other images; name another folder")
        return out
    for record in parted:
        for path in record.files().values():
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                _brought((folder / path).resolve(), target)
    out.mkdir(parents=True, exist_ok=True)
    write_metadata(out, parted)
    return out


def write_warped(folder: Path, out: Path, *, masks: tuple[str, ...], count: int, seed: int) -> Path:
    """Write the trees of a dataset folder, each warped as an auto-encoder's training has it.

    Mirrored every other time, turned by up to 8 degrees, a tenth of zoom, a sixteenth of shift, and a smooth
    warp (`augment="trees"` of `fundusforge.models.recipe.View`): up stays up, and what is connected stays so.
    The field of view moves with its tree. As picture stands the tree itself, in grey. These trees are still
    those of their patients and say so (`structure_from_patient`). A folder that is whole is left as it is.

    Args:
        folder: Dataset folder; split `train` is warped.
        out: Folder to write.
        masks: What is warped; records that lack one are left out.
        count: Number of trees; every record comes as often as every other, or once more.
        seed: The same trees come of it in any number.

    Raises:
        DatasetError: The folder is broken, or no record has all the masks.
        OSError: `out` cannot be written.
    """
    if (out / METADATA).exists():
        return out
    trees = FolderConditions.read(folder, masks=masks, seed=seed, splits=("train",))
    for name in ("images", "field_of_view", *masks):
        (out / name).mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    for index in range(count):
        condition = trees.at(index, size=0)  # masks of a folder have a size of their own
        layers = _warped(condition, seed=draw_seed(seed, index, stream=_WARP))
        provenance = Provenance(
            model=WARPED, seed=seed, index=index, condition=condition.name, version=__version__
        )
        file = f"{index:06d}.png"
        grey = np.maximum.reduce([layers[name] for name in masks])
        text = stamps(provenance, from_patient=condition.from_patient)
        write_image(
            out / "images" / file, np.repeat(grey[..., None], 3, axis=2), text=text, xmp=SYNTHETIC_XMP
        )
        for name, layer in layers.items():
            write_image(out / name / file, layer)
        records.append(
            Record(
                image=f"images/{file}", patient=condition.patient, source=WARPED,
                masks={name: Mask(path=f"{name}/{file}", origin="generated") for name in masks},
                field_of_view=f"field_of_view/{file}", terms=condition.terms, split="train", synthetic=True,
                structure_from_patient=condition.from_patient, provenance=provenance,
            )
        )  # fmt: skip
    write_metadata(out, records)
    return out


def _warped(condition: Condition, *, seed: int) -> dict[str, Grey]:
    """Return masks and `field_of_view` after one warp, all (H, W) uint8 of 0 and 255."""
    names = (*condition.masks, "field_of_view")
    stack = np.stack([*condition.masks.values(), condition.field_of_view])
    fine = torch.from_numpy(stack.repeat(_FINER, axis=1).repeat(_FINER, axis=2))
    view = View(masks=names[:-1], augment="trees", coverage=True)
    sample = draw(Sample(fine[-1:], fine[:-1], fine[-1:]), view, np.random.default_rng(seed))
    outlines = np.where(sample.layers.numpy() >= 0.5, np.uint8(255), np.uint8(0))
    layers = [resize_mask(layer, (stack.shape[1], stack.shape[2])) for layer in outlines]
    return {name: layer & layers[-1] for name, layer in zip(names, layers, strict=True)}


def _brought(source: Path, target: Path) -> None:
    """Link a file, or copy it where it cannot be linked; never half a file."""
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(target.name + ".partial")
        try:
            shutil.copyfile(source, partial)
            partial.replace(target)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
