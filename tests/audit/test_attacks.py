"""Attacks on real files: features of pictures, and a discriminator that has learnt its images by heart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fundusforge.audit.attacks import discriminator_of, infer, logits, pixel_space
from fundusforge.audit.membership import Splits
from fundusforge.audit.nearest import Training
from fundusforge.audit.stage import views
from fundusforge.config import to_json
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.figures import Figure
from fundusforge.images import Image, read_image, read_mask, resize, write_image
from fundusforge.models.pix2pix import Pix2PixConfig
from fundusforge.records import read_folder, write_metadata
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import CheckpointError, Clock, save_model, save_state

Folder = Callable[..., Path]
TINY = Pix2PixConfig(size=64, widths=(4, 8, 8), discriminator_widths=(16, 32), scales=1, code=False, lr=2e-3)


class Thumbnails:
    """Vectors that are the picture itself, small."""

    name, resize, key, dimensions = "thumbnail", "16 px, area", "thumbnail-16", 768

    def __call__(self, images: Sequence[Image]) -> np.ndarray:
        return np.stack([resize(image, 16).astype(np.float32).ravel() / 255 for image in images])


def images_of(folder: Path) -> ImageSet:
    return ImageSet(folder=folder, records=read_folder(folder))


def first(images: ImageSet, count: int = 8) -> ImageSet:
    return ImageSet(folder=images.folder, records=images.records[:count])


def copied(folder: Path, to: Path) -> Path:
    """A folder that pretends to be synthetic and holds another's photographs."""
    shutil.copytree(folder, to)
    write_metadata(to, [replace(record, synthetic=True, patient="phantom") for record in read_folder(to)])
    return to


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training state holds a discriminator of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("painter")
    save_state(folder, TINY.build(), nn.ModuleDict(), config_json=to_json(TINY), clock=Clock(images=1))
    return folder


@pytest.fixture(scope="module")
def splits(drawn_folder: Folder) -> Splits:
    members, holdout = (images_of(drawn_folder(12, seed=seed)) for seed in (100, 200))
    synthetic = images_of(drawn_folder(12, seed=300))
    return Splits(synthetic=synthetic, members=members, holdout=holdout, draws=200)


def by_name(figures: Sequence[Figure]) -> dict[str, Figure]:
    return {figure.name.removeprefix("membership_"): figure for figure in figures}


def test_copies_of_photographs_are_found_by_their_features(splits: Splits, tmp_path: Path) -> None:
    copies = images_of(copied(splits.members.folder, tmp_path / "copies"))
    found = by_name(infer(replace(splits, synthetic=copies), extractor=Thumbnails(), pixels=False))
    assert found["features_auc"].value == 1.0 and found["features_advantage"].low > 0.2
    assert found["features_auc"].extractor == "thumbnail" and found["features_auc"].n == 12
    assert found["features_tpr_1"].reason
    honest = by_name(infer(splits, extractor=Thumbnails(), pixels=False))
    assert honest["features_advantage"].low < 0 < honest["features_advantage"].high
    assert "discriminator_auc" not in honest and "probe_auc" in honest


def test_copies_are_found_by_their_pixels_though_they_were_moved(splits: Splits, tmp_path: Path) -> None:
    splits = replace(
        splits,
        synthetic=first(splits.synthetic),
        members=first(splits.members),
        holdout=first(splits.holdout),
    )
    folder = copied(splits.members.folder, tmp_path / "copies")
    for record in read_folder(folder):
        picture, field = read_image(folder / record.image), read_mask(folder / record.field_of_view)
        write_image(folder / record.image, np.ascontiguousarray(picture[:, ::-1]))
        write_image(folder / record.field_of_view, np.ascontiguousarray(field[:, ::-1]))
    found = by_name(infer(replace(splits, synthetic=first(images_of(folder)))))
    assert found["pixels_auc"].value > 0.95 and found["pixels_advantage"].low > 0.2
    honest = by_name(infer(splits))
    assert honest["pixels_advantage"].low < 0 < honest["pixels_advantage"].high
    assert "features_auc" not in honest and "best pose" in honest["pixels_auc"].extractor


