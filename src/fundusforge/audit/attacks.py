"""The attacks of membership inference on real pictures: by features, and by the generator's discriminator.

A discriminator learns to call its training images real; where it has learnt them by heart, it calls other
real images less so, and its logits tell members (Hayes et al., "LOGAN", PETS 2019). Released models hold no
discriminator, but the state of a run does. Its control is the probe of `fundusforge.audit.membership`:
whatever a classifier without the model tells apart by itself is no leak.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fundusforge.audit.membership import (
    Eyes,
    Floats,
    Space,
    Splits,
    Trial,
    by_distance,
    compared,
    probe,
    told_apart,
)
from fundusforge.config import from_json
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.features import Extractor, features
from fundusforge.evaluate.figures import Figure
from fundusforge.models.pix2pix import Discriminators, Pix2PixConfig
from fundusforge.models.recipe import View
from fundusforge.training import parallel
from fundusforge.training.augment import draw
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import FORMAT, CheckpointError, fill, read
from fundusforge.training.run import STATE

_PREFIX = "nets.discriminator."
Vectors = Callable[[ImageSet], NDArray[np.float32]]
"""Images to (n, D) features."""


def infer(
    splits: Splits,
    *,
    extractor: Extractor,
    cache: Path | None = None,
    generator: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], Any] | None = None,
) -> list[Figure]:
    """Make every attack that can be made and return the figures, each beside its control.

    Args:
        splits: Synthetic images, training images and images of held-out patients.
        extractor: Turns pictures into vectors.
        cache: Folder that keeps them.
        generator: The generator's run folder; with its training state the discriminator attacks too.
        device: Where the discriminator runs.
        progress: Called with a line of text as the work goes on.

    Raises:
        ValueError: A set is empty, or the training images are of fewer than two patients.
        CheckpointError: The generator's training state is broken or foreign.
    """
    kept: dict[int, NDArray[np.float32]] = {}

    def vectors(images: ImageSet) -> NDArray[np.float32]:
        if id(images) not in kept:
            kept[id(images)] = features(images, extractor, cache=cache, progress=progress)
        return kept[id(images)]

    space = feature_space(vectors, extractor)
    both = vectors(splits.members), vectors(splits.holdout)
    control = probe(both, splits.patients, seed=splits.seed)
    found = [*by_distance(splits, space), told_apart(splits, space, control)]
    if generator is not None and control is not None:
        found += by_discriminator(splits, generator, control, device=device)
    return found


def feature_space(vectors: Vectors, extractor: Extractor) -> Space:
    """Return the space of an extractor's vectors, with Euclidean distances."""

    def distances(first: ImageSet, second: ImageSet) -> Floats:
        a, b = (vectors(images).astype(np.float64) for images in (first, second))
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2 * a @ b.T
        return np.sqrt(np.maximum(squares, 0))

    return Space(
        name="features", title="nearest synthetic image by features", extractor=extractor.name,
        resize=extractor.resize, distances=distances,
    )  # fmt: skip


def discriminator_of(run: Path, *, device: str = "auto") -> tuple[Discriminators, Pix2PixConfig] | None:
    """Return the discriminator that a run's state holds, with its configuration; None if the run kept none.

    Args:
        run: A run folder, or a file of weights (which has no discriminator).
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        CheckpointError: The state is broken or foreign.
    """
    path = run / STATE
    if not path.is_file():
        return None
    tensors, metadata = read(path)
    if metadata.get("format") != FORMAT or metadata.get("content") != "state":
        raise CheckpointError(f"{path}: not a training state that fundusforge wrote")
    if metadata.get("kind") != "pix2pix":
        return None
    config = from_json(Pix2PixConfig, metadata["config"], where=str(path))
    networks = Discriminators(config)
    own = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
    fill(networks, own, where=path)
    return networks.to(parallel.start(device).device).eval(), config


@torch.inference_mode()
def logits(networks: Discriminators, config: Pix2PixConfig, images: ImageSet) -> Floats:
    """Return how real each image looks to the discriminator, (n,): logits averaged over patches and scales.

    Args:
        networks: The discriminators.
        config: Of their model: the masks they see beside the image, and the side of the image.
        images: Images that all have these masks.
    """
    device = next(networks.parameters()).device
    view = View(masks=config.masks, size=config.size, needs=config.masks)
    batches = Batches(images.folder, images.records, view, batch=1, seed=0, cache_gb=0)
    found = np.empty(len(images))
    for index in range(len(images)):
        sample = draw(batches.stored(index), view, np.random.default_rng(0))
        picture = (sample.image * 2 - 1)[None].to(device)
        scales, _ = networks(sample.layers[None].to(device), picture)
        found[index] = np.mean([float(scale.mean()) for scale in scales])
    return found


def by_discriminator(splits: Splits, run: Path, control: Trial, *, device: str = "auto") -> list[Figure]:
    """Attack with the discriminator of a run and return the figures beside the probe's.

    Args:
        splits: Training and held-out images.
        run: The generator's run folder.
        control: The trial of the probe, on the same images.
        device: Where the discriminator runs.

    Returns:
        Nothing if the run kept no discriminator, or if an image lacks a mask that it needs to see.

    Raises:
        CheckpointError: The state is broken or foreign.
    """
    found = discriminator_of(run, device=device)
    if found is None:
        return []
    networks, config = found
    sets = (splits.members, splits.holdout)
    if any(not set(config.masks) <= set(record.masks) for images in sets for record in images.records):
        return []
    members, holdout = (logits(networks, config, images) for images in sets)
    trial = Trial(members=members, holdout=holdout[:, None], column=np.zeros(len(members), np.intp))
    eyes = Eyes(
        name="discriminator", title="the generator's own discriminator",
        extractor=f"discriminator of {run.resolve().name}", resize=f"{config.size} px, area",
    )  # fmt: skip
    return compared(splits, eyes, trial, control, note="Control: a probe of the features, without the model.")
