"""The attacks of membership inference on pictures: by features, by pixels, by the generator's discriminator.

A discriminator learns to call its training images real; where it has learnt them by heart, it calls other
real images less so, and its logits tell members (Hayes et al., "LOGAN", PETS 2019). Released models hold no
discriminator, but the state of a run does. Its control is the probe of `fundusforge.audit.membership`:
whatever a classifier without the model tells apart by itself is no leak.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray

from fundusforge.audit.align import FINE
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
from fundusforge.audit.nearest import Training, View
from fundusforge.audit.sets import Sets
from fundusforge.audit.stage import views
from fundusforge.config import from_json
from fundusforge.evaluate.evidence import ImageSet
from fundusforge.evaluate.features import Extractor, features
from fundusforge.evaluate.figures import Figure
from fundusforge.models import recipe
from fundusforge.models.pix2pix import Discriminators, Pix2PixConfig
from fundusforge.training import parallel
from fundusforge.training.augment import draw
from fundusforge.training.batches import Batches
from fundusforge.training.checkpoint import FORMAT, CheckpointError, fill, read
from fundusforge.training.run import STATE

_PREFIX = "nets.discriminator."
_FAR = 2.0
"""One less a correlation is never more."""
Vectors = Callable[[ImageSet], NDArray[np.float32]]
"""Images to (n, D) features."""


def infer(
    splits: Splits,
    *,
    extractor: Extractor | None = None,
    cache: Path | None = None,
    generator: Path | None = None,
    pixels: bool = True,
    device: str = "auto",
    jobs: int = 1,
    progress: Callable[[str], Any] | None = None,
) -> list[Figure]:
    """Make every attack that can be made and return the figures, each beside its control.

    Args:
        splits: Synthetic images, training images and images of held-out patients.
        extractor: Turns pictures into vectors; without one neither features nor discriminator attack, since
            the probe, the discriminator's control, needs vectors.
        cache: Folder that keeps them.
        generator: The generator's run folder; with its training state the discriminator attacks too.
        pixels: Whether to attack in aligned pixel space.
        device: Where the discriminator runs.
        jobs: Threads of the search in pixel space.
        progress: Called with a line of text as the work goes on.

    Raises:
        ValueError: A set is empty, or the training images are of fewer than two patients.
        CheckpointError: The generator's training state is broken or foreign.
    """
    tell = progress or (lambda text: None)
    found: list[Figure] = []
    if pixels:
        tell("membership inference by pixels")
        found += by_distance(splits, pixel_space(jobs=jobs))
    if extractor is None:
        return found
    given, kept = extractor, dict[int, NDArray[np.float32]]()

    def vectors(images: ImageSet) -> NDArray[np.float32]:
        if id(images) not in kept:
            kept[id(images)] = features(images, given, cache=cache, progress=progress)
        return kept[id(images)]

    tell("membership inference by features")
    space = feature_space(vectors, given)
    control = probe((vectors(splits.members), vectors(splits.holdout)), splits.patients, seed=splits.seed)
    found += [*by_distance(splits, space), told_apart(splits, space, control)]
    if generator is not None and control is not None:
        found += by_discriminator(splits, generator, control, device=device)
    return found


def splits_of(sets: Sets, *, seed: int = 0, draws: int = 1000) -> Splits:
    """Return the sets of an audit as the attacker sees them: training patients are taken out of the held-out.

    Args:
        sets: What the audit read.
        seed: Seed of the draws and of the probe's folds.
        draws: Bootstrap draws.
    """
    apart = sets.holdout.without_patients(frozenset(sets.train.patients))
    return Splits(synthetic=sets.synthetic, members=sets.train, holdout=apart, seed=seed, draws=draws)


def pixel_space(*, jobs: int = 1) -> Space:
    """Return the space of aligned pixels: one less the correlation of fine structure at the best pose.

    Of every image only the nearest pictures of two other patients are searched and registered; the rest count
    as far. More is never asked: a control leaves out the image's own patient and one more.

    Args:
        jobs: Threads.
    """
    kept: dict[int, list[View]] = {}

    def look(images: ImageSet) -> list[View]:
        if id(images) not in kept:
            kept[id(images)] = views(images, jobs=jobs)
        return kept[id(images)]

    def distances(first: ImageSet, second: ImageSet) -> Floats:
        training = Training(look(second), candidates=6)
        names = np.array(second.patients)
        real = np.array([not record.synthetic for record in second.records])

        def row(view: View, patient: str) -> Floats:
            found, skip = np.full(len(names), _FAR), (names == patient) & real
            for _ in range(2):
                if not skip.all():
                    near = training.nearest(view, skip=skip)["pixels"]
                    found[near.index] = 1 - near.value
                    skip |= names == names[near.index]
            return found

        pool = Parallel(n_jobs=jobs, prefer="threads")
        return np.stack(cast(list[Floats], pool(map(delayed(row), look(first), first.patients))))

    return Space(
        name="pixels", title="nearest synthetic image by aligned pixels",
        extractor="fine structure of the green channel, correlated at the best pose",
        resize=f"{FINE} px around the field of view, area", distances=distances,
    )  # fmt: skip


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
    view = recipe.View(masks=config.masks, size=config.size, needs=config.masks)
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