def test_the_two_nearest_patients_are_enough_for_the_control(splits: Splits) -> None:
    """The control from two registered neighbours is nearly always the control from all of them."""
    members, holdout = splits.members, splits.holdout
    space, training = pixel_space(), Training(views(members))

    def whole(images: ImageSet) -> np.ndarray:
        rows = np.full((len(images), len(members)), np.inf)
        for row, view in enumerate(views(images)):
            for place in range(len(members)):
                skip = np.arange(len(members)) != place
                rows[row, place] = 1 - training.nearest(view, skip=skip)["pixels"].value
        return rows

    for images in (members, holdout):
        quick, full = space.distances(images, members), whole(images)
        own = np.array(images.patients)[:, None] == np.array(members.patients)[None]
        quick[own], full[own] = 9, 9
        missed = abs(quick.min(axis=1) - full.min(axis=1))
        assert np.mean(missed < 1e-6) >= 0.75 and missed.max() < 0.1


def test_a_discriminator_that_knows_its_images_is_found(splits: Splits, run: Path) -> None:
    """Members are those that the discriminator calls most real, as if it had learnt them by heart."""
    folder = splits.members.folder
    alone = [replace(record, patient=record.image) for record in splits.members.records]
    found = discriminator_of(run)
    assert found is not None
    order = np.argsort(-logits(*found, ImageSet(folder=folder, records=alone)), kind="stable")
    known, strange = (
        ImageSet(folder=folder, records=[alone[i] for i in half]) for half in (order[:6], order[6:])
    )
    figures = by_name(
        infer(
            replace(splits, members=known, holdout=strange),
            extractor=Thumbnails(),
            generator=run,
            pixels=False,
        )
    )
    assert figures["discriminator_auc"].value == 1.0 and figures["discriminator_advantage"].low > 0
    assert figures["discriminator_auc"].real == figures["probe_auc"].value
    assert run.name in figures["discriminator_auc"].extractor
    turned = by_name(
        infer(
            replace(splits, members=strange, holdout=known),
            extractor=Thumbnails(),
            generator=run,
            pixels=False,
        )
    )
    assert turned["discriminator_auc"].value == 0.0


def test_logits_are_the_discriminators_own(splits: Splits, run: Path) -> None:
    found = discriminator_of(run)
    assert found is not None
    networks, config = found
    assert config == TINY
    own = Batches(splits.members.folder, splits.members.records, replace(TINY.build().view, augment="none"),
                  batch=1, seed=0)  # fmt: skip
    stored = own.stored(3)
    masks = torch.cat([stored.masks, stored.field_of_view]).float()[None] / 255
    with torch.inference_mode():
        expected = networks(masks, stored.image.float()[None] / 127.5 - 1)[0][0].mean()
    assert logits(networks, config, splits.members)[3] == pytest.approx(float(expected), abs=1e-5)


def test_released_weights_have_no_discriminator(splits: Splits, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, TINY.build().nets, config_json=to_json(TINY), clock=Clock())
    assert discriminator_of(path) is None and discriminator_of(tmp_path) is None
    (tmp_path / "state.safetensors").write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="not a training state"):
        discriminator_of(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="safetensors"):
        discriminator_of(tmp_path)


def test_images_without_the_masks_it_needs_are_no_error(splits: Splits, run: Path) -> None:
    bare = [replace(record, masks={}) for record in splits.holdout.records]
    without = replace(splits, holdout=ImageSet(folder=splits.holdout.folder, records=bare))
    found = by_name(infer(without, extractor=Thumbnails(), generator=run, pixels=False))
    assert "discriminator_auc" not in found and "features_auc" in found
